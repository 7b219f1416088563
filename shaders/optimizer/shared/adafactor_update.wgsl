// u = g / sqrt(max(variance, eps1^2)) of quad i, from the kernel's buffers `variance` and
// `factors`. `own` is a vector's variance, already advanced, and does not matter for a matrix.
fn normalized(i: u32, g: vec4<f32>, own: vec4<f32>, shape: FactoredTensor) -> vec4<f32> {
    var estimate = own;
    if shape.rows > 0u {
        let local = i - shape.offset;
        let row = local / shape.row_quads;
        let matrix = row / shape.rows;
        let of_row = variance[shape.variance_rows + row / 4u][row % 4u];
        let column = matrix * shape.row_quads + local % shape.row_quads;
        // The quotient first: the product of two mean squares could leave f32.
        let relative = of_row / max(factors[shape.mean + matrix], params.eps1);
        estimate = relative * variance[shape.variance_cols + column];
    }
    let least = max(params.eps1 * params.eps1, SMALLEST_NORMAL);
    return g / sqrt(max(estimate, vec4(least)));
}

// The mean square of a vector's elements, advanced; anything for a matrix.
fn vector_variance(
    i: u32, g: vec4<f32>, shape: FactoredTensor, tensor: TensorState,
) -> vec4<f32> {
    if shape.rows > 0u { return vec4(0.0); }
    return advanced(variance[shape.variance_cols + i - shape.offset], g * g, tensor);
}
