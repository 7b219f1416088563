// What becomes of the ring of snapshots in this step: nothing, one more, or back to the newest. One
// invocation, once the step is committed or skipped.
struct DecideSnapshotParams {
    capacity: u32,
    every: u32,
    after: u32,
    max_rollbacks: u32,
    cut_steps: u32,
}

@group(0) @binding(0) var<uniform> params: DecideSnapshotParams;
@group(0) @binding(1) var<storage, read_write> memory: RollbackMemory;
@group(0) @binding(2) var<storage, read_write> ring: SnapshotRing;
@group(0) @binding(3) var<storage, read_write> state: StepState;

// The ring is not part of a checkpoint but the memory is, so a memory that is not the one that went
// with the ring is of another past, whose snapshots this ring does not hold.
fn compare_stamps() {
    if memory.stamp != ring.stamp { ring.count = 0u; }
    let seen = bitcast<u32>(state.gradient_norm) ^ (state.verdict << 31u);
    memory.stamp = (memory.stamp ^ seen) * 16777619u + 1u;
    ring.stamp = memory.stamp;
}

fn take() {
    ring.newest = (ring.newest + 1u) % params.capacity;
    ring.count = min(ring.count + 1u, params.capacity);
    ring.since = 0u;
    ring.action = SNAPSHOT_TAKE;
    ring.slot = ring.newest;
    ring.applied_total[ring.slot] = state.applied_total;
    note_event(EVENT_SNAPSHOT, 0.0, 0u);
}

// A snapshot that was gone back to is given up, unless it is the last: if trouble comes again
// before there is another, the one before it is next.
fn go_back() {
    if memory.rollbacks >= params.max_rollbacks {
        state.gave_up = REASON_ROLLED_BACK;
        return;
    }
    note_event(EVENT_ROLLED_BACK, f32(memory.bad), 0u);
    memory.rollbacks += 1u;
    memory.bad = 0u;
    memory.cut_left = params.cut_steps;
    ring.action = SNAPSHOT_RESTORE;
    ring.slot = ring.newest;
    ring.since = 0u;
    state.applied_total = ring.applied_total[ring.slot];
    state.reason = REASON_ROLLED_BACK;
    if ring.count > 1u {
        ring.count -= 1u;
        ring.newest = (ring.newest + params.capacity - 1u) % params.capacity;
    }
}

fn after_applied() {
    memory.bad = 0u;
    memory.cut_left -= min(memory.cut_left, 1u);
    ring.since += 1u;
    let is_quiet = (state.events & (EVENT_LOSS_SPIKE | EVENT_NORM_SPIKE)) == 0u;
    if ring.count == 0u || (ring.since >= params.every && is_quiet) { take(); }
}

// A step that lowers the loss scale says nothing of the weights.
fn after_skipped() {
    if (state.events & EVENT_LOSS_SCALE_DOWN) == 0u { memory.bad += 1u; }
    let asked = state.veto == REASON_ROLLED_BACK;
    let is_bad = asked || (params.after > 0u && memory.bad >= params.after);
    if ring.count == 0u { take(); } else if is_bad { go_back(); }
}

@compute @workgroup_size(1)
fn main() {
    compare_stamps();
    ring.action = SNAPSHOT_NONE;
    if state.gave_up != 0u { return; }
    if state.verdict == APPLY { after_applied(); } else { after_skipped(); }
}
