// y[i] = scale x[i] with probability 1 - p, else 0; scale = 1 / (1 - p). One invocation per quad.
// The mask is a function of seed, step, microbatch (among those of all ranks), stream and position
// alone: this kernel over dy is the backward pass.
struct DropoutParams { quads: u32, stream: u32, threshold: u32, scale: f32 }

@group(0) @binding(0) var<uniform> params: DropoutParams;
@group(0) @binding(1) var<storage, read> step_input: StepInput;
@group(0) @binding(2) var<storage, read> x: array<Quad>;
@group(0) @binding(3) var<storage, read_write> y: array<Quad>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.quads {
        let microbatch = step_input.first_microbatch + step_input.microbatch;
        let counter = vec4(i, step_input.step, microbatch, params.stream);
        let words = threefry4x32(counter, vec4(step_input.seed, 0u, 0u, DOMAIN_DROPOUT));
        let kept = params.scale * unpack(x[i]);
        y[i] = pack(select(vec4(0.0), kept, words >= vec4(params.threshold)));
    }
}
