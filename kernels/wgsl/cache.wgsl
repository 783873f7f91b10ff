// One layer's keys and values: pages of 64 positions, values of KV_BITS 16 (float16) or 8 (int8), two or four in
// a word. A page holds for each KV head K as [words][64 positions], so that threads that take a position each
// read side by side, then V as [64 positions][words]; for int8 then a word for each position, the scales of its
// key and its value in float16.

@group(3) @binding(0) var<storage, read_write> cache: array<u32>;

const WORDS = SIZE * KV_BITS / 32u; // of a key, or of a value

fn page_part(table: u32, page: u32, kv_head: u32) -> u32 {
    return (words[table + page] * op.kv_heads + kv_head) * (128u * WORDS + select(0u, 64u, KV_BITS == 8u));
}

fn key_at(part: u32, slot: u32, word: u32) -> u32 {
    return part + word * 64u + slot;
}

fn value_at(part: u32, slot: u32, word: u32) -> u32 {
    return part + 64u * WORDS + slot * WORDS + word;
}

fn scales_at(part: u32, slot: u32) -> u32 {
    return part + 128u * WORDS + slot;
}
