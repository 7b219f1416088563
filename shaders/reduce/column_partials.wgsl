// partials[b, c] = sum of x[r, c] over the rows r of block b. One workgroup per block of rows and
// tile of quads.
struct ColumnPartialsParams {
    rows: u32,
    col_quads: u32,
    rows_per_block: u32,
    blocks: u32,
}

@group(0) @binding(0) var<uniform> params: ColumnPartialsParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>; // (rows, cols)
@group(0) @binding(2) var<storage, read_write> partials: array<vec4<f32>>; // (blocks, cols)

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let width = tile_width(params.col_quads);
    let tiles = (params.col_quads + width - 1u) / width;
    let tile = flat_group(group, groups);
    let block = tile / tiles;
    let quad = (tile % tiles) * width + lane % width;
    let first = block * params.rows_per_block;
    let end = min(params.rows, first + params.rows_per_block);
    var sum = vec4(0.0);
    if quad < params.col_quads {
        for (var row = first + lane / width; row < end; row += 64u / width) {
            sum += unpack(x[row * params.col_quads + quad]);
        }
    }
    let total = fold_tile(lane, width, sum);
    if lane < width && quad < params.col_quads && block < params.blocks {
        partials[block * params.col_quads + quad] = total;
    }
}
