// Reading keys and values: what stands in the cache, without its scales, and the scales.

fn codes_of(word: u32) -> vec4<f32> {
    return vec4<f32>(bitcast<vec4<i32>>(vec4(word) << vec4(24u, 16u, 8u, 0u)) >> vec4(24u));
}

// of a position's key and value
fn scales_of(part: u32, slot: u32) -> vec2<f32> {
    if KV_BITS == 8u {
        return unpack2x16float(cache[scales_at(part, slot)]);
    }
    return vec2(1.0);
}

fn times_key(part: u32, slot: u32) -> f32 {
    if KV_BITS == 8u {
        var four = vec4(0.0);
        for (var i = 0u; i < WORDS; i++) {
            let k = 4u * i;
            let some = vec4(query[k], query[k + 1u], query[k + 2u], query[k + 3u]);
            four = fma(codes_of(cache[key_at(part, slot, i)]), some, four);
        }
        return (four.x + four.y) + (four.z + four.w);
    }
    var two = vec2(0.0);
    for (var i = 0u; i < WORDS; i++) {
        two = fma(unpack2x16float(cache[key_at(part, slot, i)]), vec2(query[2u * i], query[2u * i + 1u]), two);
    }
    return two.x + two.y;
}

// Columns 2 * pair and the next of a value.
fn value_pair(part: u32, slot: u32, pair: u32) -> vec2<f32> {
    if KV_BITS == 8u {
        let codes = codes_of(cache[value_at(part, slot, pair / 2u)]);
        return select(codes.xy, codes.zw, pair % 2u == 1u);
    }
    return unpack2x16float(cache[value_at(part, slot, pair)]);
}
