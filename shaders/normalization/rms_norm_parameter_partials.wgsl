// weight_partials[b, c] = sum of dy xhat over the rows of block b, xhat = x scale rstd. One workgroup per
// block of rows and tile of quads; column_sum makes the gradient of it.
struct RmsNormParameterPartialsParams {
    rows: u32,
    cols: u32,
    rows_per_block: u32,
    blocks: u32,
}

@group(0) @binding(0) var<uniform> params: RmsNormParameterPartialsParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>; // (rows, cols)
@group(0) @binding(2) var<storage, read> dy: array<Quad>; // (rows, cols)
@group(0) @binding(3) var<storage, read> statistics: array<vec2<f32>>; // (rows): 1 / std, scale
@group(0) @binding(4) var<storage, read_write> weight_partials: array<vec4<f32>>; // (blocks, cols)

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let col_quads = row_quads(params.cols);
    let width = tile_width(col_quads);
    let tiles = (col_quads + width - 1u) / width;
    let tile = flat_group(group, groups);
    let block = tile / tiles;
    let quad = (tile % tiles) * width + lane % width;
    let first = block * params.rows_per_block;
    let end = min(params.rows, first + params.rows_per_block);
    var weight_sum = vec4(0.0);

    if quad < col_quads {
        for (var row = first + lane / width; row < end; row += 64u / width) {
            let i = row * col_quads + quad;
            let gradient = unpack(dy[i]);
            weight_sum += gradient * (unpack(x[i]) * statistics[row].y * statistics[row].x);
        }
    }
    let weight_total = fold_tile(lane, width, weight_sum);
    if lane < width && quad < col_quads && block < params.blocks {
        let keep = is_element(quad, params.cols);
        weight_partials[block * col_quads + quad] = masked(weight_total, keep);
    }
}
