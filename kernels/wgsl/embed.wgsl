// Rows of a matrix as float32, times a scale: a thread does a block of 32 columns of a token.

@group(1) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) at: u32) {
    let block = group.x * 32u + at;
    let row = row_of(group.y).token - op.first; // a token of another piece is far beyond the last row
    if block < op.columns / 32u && row < op.rows {
        let w = load_block(row, block);
        for (var i = 0u; i < 32u; i++) {
            y[group.y * op.y_stride + block * 32u + i] = value_of(w, i) * op.number;
        }
    }
}
