// A workgroup takes a head of a row: normalises it (HEAD_NORMS), turns it (queries and keys), and puts keys and
// values into the cache. Constants: HALVES, SIZE of a head.

@group(1) @binding(1) var<storage, read_write> y: array<f32>;
@group(2) @binding(1) var<storage, read> turns: array<vec2<f32>>;
@group(2) @binding(2) var<storage, read> norms: array<f32>; // of queries, then of keys

var<workgroup> head: array<f32, SIZE>;
var<workgroup> squares: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) at: u32) {
    let nth = group.x;
    let row = row_of(group.y);
    let begin = group.y * op.y_stride + nth * SIZE;
    let is_value = nth >= op.heads + op.kv_heads;
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
        if !is_value {
            var total = 0.0;
            for (var i = 0u; i < 64u; i++) {
                total += squares[i];
            }
            let factor = 1.0 / sqrt(total / f32(SIZE) + op.number);
            let weights = select(SIZE, 0u, nth < op.heads);
            for (var i = at; i < SIZE; i += 64u) {
                head[i] = head[i] * factor * norms[weights + i];
            }
        }
        workgroupBarrier();
    }
    if !is_value {
        for (var i = at; i < op.pairs; i += 64u) {
            let turn = turns[row.position * op.pairs + i];
            let first = select(2u * i, i, HALVES);
            let second = select(2u * i + 1u, i + op.pairs, HALVES);
            let a = head[first];
            let b = head[second];
            head[first] = a * turn.x - b * turn.y;
            head[second] = a * turn.y + b * turn.x;
        }
    }
    workgroupBarrier();
    if !is_value {
        for (var i = at; i < SIZE; i += 64u) {
            y[begin + i] = head[i];
        }
    }
    if nth >= op.heads {
        let kv_head = (nth - op.heads) % op.kv_heads;
        let part = page_part(row.table, row.position / 64u, kv_head);
        let slot = row.position % 64u;
        for (var i = at; i < SIZE / 2u; i += 64u) {
            let word = pack2x16float(vec2(head[2u * i], head[2u * i + 1u]));
            if is_value {
                cache[value_at(part, slot, i)] = word;
            } else {
                cache[key_at(part, slot, i)] = word;
            }
        }
    }
}
