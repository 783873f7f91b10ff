// Rows of float32 as int8: where a product stands alone.

@group(1) @binding(0) var<storage, read> x: array<f32>;

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) at: u32) {
    let block = group.x * 32u + at;
    if block < op.columns / 32u {
        for (var i = 0u; i < 32u; i++) {
            block_values[i] = x[group.y * op.x_stride + block * 32u + i];
        }
        put_block(group.y, block);
    }
}
