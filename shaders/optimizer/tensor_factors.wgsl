// factors[t] = rule(mean) with mean = sum of tensor t's partials / its elements. One workgroup per
// tensor, summing in fixed order.
struct TensorFactorsParams { range_count: u32, rule: u32, bound: f32 }

@group(0) @binding(0) var<uniform> params: TensorFactorsParams;
@group(0) @binding(1) var<storage, read> ranges: array<TensorRange>;
@group(0) @binding(2) var<storage, read> partials: array<f32>;
@group(0) @binding(3) var<storage, read_write> factors: array<f32>;

const MEAN = 0u;
const ROOT_MEAN = 1u;
const INVERSE_AT_LEAST = 2u;
const INVERSE_ROOT_ABOVE = 3u;
const SMALLEST_NORMAL = 1.17549435e-38;
// Partials added up before they join an invocation's total: keeps chains of additions short.
const BLOCK = 16u;

fn rule(mean: f32) -> f32 {
    let root = select(sqrt(max(mean, SMALLEST_NORMAL)), 0.0, mean < SMALLEST_NORMAL);
    switch params.rule {
        case MEAN: { return mean; }
        case ROOT_MEAN: { return root; }
        case INVERSE_AT_LEAST: { return 1.0 / max(mean, params.bound); }
        case INVERSE_ROOT_ABOVE: { return 1.0 / max(root / params.bound, 1.0); }
        default: { return max(1.0 - mean, 0.0); }
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let t = flat_group(group, groups);
    if t < params.range_count {
        let range = ranges[t];
        var sum = 0.0;
        for (var start = lane; start < range.count; start += 64u * BLOCK) {
            var block = 0.0;
            for (var k = 0u; k < BLOCK; k++) {
                let i = start + 64u * k;
                if i < range.count { block += partials[range.first + i]; }
            }
            sum += block;
        }
        let total = workgroup_sum(lane, sum);
        if lane == 0u { factors[range.target_index] = rule(total / f32(max(range.elements, 1u))); }
    }
}
