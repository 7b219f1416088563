// y = x shuffled and mixed in rounds through workgroup memory; sum, xor and largest of y through
// atomics. One workgroup per 256 elements; any missing barrier changes almost every bit.
struct ProbeRaceParams {
    // A power of two, at least 256.
    count: u32,
    rounds: u32,
    // Odd.
    stride: u32,
}

@group(0) @binding(0) var<uniform> params: ProbeRaceParams;
@group(0) @binding(1) var<storage, read> x: array<u32>;  // (count)
@group(0) @binding(2) var<storage, read_write> y: array<u32>;
@group(0) @binding(3) var<storage, read_write> totals: array<atomic<u32>, 3>;

var<workgroup> cells: array<u32, 256>;

// A bijection after which each bit depends on all (the finaliser of MurmurHash3).
fn scramble(word: u32) -> u32 {
    var h = (word ^ (word >> 16u)) * 0x85ebca6bu;
    h = (h ^ (h >> 13u)) * 0xc2b2ae35u;
    return h ^ (h >> 16u);
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 256u + lane;
    // An odd stride permutes, so that a workgroup reads what many others wrote in the dispatch
    // before this one.
    var word = x[(i * params.stride) & (params.count - 1u)];
    for (var turn = 0u; turn < params.rounds; turn++) {
        cells[lane] = word;
        workgroupBarrier();
        word = scramble(word + 31u * cells[(lane + 37u * turn + 1u) & 255u]);
        workgroupBarrier();
    }
    if i < params.count {
        y[i] = word;
        atomicAdd(&totals[0], word);
        atomicXor(&totals[1], word);
        atomicMax(&totals[2], word);
    }
}
