// The mean of a text's rows, divided by its norm, by a workgroup.

@group(1) @binding(0) var<storage, read> x: array<f32>;
@group(1) @binding(1) var<storage, read_write> y: array<f32>;

var<workgroup> squares: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) at: u32) {
    let span = span_of(group.y);
    let out = group.y * op.y_stride;
    var own = 0.0;
    for (var k = at; k < op.columns; k += 64u) {
        var total = 0.0;
        for (var t = 0u; t < span.y; t++) {
            total += x[(span.x + t) * op.x_stride + k];
        }
        let mean = total / f32(span.y);
        y[out + k] = mean;
        own = fma(mean, mean, own);
    }
    squares[at] = own;
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < 64u; i++) {
        total += squares[i];
    }
    let factor = 1.0 / max(sqrt(total), 1e-12);
    for (var k = at; k < op.columns; k += 64u) {
        y[out + k] *= factor;
    }
}
