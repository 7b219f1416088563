// norm = |g| / loss_scale, coefficient = min(1, max_norm / norm), and whether the step commits.
// One workgroup folds all partials in fixed order; its invocation 0 advances the state.
struct VerdictParams {
    partial_count: u32,
    norm: u32,
    max_norm: f32,
    clip_value: f32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    schedule_length: u32,
}

@group(0) @binding(0) var<uniform> params: VerdictParams;
@group(0) @binding(1) var<storage, read> input: StepInput;
@group(0) @binding(2) var<storage, read> partials: array<ScanPartial>;
@group(0) @binding(3) var<storage, read> learning_rates: array<f32>;
@group(0) @binding(4) var<storage, read_write> state: StepState;

const FOLD = 16u;
const INVOCATIONS = FOLD * FOLD;
// Partials added up before they join an invocation's total: keeps chains of additions short.
const BLOCK = 16u;
const NORM_NONE = 0u;
const NORM_MAX = 2u;
const LARGEST_CLIP_VALUE = 1e18;

// Norm of the gradients as they are, loss scale included.
fn scaled_norm(total: ScanPartial) -> Wide {
    if params.norm == NORM_MAX || total.max_bits == 0u { return widen(total.max_bits); }
    let root = widen(bitcast<u32>(sqrt(total.scaled_sum)));
    let exponent = i32(exponent_bits(total.max_bits)) - 127;
    return Wide(root.significand, root.exponent + exponent);
}

// Everything but the counters stays as it was.
fn skip_step(total: ScanPartial) {
    state.verdict = SKIP;
    state.reason = REASON_NONFINITE_GRADIENT;
    state.skipped_total += 1u;
    state.skipped_in_row += 1u;
    // Inf, made of the largest element's exponent: WGSL has no constant for it.
    state.gradient_norm = bitcast<f32>(total.max_bits & 0x7f800000u);
}

fn apply_step(total: ScanPartial) {
    let loss_scale = widen(bitcast<u32>(state.loss_scale));
    let norm = quotient(scaled_norm(total), loss_scale);
    let max_norm = widen(bitcast<u32>(params.max_norm));
    var coefficient = Wide(1.0, 0);
    if params.norm != NORM_NONE && exceeds(norm, max_norm) {
        let ratio = quotient(max_norm, norm);
        if ratio.exponent < 0 { coefficient = ratio; }
    }
    // A scale below the normal range would be flushed, or lose precision; gradients that ask for
    // one are large enough to be shifted first.
    var scale = quotient(coefficient, loss_scale);
    state.gradient_prescale = 1.0;
    if scale.exponent < -126 {
        state.gradient_prescale = power_of_two(-64);
        scale.exponent += 64;
    }
    state.gradient_norm = narrow(norm);
    state.clip_coefficient = narrow(coefficient);
    state.gradient_scale = narrow(scale);
    state.clip_value = min(params.clip_value, LARGEST_CLIP_VALUE);
    state.bias_correction1 = state.bias_correction1 * params.beta1 + params.one_minus_beta1;
    state.bias_correction2 = state.bias_correction2 * params.beta2 + params.one_minus_beta2;
    let scheduled = learning_rates[min(state.applied_total, params.schedule_length - 1u)];
    state.learning_rate = scheduled * input.learning_rate_factor;
    state.applied_total += 1u;
    state.skipped_in_row = 0u;
    state.verdict = APPLY;
    state.reason = REASON_NONE;
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    var total = ScanPartial();
    for (var start = lane; start < params.partial_count; start += INVOCATIONS * BLOCK) {
        var block = ScanPartial();
        for (var k = 0u; k < BLOCK; k++) {
            let i = start + k * INVOCATIONS;
            if i < params.partial_count { block = combine(block, partials[i]); }
        }
        total = combine(total, block);
    }
    total = fold(lane, total);
    if lane == 0u {
        state.nonfinite_count = total.nonfinite_count;
        state.zero_count = total.zero_count;
        if total.nonfinite_count > 0u { skip_step(total); } else { apply_step(total); }
    }
}
