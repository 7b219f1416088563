// z = (norm - mean) / (deviation + eps); above the threshold, norms are clipped to
// mean + threshold^2 deviation / z (ZClip). Mean and variance are of clipped norms. One invocation.
struct ClipByZScoreParams {
    threshold: f32,
    alpha: f32,
    one_minus_alpha: f32,
    warmup: u32,
    max_norm: f32,
    clip_factor: f32,
    eps: f32,
    to_mean: u32,
    learn_from_spikes: u32,
}

@group(0) @binding(0) var<uniform> params: ClipByZScoreParams;
@group(0) @binding(1) var<storage, read_write> memory: ZScoreMemory;
@group(0) @binding(2) var<storage, read_write> state: StepState;

struct ZScoreMemory {
    // Norms taken in, up to warmup.
    count: u32,
    is_pending: u32,
    pending: f32,
    mean: f32,
    deviation: f32,
}

// sqrt(a x^2 + b y^2) for x, y >= 0, without squares that overflow or vanish.
fn root_sum(a: f32, x: f32, b: f32, y: f32) -> f32 {
    let largest = max(x, y);
    if largest == 0.0 { return 0.0; }
    let u = quotient(widen(bitcast<u32>(x)), widen(bitcast<u32>(largest)));
    let v = quotient(widen(bitcast<u32>(y)), widen(bitcast<u32>(largest)));
    let sum = a * narrow(u) * narrow(u) + b * narrow(v) * narrow(v);
    if sum == 0.0 { return 0.0; }
    let root = widen(bitcast<u32>(sqrt(sum)));
    let scale = widen(bitcast<u32>(largest));
    let product = widen(bitcast<u32>(root.significand * scale.significand));
    return narrow(Wide(product.significand, product.exponent + root.exponent + scale.exponent));
}

// The mean over the warm-up, by recurrence; then exponential averages.
fn take_in(norm: f32) {
    let before = abs(norm - memory.mean);
    if memory.count < params.warmup {
        memory.count += 1u;
        let n = f32(memory.count);
        memory.mean += (norm - memory.mean) / n;
        let kept = (n - 1.0) / n;
        memory.deviation = root_sum(kept, memory.deviation, kept / n, before);
    } else {
        memory.mean = params.alpha * memory.mean + params.one_minus_alpha * norm;
        let after = abs(norm - memory.mean);
        memory.deviation = root_sum(params.alpha, memory.deviation, params.one_minus_alpha, after);
    }
}

fn judge() {
    let norm = sample(global_norm());
    memory.pending = norm;
    memory.is_pending = 1u;
    let excess = norm - memory.mean;
    let spread = memory.deviation + params.eps;
    if memory.count >= params.warmup && excess > params.threshold * spread {
        let z = excess / spread;
        var bound = memory.mean;
        if params.to_mean == 0u {
            let share = params.threshold * params.threshold / z;
            bound = (memory.mean + share * memory.deviation) * params.clip_factor;
        }
        memory.pending = bound;
        memory.is_pending = params.learn_from_spikes;
        if lower_max_norm(bound) { note_event(EVENT_CLIPPED_HARDER, z, 0u); }
    }
    state.max_norm = min(state.max_norm, params.max_norm);
}

@compute @workgroup_size(1)
fn main() {
    if memory.is_pending == 1u && state.verdict == APPLY { take_in(memory.pending); }
    memory.is_pending = 0u;
    if is_judged() { judge(); }
}
