//! The loss of a model that is being trained on batches that it is not trained on.

use futures::future::join_all;

use super::trainer::finish;
use super::{Batch, Model, Predictor, Trainer};
use crate::error::Result;
use crate::graph::Graph;
use crate::plan::SharedBuffers;

/// A predictor for each length that evaluations had so far.
#[derive(Debug, Default)]
pub(super) struct Evaluators {
    list: Vec<(Option<usize>, Predictor)>,
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
        let lengths = batches.iter().map(|batch| self.settings.length_of(batch.length()));
        let lengths: Vec<_> = lengths.collect::<Result<_>>()?;
        let mut missing = lengths.clone();
        // The longest first: the others find room in what it has.
        missing.sort_unstable_by(|a, b| b.cmp(a));
        for length in missing {
            self.prepare_evaluation(length).await?;
        }
        // What is measured is not to wait for steps before it.
        let finished = finish(&self.gpu, &mut self.pacing, &mut self.in_flight).await;
        let evaluators = &self.evaluators.list;
        let place = |length| evaluators.iter().position(|(other, _)| *other == length);
        let places: Vec<_> = lengths.into_iter().filter_map(place).collect();
        let predictors: Vec<_> = evaluators.iter().map(|(_, predictor)| predictor).collect();
        let runs: Vec<_> = places.into_iter().zip(batches).collect();
        let outputs = Predictor::mean_over(&predictors, &runs).await;
        finished?;
        Ok(outputs?[0][0] as f32)
    }

    async fn prepare_evaluation(&mut self, length: Option<usize>) -> Result<()> {
        let Evaluators { list, shared } = &mut self.evaluators;
        if list.iter().any(|(other, _)| *other == length) {
            return Ok(());
        }
        let build = |graph: &mut Graph| {
            graph.set_length(length);
            vec![self.model.build(graph).loss]
        };
        let (gpu, precision) = (&self.gpu, self.precision);
        let predictor = Predictor::sharing(gpu, &self.parameters, precision, shared, build).await?;
        list.push((length, predictor.with_submit_budget(self.pacing.budget())));
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
