// y = what `rounds` times x <- factor x + addend makes of eight numbers, added up in pairs: nothing
// but multiplications and additions in registers. One invocation per quad of y.
struct ProbeMultiplyAddParams {
    // Quads of y.
    quads: u32,
    // A multiple of 4.
    rounds: u32,
    factor: f32,
    addend: f32,
}

@group(0) @binding(0) var<uniform> params: ProbeMultiplyAddParams;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    let first = vec4<u32>(8u * i) + vec4<u32>(0u, 1u, 2u, 3u);
    let factor = vec4<f32>(params.factor);
    let addend = vec4<f32>(params.addend);
    // Eight chains hide how long one operation takes, and fit the registers of a CPU.
    var a = vec4<f32>(first & vec4<u32>(63u)) / 64.0;
    var b = vec4<f32>((first + vec4<u32>(4u)) & vec4<u32>(63u)) / 64.0;
    for (var round = 0u; round < params.rounds; round += 4u) {
        a = fma(a, factor, addend);
        b = fma(b, factor, addend);
        a = fma(a, factor, addend);
        b = fma(b, factor, addend);
        a = fma(a, factor, addend);
        b = fma(b, factor, addend);
        a = fma(a, factor, addend);
        b = fma(b, factor, addend);
    }
    if i < params.quads {
        y[i] = a + b;
    }
}
