// The ring of snapshots and what is remembered of rollbacks. src/kernels/policy.rs holds the Rust
// halves.
const SNAPSHOT_NONE = 0u;
const SNAPSHOT_TAKE = 1u;
const SNAPSHOT_RESTORE = 2u;

struct RollbackMemory {
    stamp: u32,
    rollbacks: u32,
    bad: u32,
    cut_left: u32,
}

struct SnapshotRing {
    stamp: u32,
    action: u32,
    slot: u32,
    newest: u32,
    count: u32,
    since: u32,
    // (capacity): steps applied when each was taken.
    applied_total: array<u32>,
}
