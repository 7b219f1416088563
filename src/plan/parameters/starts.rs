//! Parameters that start as a value which is computed from others.

use super::{Parameters, read_slot};
use crate::error::Result;
use crate::gpu::{Pacing, SUBMIT_BUDGET};
use crate::graph::Graph;
use crate::plan::{Plan, PlanRequest};
use crate::record::StepBuffers;

impl Parameters {
    /// Computes the values that parameters of the graph [start as](Graph::start_as), and gives them
    /// to those whose names `is_wanted`. Waits for the device.
    ///
    /// # Errors
    /// As [`Plan::new`], and those of [`write`](Self::write).
    pub async fn start(&self, graph: &Graph, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
        let name = |parameter: usize| &*graph.parameters()[parameter].name;
        let starts = graph.starts().iter().filter(|&&(parameter, _)| is_wanted(name(parameter)));
        let (names, values): (Vec<_>, Vec<_>) =
            starts.map(|&(parameter, value)| (name(parameter), value)).unzip();
        if names.is_empty() {
            return Ok(());
        }
        let request = PlanRequest {
            graph,
            outputs: &values,
            parameters: self,
            sinks: None,
            step: &StepBuffers::new(&self.gpu),
            microbatches: 1,
        };
        let plan = Plan::new(&self.gpu, &request).await?;
        let mut pacing = Pacing::new(SUBMIT_BUDGET, plan.first.len());
        let submitted = pacing.submit_all(&self.gpu, &plan.first).await?;
        pacing.finish(&self.gpu, submitted).await?;
        for (name, slot) in names.into_iter().zip(&plan.outputs) {
            self.write(name, &read_slot(&self.gpu, slot).await?)?;
        }
        Ok(())
    }
}
