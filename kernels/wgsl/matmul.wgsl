// y = x @ W.T, or added to y. Constants: LANES threads share a row of W, ROWS rows make a workgroup, which
// does TOKENS rows of x.
//
// Lane l sums blocks l, l + LANES, … of 32 columns; then the lanes' sums are added up in order. So a sum's
// order depends on the matrix alone, not on how many rows x has: a row of y does not depend on its company.

@group(1) @binding(1) var<storage, read_write> y: array<f32>;

var<workgroup> sums: array<f32, LANES * ROWS * TOKENS>;

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) at: u32) {
    let begin = (group.z * 65535u + group.x) * ROWS;
    let row = begin + at / LANES;
    let first = group.y * TOKENS;
    let last = row_count() - 1u;
    var own: array<f32, TOKENS>;
    if row < op.rows {
        for (var block = at % LANES; block < op.columns / 32u; block += LANES) {
            let w = load_block(row, block);
            for (var t = 0u; t < TOKENS; t++) {
                own[t] = add_block(own[t], w, min(first + t, last), block);
            }
        }
    }
    for (var t = 0u; t < TOKENS; t++) {
        sums[t * LANES * ROWS + at] = own[t];
    }
    workgroupBarrier();
    for (var i = at; i < ROWS * TOKENS; i += LANES * ROWS) {
        let t = first + i / ROWS;
        let r = begin + i % ROWS;
        if t <= last && r < op.rows {
            var total = 0.0;
            for (var lane = 0u; lane < LANES; lane++) {
                total += sums[i * LANES + lane];
            }
            let out = t * op.y_stride + op.offset + op.first + r;
            if op.add != 0u {
                total += y[out];
            }
            y[out] = total;
        }
    }
}
