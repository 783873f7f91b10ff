// Best token, the first of equals; log of the sum of exponentials; the best's logit. A workgroup does a row.

@group(1) @binding(0) var<storage, read> x: array<f32>;
@group(1) @binding(2) var<storage, read_write> q: array<vec4<u32>>;

var<workgroup> tops: array<f32, 256>;
var<workgroup> bests: array<u32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) at: u32) {
    let row = group.y * op.x_stride;
    var top = -3.4e38;
    var best = 0u;
    for (var k = at; k < op.columns; k += 256u) {
        let value = x[row + k];
        if value > top {
            top = value;
            best = k;
        }
    }
    tops[at] = top;
    bests[at] = best;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if at < half {
            let value = tops[at + half];
            if value > tops[at] || (value == tops[at] && bests[at + half] < bests[at]) {
                tops[at] = value;
                bests[at] = bests[at + half];
            }
        }
    }
    workgroupBarrier();
    top = tops[0];
    best = bests[0];
    workgroupBarrier();
    var own = 0.0;
    for (var k = at; k < op.columns; k += 256u) {
        own += exp(x[row + k] - top);
    }
    tops[at] = own;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if at < half {
            tops[at] += tops[at + half];
        }
    }
    workgroupBarrier();
    if at == 0u {
        q[group.y] = vec4(best, bitcast<u32>(top + log(tops[0])), bitcast<u32>(top), 0u);
    }
}
