// Eight rows of X and eight of Y in workgroup memory, row-major, and their products with rows that
// an invocation holds. A kernel says how the quads of X and of Y are read: `x_quad`, `y_quad`.
// The eight numbers that belong to the rows of a tile travel as a mat2x4, four to a column.
const ROWS = BLOCK; // rows per workgroup, one per invocation
const TILE = 8u;
alias Row = array<vec4<f32>, MAX_HEAD_QUADS>;

// Where rows lie: the first of a sequence, and how far it is from one to the next.
struct Rows { at: u32, pitch: u32 }

var<workgroup> tile_x: array<vec4<f32>, TILE * MAX_HEAD_QUADS>;
var<workgroup> tile_y: array<vec4<f32>, TILE * MAX_HEAD_QUADS>;

// Rows from `first` on; what is beyond the last repeats it.
fn load_tiles(x: Rows, y: Rows, first: u32, lane: u32) {
    let quads = head_quads();
    for (var i = lane; i < TILE * quads; i += ROWS) {
        let t = min(first + i / quads, params.time - 1u);
        tile_x[i] = x_quad(x.at + t * x.pitch + i % quads);
        tile_y[i] = y_quad(y.at + t * y.pitch + i % quads);
    }
    workgroupBarrier();
}
fn leave_tiles() { workgroupBarrier(); }

fn x_rows(row: u32, d: u32) -> mat4x4<f32> {
    let pitch = head_quads();
    let i = row * pitch + d;
    return mat4x4(
        tile_x[i],
        tile_x[i + pitch],
        tile_x[i + 2u * pitch],
        tile_x[i + 3u * pitch],
    );
}
fn y_rows(row: u32, d: u32) -> mat4x4<f32> {
    let pitch = head_quads();
    let i = row * pitch + d;
    return mat4x4(
        tile_y[i],
        tile_y[i + pitch],
        tile_y[i + 2u * pitch],
        tile_y[i + 3u * pitch],
    );
}

// Dot products of a row with those of a tile.
fn x_dots(row: ptr<function, Row>) -> mat2x4<f32> {
    var dots = mat2x4<f32>();
    for (var d = 0u; d < head_quads(); d++) {
        let v = (*row)[d];
        dots += mat2x4(v * x_rows(0u, d), v * x_rows(4u, d));
    }
    return dots;
}
fn y_dots(row: ptr<function, Row>) -> mat2x4<f32> {
    var dots = mat2x4<f32>();
    for (var d = 0u; d < head_quads(); d++) {
        let v = (*row)[d];
        dots += mat2x4(v * y_rows(0u, d), v * y_rows(4u, d));
    }
    return dots;
}

// sums = keep sums + sum over the rows of a tile of their weight times them.
fn add_x(sums: ptr<function, Row>, keep: f32, weights: mat2x4<f32>) {
    for (var d = 0u; d < head_quads(); d++) {
        let sum = x_rows(0u, d) * weights[0] + x_rows(4u, d) * weights[1];
        (*sums)[d] = (*sums)[d] * keep + sum;
    }
}
fn add_y(sums: ptr<function, Row>, keep: f32, weights: mat2x4<f32>) {
    for (var d = 0u; d < head_quads(); d++) {
        let sum = y_rows(0u, d) * weights[0] + y_rows(4u, d) * weights[1];
        (*sums)[d] = (*sums)[d] * keep + sum;
    }
}
