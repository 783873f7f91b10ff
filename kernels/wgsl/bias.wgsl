// Add a row to the first columns of each row.

@group(1) @binding(1) var<storage, read_write> y: array<f32>;
@group(2) @binding(1) var<storage, read> values: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) at: u32) {
    let k = group.x * 64u + at;
    if k < op.columns {
        y[group.y * op.y_stride + k] += values[k];
    }
}
