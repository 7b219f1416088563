//! The last state of the run that the host has, for when the device is gone.
//!
//! Every few steps, the step's last submit also copies what a checkpoint is made of into staging
//! buffers, which are mapped while the run goes on. Nothing waits: a snapshot that is due while one
//! is still under way is taken as soon as that has arrived.

use super::checkpoint::{Checkpoint, HostState};
use super::host_copy::{Arriving, Contents, HostCopy};
use crate::gpu::Gpu;

/// The copies, and the last one that arrived.
#[derive(Debug)]
pub(super) struct HostSnapshots {
    every: u64,
    copy: HostCopy,
    is_due: bool,
    /// No state where the run no longer comes from there.
    arriving: Option<(Option<HostState>, Arriving)>,
    /// Contents of the staging buffers, until somebody asks for the checkpoint that they make.
    arrived: Option<(HostState, Vec<Vec<u8>>)>,
    last: Option<Checkpoint>,
}

impl HostSnapshots {
    pub fn new(every: u32, copy: HostCopy) -> Self {
        let every = u64::from(every);
        Self { every, copy, is_due: false, arriving: None, arrived: None, last: None }
    }

    /// Bytes that the host can map.
    pub fn bytes(&self) -> u64 {
        self.copy.bytes()
    }

    /// The copies to make once this many steps are taken, if any.
    pub fn copy_after(&mut self, steps: u64) -> Option<&HostCopy> {
        self.collect();
        self.is_due |= steps.is_multiple_of(self.every);
        (self.is_due && self.arriving.is_none()).then_some(&self.copy)
    }

    /// The copies are submitted.
    pub fn copied(&mut self, gpu: &Gpu, state: HostState) {
        self.is_due = false;
        self.arriving = Some((Some(state), self.copy.request(gpu)));
    }

    /// Steps taken at the last one that arrived.
    pub fn steps(&mut self) -> Option<u64> {
        self.collect();
        let last = || self.last.as_ref().map(Checkpoint::steps);
        self.arrived.as_ref().map(|(state, _)| state.steps).or_else(last)
    }

    /// Makes a checkpoint of the last one that arrived.
    pub fn assemble(&mut self, assemble: impl FnOnce(HostState, &Contents<'_>) -> Checkpoint) {
        self.collect();
        if let Some((state, staged)) = self.arrived.take() {
            self.last = Some(assemble(state, &self.copy.contents(&staged)));
        }
    }

    /// The last one that was [assembled](Self::assemble).
    pub fn last(&self) -> Option<&Checkpoint> {
        self.last.as_ref()
    }

    /// The run goes on from here, or anew, not from where it was.
    pub fn restart(&mut self, checkpoint: Option<&Checkpoint>) {
        self.last = checkpoint.cloned();
        (self.is_due, self.arrived) = (false, None);
        if let Some((state, _)) = &mut self.arriving {
            *state = None;
        }
    }

    fn collect(&mut self) {
        let Some((state, arriving)) = &mut self.arriving else { return };
        let Some(result) = arriving.arrived() else { return };
        // What does not arrive is lost with the device, and the one before it stays.
        if let (Some(state), Ok(staged)) = (*state, result) {
            self.arrived = Some((state, staged));
        }
        self.arriving = None;
    }
}
