//! A model whose gradients, loss and states can be spoiled one by one, and the faults that do it.

use evenkeel::Gpu;
use evenkeel::graph::{Graph, Shape, Value};
use evenkeel::nn::Init;
use evenkeel::step::{Reason, StepState};
use evenkeel::train::{Batch, Model, ModelOutput, Telemetry, Trainer, TrainerBuilder};

use super::{block_on, values};

pub const WEIGHTS: usize = 12;
pub const PROBE: usize = 4 * 3;

/// mean((w factor - target)²) + extra, and running statistics of a probe that nothing else reads:
/// so gradients, loss and states can be spoiled one by one.
#[derive(Clone, Copy, Debug)]
pub struct Parted;

impl Model for Parted {
    fn build(&self, graph: &mut Graph) -> ModelOutput {
        let weight = graph.parameter("w", [3, 4], Init::Uniform { low: -1.0, high: 1.0 });
        let [factor, target] =
            ["factor", "target"].map(|name| graph.input(name, Shape::real([3, 4])));
        let product = graph.multiply(weight, factor);
        let error = graph.mean_squared_error(product, target);
        let loss = plus_extra(graph, error);
        let probe = graph.input("probe", Shape::real([4, 3]));
        let running = graph.state(&[("mean", 0.0), ("variance", 1.0)], 3);
        let [one, zero] = [1.0, 0.0].map(|x| graph.constant("constant", Shape::real([3]), &[x; 3]));
        let (_, statistics) = graph.batch_norm(probe, one, zero, 1e-5);
        graph.update_running(running, statistics, probe, 0.1);
        ModelOutput { loss, prediction: product }
    }
}

/// A loss, and an input added to it that no gradient depends on.
pub fn plus_extra(graph: &mut Graph, loss: Value) -> Value {
    let extra = graph.input("extra", Shape::f32([1]));
    graph.add(loss, extra)
}

/// What a step is given, all of its microbatches.
#[derive(Clone, Debug)]
pub struct Data {
    pub factor: Vec<f32>,
    pub target: Vec<f32>,
    pub probe: Vec<f32>,
    pub extra: Vec<f32>,
}

impl Data {
    pub fn new(seed: u64, microbatches: usize) -> Self {
        Self {
            factor: vec![1.0; WEIGHTS * microbatches],
            target: values(3 * seed, WEIGHTS * microbatches),
            probe: values(3 * seed + 1, PROBE * microbatches),
            extra: values(3 * seed + 2, microbatches),
        }
    }

    pub fn batch(&self) -> Batch {
        let batch = Batch::new().with("factor", &self.factor[..]).with("target", &self.target[..]);
        batch.with("probe", &self.probe[..]).with("extra", &self.extra[..])
    }

    /// The same with a fault in one microbatch.
    pub fn with(&self, fault: Fault, microbatch: usize) -> Self {
        let mut data = self.clone();
        match fault {
            Fault::Gradient(value) => data.target[WEIGHTS * microbatch + 5] = value,
            Fault::Loss(value) => data.extra[microbatch] = value,
            Fault::LossOverflow => data.target[WEIGHTS * microbatch + 7] = 1e20,
            Fault::State(value) => data.probe[PROBE * microbatch + 7] = value,
        }
        data
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// A target, which makes loss and gradient NaN or Inf.
    Gradient(f32),
    /// A loss, with finite gradients.
    Loss(f32),
    /// A target whose square is no f32, with finite gradients.
    LossOverflow,
    /// A part of the probe, with finite loss and gradients.
    State(f32),
}

impl Fault {
    pub fn reason(self) -> Reason {
        match self {
            Self::Gradient(_) => Reason::NonFiniteGradient,
            Self::Loss(_) | Self::LossOverflow => Reason::NonFiniteLoss,
            Self::State(_) => Reason::NonFiniteState,
        }
    }
}

pub const FAULTS: [Fault; 9] = [
    Fault::Gradient(f32::NAN),
    Fault::Gradient(f32::INFINITY),
    Fault::Loss(f32::NAN),
    Fault::Loss(f32::INFINITY),
    Fault::Loss(f32::NEG_INFINITY),
    Fault::LossOverflow,
    Fault::State(f32::NAN),
    Fault::State(f32::INFINITY),
    Fault::State(f32::NEG_INFINITY),
];
/// One of each reason.
pub const KINDS: [Fault; 3] = [FAULTS[0], FAULTS[2], FAULTS[6]];

pub fn build<M: Model>(gpu: &Gpu, builder: TrainerBuilder<M>) -> Trainer<M> {
    block_on(builder.build(gpu)).expect("a trainer")
}

pub fn parted() -> TrainerBuilder<Parted> {
    Trainer::builder(Parted).seed(3)
}

pub fn step<M: Model>(trainer: &mut Trainer<M>, batch: &Batch) -> Telemetry {
    block_on(trainer.step(batch)).expect("a step");
    block_on(trainer.telemetry()).expect("telemetry").pop().expect("a record")
}

pub fn bytes<M: Model>(trainer: &Trainer<M>) -> Vec<u8> {
    block_on(trainer.committed_bytes()).expect("bytes")
}

pub fn state<M: Model>(trainer: &Trainer<M>) -> StepState {
    block_on(trainer.state()).expect("a state")
}
