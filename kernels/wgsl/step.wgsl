// What every kernel is told: the step, and the operation.

struct Step {
    rows: u32, // tokens in this step
    tail: u32, // how many of them, the last ones, have logits; or how many texts there are
    spans: u32, // index into `words` of the texts' first rows and numbers of rows
}

struct Op {
    rows: u32, // of the weight's piece
    first: u32, // of its rows in the whole matrix
    columns: u32,
    x_stride: u32, // from one row to the next, in elements of the binding
    y_stride: u32,
    q_stride: u32,
    offset: u32, // into each row of y
    scales_stride: u32,
    upper: u32, // where the upper bits of the codes begin
    heads: u32,
    kv_heads: u32,
    head_size: u32,
    pairs: u32, // that RoPE turns
    window: u32, // positions that a query sees
    shift_stride: u32, // from one position's shift to the next
    add: u32, // to what y holds
    tail: u32, // only the rows whose logits are wanted
    quantize: u32, // into q too
    number: f32, // epsilon or scale
}

// Four words for each row, then the tables of page numbers, then the texts' spans.
struct Row {
    token: u32,
    position: u32,
    table: u32, // index into `words` of its sequence's first page number
    length: u32, // of its text, where a row sees all of it
}

@group(0) @binding(0) var<uniform> step: Step;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(2) @binding(0) var<uniform> op: Op;

fn row_of(t: u32) -> Row {
    return Row(words[4u * t], words[4u * t + 1u], words[4u * t + 2u], words[4u * t + 3u]);
}

fn span_of(text: u32) -> vec2<u32> {
    return vec2(words[step.spans + 2u * text], words[step.spans + 2u * text + 1u]);
}

fn row_count() -> u32 {
    if op.tail != 0u {
        return step.tail;
    }
    return step.rows;
}
