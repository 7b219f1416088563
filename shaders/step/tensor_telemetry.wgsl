// ring[step / every mod capacity, t] = what a tensor's chunks held together. One workgroup per tensor, in
// fixed order.
struct TensorTelemetryParams { tensor_count: u32, every: u32, capacity: u32 }

@group(0) @binding(0) var<uniform> params: TensorTelemetryParams;
@group(0) @binding(1) var<storage, read> input: StepInput;
@group(0) @binding(2) var<storage, read> state: StepState;
@group(0) @binding(3) var<storage, read> segments: array<vec2<u32>>; // (tensors): first, count
@group(0) @binding(4) var<storage, read> partials: array<UpdatePartial>;
@group(0) @binding(5) var<storage, read> eps_shares: array<f32>; // (tensors)
@group(0) @binding(6) var<storage, read_write> ring: array<TensorRecord>;

// A sum in units of 4^from, in units of 4^to.
fn rescaled(sum: f32, from_bits: u32, to_bits: u32) -> f32 {
    let difference = min(exponent_bits(from_bits), 253u) - min(exponent_bits(to_bits), 253u);
    return sum * power_of_two(2 * i32(difference));
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let t = flat_group(group, groups);
    if t < params.tensor_count {
        let first = segments[t].x;
        let end = first + segments[t].y;
        var found = UpdatePartial();
        for (var c = first + lane; c < end; c += 64u) {
            let part = partials[c];
            found.gradient_max_bits = max(found.gradient_max_bits, part.gradient_max_bits);
            found.weight_max_bits = max(found.weight_max_bits, part.weight_max_bits);
            found.update_max_bits = max(found.update_max_bits, part.update_max_bits);
            found.nonfinite_count += part.nonfinite_count;
            found.zero_count += part.zero_count;
            found.frozen_count += part.frozen_count;
            found.cut_count += part.cut_count;
        }
        let largest = join_largest(lane, found);
        for (var c = first + lane; c < end; c += 64u) {
            let part = partials[c];
            found.gradient_sum +=
                rescaled(part.gradient_sum, part.gradient_max_bits, largest.gradient_max_bits);
            found.weight_sum +=
                rescaled(part.weight_sum, part.weight_max_bits, largest.weight_max_bits);
            found.update_sum +=
                rescaled(part.update_sum, part.update_max_bits, largest.update_max_bits);
        }
        let sums = join_sums(lane, found);
        if lane == 0u {
            let slot = input.step / params.every % params.capacity;
            ring[slot * params.tensor_count + t] = TensorRecord(
                input.step,
                state.step_loss_scale,
                largest.gradient_max_bits,
                sums.gradient_sum,
                largest.weight_max_bits,
                sums.weight_sum,
                largest.update_max_bits,
                sums.update_sum,
                sums.nonfinite_count,
                sums.zero_count,
                sums.frozen_count,
                sums.cut_count,
                eps_shares[t],
            );
        }
    }
}
