// How a step begins once its norm is known. `state` is the kernel's buffer, `params` its uniform;
// the norm still holds the loss scale.
fn open_step(scaled_norm: Wide, nonfinite_count: u32, zero_count: u32) {
    let norm = quotient(scaled_norm, widen(bitcast<u32>(state.loss_scale)));
    state.norm_significand = norm.significand;
    state.norm_exponent = norm.exponent;
    state.gradient_norm = narrow(norm);
    // Inf, from its bits: WGSL has no constant for it.
    if nonfinite_count > 0u {
        state.gradient_norm = bitcast<f32>(0x7f800000u | (state.verdict & 0u));
    }
    state.nonfinite_count = nonfinite_count;
    state.zero_count = zero_count;
    state.max_norm = params.max_norm;
    state.learning_rate_factor = 1.0;
    state.veto = REASON_NONE;
    state.events = 0u;
    state.event_value = 0.0;
    state.event_tensor = 0u;
}
