//! Models and data whose targets count unevenly: sequences of which only the first so many do.

use std::collections::HashMap;

use evenkeel::graph::ops::CrossEntropy;
use evenkeel::graph::{Dense, Graph, Node, Op, Shape, Value};
use evenkeel::kernels::{Activation, CopyQuads, CopyQuadsParams};
use evenkeel::nn::{Gpt, GptConfig, Init, LanguageModel};
use evenkeel::record::{Recorder, Slot};
use evenkeel::step::StepInput;
use evenkeel::train::{Batch, IGNORE, Model, ModelOutput};

use super::tokens;

pub const TIME: usize = 8;
pub const CLASSES: usize = 27;
pub const SMOOTH: CrossEntropy = CrossEntropy { label_smoothing: 0.2, z_loss: 0.03 };

pub fn gpt(loss: CrossEntropy, batch: usize) -> LanguageModel {
    let config = GptConfig { loss, ..GptConfig::gpt2(CLASSES, TIME, 1, 2, 16) };
    LanguageModel { gpt: Gpt::new(config).expect("valid"), batch, time: TIME }
}

/// As many sequences as there are counts; of each, the first so many targets count.
pub fn sequences(counted: &[usize]) -> HashMap<&'static str, Vec<u32>> {
    let ids = |seed| tokens(seed, TIME * counted.len(), CLASSES as u32);
    let mut targets = ids(2);
    for (row, &count) in targets.chunks_mut(TIME).zip(counted) {
        row[count..].fill(IGNORE);
    }
    [("tokens", ids(1)), ("targets", targets)].into()
}

pub fn batch(counted: &[usize]) -> Batch {
    sequences(counted).into_iter().fold(Batch::new(), |batch, (name, ids)| batch.with(name, ids))
}

pub fn ids(counted: &[usize]) -> HashMap<&'static str, Vec<f64>> {
    let wide = |ids: Vec<u32>| ids.into_iter().map(f64::from).collect();
    sequences(counted).into_iter().map(|(name, ids)| (name, wide(ids))).collect()
}

/// y = x, of ids: targets that are computed. Whole quads only.
#[derive(Debug)]
pub struct CopyIds;

impl Op for CopyIds {
    fn name(&self) -> &'static str {
        "copy_ids"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        inputs.to_vec()
    }

    fn gradient(&self, _: &mut Graph, _: &Node, _: &[Option<Value>]) -> Vec<Option<Value>> {
        vec![None]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let quads = inputs[0].shape.count() as u32 / 4;
        let params = CopyQuadsParams { quads };
        recorder.dispatch(&CopyQuads { params, x: inputs[0].binding(), y: outputs[0].binding() });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        vec![inputs[0].data.to_vec()]
    }
}

/// A layer between an embedding of the tokens and logits, and the targets through two operations.
pub fn computed(batch: usize) -> impl Model {
    move |graph: &mut Graph| {
        let tokens = graph.tokens("tokens", [batch, TIME], CLASSES);
        // Unbounded: the host does not know that they may be ignored.
        let targets = graph.input("targets", Shape::u32([batch, TIME]));
        let copied = graph.apply(CopyIds, &[targets]);
        let targets = graph.apply(CopyIds, &[copied]);
        let prediction = logits(graph, tokens, "a");
        let loss = graph.cross_entropy(prediction, targets, SMOOTH);
        ModelOutput { loss, prediction }
    }
}

pub fn logits(graph: &mut Graph, tokens: Value, name: &str) -> Value {
    graph.scope(name, |graph| {
        let init = Init::Uniform { low: -1.0, high: 1.0 };
        let table = graph.parameter("table", [CLASSES, 12], init);
        let weight = graph.parameter("weight", [CLASSES, 12], init);
        let x = graph.embedding(table, tokens);
        let x = graph.activation(x, Activation::Silu);
        graph.linear(x, weight, None, Activation::None)
    })
}

/// Two cross-entropies of different targets and a squared error, weighted.
pub fn three_losses(batch: usize) -> impl Model {
    move |graph: &mut Graph| {
        let tokens = graph.tokens("tokens", [batch, TIME], CLASSES);
        let [first, second] =
            ["targets", "others"].map(|name| graph.tokens(name, [batch, TIME], CLASSES));
        let expected = graph.input("expected", Shape::real([batch, TIME, CLASSES]));
        let prediction = logits(graph, tokens, "a");
        let other = logits(graph, tokens, "b");
        let a = graph.cross_entropy(prediction, first, CrossEntropy::default());
        let b = graph.cross_entropy(other, second, SMOOTH);
        let c = graph.mean_squared_error(prediction, expected);
        let (b, c) = (graph.scale(b, 0.5), graph.scale(c, 0.25));
        let sum = graph.add(a, b);
        let loss = graph.add(sum, c);
        ModelOutput { loss, prediction }
    }
}
