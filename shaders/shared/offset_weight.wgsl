// Weights of a norm as they are applied; of -0 the sign stays where nothing is added.
fn full_weight(stored: vec4<f32>) -> vec4<f32> {
    return select(stored, params.weight_offset + stored, params.weight_offset != 0.0);
}
