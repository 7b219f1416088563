// committed[i] = staged[i] where the step is applied, else nothing. One invocation per quad, as
// bits, so that any contents pass unchanged.
struct CommitParams { quads: u32 }

@group(0) @binding(0) var<uniform> params: CommitParams;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read> staged: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> committed: array<vec4<u32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.quads && state.verdict == APPLY { committed[i] = staged[i]; }
}
