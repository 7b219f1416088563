// coefficient = min(1, max_norm / norm), whether the step commits, and the loss scale of the next:
// the close of a step. One workgroup; its invocation 0 decides, all advance the tensors' clocks.
struct VerdictParams {
    tensor_count: u32,
    clip_value: f32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    rising_steps: u32,
    middle_end: u32,
    middle_start: u32,
    middle_first: u32,
    decay_end: u32,
    decay_first: u32,
    knot_bits: u32,
    growth_factor: f32,
    backoff_factor: f32,
    growth_interval: u32,
    min_scale: f32,
    max_scale: f32,
    hysteresis: u32,
    refill_every_step: u32,
    give_up_after: u32,
    give_up_at_min_scale: u32,
    staged_quads: u32,
}

@group(0) @binding(0) var<uniform> params: VerdictParams;
@group(0) @binding(1) var<storage, read> input: StepInput;
@group(0) @binding(2) var<storage, read> learning_rates: array<f32>;
@group(0) @binding(3) var<storage, read> loss: array<u32>; // f32 (1)
@group(0) @binding(4) var<storage, read> staged: array<vec4<u32>>; // f32 (4 staged_quads)
@group(0) @binding(5) var<storage, read_write> tensors: array<TensorState>;
@group(0) @binding(6) var<storage, read_write> state: StepState;

const INVOCATIONS = 256u;
const LARGEST_CLIP_VALUE = 1e18;

var<workgroup> verdict: u32;
var<workgroup> largest_staged: atomic<u32>; // magnitude, as bits

fn skip_step(reason: u32) {
    state.verdict = SKIP;
    state.reason = reason;
    state.skipped_total += 1u;
    state.skipped_in_row += 1u;
    let too_many = params.give_up_after > 0u && state.skipped_in_row >= params.give_up_after;
    if too_many && state.gave_up == 0u { state.gave_up = reason; }
}

fn apply_step() {
    let norm = Wide(state.norm_significand, state.norm_exponent);
    let max_norm = widen(bitcast<u32>(state.max_norm));
    var coefficient = Wide(1.0, 0);
    if exceeds(norm, max_norm) {
        let ratio = quotient(max_norm, norm);
        if ratio.exponent < 0 { coefficient = ratio; }
    }
    // A scale below the normal range would be flushed, or lose precision; gradients that ask for
    // one are large enough to be shifted first.
    var scale = quotient(coefficient, widen(bitcast<u32>(state.loss_scale)));
    state.gradient_prescale = 1.0;
    if scale.exponent < -126 {
        state.gradient_prescale = power_of_two(-64);
        scale.exponent += 64;
    }
    state.clip_coefficient = narrow(coefficient);
    state.gradient_scale = narrow(scale);
    state.clip_value = min(params.clip_value, LARGEST_CLIP_VALUE);
    state.learning_rate = scheduled_rate(state.applied_total) * input.learning_rate_factor
        * state.learning_rate_factor;
    // No clock starts again from 0.
    state.applied_total = max(state.applied_total, state.applied_total + 1u);
    state.skipped_in_row = 0u;
    state.verdict = APPLY;
    state.reason = REASON_NONE;
}

// Nothing but counters, the loss scale and what is known of this step changes in a skipped step.
fn decide() -> u32 {
    state.seed = input.seed;
    state.step_loss_scale = state.loss_scale;
    if state.gave_up != 0u {
        skip_step(REASON_GAVE_UP);
    } else if state.nonfinite_count > 0u {
        skip_step(REASON_NONFINITE_GRADIENT);
        if params.growth_interval > 0u { back_off(); }
    } else if !is_finite_bits(loss[0]) {
        skip_step(REASON_NONFINITE_LOSS);
    } else if !is_finite_bits(atomicLoad(&largest_staged)) {
        skip_step(REASON_NONFINITE_STATE);
    } else if state.veto != 0u {
        skip_step(state.veto);
    } else {
        apply_step();
        if params.growth_interval > 0u { grow(); }
    }
    return state.verdict;
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    var largest = vec4(0u);
    for (var q = lane; q < params.staged_quads; q += INVOCATIONS) {
        largest = max(largest, staged[q] & vec4(0x7fffffffu));
    }
    let pair = max(largest.xy, largest.zw);
    atomicMax(&largest_staged, max(pair.x, pair.y));
    workgroupBarrier();
    if lane == 0u { verdict = decide(); }
    let decided = workgroupUniformLoad(&verdict);
    if decided == APPLY {
        for (var t = lane; t < params.tensor_count; t += INVOCATIONS) {
            var tensor = tensors[t];
            if tensor.reset != 0u {
                tensor = TensorState(tensor.weight_decay, tensor.learning_rate,
                    tensor.clip_coefficient, 0.0, 0.0, 0u, 0u);
            }
            tensor.bias_correction1 =
                tensor.bias_correction1 * params.beta1 + params.one_minus_beta1;
            tensor.bias_correction2 =
                tensor.bias_correction2 * params.beta2 + params.one_minus_beta2;
            tensor.steps = max(tensor.steps, tensor.steps + 1u);
            tensors[t] = tensor;
        }
    }
}
