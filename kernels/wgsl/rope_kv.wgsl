// A workgroup takes a query or key head of a row: normalises it (HEAD_NORMS), turns it, and puts keys into the
// cache, with the values that belong to them. Constants: HALVES, SIZE of a head, KV_BITS.

@group(1) @binding(1) var<storage, read_write> y: array<f32>;
@group(2) @binding(1) var<storage, read> turns: array<vec2<f32>>;
@group(2) @binding(2) var<storage, read> norms: array<f32>; // of queries, then of keys

var<workgroup> head: array<f32, SIZE>;
var<workgroup> squares: array<f32, 64>;

// Of int8 codes for what is in `head`, as all threads find it: in the cache it is float16.
fn scale_of_head() -> f32 {
    var largest = 0.0;
    for (var i = 0u; i < SIZE; i++) {
        largest = max(largest, abs(head[i]));
    }
    return nearest_half(largest * (1.0 / 127.0));
}

// Word i of what is in `head`.
fn word_of_head(i: u32, inverse: f32) -> u32 {
    if KV_BITS == 16u {
        return pack2x16float(vec2(head[2u * i], head[2u * i + 1u]));
    }
    let four = vec4(head[4u * i], head[4u * i + 1u], head[4u * i + 2u], head[4u * i + 3u]);
    let codes = vec4<i32>(clamp(round(four * inverse), vec4(-127.0), vec4(127.0)));
    let bytes = (bitcast<vec4<u32>>(codes) & vec4(255u)) << vec4(0u, 8u, 16u, 24u);
    return bytes.x | bytes.y | bytes.z | bytes.w;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) at: u32) {
    let nth = group.x;
    let row = row_of(group.y);
    let begin = group.y * op.y_stride + nth * SIZE;
    for (var i = at; i < SIZE; i += 64u) {
        head[i] = y[begin + i];
    }
    workgroupBarrier();
    if HEAD_NORMS {
        var own = 0.0;
        for (var i = at; i < SIZE; i += 64u) {
            own = fma(head[i], head[i], own);
        }
        squares[at] = own;
        workgroupBarrier();
        var total = 0.0;
        for (var i = 0u; i < 64u; i++) {
            total += squares[i];
        }
        let factor = 1.0 / sqrt(total / f32(SIZE) + op.number);
        let weights = select(SIZE, 0u, nth < op.heads);
        for (var i = at; i < SIZE; i += 64u) {
            head[i] = head[i] * factor * norms[weights + i];
        }
        workgroupBarrier();
    }
    for (var i = at; i < op.pairs; i += 64u) {
        let turn = turns[row.position * op.pairs + i];
        let first = select(2u * i, i, HALVES);
        let second = select(2u * i + 1u, i + op.pairs, HALVES);
        let a = head[first];
        let b = head[second];
        head[first] = a * turn.x - b * turn.y;
        head[second] = a * turn.y + b * turn.x;
    }
    workgroupBarrier();
    for (var i = at; i < SIZE; i += 64u) {
        y[begin + i] = head[i];
    }
    if nth >= op.heads {
        let part = page_part(row.table, row.position / 64u, nth - op.heads);
        let slot = row.position % 64u;
        var scales = vec2(0.0);
        var inverse = 0.0;
        if KV_BITS == 8u {
            scales.x = scale_of_head();
            inverse = inverse_of(scales.x);
        }
        for (var i = at; i < WORDS; i += 64u) {
            cache[key_at(part, slot, i)] = word_of_head(i, inverse);
        }
        workgroupBarrier();
        for (var i = at; i < SIZE; i += 64u) {
            head[i] = y[begin + op.kv_heads * SIZE + i];
        }
        workgroupBarrier();
        if KV_BITS == 8u {
            scales.y = scale_of_head();
            inverse = inverse_of(scales.y);
            if at == 0u {
                cache[scales_at(part, slot)] = pack2x16float(scales);
            }
        }
        for (var i = at; i < WORDS; i += 64u) {
            cache[value_at(part, slot, i)] = word_of_head(i, inverse);
        }
    }
}
