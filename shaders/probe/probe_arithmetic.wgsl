// z[i] = f(x[i], y[i]), f by its number in the Rust enum ProbeOperation. One invocation per
// element. Subnormals, NaN and Inf are not treated: what the device makes of them is the question.
struct ProbeArithmeticParams { count: u32, operation: u32 }

@group(0) @binding(0) var<uniform> params: ProbeArithmeticParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;  // (count)
@group(0) @binding(2) var<storage, read> y: array<f32>;  // (count)
@group(0) @binding(3) var<storage, read_write> z: array<f32>;

fn apply(operation: u32, a: f32, b: f32) -> f32 {
    switch operation {
        case 1u: { return a + b; }
        case 2u: { return a * b; }
        case 3u: { return a / b; }
        // What rounding took from the product, where fma rounds once.
        case 4u: { return fma(a, b, -(a * b)); }
        case 5u: { return exp(a); }
        case 6u: { return exp2(a); }
        case 7u: { return log(a); }
        case 8u: { return log2(a); }
        case 9u: { return log_one_plus(a); }
        case 10u: { return tanh(a); }
        case 11u: { return tanh_accurate(vec4(a)).x; }
        case 12u: { return sqrt(a); }
        case 13u: { return inverseSqrt(a); }
        default: { return a; }
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.count { z[i] = apply(params.operation, x[i], y[i]); }
}
