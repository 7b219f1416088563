// ring[step mod capacity] = what the step did. One invocation.
struct TelemetryParams { capacity: u32 }

@group(0) @binding(0) var<uniform> params: TelemetryParams;
@group(0) @binding(1) var<storage, read> input: StepInput;
@group(0) @binding(2) var<storage, read> state: StepState;
// (1): f32 as bits, so that a NaN or Inf is recorded as it is.
@group(0) @binding(3) var<storage, read> loss: array<u32>;
@group(0) @binding(4) var<storage, read_write> ring: array<TelemetryRecord>;

@compute @workgroup_size(1)
fn main() {
    ring[input.step % params.capacity] = TelemetryRecord(
        input.step,
        bitcast<f32>(loss[0]),
        state.gradient_norm,
        state.max_norm,
        state.clip_coefficient,
        state.step_loss_scale,
        select(0u, 1u, state.verdict == APPLY),
        state.skipped_total,
        state.skipped_in_row,
        state.learning_rate,
        state.reason,
        state.nonfinite_count,
        state.zero_count,
        state.applied_total,
        state.gave_up,
        state.events,
        state.event_value,
        state.event_tensor,
    );
}
