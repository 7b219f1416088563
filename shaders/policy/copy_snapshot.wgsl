// snapshots[slot] = live, or live = snapshots[slot], or nothing, as the ring says. One workgroup
// per 4,096 quads, as bits, so that any contents pass unchanged.
struct CopySnapshotParams { quads: u32 }

@group(0) @binding(0) var<uniform> params: CopySnapshotParams;
@group(0) @binding(1) var<storage, read> ring: SnapshotRing;
@group(0) @binding(2) var<storage, read_write> live: array<vec4<u32>>;
// (capacity, quads)
@group(0) @binding(3) var<storage, read_write> snapshots: array<vec4<u32>>;

const SHARE = 4096u;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let action = ring.action;
    if action != SNAPSHOT_NONE {
        let first = flat_group(group, groups) * SHARE;
        let end = min(first + SHARE, params.quads);
        let slot = ring.slot * params.quads;
        for (var i = first + lane; i < end; i += 64u) {
            if action == SNAPSHOT_TAKE { snapshots[slot + i] = live[i]; }
            else { live[i] = snapshots[slot + i]; }
        }
    }
}
