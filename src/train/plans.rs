//! The plans of a trainer: one, or one for each length that its batches had so far, over the same
//! parameters, gradients and steering blocks, in the same memory.

use wgpu::Buffer;

use super::builder::settings::Settings;
use super::sequence::Sequence;
use super::{Batch, Lengths, Model, Trainer, tensor_rules};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::{Graph, Phase, Value};
use crate::kernel::WeightStorage;
use crate::plan::{Parameters, Plan, PlanRequest, SharedBuffers, Sinks};
use crate::record::StepBuffers;

/// The plans made so far. The first is that of the longest sequences.
#[derive(Debug)]
pub(super) struct Plans {
    list: Vec<(Option<usize>, Plan)>,
    shared: SharedBuffers,
    /// Which of them the last step was of.
    last: usize,
}

/// What all plans of a trainer read and write.
pub(super) struct PlanParts<'a> {
    pub gpu: &'a Gpu,
    pub settings: &'a Settings,
    pub parameters: &'a Parameters,
    pub sinks: &'a Sinks,
    pub step: &'a StepBuffers,
    /// The loss of a step.
    pub loss: &'a Buffer,
}

/// A model's graph for training, differentiated, and its loss.
pub(super) fn graph_of<M: Model>(
    settings: &Settings,
    model: &M,
    largest_binding: u64,
    weights: WeightStorage,
    length: Option<usize>,
) -> (Graph, Value) {
    let mut graph = Graph::in_precision(Phase::Train, settings.precision).with_weights(weights);
    graph.set_native_f16(settings.native_f16);
    graph.set_largest_binding(largest_binding);
    graph.set_length(length);
    let loss = model.build(&mut graph).loss;
    (graph, loss)
}

/// Differentiates it, with respect to what is not frozen.
pub(super) fn differentiate(settings: &Settings, graph: &mut Graph, loss: Value) -> Result<()> {
    graph.freeze(|spec| settings.rules.freeze(spec));
    graph.backward(loss, 1.0 / settings.all_microbatches() as f32);
    tensor_rules::check_gradients(graph)
}

/// What a plan keeps: the loss, what is observed, what layers read after the update.
pub(super) fn outputs(graph: &Graph, loss: Value) -> Vec<Value> {
    let observed = graph.observations().iter().map(|&(_, value)| value);
    let read = graph.after_updates().iter().flat_map(|layer| layer.reads());
    [loss].into_iter().chain(observed).chain(read).collect()
}

impl PlanParts<'_> {
    /// A plan of a differentiated graph, with the buffers of those before it.
    async fn plan(&self, graph: &Graph, loss: Value, shared: &mut SharedBuffers) -> Result<Plan> {
        let outputs = outputs(graph, loss);
        let request = PlanRequest {
            graph,
            outputs: &outputs,
            parameters: self.parameters,
            sinks: Some(self.sinks),
            step: self.step,
            microbatches: self.settings.microbatches,
        };
        let mut plan = Plan::sharing(self.gpu, &request, shared).await?;
        self.settings.add_loss_mean(self.gpu, self.step, &mut plan, loss, self.loss);
        Ok(plan)
    }
}

impl Plans {
    /// The first.
    pub async fn new(parts: &PlanParts<'_>, graph: &Graph, loss: Value) -> Result<Self> {
        let mut shared = SharedBuffers::default();
        let plan = parts.plan(graph, loss, &mut shared).await?;
        Ok(Self { list: vec![(graph.length(), plan)], shared, last: 0 })
    }

    /// The first: that of the longest sequences.
    pub fn first(&self) -> &Plan {
        self.of(0)
    }

    pub fn of(&self, index: usize) -> &Plan {
        &self.list[index].1
    }

    /// That of the last step.
    pub fn last(&self) -> &Plan {
        self.of(self.last)
    }

    /// A step was of this one.
    pub fn ran(&mut self, index: usize) {
        self.last = index;
    }

    /// All plans with their lengths, in the order in which they were made.
    pub fn all(&self) -> impl Iterator<Item = (Option<usize>, &Plan)> {
        self.list.iter().map(|(length, plan)| (*length, plan))
    }

    fn index_of(&self, length: Option<usize>) -> Option<usize> {
        self.list.iter().position(|&(other, _)| other == length)
    }

