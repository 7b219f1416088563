// variance += (mean - variance) t^-p for the rows' and columns' mean squares, from the sums of all
// tiles. One workgroup per 8 quads, 8 invocations to each. A skipped step changes nothing.
struct AdafactorFactorsParams { block_count: u32, decay_power: f32 }

struct FactorBlock {
    first: u32, // quad in `partials`
    stride: u32, // quads from one tile's sums to the next's
    count: u32, // tiles
    quads: u32,
    target_quad: u32, // in `variance`
    elements: u32, // that each sum is over
    tensor: u32,
}

@group(0) @binding(0) var<uniform> params: AdafactorFactorsParams;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read> blocks: array<FactorBlock>;
@group(0) @binding(3) var<storage, read> tensors: array<TensorState>;
@group(0) @binding(4) var<storage, read> partials: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> variance: array<vec4<f32>>;

var<workgroup> sums: array<vec4<f32>, 64>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let b = flat_group(group, groups);
    if b < params.block_count {
        let step = state;
        let block = blocks[b];
        let quad = lane % 8u;
        var sum = vec4<f32>();
        if quad < block.quads {
            for (var k = lane / 8u; k < block.count; k += 8u) {
                sum += partials[block.first + k * block.stride + quad];
            }
        }
        sums[lane] = sum;
        workgroupBarrier();
        if lane < block.quads && step.verdict == APPLY {
            for (var k = 1u; k < 8u; k++) { sum += sums[lane + 8u * k]; }
            let tensor = tensors[block.tensor];
            let i = block.target_quad + lane;
            variance[i] = advanced(variance[i], sum / f32(block.elements), tensor);
        }
    }
}
