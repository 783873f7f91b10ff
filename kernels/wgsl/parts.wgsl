// Attention in splits of positions: what a part of them gives, and how parts are put together, in order. One
// workgroup goes through all splits, or each has its own and `fold.wgsl` puts them together: the same sums.
// Constant: WHOLE: a row sees all of its text.

const SPLIT = 256u; // positions: four pages
const PAIRS = SIZE / 2u; // of columns of V: a word each
const EACH = (PAIRS + 63u) / 64u; // pairs that a thread sums up
const SHARES = max(64u / PAIRS, 1u); // of positions, if there are fewer pairs than threads

struct Part {
    top: f32, // the highest score
    total: f32, // of the exponentials, relative to it
    sums: array<vec2<f32>, EACH>, // of the rows of V; of the first share's threads
}

var<workgroup> result: array<f32, SIZE>;

fn nothing_yet() -> Part {
    var part: Part;
    part.top = -3.0e38;
    return part;
}

fn with_part(before: Part, next: Part) -> Part {
    var sum: Part;
    sum.top = max(before.top, next.top);
    let old = exp(before.top - sum.top);
    let new_ = exp(next.top - sum.top);
    sum.total = fma(before.total, old, next.total * new_);
    for (var c = 0u; c < EACH; c++) {
        sum.sums[c] = fma(before.sums[c], vec2(old), next.sums[c] * new_);
    }
    return sum;
}

// The head's result into y, and as int8.
fn put_head(sum: Part, t: u32, head: u32, at: u32) {
    for (var c = 0u; c < EACH; c++) {
        let pair = at + 64u * c;
        if pair < PAIRS {
            let value = sum.sums[c] / sum.total;
            let out = t * op.y_stride + head * SIZE + 2u * pair;
            result[2u * pair] = value.x;
            result[2u * pair + 1u] = value.y;
            y[out] = value.x;
            y[out + 1u] = value.y;
        }
    }
    if op.quantize != 0u {
        workgroupBarrier();
        if at < SIZE / 32u {
            for (var i = 0u; i < 32u; i++) {
                block_values[i] = result[at * 32u + i];
            }
            put_block(t, head * (SIZE / 32u) + at);
        }
    }
}

// Positions that row t sees: from the first to before the last.
fn seen(t: u32) -> vec2<u32> {
    if WHOLE {
        return vec2(0u, row_of(t).length);
    }
    let length = row_of(t).position + 1u;
    return vec2(length - min(length, op.window), length);
}

fn part_at(t: u32, head: u32, split: u32, stride: u32) -> u32 {
    return t * stride + (split * op.heads + head) * (SIZE + 2u);
}
