// norms[s] = (sum of |g|^p over the parts of segment s)^(1/p), or their largest |g|. One workgroup
// per segment folds its partials in fixed order; sums[s] is what they join to, a part in its turn.
struct NormFoldParams { segment_count: u32, indirect: u32, largest: u32, power: f32 }

@group(0) @binding(0) var<uniform> params: NormFoldParams;
@group(0) @binding(1) var<storage, read> segments: array<Segment>;
@group(0) @binding(2) var<storage, read> members: array<u32>;
@group(0) @binding(3) var<storage, read> partials: array<ScanPartial>;
@group(0) @binding(4) var<storage, read_write> sums: array<ScanPartial>;
@group(0) @binding(5) var<storage, read_write> norms: array<TensorNorm>;

const FOLD = 8u;
const COLUMNS = FOLD * FOLD;
const INVOCATIONS = FOLD * FOLD;
// Partials added up before they join an invocation's total: keeps chains of additions short.
const BLOCK = 16u;

// significand * unit, normalized; the significand is normal and need not be in [1, 2).
fn times(significand: f32, unit: Wide) -> Wide {
    let wide = widen(bitcast<u32>(significand));
    return Wide(wide.significand, wide.exponent + unit.exponent);
}

// (s * 2^k)^(1/p) * largest. k / p = quotient + rest / p with an exact rest: p goes in two halves,
// so that its products with a small integer are exact. What is rounded is therefore small.
fn root(sum: f32, largest: Wide) -> Wide {
    let p = params.power;
    let wide = widen(bitcast<u32>(sum));
    let k = f32(wide.exponent);
    let quotient = round(k / p);
    let p_high = bitcast<f32>(bitcast<u32>(p) & 0xfffff000u);
    let rest = (k - quotient * p_high) - quotient * (p - p_high);
    let log = (rest + log2_significand(vec4(wide.significand)).x) / p;
    let whole = round(log);
    let significand = exp2_fraction(vec4(log - whole)).x * largest.significand;
    return times(significand, Wide(1.0, largest.exponent + i32(quotient) + i32(whole)));
}

fn norm(total: ScanPartial) -> Wide {
    if total.nonfinite_count > 0u { return Wide(1.0, NONFINITE_EXPONENT); }
    let largest = widen(total.max_bits);
    if params.largest == 1u || total.max_bits == 0u { return largest; }
    if power_is_whole() {
        let unit = Wide(1.0, i32(exponent_bits(total.max_bits)) - 127);
        if params.power == 1.0 { return times(total.scaled_sum, unit); }
        return times(sqrt(total.scaled_sum), unit);
    }
    return root(total.scaled_sum, largest);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let s = flat_group(group, groups);
    if s < params.segment_count {
        let segment = segments[s];
        var total = ScanPartial();
        for (var start = lane; start < segment.count; start += INVOCATIONS * BLOCK) {
            var block = ScanPartial();
            for (var k = 0u; k < BLOCK; k++) {
                let i = start + k * INVOCATIONS;
                if i < segment.count { block = combine(block, partials[part_index(segment, i)]); }
            }
            total = combine(total, block);
        }
        total = fold(lane, total);
        if lane == 0u {
            let wide = norm(total);
            sums[s] = total;
            norms[s] = TensorNorm(
                wide.significand, wide.exponent,
                total.max_bits, total.nonfinite_count, total.zero_count,
            );
        }
    }
}
