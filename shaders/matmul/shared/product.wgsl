// Parameters of a batched matrix product C = A·B with A as (rows, inner), B as (inner, cols), C as
// (rows, cols), each possibly stored transposed. Strides and offsets count quads; the batch is
// `outer` times `inner_count`, so that heads inside the columns of a row need no transpose.
struct ProductParams {
    rows: u32,
    cols: u32,
    inner: u32,
    batch: u32,
    inner_count: u32,
    accumulate: u32,
    alpha: f32,
    a_offset: u32,
    a_row_stride: u32,
    a_outer_stride: u32,
    a_inner_stride: u32,
    a_inner_group: u32,
    b_offset: u32,
    b_row_stride: u32,
    b_outer_stride: u32,
    b_inner_stride: u32,
    b_inner_group: u32,
    c_offset: u32,
    c_row_stride: u32,
    c_outer_stride: u32,
    c_inner_stride: u32,
}
