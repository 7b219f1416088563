// clip coefficient of tensor t *= min(1, lambda_relative gamma_t / |g_t|), where gamma_t averages
// its clipped norms (AdaGC). In the warm-up gamma is the least of them. One workgroup.
struct ClipByHistoryParams {
    tensor_count: u32,
    lambda_relative: f32,
    lambda_absolute: f32,
    beta: f32,
    one_minus_beta: f32,
    warmup: u32,
}

@group(0) @binding(0) var<uniform> params: ClipByHistoryParams;
@group(0) @binding(1) var<storage, read> norms: array<TensorNorm>;
@group(0) @binding(2) var<storage, read_write> tensors: array<TensorState>;
@group(0) @binding(3) var<storage, read_write> memory: HistoryMemory;
@group(0) @binding(4) var<storage, read_write> state: StepState;

struct HistoryMemory {
    // Steps taken in, up to warmup.
    count: u32,
    is_pending: u32,
    // (tensors, 2): gamma, and the gamma of the step before, 0 for the same.
    gamma: array<f32>,
}

var<workgroup> taken: u32;
var<workgroup> steps: u32;

fn take_in() -> u32 {
    let takes = select(0u, memory.is_pending, state.verdict == APPLY);
    memory.is_pending = select(0u, 1u, is_judged());
    memory.count = min(memory.count + takes, params.warmup);
    steps = memory.count;
    return takes;
}

// |g_t| after the global clip of the warm-up.
fn globally_clipped(t: u32) -> f32 {
    let absolute = widen(bitcast<u32>(params.lambda_absolute));
    if !exceeds(global_norm(), absolute) { return sample(tensor_norm(t)); }
    return narrow(quotient(tensor_norm(t), global_norm())) * params.lambda_absolute;
}

// Clips tensor t and leaves its next gamma. Gives by how much it was clipped.
fn judge(t: u32, is_warm: bool) -> f32 {
    let gamma = memory.gamma[2u * t];
    let is_known = gamma > 0.0;
    var excess = 0.0;
    var next = 0.0;
    if is_warm {
        let bound = params.lambda_relative * gamma;
        if is_known { excess = clip_tensor(t, widen(bitcast<u32>(bound))); }
        let clipped = select(sample(tensor_norm(t)), bound, excess > 0.0);
        next = select(clipped, params.beta * gamma + params.one_minus_beta * clipped, is_known);
    } else {
        let clipped = globally_clipped(t);
        next = select(clipped, min(gamma, clipped), is_known);
    }
    // A gradient of zero says nothing of the size of others.
    memory.gamma[2u * t + 1u] = select(0.0, next, tensor_norm(t).significand > 0.0);
    return excess;
}

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    if lane == 0u { taken = take_in(); }
    let takes = workgroupUniformLoad(&taken);
    let is_warm = workgroupUniformLoad(&steps) >= params.warmup;
    var mine = Worst(0.0, 0u);
    for (var t = lane; t < params.tensor_count; t += LANES) {
        let pending = memory.gamma[2u * t + 1u];
        if takes == 1u && pending > 0.0 { memory.gamma[2u * t] = pending; }
        mine = worse(mine, Worst(judge(t, is_warm), t));
    }
    let worst = workgroup_worst(lane, mine);
    if lane == 0u && is_judged() {
        if !is_warm { state.max_norm = min(state.max_norm, params.lambda_absolute); }
        if worst.ratio > 0.0 { note_event(EVENT_CLIPPED_HARDER, worst.ratio, worst.tensor); }
    }
}
