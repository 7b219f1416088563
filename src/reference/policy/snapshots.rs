//! Snapshots, and going back to them.

use std::collections::VecDeque;

use super::{Effect, push};
use crate::step::Event;

/// Settings of [`decide_snapshot`].
#[derive(Clone, Copy, Debug)]
pub struct SnapshotSettings {
    /// Snapshots in the ring.
    pub capacity: usize,
    /// Applied steps between them.
    pub every: u32,
    /// Bad steps in a row that bring a rollback; 0: none.
    pub after: u32,
    /// Rollbacks before training gives up.
    pub max_rollbacks: u32,
    /// Applied steps with a cut after a rollback.
    pub cut_steps: u32,
}

/// What [`decide_snapshot`] remembers: a stack of snapshots that loses its bottom when full.
#[derive(Clone, Debug, Default)]
pub struct SnapshotMemory {
    /// Steps applied when each was taken.
    pub snapshots: VecDeque<u32>,
    /// Applied steps since the last one.
    pub since: u32,
    /// Rollbacks so far.
    pub rollbacks: u32,
    /// Bad steps since the last applied one or rollback.
    pub bad: u32,
    /// Applied steps for which the learning rate stays cut.
    pub cut_left: u32,
}

/// What becomes of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotAction {
    /// Nothing.
    Nothing,
    /// A snapshot of this step.
    Take,
    /// Back to the snapshot with so many applied steps.
    Restore(u32),
    /// Training gives up.
    GiveUp,
}

/// What a step turned out to be.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Whether it was applied.
    pub applied: bool,
    /// Steps applied so far.
    pub applied_total: u32,
    /// Bits of [`Event`].
    pub events: u32,
    /// Whether a policy asks for a rollback.
    pub asked: bool,
}

/// What becomes of the ring of snapshots once a step is committed or skipped.
pub fn decide_snapshot(
    settings: &SnapshotSettings,
    memory: &mut SnapshotMemory,
    step: &Outcome,
) -> SnapshotAction {
    let has = |events: &[Event]| events.iter().any(|&event| step.events & event as u32 != 0);
    let is_first = memory.snapshots.is_empty();
    let takes = if step.applied {
        memory.bad = 0;
        memory.cut_left = memory.cut_left.saturating_sub(1);
        memory.since += 1;
        let is_quiet = !has(&[Event::LossSpike, Event::NormSpike]);
        is_first || (memory.since >= settings.every && is_quiet)
    } else {
        memory.bad += u32::from(!has(&[Event::LossScaleDown]));
        is_first
    };
    if takes {
        push(&mut memory.snapshots, settings.capacity, step.applied_total);
        memory.since = 0;
        return SnapshotAction::Take;
    }
    let is_bad = step.asked || (settings.after > 0 && memory.bad >= settings.after);
    if step.applied || !is_bad {
        return SnapshotAction::Nothing;
    }
    if memory.rollbacks >= settings.max_rollbacks {
        return SnapshotAction::GiveUp;
    }
    memory.rollbacks += 1;
    memory.bad = 0;
    memory.since = 0;
    memory.cut_left = settings.cut_steps;
    let newest = *memory.snapshots.back().expect("not empty");
    if memory.snapshots.len() > 1 {
        memory.snapshots.pop_back();
    }
    SnapshotAction::Restore(newest)
}

/// live and snapshots after a take or restore of one slot.
pub fn copy_snapshot(live: &mut [u32], snapshots: &mut [Vec<u32>], slot: usize, restore: bool) {
    if restore {
        live.clone_from_slice(&snapshots[slot]);
    } else {
        snapshots[slot].clone_from_slice(live);
    }
}

/// The factor on the learning rate while steps with a cut are left.
pub fn cut_learning_rate(memory: &SnapshotMemory, factor: f64, effect: &mut Effect) {
    if memory.cut_left > 0 {
        effect.learning_rate_factor *= factor;
        effect.events |= Event::LearningRateCut as u32;
    }
}
