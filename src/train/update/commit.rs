//! States that were staged become the committed ones, if the verdict is to apply the step.

use std::collections::BTreeSet;

use super::Pass;
use crate::error::Result;
use crate::graph::Graph;
use crate::kernels::{Commit, CommitParams};
use crate::plan::Parameters;
use crate::record::{Recorder, StepBuffers, to_u32};

/// The commit of what a graph stages. States that it does not stage stay as they are.
pub(super) struct CommitStates<'a> {
    pub graph: &'a Graph,
    pub parameters: &'a Parameters,
    pub staged: &'a wgpu::Buffer,
    pub step: &'a StepBuffers,
}

impl Pass for CommitStates<'_> {
    fn record(&self, recorder: &mut Recorder<'_>) -> Result<()> {
        let (parameters, staged) = (self.parameters, self.staged);
        let (_, index_of) = parameters.layout().index_of(self.graph)?;
        let indices: BTreeSet<_> = self.graph.staged().iter().map(|&(s, _)| index_of[s]).collect();
        let state = self.step.state.as_entire_buffer_binding();
        if indices.len() == parameters.states().len() && !indices.is_empty() {
            let params = CommitParams { quads: to_u32(staged.size() as usize / 16) };
            let [staged, committed] =
                [staged, parameters.committed()].map(wgpu::Buffer::as_entire_buffer_binding);
            recorder.dispatch(&Commit { params, state, staged, committed });
            return Ok(());
        }
        for index in indices {
            let [staged, committed] =
                [staged, parameters.committed()].map(|flat| parameters.state_slot_in(flat, index));
            recorder.dispatch(&Commit {
                params: CommitParams { quads: to_u32(staged.shape.quads()) },
                state: state.clone(),
                staged: staged.binding(),
                committed: committed.binding(),
            });
        }
        Ok(())
    }
}
