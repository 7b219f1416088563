//! A graph that is only run forward: evaluation, and sampling from a language model.

use std::ops::Range;
use std::time::Duration;

use futures::future::{join, try_join_all};
use futures::lock::{Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::gpu::{Gpu, Pacing, SUBMIT_BUDGET, Submitted};
use crate::graph::{Graph, Phase, Value};
use crate::kernel::Precision;
use crate::plan::{Parameters, Plan, PlanRequest, SharedBuffers, parameters};
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
        Self::sharing(gpu, parameters, precision, &mut SharedBuffers::default(), build).await
    }

    /// The same with the buffers of others over the same parameters. They do not run at once.
    pub(super) async fn sharing(
        gpu: &Gpu,
        parameters: &Parameters,
        precision: Precision,
        shared: &mut SharedBuffers,
        build: impl FnOnce(&mut Graph) -> Vec<Value>,
    ) -> Result<Self> {
        gpu.check()?;
        let mut graph =
            Graph::in_precision(Phase::Evaluate, precision).with_weights(parameters.storage());
        graph.set_largest_binding(gpu.largest_binding());
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
        let plan = Plan::sharing(gpu, &request, shared).await?;
        let pacing = Mutex::new(Pacing::new(SUBMIT_BUDGET, dispatches(&plan)));
        Ok(Self { gpu: gpu.clone(), plan, pacing })
    }

    /// With another budget than [`SUBMIT_BUDGET`] for each of its submits: the first run finds out
    /// where to split the plan.
    #[must_use]
    pub fn with_submit_budget(self, budget: Duration) -> Self {
        let pacing = Mutex::new(Pacing::new(budget, dispatches(&self.plan)));
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
        let mut pacing = self.pacing.lock().await;
        self.write(batch)?;
        self.submit_and_read(&mut pacing, 0..self.plan.first.len()).await
    }

    /// Runs the graph on several batches, as if they were the microbatches of one step, and gives
    /// the mean of each output over them, in f64. A cross-entropy then is the mean over the targets
    /// of all batches, however unevenly they are spread.
    ///
    /// # Errors
    /// [`Error::Data`] without a batch, and as [`run`](Self::run).
    pub async fn mean(&self, batches: &[Batch]) -> Result<Vec<Vec<f64>>> {
        let mut pacing = self.pacing.lock().await;
        let runs: Vec<_> = batches.iter().map(|batch| (0, batch)).collect();
        Self::mean_with(&[self], &mut [&mut *pacing], &runs).await
    }

    /// The same over batches each of which has one of several predictors, given by its index. These
    /// share their buffers, so that counts are those of all.
    pub(super) async fn mean_with(
        predictors: &[&Self],
        pacings: &mut [&mut Pacing],
        runs: &[(usize, &Batch)],
    ) -> Result<Vec<Vec<f64>>> {
        predictors.iter().try_for_each(|predictor| predictor.gpu.check())?;
        if runs.is_empty() {
            let reason = "there is none; give at least one".into();
            return Err(Error::Data { what: "batches to evaluate".into(), reason });
        }
        if let [(index, batch)] = *runs {
            let predictor = predictors[index];
            predictor.write(batch)?;
            let all = 0..predictor.plan.first.len();
            let outputs = predictor.submit_and_read(pacings[index], all).await?;
            let wide = |output: Vec<f32>| output.into_iter().map(f64::from).collect();
            return Ok(outputs.into_iter().map(wide).collect());
        }
        for (at, &(index, batch)) in runs.iter().enumerate() {
            let predictor = predictors[index];
            let (prologue, first) = (predictor.plan.prologue().len(), predictor.plan.first.len());
            let part = if at == 0 { 0..prologue } else { first..dispatches(&predictor.plan) };
            if at > 0 && part.is_empty() {
                break;
            }
            predictor.write(batch)?;
            let submitted = predictor.submit(pacings[index], part).await?;
            pacings[index].finish(&predictor.gpu, submitted).await?;
        }
        let mut means: Vec<Vec<f64>> = Vec::new();
        for &(index, batch) in runs {
            let predictor = predictors[index];
            predictor.write(batch)?;
            let rest = predictor.plan.prologue().len()..predictor.plan.first.len();
            let outputs = predictor.submit_and_read(pacings[index], rest).await?;
            means.resize_with(outputs.len(), Vec::new);
            for (mean, output) in means.iter_mut().zip(&outputs) {
                mean.resize(output.len(), 0.0);
                let shares = output.iter().map(|&x| f64::from(x) / runs.len() as f64);
                mean.iter_mut().zip(shares).for_each(|(mean, share)| *mean += share);
            }
        }
        Ok(means)
    }

    /// Held as long as no other run may begin.
    pub(super) async fn pacing(&self) -> MutexGuard<'_, Pacing> {
        self.pacing.lock().await
    }

    fn write(&self, batch: &Batch) -> Result<()> {
        let inputs = self.plan.inputs.iter().map(|input| batch.bytes(&input.spec, 1));
        let inputs: Vec<_> = inputs.collect::<Result<_>>()?;
        for (input, bytes) in self.plan.inputs.iter().zip(&inputs) {
            self.gpu.write(&input.buffer, 0, bytes);
        }
        Ok(())
    }

    /// Submits a part of [`dispatches`].
    async fn submit(&self, pacing: &mut Pacing, part: Range<usize>) -> Result<Submitted> {
        let Plan { first, count_next, .. } = &self.plan;
        let encode = |encoder: &mut wgpu::CommandEncoder, piece: Range<usize>| {
            let list = first.iter().chain(count_next);
            self.gpu.encode(encoder, list.skip(piece.start).take(piece.len()));
        };
        pacing.submit(&self.gpu, part, encode).await
    }

    async fn submit_and_read(
        &self,
        pacing: &mut Pacing,
        part: Range<usize>,
    ) -> Result<Vec<Vec<f32>>> {
        let submitted = self.submit(pacing, part).await?;
        let read =
            try_join_all(self.plan.outputs.iter().map(|o| parameters::read_slot(&self.gpu, o)));
        let (finished, outputs) = join(pacing.finish(&self.gpu, submitted), read).await;
        finished?;
        outputs
    }
}

/// How many dispatches a predictor submits, of one batch and of more: those of the first, and what
/// counts over the others.
fn dispatches(plan: &Plan) -> usize {
    plan.first.len() + plan.count_next.len()
}
