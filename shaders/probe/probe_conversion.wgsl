// packed[i] = pairs[i] as two f16, unpacked[i] = two f16 of words[i] as f32, numbers[i] = words[i]
// as f32, all by what WGSL brings. One invocation per element.
struct ProbeConversionParams { count: u32 }

@group(0) @binding(0) var<uniform> params: ProbeConversionParams;
@group(0) @binding(1) var<storage, read> pairs: array<vec2<f32>>;  // (count)
@group(0) @binding(2) var<storage, read> words: array<u32>;        // (count)
@group(0) @binding(3) var<storage, read_write> packed: array<u32>;
@group(0) @binding(4) var<storage, read_write> unpacked: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> numbers: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.count {
        packed[i] = pack2x16float(pairs[i]);
        unpacked[i] = unpack2x16float(words[i]);
        numbers[i] = f32(words[i]);
    }
}
