//! The loss of a model that is being trained on batches that it is not trained on.

use futures::future::join_all;

use super::average::Average;
use super::trainer::finish;
use super::{Batch, Model, Predictor, Trainer};
use crate::error::Result;
use crate::graph::Graph;
use crate::plan::SharedBuffers;

/// Which weights, and the length of sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    is_averaged: bool,
    length: Option<usize>,
}

/// A predictor for each kind that evaluations had so far.
#[derive(Debug, Default)]
pub(super) struct Evaluators {
    list: Vec<(Kind, Predictor)>,
    shared: SharedBuffers,
}

impl<M: Model> Trainer<M> {
    /// The loss on a batch of one microbatch, in evaluation mode: no dropout, running statistics.
    ///
    /// # Errors
    /// As [`Predictor::run`].
    pub async fn evaluate(&mut self, batch: &Batch) -> Result<f32> {
        self.evaluate_all(std::slice::from_ref(batch)).await
    }

    /// The loss on several batches of one microbatch each, as if they were one: a cross-entropy is
    /// the mean over the targets of all, which the mean of their losses is only where all have
    /// equally many. They may be of different [lengths](super::TrainerBuilder::lengths).
    ///
    /// # Errors
    /// As [`Predictor::mean`], and for a length that the trainer does not have.
    pub async fn evaluate_all(&mut self, batches: &[Batch]) -> Result<f32> {
        self.evaluate_with(false, batches).await
    }

    /// [`evaluate`](Self::evaluate) with the [averages](super::Ema) of the weights, as they are after
    /// all steps submitted so far. Weights, averages and the run stay as they are.
    ///
    /// # Errors
    /// As [`averaged`](Self::averaged) and [`evaluate`](Self::evaluate).
    pub async fn evaluate_averaged(&mut self, batch: &Batch) -> Result<f32> {
        self.evaluate_averaged_all(std::slice::from_ref(batch)).await
    }

    /// [`evaluate_all`](Self::evaluate_all) with the [averages](super::Ema) of the weights.
    ///
    /// # Errors
    /// As [`averaged`](Self::averaged) and [`evaluate_all`](Self::evaluate_all).
    pub async fn evaluate_averaged_all(&mut self, batches: &[Batch]) -> Result<f32> {
        self.averaged().await?;
        self.evaluate_with(true, batches).await
    }

    async fn evaluate_with(&mut self, is_averaged: bool, batches: &[Batch]) -> Result<f32> {
        let kinds = batches.iter().map(|batch| {
            let length = self.settings.length_of(batch.length())?;
            Ok(Kind { is_averaged, length })
        });
        let kinds: Vec<_> = kinds.collect::<Result<_>>()?;
        let mut missing = kinds.clone();
        // The longest first: the others find room in what it has.
        missing.sort_unstable_by(|a, b| b.cmp(a));
        for kind in missing {
            self.prepare_evaluation(kind).await?;
        }
        // What is measured is not to wait for steps before it.
        let finished = finish(&self.gpu, &mut self.pacing, &mut self.in_flight).await;
        let evaluators = &self.evaluators.list;
        let place = |kind| evaluators.iter().position(|(other, _)| *other == kind);
        let places: Vec<_> = kinds.into_iter().filter_map(place).collect();
        let predictors: Vec<_> = evaluators.iter().map(|(_, predictor)| predictor).collect();
        let runs: Vec<_> = places.into_iter().zip(batches).collect();
        let outputs = Predictor::mean_over(&predictors, &runs).await;
        finished?;
        Ok(outputs?[0][0] as f32)
    }

    async fn prepare_evaluation(&mut self, kind: Kind) -> Result<()> {
        if self.evaluators.list.iter().any(|(other, _)| *other == kind) {
            return Ok(());
        }
        let averaged = self.average.as_ref().and_then(Average::parameters);
        let parameters = averaged.filter(|_| kind.is_averaged).unwrap_or(&self.parameters);
        let Evaluators { list, shared } = &mut self.evaluators;
        let build = |graph: &mut Graph| {
            graph.set_length(kind.length);
            vec![self.model.build(graph).loss]
        };
        let (gpu, precision) = (&self.gpu, self.precision);
        let predictor = Predictor::sharing(gpu, parameters, precision, shared, build).await?;
        list.push((kind, predictor.with_submit_budget(self.pacing.budget())));
        Ok(())
    }
}

impl Predictor {
    /// [`mean`](Self::mean) over batches of several lengths, each with one of the predictors, which
    /// share their buffers.
    async fn mean_over(predictors: &[&Self], runs: &[(usize, &Batch)]) -> Result<Vec<Vec<f64>>> {
        let mut pacings = join_all(predictors.iter().map(|predictor| predictor.pacing())).await;
        let mut pacings: Vec<_> = pacings.iter_mut().map(|pacing| &mut **pacing).collect();
        Self::mean_with(predictors, &mut pacings, runs).await
    }
}
