// One layer's keys and values: pages of 64 positions, float16, two values in a word. A page holds for each KV
// head K as [size/2][64 positions], so that threads that take a position each read side by side, then V as [64
// positions][size/2].

@group(3) @binding(0) var<storage, read_write> cache: array<u32>;

fn page_part(table: u32, page: u32, kv_head: u32) -> u32 {
    return (words[table + page] * op.kv_heads + kv_head) * 64u * SIZE;
}

fn key_at(part: u32, slot: u32, pair: u32) -> u32 {
    return part + pair * 64u + slot;
}

fn value_at(part: u32, slot: u32, pair: u32) -> u32 {
    return part + 32u * SIZE + slot * (SIZE / 2u) + pair;
}
