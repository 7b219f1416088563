// The loss scale of the next step, after an overflow and after a clean step. `state` is the kernel's
// buffer, `params` its uniform.
const LARGEST_SCALE = 3.4028234e38;
const EVENT_LOSS_SCALE_DOWN = 128u;
const EVENT_LOSS_SCALE_UP = 256u;

fn back_off() {
    state.growth_count = 0u;
    state.hysteresis_left -= min(state.hysteresis_left, 1u);
    if state.hysteresis_left > 0u { return; }
    if params.give_up_at_min_scale != 0u && state.loss_scale <= params.min_scale {
        state.gave_up = REASON_NONFINITE_GRADIENT;
    }
    let scale = max(state.loss_scale * params.backoff_factor, params.min_scale);
    if scale < state.loss_scale {
        state.events |= EVENT_LOSS_SCALE_DOWN;
        state.loss_scale = scale;
    }
}

fn grow() {
    if params.refill_every_step != 0u { state.hysteresis_left = params.hysteresis; }
    state.growth_count += 1u;
    if state.growth_count < params.growth_interval { return; }
    state.growth_count = 0u;
    state.hysteresis_left = params.hysteresis;
    // Divided, so that no bound is ever exceeded on the way.
    let bound = min(params.max_scale, LARGEST_SCALE) / params.growth_factor;
    if state.loss_scale <= bound {
        state.loss_scale *= params.growth_factor;
        state.events |= EVENT_LOSS_SCALE_UP;
    }
}
