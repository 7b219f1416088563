// A matrix product whose sums go on from dispatch to dispatch: the parameters of
// shared/product.wgsl and two more. `sums` holds them in f32, laid out as `c`.
struct ResumedProductParams {
    rows: u32,
    cols: u32,
    inner: u32,
    batch: u32,
    inner_count: u32,
    accumulate: u32,
    resume: u32,
    unfinished: u32,
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

// Four rows from 4 row_quad, one quad each; what does not exist repeats the last and is not stored.
fn opening(first: u32, row_quad: u32, quad: u32) -> mat4x4<f32> {
    var total = mat4x4<f32>();
    if params.resume != 0u {
        let row = min(4u * row_quad + vec4(0u, 1u, 2u, 3u), vec4(params.rows - 1u));
        let at = first + row * params.c_row_stride + min(quad, (params.cols - 1u) / 4u);
        total = mat4x4(sums[at.x], sums[at.y], sums[at.z], sums[at.w]);
    }
    return total;
}

fn store(at: u32, quad: u32, value: vec4<f32>) {
    if params.unfinished != 0u {
        sums[at] = value;
    } else {
        finish(at, value);
    }
}
