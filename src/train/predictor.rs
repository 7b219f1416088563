//! A graph that is only run forward: evaluation, and sampling from a language model.

use std::time::Duration;

use futures::future::{join, try_join_all};
use futures::lock::Mutex;

use crate::error::Result;
use crate::gpu::{Gpu, Pacing, SUBMIT_BUDGET};
use crate::graph::{Graph, Phase, Value};
use crate::kernel::Precision;
use crate::plan::{Parameters, Plan, PlanRequest, parameters};
use crate::record::StepBuffers;
use crate::train::Batch;

/// A recorded forward graph over a model's parameters. The parameters are shared with the
/// trainer, not copied: each run sees what they are at that moment.
#[derive(Debug)]
pub struct Predictor {
    gpu: Gpu,
    plan: Plan,
    /// Held by a run, whose inputs another would overwrite.
    pacing: Mutex<Pacing>,
}

impl Predictor {
    /// Builds the graph in [`Phase::Evaluate`] and records it. `build` returns the values that
    /// [`run`](Self::run) reads back.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub async fn new(
        gpu: &Gpu,
        parameters: &Parameters,
        build: impl FnOnce(&mut Graph) -> Vec<Value>,
    ) -> Result<Self> {
        Self::in_precision(gpu, parameters, Precision::F32, build).await
    }

    /// The same with values stored in `precision`; each run rounds the parameters again.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub async fn in_precision(
        gpu: &Gpu,
        parameters: &Parameters,
        precision: Precision,
        build: impl FnOnce(&mut Graph) -> Vec<Value>,
    ) -> Result<Self> {
        gpu.check()?;
        let mut graph =
            Graph::in_precision(Phase::Evaluate, precision).with_weights(parameters.storage());
        let outputs = build(&mut graph);
        let step = StepBuffers::new(gpu);
        let request = PlanRequest {
            graph: &graph,
            outputs: &outputs,
            parameters,
            sinks: None,
            step: &step,
            microbatches: 1,
        };
        let plan = Plan::new(gpu, &request).await?;
        let pacing = Mutex::new(Pacing::new(SUBMIT_BUDGET, plan.first.len()));
        Ok(Self { gpu: gpu.clone(), plan, pacing })
    }

    /// With another budget than [`SUBMIT_BUDGET`] for each of its submits: the first run finds out
    /// where to split the plan.
    #[must_use]
    pub fn with_submit_budget(self, budget: Duration) -> Self {
        let pacing = Mutex::new(Pacing::new(budget, self.plan.first.len()));
        Self { pacing, ..self }
    }

    /// The recorded plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Runs the graph on a batch and reads its outputs, dense, in the order `build` gave them.
    ///
    /// # Errors
    /// What is wrong with the batch, or [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub async fn run(&self, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        self.gpu.check()?;
        let inputs = self.plan.inputs.iter().map(|input| batch.bytes(&input.spec, 1));
        let inputs: Vec<_> = inputs.collect::<Result<_>>()?;
        let mut pacing = self.pacing.lock().await;
        for (input, bytes) in self.plan.inputs.iter().zip(&inputs) {
            self.gpu.write(&input.buffer, 0, bytes);
        }
        let submitted = pacing.submit_all(&self.gpu, &self.plan.first).await?;
        let read =
            try_join_all(self.plan.outputs.iter().map(|o| parameters::read_slot(&self.gpu, o)));
        let (finished, outputs) = join(pacing.finish(&self.gpu, submitted), read).await;
        finished?;
        outputs
    }
}
