// RMSNorm of a row by a workgroup, set or added, and as int8. Of a tail, the last rows of x become the first of y.

@group(1) @binding(0) var<storage, read> x: array<f32>;
@group(1) @binding(1) var<storage, read_write> y: array<f32>;
@group(2) @binding(1) var<storage, read> weight: array<f32>;

var<workgroup> squares: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) at: u32) {
    let t = group.y;
    var source = t;
    if op.tail != 0u {
        source += step.rows - step.tail;
    }
    let row = source * op.x_stride;
    var own = 0.0;
    for (var k = at; k < op.columns; k += 64u) {
        own = fma(x[row + k], x[row + k], own);
    }
    squares[at] = own;
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < 64u; i++) {
        total += squares[i];
    }
    let factor = 1.0 / sqrt(total / f32(op.columns) + op.number);
    for (var block = at; block < op.columns / 32u; block += 64u) {
        for (var i = 0u; i < 32u; i++) {
            let k = block * 32u + i;
            let out = t * op.y_stride + k;
            var value = x[row + k] * factor * weight[k];
            if op.add != 0u {
                value += y[out];
            }
            y[out] = value;
            block_values[i] = value;
        }
        if op.quantize != 0u {
            put_block(t, block);
        }
    }
}
