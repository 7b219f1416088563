// Of each chunk: max |g| as bits, sum (|g| / unit)^p with its unit near max |g|, and how many g
// are not finite or zero. One workgroup per chunk, 8 quads per invocation.
struct GradientScanPowerParams { chunk_count: u32, overflow_bits: u32, power: f32 }

@group(0) @binding(0) var<uniform> params: GradientScanPowerParams;
@group(0) @binding(1) var<storage, read> chunks: array<Chunk>;
@group(0) @binding(2) var<storage, read> gradient: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> partials: array<ScanPartial>;

const FOLD = 8u;
const COLUMNS = FOLD * FOLD;

// |g| / 2^e with 2^e = 2^(top - 127). Elements too small to count give 0.
fn scaled(bits: vec4<u32>, top: u32) -> vec4<f32> {
    let implicit = select(vec4(0u), vec4(0x800000u), bits >= vec4(0x800000u));
    let significand = vec4<f32>(vec4<i32>((bits & vec4(0x7fffffu)) | implicit));
    let exponent = vec4<i32>(max(bits >> vec4(23u), vec4(1u))) + vec4(104 - i32(top));
    return significand * bitcast<vec4<f32>>(vec4<u32>(max(exponent, vec4(0))) << vec4(23u));
}

// Sum of p-th powers over one invocation's quads, in units of its own.
fn sum_of_powers(chunk: Chunk, lane: u32, max_bits: u32) -> f32 {
    var sum = vec4<f32>();
    if power_is_whole() {
        let top = exponent_bits(max_bits);
        for (var i = lane; i < chunk.quads; i += FOLD * FOLD) {
            let ratio = scaled(magnitude(chunk, i), top);
            sum += select(ratio, ratio * ratio, params.power == 2.0);
        }
    } else {
        let top = log2_bits(vec4(max_bits));
        for (var i = lane; i < chunk.quads; i += FOLD * FOLD) {
            sum += power_of_ratio(magnitude(chunk, i), top, params.power);
        }
    }
    return (sum.x + sum.y) + (sum.z + sum.w);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let c = flat_group(group, groups);
    if c < params.chunk_count {
        let chunk = chunks[c];
        var partial = survey(chunk, lane);
        partial.scaled_sum = sum_of_powers(chunk, lane, partial.max_bits);
        partial = fold(lane, partial);
        if lane == 0u {
            partial.zero_count = chunk.elements - partial.zero_count;
            partials[c] = partial;
        }
    }
}
