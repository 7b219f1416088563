// y[c] = sum_b partials[b, c], or y[c] += it: the last step of a parameter's gradient. One
// workgroup per tile of quads.
struct ColumnSumParams {
    blocks: u32,
    col_quads: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<uniform> params: ColumnSumParams;
@group(0) @binding(1) var<storage, read> partials: array<vec4<f32>>; // (blocks, cols)
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>; // (cols)

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let width = tile_width(params.col_quads);
    let quad = flat_group(group, groups) * width + lane % width;
    var sum = vec4(0.0);
    if quad < params.col_quads {
        for (var block = lane / width; block < params.blocks; block += 64u / width) {
            sum += partials[block * params.col_quads + quad];
        }
    }
    var total = fold_tile(lane, width, sum);
    if lane < width && quad < params.col_quads {
        if params.accumulate != 0u { total += y[quad]; }
        y[quad] = total;
    }
}
