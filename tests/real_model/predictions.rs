//! Logits of some positions, and greedy continuations, from both bases.

use evenkeel::Gpu;
use evenkeel::graph::{Graph, Phase};
use evenkeel::nn::{Generator, GeneratorSettings, Gpt, GptConfig, Sampling};
use evenkeel::plan::Parameters;
use evenkeel::plan::parameters::WeightSource;
use evenkeel::train::{Batch, Predictor};
use serde_json::Value;

use super::support::{self, assert_close, block_on};
use super::{BASES, CONTEXT, Real, ids, list, numbers, straying, words};

/// The model on the device, with weights from a file or a folder.
pub fn loaded(gpt: GptConfig, gpu: &Gpu, weights: &mut impl WeightSource) -> (Gpt, Parameters) {
    let gpt = Gpt::new(gpt).expect("a model");
    let mut graph = Graph::new(Phase::Evaluate);
    let tokens = graph.tokens("tokens", [1, 1], gpt.config().vocabulary);
    gpt.logits(&mut graph, tokens);
    let parameters = block_on(Parameters::new(gpu, &graph, 0)).expect("parameters");
    block_on(parameters.load(weights)).unwrap_or_else(|error| panic!("{error}"));
    (gpt, parameters)
}

/// The logits of a text at some positions: some of each row, and the logarithm of the sum of their
/// exponentials, which all of them are in.
fn check_logits(gpu: &Gpu, (gpt, parameters): &(Gpt, Parameters), case: &Value, known: &Known) {
    let (tokens, positions) = (ids(&case["ids"]), ids(&case["positions"]));
    let vocabulary = gpt.config().vocabulary;
    let predictor = block_on(Predictor::new(gpu, parameters, |graph| {
        let text = graph.tokens("tokens", [1, tokens.len()], vocabulary);
        let at = graph.tokens("positions", [positions.len()], tokens.len());
        vec![gpt.logits_at(graph, text, at)]
    }));
    let predictor = predictor.expect("a predictor");
    let batch = Batch::new().with("tokens", &tokens[..]).with("positions", &positions[..]);
    let logits = block_on(predictor.run(&batch)).expect("logits").swap_remove(0);
    assert_eq!(logits.len(), positions.len() * vocabulary);
    let (rows, sums) = (list(&case["rows"]), numbers(&case["log_sum_exp"]));
    assert_eq!((rows.len(), sums.len()), (positions.len(), positions.len()));
    for ((row, expected), position) in logits.chunks_exact(vocabulary).zip(rows).zip(&positions) {
        let what = format!("{}, logits at {position} of {tokens:?}", known.base);
        let some: Vec<_> = known.columns.iter().map(|&column| row[column as usize]).collect();
        assert_close(&what, &some, &numbers(expected), straying(&known.strays["logits"]));
    }
    let found: Vec<_> = logits.chunks_exact(vocabulary).map(log_sum_exp).collect();
    let what = format!("{}, log-sum-exp of {tokens:?}", known.base);
    assert_close(&what, &found, &sums, straying(&known.strays["log_sum_exp"]));
}

/// What all texts of a base have in common.
struct Known<'a> {
    base: &'a str,
    columns: Vec<u32>,
    strays: &'a Value,
}

fn log_sum_exp(row: &[f32]) -> f32 {
    let largest = row.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = row.iter().map(|&x| f64::from(x - largest).exp()).sum();
    (f64::from(largest) + sum.ln()) as f32
}

/// Continuations end before two tokens are nearly as likely as each other: rounding changes none.
fn check_greedy(real: &Real, gpu: &Gpu, (gpt, parameters): &(Gpt, Parameters), base: &str) {
    let tokenizer = real.tokenizer();
    let settings = GeneratorSettings { context: Some(CONTEXT), ..GeneratorSettings::default() };
    let generator = block_on(Generator::with_settings(gpu, parameters, gpt, &settings));
    let generator = generator.expect("a generator");
    for case in list(&real.of(base)["greedy"]) {
        let (text, prompt, expected) =
            (words(&case["prompt"]), ids(&case["ids"]), ids(&case["continuation"]));
        assert_eq!(tokenizer.encode(text, false).expect("ids"), prompt, "{text:?}");
        assert!(expected.len() >= 8, "{text:?} goes on with {} tokens", expected.len());
        let found =
            block_on(generator.generate(&prompt, expected.len(), &Sampling::greedy(), |_| {}));
        let found = found.expect("tokens");
        let text_of = |ids: &[u32]| tokenizer.decode(ids, false).expect("a text");
        assert_eq!(found, expected, "{base}, {text:?}: {:?}", text_of(&found));
        assert_eq!(text_of(&found), words(&case["text"]), "{base}, {text:?}");
    }
}

fn check(base: &str) {
    let Some(real) = Real::open() else { return };
    let Some(gpu) = support::exclusive_gpu() else { return };
    let (_, format) = BASES.into_iter().find(|(name, _)| *name == base).expect("a base");
    let model = loaded(real.gpt(format), &gpu, &mut real.file.reader(|_| {}));
    let columns = ids(&real.expected["columns"]);
    let known = Known { base, columns, strays: &real.of(base)["strays"] };
    for case in list(&real.of(base)["logits"]) {
        check_logits(&gpu, &model, case, &known);
    }
    check_greedy(&real, &gpu, &model, base);
}

#[test]
fn predictions_of_dequantized_weights_are_those_of_transformers() {
    check("dequantized");
}

#[test]
fn predictions_of_weights_in_blocks_are_those_of_transformers() {
    check("kept");
}
