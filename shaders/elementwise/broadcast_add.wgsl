// y[r, c] = x[r, c] + b[r % period, c]. One invocation per quad. period_quads is the size of b in
// quads, so the index into b is that into x, wrapped.
struct BroadcastAddParams { quads: u32, period_quads: u32 }

@group(0) @binding(0) var<uniform> params: BroadcastAddParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>;
@group(0) @binding(2) var<storage, read> b: array<Quad>;
@group(0) @binding(3) var<storage, read_write> y: array<Quad>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.quads { y[i] = pack(unpack(x[i]) + unpack(b[i % params.period_quads])); }
}
