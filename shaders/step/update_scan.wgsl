// Of each chunk of a step: what its gradient, its new weights and their change hold, how many
// weights stood still although their gradient did not, and how many gradients a clip by value cut.
// One workgroup per chunk, after the update; `old` are the weights before it. Weights count with all
// that their storage knows of them.
struct UpdateScanParams { chunk_count: u32 }

@group(0) @binding(0) var<uniform> params: UpdateScanParams;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read> chunks: array<Chunk>;
@group(0) @binding(3) var<storage, read> tensors: array<TensorState>;
@group(0) @binding(4) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> old: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> weight: array<Weight>;
@group(0) @binding(7) var<storage, read_write> partials: array<UpdatePartial>;

const INFINITY_BITS = 0x7f800000u;

fn magnitude(values: vec4<f32>) -> vec4<u32> {
    return bitcast<vec4<u32>>(values) & vec4(0x7fffffffu);
}

// The largest finite magnitude, as bits.
fn largest_finite(bits: vec4<u32>) -> u32 {
    let finite = select(bits, vec4(0u), bits >= vec4(INFINITY_BITS));
    return max(max(finite.x, finite.y), max(finite.z, finite.w));
}

// Sum of (|x| / 2^e)^2 over what is finite.
fn squares(bits: vec4<u32>, max_bits: u32) -> f32 {
    let exponent = min(i32(exponent_bits(max_bits)) - 127, 126);
    let finite = select(bits, vec4(0u), bits >= vec4(INFINITY_BITS));
    let scaled = bitcast<vec4<f32>>(finite) * power_of_two(-exponent);
    return dot(scaled, scaled);
}

fn sum_counts(flags: vec4<bool>) -> u32 {
    let ones = select(vec4(0u), vec4(1u), flags);
    return ones.x + ones.y + ones.z + ones.w;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let c = flat_group(group, groups);
    if c < params.chunk_count {
        let step = state;
        let chunk = chunks[c];
        let tensor = tensors[chunk.tensor];
        var found = UpdatePartial();
        for (var k = lane; k < chunk.quads; k += 64u) {
            let i = chunk.offset + k;
            let g = gradient[i];
            let g_bits = magnitude(g);
            let after = weight_value(i);
            let change = magnitude(after - old[i]);
            found.gradient_max_bits = max(found.gradient_max_bits, largest_finite(g_bits));
            found.weight_max_bits = max(found.weight_max_bits, largest_finite(magnitude(after)));
            found.update_max_bits = max(found.update_max_bits, largest_finite(change));
            found.nonfinite_count += sum_counts(g_bits >= vec4(INFINITY_BITS));
            found.zero_count += sum_counts(g_bits == vec4(0u));
            found.frozen_count += sum_counts((g_bits != vec4(0u)) & (change == vec4(0u)));
            let unscaled = g * step.gradient_prescale * step.gradient_scale;
            let cut = abs(unscaled * tensor.clip_coefficient) > vec4(step.clip_value);
            found.cut_count += sum_counts(cut);
        }
        found = join_largest(lane, found);
        for (var k = lane; k < chunk.quads; k += 64u) {
            let i = chunk.offset + k;
            let after = weight_value(i);
            found.gradient_sum += squares(magnitude(gradient[i]), found.gradient_max_bits);
            found.weight_sum += squares(magnitude(after), found.weight_max_bits);
            let change = magnitude(after - old[i]);
            found.update_sum += squares(change, found.update_max_bits);
        }
        found = join_sums(lane, found);
        if lane == 0u { partials[c] = found; }
    }
}
