// What policies say to the verdict and to the telemetry, and norms as they remember them. `state`
// is the kernel's buffer.
const REASON_LOSS_SPIKE = 3u;
const REASON_NORM_SPIKE = 4u;
const REASON_ROLLED_BACK = 5u;

const EVENT_LOSS_SPIKE = 1u;
const EVENT_NORM_SPIKE = 2u;
const EVENT_CLIPPED_HARDER = 4u;
const EVENT_LEARNING_RATE_CUT = 8u;
const EVENT_MOMENTS_RESET = 16u;
const EVENT_ROLLED_BACK = 32u;
const EVENT_SNAPSHOT = 64u;
const EVENT_LOSS_SCALE_DOWN = 128u;

// 2^126: quotients by anything up to it are accurate.
const LARGEST_SAMPLE = 8.507059e37;

// Whether gradients are finite and the run goes on.
fn is_judged() -> bool { return state.gave_up == 0u && state.nonfinite_count == 0u; }

// The first policy with a value to show names it and its tensor.
fn note_event(events: u32, value: f32, tensor: u32) {
    if state.event_value == 0.0 {
        state.event_value = value;
        state.event_tensor = tensor;
    }
    state.events |= events;
}

// A norm as it is remembered.
fn sample(norm: Wide) -> f32 { return min(narrow(norm), LARGEST_SAMPLE); }

// Norm of the unscaled gradients of this step.
fn global_norm() -> Wide { return Wide(state.norm_significand, state.norm_exponent); }

// Lowers the bound on the norm; whether that clips this step harder than it would be.
fn lower_max_norm(bound: f32) -> bool {
    let lowers = bound < state.max_norm && exceeds(global_norm(), widen(bitcast<u32>(bound)));
    state.max_norm = min(state.max_norm, bound);
    return lowers;
}
