// Heads of more than 8 quads: a subgroup loads 8 quads of a tile's rows where it multiplies them,
// which is no slower than to keep them, and compiles faster than all of a head in registers.
alias Row = array<vec4<f32>, MAX_HEAD_QUADS>;

var<private> rows_x: Rows;
var<private> rows_y: Rows;
var<private> first_row: u32;
var<private> own_quad: u32;

fn load_tiles(x: Rows, y: Rows, first: u32, lane: u32) {
    rows_x = x;
    rows_y = y;
    first_row = first;
    own_quad = lane;
}
fn leave_tiles() {}

fn x_dots(row: ptr<function, Row>) -> mat2x4<f32> {
    var dots = mat2x4<f32>();
    for (var d = 0u; d < head_quads(); d += 8u) {
        let tile = x_tile(rows_x, first_row, d + own_quad);
        let count = min(8u, head_quads() - d);
        for (var i = 0u; i < count; i++) { dots += dots_of((*row)[d + i], tile, i); }
    }
    return dots;
}
fn y_dots(row: ptr<function, Row>) -> mat2x4<f32> {
    var dots = mat2x4<f32>();
    for (var d = 0u; d < head_quads(); d += 8u) {
        let tile = y_tile(rows_y, first_row, d + own_quad);
        let count = min(8u, head_quads() - d);
        for (var i = 0u; i < count; i++) { dots += dots_of((*row)[d + i], tile, i); }
    }
    return dots;
}

fn add_x(sums: ptr<function, Row>, keep: f32, weights: mat2x4<f32>) {
    for (var d = 0u; d < head_quads(); d += 8u) {
        let tile = x_tile(rows_x, first_row, d + own_quad);
        let count = min(8u, head_quads() - d);
        for (var i = 0u; i < count; i++) {
            (*sums)[d + i] = added((*sums)[d + i], keep, weights, tile, i);
        }
    }
}
fn add_y(sums: ptr<function, Row>, keep: f32, weights: mat2x4<f32>) {
    for (var d = 0u; d < head_quads(); d += 8u) {
        let tile = y_tile(rows_y, first_row, d + own_quad);
        let count = min(8u, head_quads() - d);
        for (var i = 0u; i < count; i++) {
            (*sums)[d + i] = added((*sums)[d + i], keep, weights, tile, i);
        }
    }
}
