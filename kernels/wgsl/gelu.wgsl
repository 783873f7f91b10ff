// GELU of a row plus a shift, in place, and as int8; a thread does a block of 32 columns. As `gelu.py` has it:
// max(x, 0) - |x| * P(X > |x|).

@group(1) @binding(1) var<storage, read_write> y: array<f32>;
@group(2) @binding(1) var<storage, read> shift: array<f32>;

// P(X > size) of a standard normal X; from 14 on it is 0 in float32.
fn tail_of(size: f32) -> f32 {
    let z = min(size, 14.0) * 0.7071067811865476;
    let t = 1.0 / fma(z, 0.3275911, 1.0);
    var p = fma(t, 1.061405429, -1.453152027);
    p = fma(p, t, 1.421413741);
    p = fma(p, t, -0.284496736);
    p = fma(p, t, 0.254829592);
    return select(p * t * exp(-z * z) * 0.5, 0.0, size >= 14.0);
}

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) at: u32) {
    let block = group.x * 32u + at;
    if block >= op.columns / 32u {
        return;
    }
    for (var i = 0u; i < 32u; i++) {
        let k = block * 32u + i;
        let x = y[group.y * op.y_stride + k] + shift[k];
        let value = max(x, 0.0) - abs(x) * tail_of(abs(x));
        y[group.y * op.y_stride + k] = value;
        block_values[i] = value;
    }
    if op.quantize != 0u {
        put_block(group.y, block);
    }
}
