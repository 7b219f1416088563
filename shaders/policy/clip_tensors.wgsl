// clip coefficient of tensor t *= min(1, bounds[t] / |g_t|). One workgroup.
struct ClipTensorsParams { tensor_count: u32 }

@group(0) @binding(0) var<uniform> params: ClipTensorsParams;
@group(0) @binding(1) var<storage, read> bounds: array<f32>;
@group(0) @binding(2) var<storage, read> norms: array<TensorNorm>;
@group(0) @binding(3) var<storage, read_write> tensors: array<TensorState>;
@group(0) @binding(4) var<storage, read_write> state: StepState;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    var mine = Worst(0.0, 0u);
    for (var t = lane; t < params.tensor_count; t += LANES) {
        mine = worse(mine, Worst(clip_tensor(t, widen(bitcast<u32>(bounds[t]))), t));
    }
    let worst = workgroup_worst(lane, mine);
    if lane == 0u && worst.ratio > 0.0 && is_judged() {
        note_event(EVENT_CLIPPED_HARDER, worst.ratio, worst.tensor);
    }
}
