// inverse[t] = 1 / max(Frobenius norm of matrix t, eps) as a product of two f32, since one may not
// hold it. One workgroup per matrix, over the partials of a gradient scan.
struct MuonNormParams { matrix_count: u32, eps: f32 }

@group(0) @binding(0) var<uniform> params: MuonNormParams;
@group(0) @binding(1) var<storage, read> ranges: array<TensorRange>;
@group(0) @binding(2) var<storage, read> partials: array<ScanPartial>;
@group(0) @binding(3) var<storage, read_write> inverse: array<vec2<f32>>;

const FOLD = 8u;
const COLUMNS = FOLD * FOLD;
const INVOCATIONS = FOLD * FOLD;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let t = flat_group(group, groups);
    if t < params.matrix_count {
        let range = ranges[t];
        var total = ScanPartial();
        for (var k = lane; k < range.count; k += INVOCATIONS) {
            total = combine(total, partials[range.first + k]);
        }
        total = fold(lane, total);
        if lane == 0u {
            var norm = widen(bitcast<u32>(sqrt(total.scaled_sum)));
            norm.exponent += i32(exponent_bits(total.max_bits)) - 127;
            if total.max_bits == 0u { norm = widen(0u); }
            let least = widen(bitcast<u32>(max(params.eps, 1.17549435e-38)));
            if exceeds(least, norm) { norm = least; }
            // Exponents of halves of a norm between 2^-126 and 2^150 are in range.
            let half = norm.exponent / 2;
            inverse[t] = vec2(
                power_of_two(-half) / norm.significand, power_of_two(half - norm.exponent));
        }
    }
}
