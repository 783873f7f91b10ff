// Attention of a query head of a row by a workgroup of 64 threads, page by page with a running maximum
// (Milakov and Gimelshein, 2018): a thread scores a position of the page, then sums up some columns of V.
// Constants: SIZE of a head, WHOLE (a row sees its whole text).
//
// The order of every sum depends on the position alone.

@group(1) @binding(0) var<storage, read> x: array<f32>;
@group(1) @binding(1) var<storage, read_write> y: array<f32>;

const COLUMNS = (SIZE + 63u) / 64u; // of V, each thread

var<workgroup> query: array<f32, SIZE>;
var<workgroup> scores: array<f32, 64>;
var<workgroup> weights: array<f32, 64>;
var<workgroup> result: array<f32, SIZE>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) at: u32) {
    let t = group.y;
    let head = group.x;
    let row = row_of(t);
    var length = row.position + 1u;
    if WHOLE {
        length = row.length;
    }
    let first = length - min(length, op.window);
    let kv_head = head / (op.heads / op.kv_heads);
    for (var i = at; i < SIZE; i += 64u) {
        query[i] = x[t * op.x_stride + head * SIZE + i] * op.number;
    }
    workgroupBarrier();
    var top = -3.0e38;
    var total = 0.0;
    var sums: array<f32, COLUMNS>;
    for (var page = first / 64u; page * 64u < length; page++) {
        let part = page_part(row.table, page, kv_head);
        let begin = max(first, page * 64u) - page * 64u;
        let to = min(length - page * 64u, 64u);
        var score = -3.0e38;
        if at >= begin && at < to {
            var two = vec2(0.0);
            for (var i = 0u; i < SIZE / 2u; i++) {
                two = fma(unpack2x16float(cache[key_at(part, at, i)]), vec2(query[2u * i], query[2u * i + 1u]), two);
            }
            score = two.x + two.y;
        }
        scores[at] = score;
        workgroupBarrier();
        var highest = top;
        for (var i = begin; i < to; i++) {
            highest = max(highest, scores[i]);
        }
        weights[at] = exp(scores[at] - highest);
        workgroupBarrier();
        let shrink = exp(top - highest);
        top = highest;
        total *= shrink;
        for (var i = begin; i < to; i++) {
            total += weights[i];
        }
        for (var c = 0u; c < COLUMNS; c++) {
            let column = at + 64u * c;
            if column < SIZE {
                var sum = sums[c] * shrink;
                for (var i = begin; i < to; i++) {
                    let two = unpack2x16float(cache[value_at(part, i, column / 2u)]);
                    sum = fma(weights[i], two[column % 2u], sum);
                }
                sums[c] = sum;
            }
        }
    }
    for (var c = 0u; c < COLUMNS; c++) {
        let column = at + 64u * c;
        if column < SIZE {
            let value = sums[c] / total;
            result[column] = value;
            y[t * op.y_stride + head * SIZE + column] = value;
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
