// What stands for attention_tile.wgsl where a workgroup is one subgroup of 8: of eight rows each
// invocation loads a quad, and shuffles give it to the others. For drivers that run subgroups on
// the vector units of a CPU, where a load costs as much as 50 of them. As many rows as a tile has
// see some of every tile they load, so control flow is uniform. The order of the sums is the same.
const ROWS = 8u; // rows per workgroup, one per invocation
const TILE = 8u;

// Which lane has the first of the eight rows that a lane's is among. The same for all, so that
// control flow is uniform.
fn first_of_eight(lane: u32) -> u32 { return 0u; }

// Where rows lie: the first of a sequence, and how far it is from one to the next.
struct Rows { at: u32, pitch: u32 }

// One quad of each of eight rows.
struct Tile { upper: mat4x4<f32>, lower: mat4x4<f32> }

// Quad d of four rows from `first` on. What is beyond the last repeats it; beyond a head there are
// zeros.
fn x_block(x: Rows, first: u32, d: u32) -> mat4x4<f32> {
    let i = x.at + min(first + vec4(0u, 1u, 2u, 3u), vec4(params.time - 1u)) * x.pitch + d;
    var block = mat4x4<f32>();
    if d < head_quads() { block = mat4x4(x_quad(i.x), x_quad(i.y), x_quad(i.z), x_quad(i.w)); }
    return block;
}
fn y_block(y: Rows, first: u32, d: u32) -> mat4x4<f32> {
    let i = y.at + min(first + vec4(0u, 1u, 2u, 3u), vec4(params.time - 1u)) * y.pitch + d;
    var block = mat4x4<f32>();
    if d < head_quads() { block = mat4x4(y_quad(i.x), y_quad(i.y), y_quad(i.z), y_quad(i.w)); }
    return block;
}
fn x_tile(x: Rows, first: u32, d: u32) -> Tile {
    return Tile(x_block(x, first, d), x_block(x, first + 4u, d));
}
fn y_tile(y: Rows, first: u32, d: u32) -> Tile {
    return Tile(y_block(y, first, d), y_block(y, first + 4u, d));
}

fn of_lane(block: mat4x4<f32>, lane: u32) -> mat4x4<f32> {
    return mat4x4(
        subgroupShuffle(block[0], lane),
        subgroupShuffle(block[1], lane),
        subgroupShuffle(block[2], lane),
        subgroupShuffle(block[3], lane),
    );
}

// Dot products of a quad with that of every row.
fn dots_of(v: vec4<f32>, tile: Tile, lane: u32) -> mat2x4<f32> {
    return mat2x4(v * of_lane(tile.upper, lane), v * of_lane(tile.lower, lane));
}

// keep old + sum over the rows of their weight times their quad.
fn added(
    old: vec4<f32>, keep: f32, weights: mat2x4<f32>, tile: Tile, lane: u32,
) -> vec4<f32> {
    let sum = of_lane(tile.upper, lane) * weights[0] + of_lane(tile.lower, lane) * weights[1];
    return old * keep + sum;
}
