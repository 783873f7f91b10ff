// f(gate) * up, and as int8; a thread does a block of 32 columns. Constant: GELU, else SiLU.

@group(1) @binding(0) var<storage, read> x: array<f32>;
@group(1) @binding(1) var<storage, read_write> y: array<f32>;

// e**x where overflow is infinity and nothing is undefined
fn exp_of(x: f32) -> f32 {
    return exp(clamp(x, -88.0, 88.0));
}

fn activation(g: f32) -> f32 {
    var slope = g;
    if GELU {
        slope = g * 1.5957691216057308 * fma(g * g, 0.044715, 1.0);
    }
    return g / (1.0 + exp_of(-slope));
}

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) at: u32) {
    let block = group.x * 32u + at;
    if block >= op.columns / 32u {
        return;
    }
    for (var i = 0u; i < 32u; i++) {
        let k = group.y * op.x_stride + block * 32u + i;
        let value = activation(x[k]) * x[k + op.columns];
        y[group.y * op.y_stride + block * 32u + i] = value;
        block_values[i] = value;
    }
    if op.quantize != 0u {
        put_block(group.y, block);
    }
}
