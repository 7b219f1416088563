// A quad of a row of the weight.
alias StoredWeight = vec4<f32>;

fn weight_quad(row: u32, quad: u32) -> vec4<f32> {
    return w[row * row_quads(params.cols) + quad];
}
