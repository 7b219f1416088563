// Sums of g^2 over the columns and over the rows of a tile of a matrix, at most 64 rows by 64
// quads. One workgroup per tile; invocation q owns column quad q.
struct AdafactorScanParams { tile_count: u32 }

struct Tile {
    offset: u32, // first quad
    row_quads: u32, // from one row to the next
    rows: u32,
    quads: u32,
    row_partials: u32, // first f32 in `partials`, one per row
    column_partials: u32, // first f32 in `partials`, four per quad
    tensor: u32,
}

@group(0) @binding(0) var<uniform> params: AdafactorScanParams;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read> tiles: array<Tile>;
@group(0) @binding(3) var<storage, read> tensors: array<TensorState>;
@group(0) @binding(4) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> partials: array<f32>;

const TILE_ROWS = 64u;
const LARGEST = 1e15;
// Sixteen rows at a time: (16 rows, 64 quads), then four parts of each row.
var<workgroup> squares: array<f32, 1024>;
var<workgroup> parts: array<f32, 64>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let t = flat_group(group, groups);
    if t < params.tile_count {
        let step = state;
        let tile = tiles[t];
        let tensor = tensors[tile.tensor];
        var column = vec4<f32>();
        for (var first = 0u; first < TILE_ROWS; first += 16u) {
            for (var j = 0u; j < 16u; j++) {
                let row = first + j;
                var square = vec4<f32>();
                if row < tile.rows && lane < tile.quads {
                    let i = tile.offset + row * tile.row_quads + lane;
                    let g = clipped(gradient[i], step, tensor);
                    let bounded = clamp(g, vec4(-LARGEST), vec4(LARGEST));
                    square = bounded * bounded;
                }
                column += square;
                squares[64u * j + lane] = sum4(square);
            }
            workgroupBarrier();
            var part = 0.0;
            for (var k = 0u; k < 16u; k++) { part += squares[16u * lane + k]; }
            parts[lane] = part;
            workgroupBarrier();
            if lane < 16u && first + lane < tile.rows {
                let p = 4u * lane;
                partials[tile.row_partials + first + lane] =
                    (parts[p] + parts[p + 1u]) + (parts[p + 2u] + parts[p + 3u]);
            }
        }
        if lane < tile.quads {
            for (var k = 0u; k < 4u; k++) {
                partials[tile.column_partials + 4u * lane + k] = column[k];
            }
        }
    }
}
