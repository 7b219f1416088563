// w[r, c] = mean + deviation z, z standard normal by the element's dense index in the tensor,
// (first_row + r) cols + c, alone, padding 0. One invocation per quad.
struct InitializeNormalParams {
    first_row: u32,
    rows: u32,
    cols: u32,
    seed: u32,
    stream: u32,
    mean: f32,
    deviation: f32,
}

@group(0) @binding(0) var<uniform> params: InitializeNormalParams;
@group(0) @binding(1) var<storage, read_write> w: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    let quads = (params.cols + 3u) / 4u;
    if i < params.rows * quads {
        let first = (params.first_row + i / quads) * params.cols + i % quads * 4u;
        let z = normal(initialize_words(first, params.seed, params.stream));
        w[i] = mask_padding(params.mean + params.deviation * z, i % quads, params.cols);
    }
}
