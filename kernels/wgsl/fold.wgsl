// The parts of a query head of a row, put together.

@group(1) @binding(0) var<storage, read> x: array<f32>;
@group(1) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) at: u32) {
    let range = seen(group.y);
    var sum = nothing_yet();
    for (var split = range.x / SPLIT; split * SPLIT < range.y; split++) {
        let out = part_at(group.y, group.x, split, op.x_stride);
        var part: Part;
        part.top = x[out];
        part.total = x[out + 1u];
        for (var c = 0u; c < EACH; c++) {
            let pair = at + 64u * c;
            if pair < PAIRS {
                part.sums[c] = vec2(x[out + 2u + 2u * pair], x[out + 3u + 2u * pair]);
            }
        }
        sum = with_part(sum, part);
    }
    put_head(sum, group.y, group.x, at);
}
