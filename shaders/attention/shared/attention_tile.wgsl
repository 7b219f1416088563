// Eight rows of X and eight of Y, read where they lie, and their products with rows that an
// invocation holds. A kernel says how the quads of X and of Y are read: `x_quad`, `y_quad`. A CPU has
// them in its caches; copies in workgroup memory would cost it their zeroes and two barriers per tile,
// and some drivers compile a store for each number that is to be zero in the beginning.
// The eight numbers that belong to the rows of a tile travel as a mat2x4, four to a column.
const ROWS = BLOCK; // rows per workgroup, one per invocation
const TILE = 8u;
alias Row = array<vec4<f32>, MAX_HEAD_QUADS>;

// Which lane has the first of the eight rows that a lane's is among. Loops end by it, since some
// drivers compute what a branch skips.
fn first_of_eight(lane: u32) -> u32 { return lane / TILE * TILE; }

// Where rows lie: the first of a sequence, and how far it is from one to the next.
struct Rows { at: u32, pitch: u32 }

// Where the rows of the tile begin.
var<private> x_upper: vec4<u32>;
var<private> x_lower: vec4<u32>;
var<private> y_upper: vec4<u32>;
var<private> y_lower: vec4<u32>;

// Rows from `first` on; what is beyond the last repeats it.
fn load_tiles(x: Rows, y: Rows, first: u32, lane: u32) {
    let upper = min(first + vec4(0u, 1u, 2u, 3u), vec4(params.time - 1u));
    let lower = min(first + vec4(4u, 5u, 6u, 7u), vec4(params.time - 1u));
    x_upper = x.at + upper * x.pitch;
    x_lower = x.at + lower * x.pitch;
    y_upper = y.at + upper * y.pitch;
    y_lower = y.at + lower * y.pitch;
}
fn leave_tiles() {}

fn x_rows(rows: vec4<u32>, d: u32) -> mat4x4<f32> {
    let i = rows + d;
    return mat4x4(x_quad(i.x), x_quad(i.y), x_quad(i.z), x_quad(i.w));
}
fn y_rows(rows: vec4<u32>, d: u32) -> mat4x4<f32> {
    let i = rows + d;
    return mat4x4(y_quad(i.x), y_quad(i.y), y_quad(i.z), y_quad(i.w));
}

// Dot products of a row with those of a tile.
fn x_dots(row: ptr<function, Row>) -> mat2x4<f32> {
    var dots = mat2x4<f32>();
    for (var d = 0u; d < head_quads(); d++) {
        let v = (*row)[d];
        dots += mat2x4(v * x_rows(x_upper, d), v * x_rows(x_lower, d));
    }
    return dots;
}
fn y_dots(row: ptr<function, Row>) -> mat2x4<f32> {
    var dots = mat2x4<f32>();
    for (var d = 0u; d < head_quads(); d++) {
        let v = (*row)[d];
        dots += mat2x4(v * y_rows(y_upper, d), v * y_rows(y_lower, d));
    }
    return dots;
}

// sums = keep sums + sum over the rows of a tile of their weight times them.
fn add_x(sums: ptr<function, Row>, keep: f32, weights: mat2x4<f32>) {
    for (var d = 0u; d < head_quads(); d++) {
        let sum = x_rows(x_upper, d) * weights[0] + x_rows(x_lower, d) * weights[1];
        (*sums)[d] = (*sums)[d] * keep + sum;
    }
}
fn add_y(sums: ptr<function, Row>, keep: f32, weights: mat2x4<f32>) {
    for (var d = 0u; d < head_quads(); d++) {
        let sum = y_rows(y_upper, d) * weights[0] + y_rows(y_lower, d) * weights[1];
        (*sums)[d] = (*sums)[d] * keep + sum;
    }
}
