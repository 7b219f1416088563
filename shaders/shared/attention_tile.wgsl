// Two tiles of TILE rows, row-major, and their products with one invocation's own row or weights.
// The sixteen numbers that belong to the rows of a tile travel as a mat4x4, four to a column.
var<workgroup> tile_x: array<vec4<f32>, TILE * MAX_HEAD_QUADS>;
var<workgroup> tile_y: array<vec4<f32>, TILE * MAX_HEAD_QUADS>;

fn x_rows(row: u32, d: u32) -> mat4x4<f32> {
    let i = row * head_quads + d;
    return mat4x4(
        tile_x[i],
        tile_x[i + head_quads],
        tile_x[i + 2u * head_quads],
        tile_x[i + 3u * head_quads],
    );
}
fn y_rows(row: u32, d: u32) -> mat4x4<f32> {
    let i = row * head_quads + d;
    return mat4x4(
        tile_y[i],
        tile_y[i + head_quads],
        tile_y[i + 2u * head_quads],
        tile_y[i + 3u * head_quads],
    );
}

// Dot products of a quad with quad d of every row.
fn x_dots(v: vec4<f32>, d: u32) -> mat4x4<f32> {
    return mat4x4(v * x_rows(0u, d), v * x_rows(4u, d), v * x_rows(8u, d), v * x_rows(12u, d));
}
fn y_dots(v: vec4<f32>, d: u32) -> mat4x4<f32> {
    return mat4x4(v * y_rows(0u, d), v * y_rows(4u, d), v * y_rows(8u, d), v * y_rows(12u, d));
}

// Sum over the rows of their weight times their quad d.
fn x_sum(weights: mat4x4<f32>, d: u32) -> vec4<f32> {
    return (x_rows(0u, d) * weights[0] + x_rows(4u, d) * weights[1])
        + (x_rows(8u, d) * weights[2] + x_rows(12u, d) * weights[3]);
}
fn y_sum(weights: mat4x4<f32>, d: u32) -> vec4<f32> {
    return (y_rows(0u, d) * weights[0] + y_rows(4u, d) * weights[1])
        + (y_rows(8u, d) * weights[2] + y_rows(12u, d) * weights[3]);
}
