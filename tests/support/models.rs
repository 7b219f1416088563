//! Small models whose gradients can be steered from the host.

use evenkeel::graph::{Graph, Shape};
use evenkeel::nn::{Gpt, GptConfig, Init, LanguageModel};
use evenkeel::train::{Batch, Model, ModelOutput};

use super::{tokens, values};

/// One term per tensor: scale * mean((w * factor - target)²). The gradient of one element is
/// 2 scale factor (w factor - target) / count, so a factor or a target steers it alone.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Dimensions and scale of each tensor.
    pub tensors: Vec<(Vec<usize>, f32)>,
}

impl Terms {
    /// Tensors with padding in their rows, one of them longer than a chunk of the scan.
    pub fn three() -> Self {
        Self { tensors: vec![(vec![3, 5], 1.0), (vec![37, 61], 1.0), (vec![7], 1.0)] }
    }

    /// `count` tensors of different sizes.
    pub fn many(count: usize) -> Self {
        Self { tensors: (0..count).map(|i| (vec![1 + i % 3, 1 + i % 7], 1.0)).collect() }
    }

    /// The same tensors with other scales.
    pub fn scaled(scales: [f32; 3]) -> Self {
        let tensors = Self::three().tensors.into_iter().zip(scales);
        Self { tensors: tensors.map(|((dims, _), scale)| (dims, scale)).collect() }
    }

    /// Factors of one and drawn targets for one step.
    pub fn data(&self, seed: u64, microbatches: usize) -> TermsData {
        let counts =
            self.tensors.iter().map(|(dims, _)| microbatches * dims.iter().product::<usize>());
        let counts: Vec<_> = counts.collect();
        TermsData {
            factors: counts.iter().map(|&count| vec![1.0; count]).collect(),
            targets: (0..).zip(&counts).map(|(i, &count)| values(100 * seed + i, count)).collect(),
        }
    }
}

impl Model for Terms {
    fn build(&self, graph: &mut Graph) -> ModelOutput {
        let mut terms = Vec::new();
        for (index, (dims, scale)) in self.tensors.iter().enumerate() {
            let init = Init::Uniform { low: -1.0, high: 1.0 };
            let weight = graph.parameter(&format!("w{index}"), &dims[..], init);
            let factor = graph.input(&format!("factor{index}"), Shape::real(&dims[..]));
            let target = graph.input(&format!("target{index}"), Shape::real(&dims[..]));
            let product = graph.multiply(weight, factor);
            let term = graph.mean_squared_error(product, target);
            terms.push(graph.scale(term, *scale));
        }
        let first = terms[0];
        let loss = terms[1..].iter().fold(first, |sum, &term| graph.add(sum, term));
        ModelOutput { loss, prediction: loss }
    }
}

/// Inputs of [`Terms`], by tensor.
#[derive(Clone, Debug)]
pub struct TermsData {
    pub factors: Vec<Vec<f32>>,
    pub targets: Vec<Vec<f32>>,
}

impl TermsData {
    pub fn batch(&self) -> Batch {
        let tensors = self.factors.iter().zip(&self.targets).enumerate();
        tensors.fold(Batch::new(), |batch, (index, (factor, target))| {
            batch
                .with(&format!("factor{index}"), &factor[..])
                .with(&format!("target{index}"), &target[..])
        })
    }
}

/// A GPT of one layer; vocabulary 27, context 8.
pub fn small_gpt(dropout: f32, batch: usize) -> LanguageModel {
    let config = GptConfig { dropout, ..GptConfig::gpt2(27, 8, 1, 2, 8) };
    LanguageModel { gpt: Gpt::new(config).expect("valid"), batch, time: 8 }
}

/// Drawn tokens and targets for `sequences` sequences of it.
pub fn small_gpt_batch(seed: u64, sequences: usize) -> Batch {
    let ids = |seed| tokens(seed, sequences * 8, 27);
    Batch::new().with("tokens", ids(2 * seed)).with("targets", ids(2 * seed + 1))
}
