// The gradient as optimizers see it: unscaled, clipped by norm, then by value. The bound keeps
// squares finite even where clipping is off.
fn clipped(gradient: vec4<f32>, step: StepState, tensor: TensorState) -> vec4<f32> {
    let unscaled = gradient * step.gradient_prescale * step.gradient_scale;
    let bound = vec4(step.clip_value);
    return clamp(unscaled * tensor.clip_coefficient, -bound, bound);
}

// What an optimizer keeps of an element; zero where the tensor's memory is to be empty, whatever
// the buffer holds.
fn remembered(kept: vec4<f32>, tensor: TensorState) -> vec4<f32> {
    return select(kept, vec4(0.0), tensor.steps <= 1u);
}
