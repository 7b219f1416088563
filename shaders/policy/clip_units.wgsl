// g_u *= min(1, clipping max(|w_u|, eps) / |g_u|) for each unit u of a tensor (AGC), in place on
// gradients that hold the loss scale. One workgroup per unit. NaN and Inf stay for the scan to see.
struct ClipUnitsParams { unit_count: u32, clipping: f32, eps: f32 }

@group(0) @binding(0) var<uniform> params: ClipUnitsParams;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read> units: array<ClipUnit>;
// Read only, but other storages of weights have to write it in what they share.
@group(0) @binding(3) var<storage, read_write> weight: array<Weight>;
@group(0) @binding(4) var<storage, read_write> gradient: array<vec4<u32>>;

struct ClipUnit {
    offset: u32,
    quads: u32,
}

const LARGEST_BITS = 0x7f7fffffu;

fn magnitude_bits(values: vec4<u32>) -> u32 {
    let bits = values & vec4(0x7fffffffu);
    return max(max(bits.x, bits.y), max(bits.z, bits.w));
}

// The exponent to measure in: 2^-exponent is a normal number.
fn unit_exponent(largest: u32) -> i32 {
    return clamp(i32(exponent_bits(largest)) - 127, -126, 126);
}

fn sum_of_squares(values: vec4<f32>, exponent: i32) -> f32 {
    let scaled = values * power_of_two(-exponent);
    return dot(scaled, scaled);
}

fn norm(sum: f32, exponent: i32) -> Wide {
    // The bound keeps the root off 0, where WGSL does not promise it.
    let wide = widen(bitcast<u32>(sqrt(max(sum, 1e-30))));
    return Wide(wide.significand, wide.exponent + exponent);
}

// The bound on |g_u|, loss scale included.
fn scaled_bound(weight_norm: Wide) -> Wide {
    let bound = widen(bitcast<u32>(params.clipping * max(narrow(weight_norm), params.eps)));
    let scale = widen(bitcast<u32>(state.loss_scale));
    let significand = widen(bitcast<u32>(bound.significand * scale.significand));
    return Wide(significand.significand, significand.exponent + bound.exponent + scale.exponent);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let u = flat_group(group, groups);
    if u < params.unit_count {
        let unit = units[u];
        var tops = vec2<u32>();
        for (var k = lane; k < unit.quads; k += LANES) {
            let i = unit.offset + k;
            let w = magnitude_bits(bitcast<vec4<u32>>(load_weight(i)));
            tops = max(tops, vec2(magnitude_bits(gradient[i]), w));
        }
        let gradient_top = workgroup_max_u32(lane, tops.x);
        let weight_top = workgroup_max_u32(lane, tops.y);
        let gradient_exponent = unit_exponent(gradient_top);
        let weight_exponent = unit_exponent(weight_top);
        var sums = vec2<f32>();
        for (var k = lane; k < unit.quads; k += LANES) {
            let i = unit.offset + k;
            let g = bitcast<vec4<f32>>(gradient[i]);
            sums += vec2(
                sum_of_squares(g, gradient_exponent),
                sum_of_squares(load_weight(i), weight_exponent),
            );
        }
        let gradient_norm = norm(workgroup_sum(lane, sums.x), gradient_exponent);
        let bound = scaled_bound(norm(workgroup_sum(lane, sums.y), weight_exponent));
        if gradient_top > 0u && gradient_top < LARGEST_BITS && exceeds(gradient_norm, bound) {
            // A factor below the normal range would be flushed; it is applied in two parts.
            var factor = quotient(bound, gradient_norm);
            var first = 1.0;
            if factor.exponent < -126 {
                first = power_of_two(-64);
                factor.exponent += 64;
            }
            let second = narrow(factor);
            for (var k = lane; k < unit.quads; k += LANES) {
                let i = unit.offset + k;
                let g = bitcast<vec4<f32>>(gradient[i]);
                gradient[i] = bitcast<vec4<u32>>(g * first * second);
            }
        }
    }
}
