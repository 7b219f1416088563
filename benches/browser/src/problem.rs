//! Initial weights and batches: the same numbers as in `problem.js`. Losses that agree show it.

use evenkeel::graph::ParameterSpec;
use evenkeel::nn::{Classifier, Gpt, GptConfig, LanguageModel, MlpClassifier};
use evenkeel::train::Batch;

/// Batches before the first one comes again.
const BATCHES: usize = 16;

/// A classifier of rows: hidden layers of linear and ReLU, cross-entropy.
pub fn classifier() -> Classifier {
    let mlp = MlpClassifier { inputs: 64, hidden: vec![128, 128], classes: 10, batch_norm: false };
    Classifier { mlp, batch: 64 }
}

/// A language model in GPT-2's form with 108,288 parameters.
pub fn gpt() -> GptConfig {
    // vocabulary, context, layers, heads, width
    GptConfig::gpt2(64, 64, 2, 4, 64)
}

/// The same with 813,824.
pub fn gpt_of_0_8m() -> GptConfig {
    GptConfig::gpt2(96, 64, 4, 4, 128)
}

/// A language model with its batch.
///
/// # Errors
/// As [`Gpt::new`]; none for these.
pub fn language_model(config: GptConfig) -> evenkeel::Result<LanguageModel> {
    Ok(LanguageModel { gpt: Gpt::new(config)?, batch: 8, time: 64 })
}

/// Initial values: matrices uniform in ±1/sqrt(columns), weights of norms 1, biases 0.
pub fn initial(spec: &ParameterSpec) -> Vec<f32> {
    let dims = &spec.shape.dims;
    let count = dims.iter().product();
    if dims.len() == 1 {
        return vec![if spec.name.ends_with("weight") { 1.0 } else { 0.0 }; count];
    }
    let bound = 1.0 / (dims[1] as f64).sqrt();
    let stream = stream(&spec.name);
    (0..count).map(|index| (signed(stream, index) * bound) as f32).collect()
}

/// Batch `step` of a classifier: features around the center of a class, and the class.
pub fn rows(model: &Classifier, step: usize) -> Batch {
    let (features, classes) = (model.mlp.inputs, model.mlp.classes);
    let (mut inputs, mut targets) = (Vec::new(), Vec::new());
    for row in 0..model.batch {
        let sample = step % BATCHES * model.batch + row;
        let label = hash(stream("class"), sample) as usize % classes;
        targets.push(label as u32);
        inputs.extend((0..features).map(|column| {
            let center = signed(stream("center"), label * features + column);
            let noise = signed(stream("noise"), sample * features + column);
            (0.5 * center + noise) as f32
        }));
    }
    Batch::new().with("inputs", inputs).with("targets", targets)
}

/// Batch `step` of a language model: tokens and their successors.
pub fn tokens(model: &LanguageModel, step: usize) -> Batch {
    let vocabulary = model.gpt.config().vocabulary as u32;
    let (mut tokens, mut targets) = (Vec::new(), Vec::new());
    for row in 0..model.batch {
        let sequence = step % BATCHES * model.batch + row;
        let mut token = hash(stream("start"), sequence) % vocabulary;
        for time in 0..model.time {
            tokens.push(token);
            let chance = hash(stream("jump"), sequence * model.time + time);
            // Mostly a fixed successor, in one case of eight any token.
            token = match chance % 8 {
                0 => (chance >> 8) % vocabulary,
                _ => (5 * token + 7) % vocabulary,
            };
            targets.push(token);
        }
    }
    Batch::new().with("tokens", tokens).with("targets", targets)
}

/// FNV-1a of a name.
fn stream(name: &str) -> u32 {
    name.bytes()
        .fold(0x811c_9dc5, |state, byte| (state ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// A 32-bit number for a place in a stream (finaliser of MurmurHash3).
fn hash(stream: u32, index: usize) -> u32 {
    let mut x = stream.wrapping_add((index as u32).wrapping_mul(0x9e37_79b9));
    x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
    x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}

/// Uniform in [-1, 1), with 24 bits.
fn signed(stream: u32, index: usize) -> f64 {
    f64::from(hash(stream, index) >> 8) / f64::from(1 << 23) - 1.0
}
