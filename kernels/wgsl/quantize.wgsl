// 32 float32 as int8: bytes, scale, and the sums of both halves (int16 each), as `activations` has them.
//
// A row has 8 words for each block, then a pair (scale, sums) for each.

@group(1) @binding(2) var<storage, read_write> q: array<u32>;

var<private> block_values: array<f32, 32>;

// Quantize `block_values` into block `block` of row t of q.
fn put_block(t: u32, block: u32) {
    var largest = 0.0;
    for (var i = 0u; i < 32u; i++) {
        largest = max(largest, abs(block_values[i]));
    }
    let scale = largest * (1.0 / 127.0);
    let inverse = inverse_of(scale);
    let row = t * op.q_stride;
    var sums = vec2(0i);
    for (var i = 0u; i < 8u; i++) {
        var word = 0u;
        for (var k = 0u; k < 4u; k++) {
            let value = i32(round(block_values[4u * i + k] * inverse));
            word |= (bitcast<u32>(value) & 255u) << (8u * k);
            sums[i / 4u] += value;
        }
        q[row + 8u * block + i] = word;
    }
    let pair = row + op.columns / 4u + 2u * block;
    q[pair] = bitcast<u32>(scale);
    q[pair + 1u] = (bitcast<u32>(sums.x) & 0xffffu) | (bitcast<u32>(sums.y) << 16u);
}
