// LayerNorm of a row plus a shift, in place, by a workgroup, and as int8.

@group(1) @binding(1) var<storage, read_write> y: array<f32>;
@group(2) @binding(1) var<storage, read> weight: array<f32>; // then the biases
@group(2) @binding(2) var<storage, read> shift: array<f32>; // a row, or one for each position

var<workgroup> sums: array<f32, 64>;

fn total_of(own: f32, at: u32) -> f32 {
    sums[at] = own;
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < 64u; i++) {
        total += sums[i];
    }
    workgroupBarrier();
    return total;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) at: u32) {
    let row = group.y * op.y_stride;
    let added = row_of(group.y).position * op.shift_stride;
    var own = 0.0;
    for (var k = at; k < op.columns; k += 64u) {
        own += y[row + k] + shift[added + k];
    }
    let mean = total_of(own, at) / f32(op.columns);
    own = 0.0;
    for (var k = at; k < op.columns; k += 64u) {
        let away = y[row + k] + shift[added + k] - mean;
        own = fma(away, away, own);
    }
    let factor = 1.0 / sqrt(total_of(own, at) / f32(op.columns) + op.number);
    for (var block = at; block < op.columns / 32u; block += 64u) {
        for (var i = 0u; i < 32u; i++) {
            let k = block * 32u + i;
            let away = y[row + k] + shift[added + k] - mean;
            let value = fma(away * factor, weight[k], weight[op.columns + k]);
            y[row + k] = value;
            block_values[i] = value;
        }
        if op.quantize != 0u {
            put_block(group.y, block);
        }
    }
}
