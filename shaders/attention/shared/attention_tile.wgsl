// Two tiles of TILE rows, row-major, and their products with one invocation's own row or weights.
// The eight numbers that belong to the rows of a tile travel as a mat2x4, four to a column.
const TILE = 8u; // rows of the other side in workgroup memory at a time

var<workgroup> tile_x: array<vec4<f32>, TILE * MAX_HEAD_QUADS>;
var<workgroup> tile_y: array<vec4<f32>, TILE * MAX_HEAD_QUADS>;

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

// Dot products of a quad with quad d of every row.
fn x_dots(v: vec4<f32>, d: u32) -> mat2x4<f32> {
    return mat2x4(v * x_rows(0u, d), v * x_rows(4u, d));
}
fn y_dots(v: vec4<f32>, d: u32) -> mat2x4<f32> {
    return mat2x4(v * y_rows(0u, d), v * y_rows(4u, d));
}

// Sum over the rows of their weight times their quad d.
fn x_sum(weights: mat2x4<f32>, d: u32) -> vec4<f32> {
    return x_rows(0u, d) * weights[0] + x_rows(4u, d) * weights[1];
}
fn y_sum(weights: mat2x4<f32>, d: u32) -> vec4<f32> {
    return y_rows(0u, d) * weights[0] + y_rows(4u, d) * weights[1];
}
