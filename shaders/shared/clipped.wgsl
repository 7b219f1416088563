// The gradient as optimizers see it: unscaled, clipped by norm, then by value. The bound keeps
// squares finite even where clipping is off.
fn clipped(gradient: vec4<f32>, step: StepState) -> vec4<f32> {
    let unscaled = gradient * step.gradient_prescale * step.gradient_scale;
    return clamp(unscaled, vec4(-step.clip_value), vec4(step.clip_value));
}
