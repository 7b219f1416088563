// Sum and largest of each 256 elements through workgroup memory, of words and of values; totals of
// the words through atomics. One workgroup of 64 per 256 elements.
struct ProbeReductionParams { count: u32 }

@group(0) @binding(0) var<uniform> params: ProbeReductionParams;
@group(0) @binding(1) var<storage, read> words: array<u32>;   // (count)
@group(0) @binding(2) var<storage, read> values: array<f32>;  // (count)
@group(0) @binding(3) var<storage, read_write> word_results: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read_write> value_results: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> totals: array<atomic<u32>, 2>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let block = flat_group(group, groups);
    var sum = 0u;
    var largest = 0u;
    var value_sum = 0.0;
    var value_largest = 0.0;
    for (var turn = 0u; turn < 4u; turn++) {
        let i = block * 256u + turn * 64u + lane;
        if i < params.count {
            sum += words[i];
            largest = max(largest, words[i]);
            value_sum += values[i];
            value_largest = max(value_largest, values[i]);
        }
    }
    let block_sum = workgroup_sum_u32(lane, sum);
    let block_largest = workgroup_max_u32(lane, largest);
    let block_value_sum = workgroup_sum(lane, value_sum);
    let block_value_largest = workgroup_max(lane, value_largest);
    if lane == 0u && block * 256u < params.count {
        word_results[block] = vec2(block_sum, block_largest);
        value_results[block] = vec2(block_value_sum, block_value_largest);
        atomicAdd(&totals[0], block_sum);
        atomicMax(&totals[1], block_largest);
    }
}
