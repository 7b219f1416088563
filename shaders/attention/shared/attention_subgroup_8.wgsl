// Heads of at most 8 quads: a subgroup holds a tile of X and one of Y in registers.
alias Row = array<vec4<f32>, 8>;

var<private> tile_x: Tile;
var<private> tile_y: Tile;

fn load_tiles(x: Rows, y: Rows, first: u32, lane: u32) {
    tile_x = x_tile(x, first, lane);
    tile_y = y_tile(y, first, lane);
}
fn leave_tiles() {}

fn dots(row: Row, tile: Tile) -> mat2x4<f32> {
    return mat2x4<f32>()
        + dots_of(row[0], tile, 0u) + dots_of(row[1], tile, 1u)
        + dots_of(row[2], tile, 2u) + dots_of(row[3], tile, 3u)
        + dots_of(row[4], tile, 4u) + dots_of(row[5], tile, 5u)
        + dots_of(row[6], tile, 6u) + dots_of(row[7], tile, 7u);
}
fn x_dots(row: ptr<function, Row>) -> mat2x4<f32> { return dots(*row, tile_x); }
fn y_dots(row: ptr<function, Row>) -> mat2x4<f32> { return dots(*row, tile_y); }

fn add(sums: Row, keep: f32, weights: mat2x4<f32>, tile: Tile) -> Row {
    return Row(
        added(sums[0], keep, weights, tile, 0u), added(sums[1], keep, weights, tile, 1u),
        added(sums[2], keep, weights, tile, 2u), added(sums[3], keep, weights, tile, 3u),
        added(sums[4], keep, weights, tile, 4u), added(sums[5], keep, weights, tile, 5u),
        added(sums[6], keep, weights, tile, 6u), added(sums[7], keep, weights, tile, 7u),
    );
}
fn add_x(sums: ptr<function, Row>, keep: f32, weights: mat2x4<f32>) {
    *sums = add(*sums, keep, weights, tile_x);
}
fn add_y(sums: ptr<function, Row>, keep: f32, weights: mat2x4<f32>) {
    *sums = add(*sums, keep, weights, tile_y);
}
