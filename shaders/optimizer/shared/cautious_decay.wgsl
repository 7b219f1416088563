// decay w; where `params.cautious_decay` asks for it, only of weights with the sign of the update.
fn shrink(at: Place, w: vec4<f32>, update: vec4<f32>) -> vec4<f32> {
    let decays = agrees(update, w) | vec4(params.cautious_decay == 0u);
    return select(vec4(0.0), at.weight_decay * w, decays);
}
