// sums[r] = sum of x[r, c] over c: plain, Kahan, TwoSum, TwoSum behind integers. One invocation
// per row. The compensated sums keep what rounding takes away, if the compiler lets them.
struct ProbeCompensationParams {
    rows: u32,
    cols: u32,
    // 0, which the compiler does not know.
    zero: u32,
}

@group(0) @binding(0) var<uniform> params: ProbeCompensationParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;  // (rows, cols)
@group(0) @binding(2) var<storage, read_write> sums: array<vec4<f32>>;  // (rows)

// x, in a form that no algebra on floats sees through.
fn opaque(x: f32) -> f32 { return bitcast<f32>(bitcast<u32>(x) ^ params.zero); }

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups) * 64u + lane;
    if row < params.rows {
        var plain = 0.0;
        var kahan = vec2(0.0);    // sum, compensation
        var two_sum = vec2(0.0);  // sum, error
        var guarded = vec2(0.0);  // sum, error
        for (var c = 0u; c < params.cols; c++) {
            let value = x[row * params.cols + c];
            plain += value;

            let corrected = value - kahan.y;
            let next = kahan.x + corrected;
            kahan = vec2(next, (next - kahan.x) - corrected);

            let sum = two_sum.x + value;
            let part = sum - two_sum.x;
            two_sum.y += (two_sum.x - (sum - part)) + (value - part);
            two_sum.x = sum;

            let sum_guarded = opaque(guarded.x + value);
            let part_guarded = opaque(sum_guarded - guarded.x);
            let rest = opaque(guarded.x - opaque(sum_guarded - part_guarded));
            guarded.y += rest + opaque(value - part_guarded);
            guarded.x = sum_guarded;
        }
        sums[row] = vec4(plain, kahan.x, two_sum.x + two_sum.y, guarded.x + guarded.y);
    }
}
