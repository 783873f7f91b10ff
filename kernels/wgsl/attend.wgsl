// Attention of a query head of a row by a workgroup of 64 threads, page by page with a running maximum
// (Milakov and Gimelshein, 2018): a thread scores a position of the page, then sums up some pairs of columns of V.
// Constants: SIZE of a head; ALONE: a workgroup has one split, and y gets its part.
//
// The order of every sum depends on the position alone.

@group(1) @binding(0) var<storage, read> x: array<f32>;
@group(1) @binding(1) var<storage, read_write> y: array<f32>;

var<workgroup> query: array<f32, SIZE>;
var<workgroup> scores: array<f32, 64>;
var<workgroup> weights: array<f32, 64>;
var<workgroup> pulls: array<f32, 64>; // what codes of V are multiplied with
var<workgroup> shares: array<vec2<f32>, 64>;

fn part_of(first: u32, length: u32, table: u32, kv_head: u32, at: u32) -> Part {
    var own = nothing_yet();
    for (var page = first / 64u; page * 64u < length; page++) {
        let part = page_part(table, page, kv_head);
        let begin = max(first, page * 64u) - page * 64u;
        let end = min(length - page * 64u, 64u);
        var scales = vec2(0.0);
        var score = -3.0e38;
        if at >= begin && at < end {
            scales = scales_of(part, at);
            score = times_key(part, at) * scales.x;
        }
        scores[at] = score;
        workgroupBarrier();
        var highest = own.top;
        for (var i = begin; i < end; i++) {
            highest = max(highest, scores[i]);
        }
        weights[at] = exp(scores[at] - highest);
        pulls[at] = weights[at] * scales.y;
        workgroupBarrier();
        let shrink = exp(own.top - highest);
        own.top = highest;
        own.total *= shrink;
        for (var i = begin; i < end; i++) {
            own.total += weights[i];
        }
        for (var c = 0u; c < EACH; c++) {
            let pair = at % (64u / SHARES) + 64u * c;
            if pair < PAIRS {
                var sum = own.sums[c] * shrink;
                for (var i = at / (64u / SHARES); i < end; i += SHARES) {
                    if i >= begin {
                        sum = fma(vec2(pulls[i]), value_pair(part, i, pair), sum);
                    }
                }
                own.sums[c] = sum;
            }
        }
    }
    if SHARES > 1u {
        shares[at] = own.sums[0];
        workgroupBarrier();
        for (var share = 1u; share < SHARES; share++) {
            own.sums[0] += shares[at % (64u / SHARES) + share * (64u / SHARES)];
        }
        workgroupBarrier();
    }
    return own;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) at: u32) {
    let t = group.y;
    let head = group.x;
    let table = row_of(t).table;
    let range = seen(t);
    let kv_head = head / (op.heads / op.kv_heads);
    for (var i = at; i < SIZE; i += 64u) {
        query[i] = x[t * op.x_stride + head * SIZE + i] * op.number;
    }
    workgroupBarrier();
    if ALONE {
        let split = group.z;
        let first = max(range.x, split * SPLIT);
        let length = min(range.y, (split + 1u) * SPLIT);
        if first < length {
            let own = part_of(first, length, table, kv_head, at);
            let out = part_at(t, head, split, op.y_stride);
            if at == 0u {
                y[out] = own.top;
                y[out + 1u] = own.total;
            }
            for (var c = 0u; c < EACH; c++) {
                let pair = at + 64u * c;
                if pair < PAIRS {
                    y[out + 2u + 2u * pair] = own.sums[c].x;
                    y[out + 3u + 2u * pair] = own.sums[c].y;
                }
            }
        }
    } else {
        var sum = nothing_yet();
        for (var split = range.x / SPLIT; split * SPLIT < range.y; split++) {
            let length = min(range.y, (split + 1u) * SPLIT);
            sum = with_part(sum, part_of(max(range.x, split * SPLIT), length, table, kv_head, at));
        }
        put_head(sum, t, head, at);
    }
}
