// A matrix product with a bias and an activation at its end: the parameters of shared/product.wgsl
// and two more. What the activation was given is kept for its backward pass. Which activation is a
// constant, so that others cost nothing: some drivers compute all branches.
override activation: u32 = 0u;

struct ActivatedProductParams {
    rows: u32,
    cols: u32,
    inner: u32,
    batch: u32,
    inner_count: u32,
    accumulate: u32,
    has_bias: u32,
    bias_offset: u32,
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

fn store(at: u32, quad: u32, value: vec4<f32>) {
    var total = value;
    if params.has_bias != 0u { total += unpack(bias[params.bias_offset + quad]); }
    if activation != 0u {
        // The activation sees the rounded value that its backward pass will read.
        let stored = pack(total);
        pre_activation[at] = stored;
        total = activate(activation, unpack(stored));
    }
    if params.accumulate != 0u { total += unpack(c[at]); }
    c[at] = pack(total);
}
