// A block of 32 floating-point weights, and its product with a block of float32 activations. Constant: KIND
// (32: F32, 16: F16, 17: BF16).

@group(1) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(2) @binding(1) var<storage, read> codes: array<vec4<u32>>;

struct Block {
    values: array<vec4<f32>, 8>,
}

fn two(word: u32) -> vec2<f32> {
    if KIND == 17u {
        return vec2(bitcast<f32>(word << 16u), bitcast<f32>(word & 0xffff0000u));
    }
    return unpack2x16float(word);
}

fn load_block(row: u32, block: u32) -> Block {
    var w: Block;
    let at = row * (op.columns / 32u) + block;
    if KIND == 32u {
        for (var i = 0u; i < 8u; i++) {
            w.values[i] = bitcast<vec4<f32>>(codes[8u * at + i]);
        }
    } else {
        for (var i = 0u; i < 4u; i++) {
            let q = codes[4u * at + i];
            w.values[2u * i] = vec4(two(q.x), two(q.y));
            w.values[2u * i + 1u] = vec4(two(q.z), two(q.w));
        }
    }
    return w;
}

fn value_of(w: Block, column: u32) -> f32 {
    var values = w.values;
    return values[column / 4u][column % 4u];
}

// `sum` + the product of one block of weights with the same block of row t of x.
fn add_block(sum: f32, w: Block, t: u32, block: u32) -> f32 {
    var values = w.values;
    let at = t * op.x_stride + 8u * block;
    var four = vec4(0.0);
    for (var i = 0u; i < 8u; i++) {
        four = fma(values[i], x[at + i], four);
    }
    return sum + ((four.x + four.y) + (four.z + four.w));
}
