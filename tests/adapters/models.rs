//! Tiny models with adapters, and what is done with them.

use evenkeel::Gpu;
use evenkeel::graph::{Graph, Phase};
use evenkeel::nn::{FeedForwardKind, Gpt, GptConfig, LanguageModel, Lora, Targets};
use evenkeel::plan::Parameters;
use evenkeel::train::{Batch, Model, Predictor, Telemetry, Trainer, TrainerBuilder};

use super::support::{block_on, tokens, values};

pub const BATCH: usize = 2;
pub const TIME: usize = 6;
pub const VOCABULARY: usize = 13;

pub fn llama() -> GptConfig {
    GptConfig { hidden: 20, ..GptConfig::llama(VOCABULARY, 8, 2, [4, 2], 32) }
}

pub fn gpt2() -> GptConfig {
    GptConfig { hidden: 18, ..GptConfig::gpt2(VOCABULARY, 8, 2, 2, 8) }
}

pub fn lora(rank: usize, targets: Targets) -> Lora {
    Lora { rs_lora: rank.is_multiple_of(3), ..Lora::new(rank, 6.0, targets) }
}

pub fn dora(rank: usize, targets: Targets) -> Lora {
    Lora { dora: true, ..lora(rank, targets) }
}

/// Models with adapters of all kinds: of parts of joined weights, of whole ones, with ranks that are
/// multiples of 4 and others, of tied and untied heads, of embeddings.
pub fn all() -> Vec<(&'static str, GptConfig)> {
    let some = || Targets::named(["q_proj", "v_proj", "up_proj", "o_proj"]);
    let exact = FeedForwardKind::Gelu;
    let with = |config: GptConfig, lora: Lora| GptConfig { lora: Some(lora), ..config };
    vec![
        ("parts", with(llama(), lora(4, some()))),
        ("parts of an odd rank", with(llama(), lora(3, Targets::AllLinear))),
        ("magnitudes", with(GptConfig { bias: true, ..llama() }, dora(4, some()))),
        ("magnitudes of an odd rank", with(llama(), dora(2, Targets::AllLinear))),
        ("embedding and head", with(llama(), lora(5, Targets::named(["embed_tokens", "lm_head"])))),
        ("whole weights", with(gpt2(), lora(4, Targets::named(["c_attn", "c_fc", "c_proj"])))),
        (
            "whole weights with magnitudes",
            with(
                GptConfig { feed_forward: exact, ..gpt2() },
                dora(3, Targets::named(["c_attn", "c_fc", "mlp.c_proj", "lm_head"])),
            ),
        ),
        ("a tied head", with(gpt2(), lora(4, Targets::named(["wte", "lm_head", "c_attn"])))),
    ]
}

pub fn without(config: &GptConfig) -> GptConfig {
    GptConfig { lora: None, ..config.clone() }
}

pub fn model(config: &GptConfig) -> LanguageModel {
    let gpt = Gpt::new(config.clone()).unwrap_or_else(|error| panic!("{error}"));
    LanguageModel { gpt, batch: BATCH, time: TIME }
}

pub fn batch(seed: u64) -> Batch {
    let ids = |seed| tokens(seed, BATCH * TIME, VOCABULARY as u32);
    Batch::new().with("tokens", ids(2 * seed)).with("targets", ids(2 * seed + 1))
}

/// Parameters of a model as it starts.
pub fn parameters(gpu: &Gpu, config: &GptConfig, seed: u32) -> Parameters {
    let mut graph = Graph::new(Phase::Evaluate);
    model(config).build(&mut graph);
    block_on(Parameters::new(gpu, &graph, seed)).expect("parameters")
}

pub fn read(parameters: &Parameters, name: &str) -> Vec<f32> {
    block_on(parameters.read(name)).expect("a parameter")
}

/// Larger weights than models start with, so that everything counts. Magnitudes stay above 0.
pub fn enlarge(parameters: &Parameters) {
    for spec in parameters.specs() {
        let drawn = values(90 + u64::from(spec.stream), spec.shape.count());
        let is_scale = spec.shape.dims.len() == 1
            && (spec.name.contains("norm") || spec.name.ends_with("lora_magnitude"));
        let shift = if is_scale { 1.0 } else { 0.0 };
        let drawn: Vec<_> = drawn.iter().map(|x| shift + 0.4 * x).collect();
        parameters.write(&spec.name, &drawn).expect("written");
    }
}

/// Logits of a batch, in evaluation.
pub fn logits(gpu: &Gpu, parameters: &Parameters, config: &GptConfig, batch: &Batch) -> Vec<f32> {
    let gpt = Gpt::new(config.clone()).expect("valid");
    let predictor = Predictor::new(gpu, parameters, |graph| {
        let tokens = graph.tokens("tokens", [BATCH, TIME], VOCABULARY);
        vec![gpt.logits(graph, tokens)]
    });
    block_on(block_on(predictor).expect("a predictor").run(batch)).expect("logits").swap_remove(0)
}

pub fn build<M: Model>(builder: TrainerBuilder<M>, gpu: &Gpu) -> Trainer<M> {
    block_on(builder.build(gpu)).unwrap_or_else(|error| panic!("{error}"))
}

pub fn step<M: Model>(trainer: &mut Trainer<M>, batch: &Batch) -> Telemetry {
    block_on(trainer.step(batch)).expect("a step");
    *block_on(trainer.telemetry()).expect("telemetry").last().expect("a record")
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
