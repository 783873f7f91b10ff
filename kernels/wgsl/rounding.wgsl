// What shaders' own operations leave to the adapter.

// 1/x, correctly rounded but for a rare last bit: shaders' own division may be 2.5 units off, and then a value
// that lies between two integers would be rounded to the wrong one.
fn reciprocal(x: f32) -> f32 {
    let r = 1.0 / x;
    return fma(r, fma(-r, x, 1.0), r);
}

// 1/scale, or 0 for a scale of nothing but zeros.
fn inverse_of(scale: f32) -> f32 {
    if scale > 0.0 {
        return reciprocal(scale);
    }
    return 0.0;
}

// The nearest float16, the even one of two, if it is not below 2**-14: an adapter may pack with any rounding.
fn nearest_half(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    let even = bitcast<f32>((bits + 0xfffu + ((bits >> 13u) & 1u)) & 0xffffe000u);
    return unpack2x16float(pack2x16float(vec2(even, 0.0))).x;
}