    /// Takes in a plan that updates the same way as the first.
    fn add(&mut self, graph: &Graph, plan: Plan) -> Result<usize> {
        let read = graph.after_updates().iter().flat_map(|layer| layer.reads()).count();
        let of_first = &self.first().outputs;
        let first_read = plan.outputs.len() - read;
        let is_same = |(a, b): (&crate::record::Slot, &crate::record::Slot)| a.buffer == b.buffer;
        let reads = plan.outputs[first_read..].iter().zip(&of_first[first_read..]);
        if of_first.len() != plan.outputs.len() || !reads.into_iter().all(is_same) {
            return Err(Error::Unsupported {
                what: "a layer that acts after the update on values whose shape depends on the \
                       length of sequences"
                    .into(),
                instead: "leave TrainerBuilder::lengths out, or let the layer read values of one \
                          shape"
                    .into(),
            });
        }
        self.list.push((graph.length(), plan));
        Ok(self.list.len() - 1)
    }
}

impl Settings {
    /// Fails if a model does not give its inputs the length that it is asked for.
    pub(super) fn check_lengths<M: Model>(
        &self,
        model: &M,
        largest_binding: u64,
        weights: WeightStorage,
        longest: &Graph,
    ) -> Result<()> {
        let Some(lengths) = self.lengths.as_ref().filter(|lengths| lengths.all().len() > 1) else {
            return Ok(());
        };
        let shortest = Some(lengths.all()[0]);
        let (shortest, _) = graph_of(self, model, largest_binding, weights, shortest);
        let (long, short) = (longest.inputs(), shortest.inputs());
        let names = |graph: &Graph| -> Vec<_> {
            graph.inputs().iter().map(|input| input.name.clone()).collect()
        };
        let shrinks = long.iter().zip(short).all(|(a, b)| a.shape.bytes() >= b.shape.bytes());
        if names(longest) != names(&shortest) || !shrinks || long == short {
            return Err(Error::Setting {
                setting: "lengths",
                value: format!("{:?}", lengths.all()),
                range: "left out for a model whose inputs do not have the length that \
                        Graph::length gives",
            });
        }
        Ok(())
    }
}

impl<M: Model> Trainer<M> {
    /// Makes the plan for batches of this length, unless it is there. A step does so where it is
    /// needed; this is for who wants to see it done before, or to tell about it.
    ///
    /// # Errors
    /// [`Error::Setting`] for a length that is none of [`TrainerBuilder::lengths`], and as
    /// [`TrainerBuilder::build`].
    ///
    /// [`TrainerBuilder::lengths`]: super::TrainerBuilder::lengths
    /// [`TrainerBuilder::build`]: super::TrainerBuilder::build
    pub async fn prepare(&mut self, length: usize) -> Result<()> {
        self.gpu.check()?;
        self.plan_at(self.settings.length_of(Some(length))?).await.map(|_| ())
    }

    /// Lengths for which there are plans, in the order in which they were made; of a trainer that
    /// was not told any, none.
    pub fn planned_lengths(&self) -> impl Iterator<Item = usize> {
        self.plans.all().filter_map(|(length, _)| length)
    }

    /// Which plan a batch is for; it is made where there is none.
    pub(super) async fn plan_for(&mut self, batch: &Batch) -> Result<usize> {
        self.plan_at(self.settings.length_of(batch.length())?).await
    }

    async fn plan_at(&mut self, length: Option<usize>) -> Result<usize> {
        if let Some(index) = self.plans.index_of(length) {
            return Ok(index);
        }
        let (settings, weights) = (&*self.settings, self.parameters.storage());
        let largest = self.gpu.largest_binding();
        let (mut graph, loss) = graph_of(settings, &*self.model, largest, weights, length);
        differentiate(settings, &mut graph, loss)?;
        let parts = PlanParts {
            gpu: &self.gpu,
            settings,
            parameters: &self.parameters,
            sinks: &self.sinks,
            step: &self.step,
            loss: &self.loss,
        };
        let plan = parts.plan(&graph, loss, &mut self.plans.shared).await?;
        let index = self.plans.add(&graph, plan)?;
        let sequence = self.sequence(index).len();
        self.pacing.add_list(sequence);
        Ok(index)
    }

    /// The dispatches of a step of this plan.
    pub(super) fn sequence(&self, index: usize) -> Sequence<'_> {
        let plan = self.plans.of(index);
        Sequence::new(plan, &self.update, self.watch.as_ref(), self.microbatches)
    }
}

impl Settings {
    /// The length of a batch that says this.
    pub(super) fn length_of(&self, said: Option<usize>) -> Result<Option<usize>> {
        let Some(lengths) = &self.lengths else { return Ok(None) };
        let length = said.unwrap_or(lengths.longest());
        if lengths.all().contains(&length) {
            return Ok(Some(length));
        }
        Err(Error::Data {
            what: format!("a batch of length {length}"),
            reason: format!("the trainer has plans for {}", written(lengths)),
        })
    }
}

fn written(lengths: &Lengths) -> String {
    let all: Vec<_> = lengths.all().iter().map(usize::to_string).collect();
    all.join(", ")
}
