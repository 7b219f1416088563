// z = (x - mean) / deviation over the samples before, for loss and norm; what a spike brings about
// depends on how many came before it. One workgroup; its invocation 0 decides.
struct GuardSpikesParams {
    tensor_count: u32,
    window: u32,
    threshold: f32,
    watch_loss: u32,
    watch_norm: u32,
    watch_tensors: u32,
    reaction_count: u32,
    repeats: u32,
    within: u32,
    patience: u32,
}

@group(0) @binding(0) var<uniform> params: GuardSpikesParams;
@group(0) @binding(1) var<storage, read> reactions: array<SpikeReaction>;
// (1): f32 as bits, so that a NaN or Inf is seen as it is.
@group(0) @binding(2) var<storage, read> loss: array<u32>;
@group(0) @binding(3) var<storage, read> norms: array<TensorNorm>;
@group(0) @binding(4) var<storage, read_write> tensors: array<TensorState>;
@group(0) @binding(5) var<storage, read_write> memory: SpikeMemory;
@group(0) @binding(6) var<storage, read_write> state: StepState;

const LARGEST = 3.4028234e38;
const CLIP_HARDER = 1u;
const CUT_LEARNING_RATE = 2u;
const RESET_MOMENTS = 3u;

var<workgroup> taken: u32;

fn veto(reason: u32) { if state.veto == REASON_NONE { state.veto = reason; } }

fn react(reaction: SpikeReaction, reason: u32, norms_before: Window, worst: Worst) {
    if reaction.kind == CLIP_HARDER && norms_before.is_active {
        let bound = widen(bitcast<u32>(norms_before.mean * reaction.factor));
        let exponent = bound.exponent + norms_before.exponent;
        if lower_max_norm(narrow(Wide(bound.significand, exponent))) {
            state.events |= EVENT_CLIPPED_HARDER;
        }
        return;
    }
    veto(reason);
    if reaction.kind == CUT_LEARNING_RATE {
        memory.cut_left = reaction.steps;
        memory.cut_factor = reaction.factor;
    } else if reaction.kind == RESET_MOMENTS {
        tensors[worst.tensor].reset = 1u;
        state.events |= EVENT_MOMENTS_RESET;
    } else if reaction.kind > RESET_MOMENTS {
        state.veto = REASON_ROLLED_BACK;
    }
}

// Spikes that follow each other within `within` steps make an episode; each reaction serves
// `repeats` of them.
fn answer(events: u32, z: f32, norms_before: Window, worst: Worst) {
    if memory.quiet >= params.within { memory.episode = 0u; }
    let level = min(memory.episode / params.repeats, params.reaction_count - 1u);
    memory.episode = min(memory.episode + 1u, params.repeats * params.reaction_count);
    memory.quiet = 0u;
    memory.in_row += 1u;
    if memory.in_row > params.patience { memory.pending |= PENDING_ANYWAY; }
    else { memory.pending = 0u; }
    note_event(events, z, worst.tensor);
    let is_loss = (events & EVENT_LOSS_SPIKE) != 0u;
    let reason = select(REASON_NORM_SPIKE, REASON_LOSS_SPIKE, is_loss);
    react(reactions[level], reason, norms_before, worst);
}

fn judge(losses_before: Window, norms_before: Window, worst: Worst) {
    let loss_is_finite = is_finite_bits(loss[0]);
    var loss_z = LARGEST;
    if loss_is_finite { loss_z = z_score(bitcast<f32>(loss[0]), losses_before); }
    let norm_z = z_score(narrow(global_norm()), norms_before);
    memory.pending = select(PENDING_NORM, PENDING_NORM | PENDING_LOSS, loss_is_finite);
    if loss_is_finite { memory.pending_loss = bitcast<f32>(loss[0]); }
    memory.pending_norm = sample(global_norm());
    var events = 0u;
    var z = 0.0;
    if params.watch_loss == 1u && loss_z > params.threshold {
        events |= EVENT_LOSS_SPIKE;
        z = loss_z;
    }
    if params.watch_norm == 1u && norm_z > params.threshold {
        events |= EVENT_NORM_SPIKE;
        z = max(z, norm_z);
    }
    if events != 0u { answer(events, z, norms_before, worst); } else { memory.in_row = 0u; }
}

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
    if lane == 0u { taken = take_in(); }
    storageBarrier();
    let count = workgroupUniformLoad(&taken);
    // In turns of one loop, since compilers write `summarize` out for each call.
    var losses_before = Window();
    var norms_before = Window();
    for (var norms = 0u; norms < 2u; norms++) {
        losses_before = norms_before;
        let samples = select(memory.loss_count, memory.norm_count, norms == 1u);
        norms_before = summarize(lane, norms * params.window, samples);
    }
    var mine = Worst(0.0, 0u);
    if params.watch_tensors == 1u {
        for (var t = lane; t < params.tensor_count; t += LANES) {
            mine = worse(mine, watch_tensor(t, count));
        }
    }
    let worst = workgroup_worst(lane, mine);
    if lane == 0u {
        memory.quiet += select(0u, 1u, memory.quiet < params.within);
        if is_judged() { judge(losses_before, norms_before, worst); }
        if state.gave_up == 0u && memory.cut_left > 0u {
            state.learning_rate_factor *= memory.cut_factor;
            state.events |= EVENT_LEARNING_RATE_CUT;
        }
    }
}
