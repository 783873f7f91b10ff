// A block of 32 quantized weights, and its product with a block of int8 activations. Constants: BITS, ZERO,
// HAS_MIN, SCALES (0: d, 1: d and m, 2: two levels), SUB, PACKED_DOT.

@group(1) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(2) @binding(1) var<storage, read> codes: array<vec4<u32>>;
@group(2) @binding(2) var<storage, read> scales: array<u32>;

struct Block {
    low: vec4<u32>, // columns 0-3, 4-7, 8-11, 12-15
    high: vec4<u32>, // columns 16-19 …
    first: f32, // scale of columns 0-15
    second: f32, // of columns 16-31
    minimum: f32,
}

fn signed_byte(bits: u32) -> f32 {
    return f32(bitcast<i32>(bits << 24u) >> 24u);
}

fn load_block(row: u32, block: u32) -> Block {
    var w: Block;
    let at = row * (op.columns / 32u) + block;
    if BITS == 8u {
        w.low = codes[2u * at];
        w.high = codes[2u * at + 1u];
    } else {
        let q = codes[at];
        w.low = q & vec4(0x0f0f0f0fu);
        w.high = (q >> vec4(4u)) & vec4(0x0f0f0f0fu);
    }
    if BITS == 5u {
        let h = vec4(scales[op.upper + at]);
        w.low |= ((h >> vec4(0u, 1u, 2u, 3u)) & vec4(0x01010101u)) << vec4(4u);
        w.high |= ((h >> vec4(4u, 5u, 6u, 7u)) & vec4(0x01010101u)) << vec4(4u);
    }
    if BITS == 6u {
        let h = op.upper + 2u * at;
        w.low |= ((vec4(scales[h]) >> vec4(0u, 2u, 4u, 6u)) & vec4(0x03030303u)) << vec4(4u);
        w.high |= ((vec4(scales[h + 1u]) >> vec4(0u, 2u, 4u, 6u)) & vec4(0x03030303u)) << vec4(4u);
    }
    let own = row * op.scales_stride;
    w.minimum = 0.0;
    if SCALES == 0u {
        w.first = unpack2x16float(scales[own + block / 2u])[block % 2u];
        w.second = w.first;
    } else if SCALES == 1u {
        let pair = unpack2x16float(scales[own + block]);
        w.first = pair.x;
        w.second = pair.x;
        w.minimum = pair.y;
    } else {
        let unit = own + block / 8u * 5u;
        let coarse = unpack2x16float(scales[unit]);
        let fine = scales[unit + 1u + block % 8u / 2u] >> (block % 2u * 16u);
        if SUB == 16u {
            w.first = coarse.x * signed_byte(fine);
            w.second = coarse.x * signed_byte(fine >> 8u);
        } else {
            w.first = coarse.x * f32(fine & 255u);
            w.second = w.first;
            w.minimum = -(coarse.y * f32(fine >> 8u & 255u));
        }
    }
    return w;
}

fn value_of(w: Block, column: u32) -> f32 {
    let half = select(w.low, w.high, column >= 16u);
    let byte = half[column % 16u / 4u] >> (column % 4u * 8u);
    let code = select(i32(byte & 255u) - ZERO, bitcast<i32>(byte << 24u) >> 24u, BITS == 8u);
    return f32(code) * select(w.first, w.second, column >= 16u) + w.minimum;
}

fn dot4(a: u32, b: u32) -> i32 {
    if PACKED_DOT {
        return dot4I8Packed(a, b);
    }
    let shifts = vec4(24u, 16u, 8u, 0u);
    return dot(bitcast<vec4<i32>>(vec4(a) << shifts) >> vec4(24u), bitcast<vec4<i32>>(vec4(b) << shifts) >> vec4(24u));
}

// `sum` + the product of one block of weights with the same block of row t of x. The integer sums are exact.
fn add_block(sum: f32, w: Block, t: u32, block: u32) -> f32 {
    let at = t * op.x_stride + 2u * block;
    let a = x[at];
    let b = x[at + 1u];
    let pairs = x[t * op.x_stride + op.columns / 16u + block / 2u];
    let pair = select(pairs.xy, pairs.zw, block % 2u == 1u);
    let scale = bitcast<f32>(pair.x);
    let one_sum = bitcast<i32>(pair.y << 16u) >> 16u;
    let other_sum = bitcast<i32>(pair.y) >> 16u;
    let one = dot4(w.low.x, a.x) + dot4(w.low.y, a.y) + dot4(w.low.z, a.z) + dot4(w.low.w, a.w) - ZERO * one_sum;
    let other = dot4(w.high.x, b.x) + dot4(w.high.y, b.y) + dot4(w.high.z, b.z) + dot4(w.high.w, b.w)
        - ZERO * other_sum;
    var total = sum;
    if SUB == 16u {
        total = fma(f32(one), w.first * scale, total);
        total = fma(f32(other), w.second * scale, total);
    } else {
        total = fma(f32(one + other), w.first * scale, total);
    }
    if HAS_MIN {
        total = fma(w.minimum, scale * f32(one_sum + other_sum), total);
    }
    return total;
}
