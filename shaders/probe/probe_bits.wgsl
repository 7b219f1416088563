// tests[i] = which tests call element i NaN or not finite, a bit each. One invocation per element.
struct ProbeBitsParams { count: u32 }

@group(0) @binding(0) var<uniform> params: ProbeBitsParams;
@group(0) @binding(1) var<storage, read> words: array<u32>;   // (count)
@group(0) @binding(2) var<storage, read> values: array<f32>;  // (count), the same bytes
@group(0) @binding(3) var<storage, read_write> tests: array<u32>;

const LARGEST = 3.4028234663852886e38;

fn is_nan_bits(bits: u32) -> bool { return (bits & 0x7fffffffu) > 0x7f800000u; }

fn flag(position: u32, value: bool) -> u32 { return select(0u, 1u << position, value); }

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.count {
        let word = words[i];
        let x = values[i];
        let loaded = bitcast<u32>(x);
        // The float tests are written plainly: whether a compiler folds them is the question.
        tests[i] = flag(0u, !is_finite_bits(word))
            | flag(1u, is_nan_bits(word))
            | flag(2u, !is_finite_bits(loaded))
            | flag(3u, is_nan_bits(loaded))
            | flag(4u, x != x)
            | flag(5u, abs(x) > LARGEST)
            | flag(6u, min(max(x, -LARGEST), LARGEST) != x)
            | flag(7u, x - x != 0.0);
    }
}
