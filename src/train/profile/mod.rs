//! What a step takes, dispatch by dispatch, and how far that is from what the device could do.

mod measure;
mod table;
mod trace;

use std::collections::HashMap;

use crate::gpu::{DeviceLimits, Stage, Timing};
use crate::kernel::Work;

/// One dispatch of a profiled step.
#[derive(Clone, Debug, PartialEq)]
pub struct ProfiledDispatch {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// The module it is part of, as in [`Origin::module`](crate::gpu::Origin::module).
    pub module: String,
    /// The operation, as in [`Origin::label`](crate::gpu::Origin::label).
    pub label: String,
    /// The part of the step.
    pub stage: Stage,
    /// Its microbatch; `None` for what is not part of one.
    pub microbatch: Option<usize>,
    /// Bytes and operations.
    pub work: Work,
    /// Workgroups: a GPU with more processors than that leaves some of them idle.
    pub workgroups: u64,
    /// Seconds from the beginning of the first dispatch to that of this one.
    pub begin: f64,
    /// Seconds that it took.
    pub seconds: f64,
}

/// A training step as [`Trainer::profile`](super::Trainer::profile) measured it. Printed, it is a
/// table by kernel and one by module; [`trace`](Self::trace) is the step as a timeline.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// The adapter and its driver.
    pub adapter: String,
    /// What the device does at best, measured right before the step and in the same way.
    pub limits: DeviceLimits,
    /// All dispatches of the step in order.
    pub dispatches: Vec<ProfiledDispatch>,
}

/// What several dispatches took together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProfileRow {
    /// The kernel or the module.
    pub name: String,
    /// How many.
    pub dispatches: usize,
    /// Seconds of all.
    pub seconds: f64,
    /// Seconds of those in the forward pass.
    pub forward_seconds: f64,
    /// Seconds of those in the backward pass.
    pub backward_seconds: f64,
    /// Workgroups of the dispatch that has the fewest.
    pub fewest_workgroups: u64,
    /// Bytes and operations of all.
    pub work: Work,
    /// Seconds of copies of as many bytes, dispatch by dispatch.
    pub copy_seconds: f64,
    /// Seconds of as many multiplications and additions in registers.
    pub operation_seconds: f64,
    /// Seconds of as many empty dispatches.
    pub empty_seconds: f64,
    /// Seconds within the limits: for each dispatch those of the copy or those of its operations,
    /// whichever are more, and at most what it took.
    pub least_seconds: f64,
}

impl ProfileRow {
    fn add(&mut self, dispatch: &ProfiledDispatch, limits: &DeviceLimits) {
        let ProfiledDispatch { work, seconds, .. } = *dispatch;
        self.fewest_workgroups = match self.dispatches {
            0 => dispatch.workgroups,
            _ => self.fewest_workgroups.min(dispatch.workgroups),
        };
        self.dispatches += 1;
        self.seconds += seconds;
        match dispatch.stage {
            Stage::Forward => self.forward_seconds += seconds,
            Stage::Backward => self.backward_seconds += seconds,
            Stage::Prologue | Stage::Update => {}
        }
        let copy = limits.copy_seconds(work.bytes());
        let operations = work.operations as f64 / limits.operations_per_second;
        self.work = self.work + work;
        self.copy_seconds += copy;
        self.operation_seconds += operations;
        self.empty_seconds += limits.empty_seconds;
        self.least_seconds += copy.max(operations).min(seconds);
    }
}

impl Profile {
    /// How the times were taken.
    pub fn timing(&self) -> Timing {
        self.limits.timing
    }

    /// Seconds of all dispatches.
    pub fn seconds(&self) -> f64 {
        self.dispatches.iter().map(|dispatch| dispatch.seconds).sum()
    }

    /// Seconds from the beginning of the first dispatch to the end of the last. With
    /// [`Timing::Repetition`], the same as [`seconds`](Self::seconds).
    pub fn elapsed_seconds(&self) -> f64 {
        self.dispatches.last().map_or(0.0, |last| last.begin + last.seconds)
    }

    /// Keeps the shorter of two times for each dispatch, and the better of two limits: of several
    /// profiles, what the device takes where nothing else disturbs it. Then dispatches follow each
    /// other without a gap. False, and nothing is changed, where the other step has other
    /// dispatches, as one in which tensors are watched, or was measured otherwise.
    pub fn take_fastest(&mut self, other: &Self) -> bool {
        let kernels = |profile: &Self| -> Vec<_> {
            profile.dispatches.iter().map(|dispatch| (dispatch.kernel, dispatch.work)).collect()
        };
        if self.timing() != other.timing() || kernels(self) != kernels(other) {
            return false;
        }
        self.limits.take_best(&other.limits);
        let mut now = 0.0;
        for (mine, other) in self.dispatches.iter_mut().zip(&other.dispatches) {
            mine.seconds = mine.seconds.min(other.seconds);
            mine.begin = now;
            now += mine.seconds;
        }
        true
    }

    /// By kernel, the slowest first.
    pub fn by_kernel(&self) -> Vec<ProfileRow> {
        self.rows(|dispatch| dispatch.kernel.to_owned())
    }

    /// By module, the slowest first. Modules are told apart by the first `depth` names of their
    /// paths: with 3, `blocks.0.attention.query` is part of `blocks.0.attention`. What lies outside
    /// all modules has the name of its operation; what belongs to no operation is `update`,
    /// `weight_copies`, `tensor_telemetry`.
    pub fn by_module(&self, depth: usize) -> Vec<ProfileRow> {
        self.rows(|dispatch| dispatch.module_at(depth).to_owned())
    }

    fn rows(&self, name: impl Fn(&ProfiledDispatch) -> String) -> Vec<ProfileRow> {
        let mut rows: Vec<ProfileRow> = Vec::new();
        let mut places = HashMap::new();
        for dispatch in &self.dispatches {
            let name = name(dispatch);
            let place = *places.entry(name.clone()).or_insert(rows.len());
            if place == rows.len() {
                rows.push(ProfileRow { name, ..ProfileRow::default() });
            }
            rows[place].add(dispatch, &self.limits);
        }
        rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        rows
    }
}

impl ProfiledDispatch {
    /// The first names of its module's path, or of the operation's where there is no module.
    fn module_at(&self, depth: usize) -> &str {
        let (path, depth) = match &*self.module {
            "" => (&*self.label, 1),
            module => (module, depth.max(1)),
        };
        let end = path.match_indices('.').nth(depth - 1).map_or(path.len(), |(at, _)| at);
        &path[..end]
    }
}
