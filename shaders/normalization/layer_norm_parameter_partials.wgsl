// weight_partials[b, c] = sum of dy xhat over the rows of block b, bias_partials[b, c] = sum of dy;
// xhat = (x scale - shift - rest) rstd. One workgroup per block of rows and tile of quads; column_sum makes the
// gradients of them.
struct LayerNormParameterPartialsParams {
    rows: u32,
    cols: u32,
    rows_per_block: u32,
    blocks: u32,
}

@group(0) @binding(0) var<uniform> params: LayerNormParameterPartialsParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>; // (rows, cols)
@group(0) @binding(2) var<storage, read> dy: array<Quad>; // (rows, cols)
@group(0) @binding(3) var<storage, read> statistics: array<vec4<f32>>; // (rows), as layer_norm
@group(0) @binding(4) var<storage, read_write> weight_partials: array<vec4<f32>>; // (blocks, cols)
@group(0) @binding(5) var<storage, read_write> bias_partials: array<vec4<f32>>; // (blocks, cols)

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
    var bias_sum = vec4(0.0);
    let zero = hidden_zero(groups);

    if quad < col_quads {
        for (var row = first + lane / width; row < end; row += 64u / width) {
            let i = row * col_quads + quad;
            let gradient = unpack(dy[i]);
            let found = statistics[row];
            let centred_x = centred(unpack(x[i]) * found.w, vec4(found.x), vec4(found.y), zero);
            weight_sum += gradient * (centred_x * found.z);
            bias_sum += gradient;
        }
    }
    let weight_total = fold_tile(lane, width, weight_sum);
    let bias_total = fold_tile(lane, width, bias_sum);
    if lane < width && quad < col_quads && block < params.blocks {
        let keep = is_element(quad, params.cols);
        weight_partials[block * col_quads + quad] = masked(weight_total, keep);
        bias_partials[block * col_quads + quad] = masked(bias_total, keep);
    }
}
