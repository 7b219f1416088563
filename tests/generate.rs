//! Sampling from a GPT: which logits it reads, and what it does with a prompt.

#[macro_use]
mod support;

use evenkeel::graph::{Graph, Phase};
use evenkeel::nn::{Generator, Sampling};
use evenkeel::nn::{Gpt, GptConfig};
use evenkeel::plan::Parameters;
use evenkeel::train::{Batch, Predictor};
use evenkeel::{Error, Gpu};
use support::block_on;

tests! {
    logits_are_those_of_the_last_token, text_depends_on_prompt_and_seed_alone,
    bad_prompts_and_settings_are_refused,
}

const VOCABULARY: usize = 19;
const CONTEXT: usize = 9;

/// A model whose attention and positions matter: weights ten times GPT-2's.
fn model(gpu: &Gpu) -> (Gpt, Parameters) {
    let gpt = Gpt::new(GptConfig::gpt2(VOCABULARY, CONTEXT, 2, 2, 16)).expect("valid");
    let mut graph = Graph::new(Phase::Evaluate);
    let tokens = graph.tokens("tokens", [1, CONTEXT], VOCABULARY);
    gpt.logits(&mut graph, tokens);
    let parameters = block_on(Parameters::new(gpu, &graph, 3)).expect("parameters");
    for spec in parameters.specs().iter().filter(|spec| spec.shape.dims.len() > 1) {
        let values = block_on(parameters.read(&spec.name)).expect("readable");
        let scaled: Vec<_> = values.iter().map(|x| 10.0 * x).collect();
        parameters.write(&spec.name, &scaled).expect("written");
    }
    (gpt, parameters)
}

/// The logits behind the last of `tokens`, from a graph of exactly their number.
fn expected(gpu: &Gpu, gpt: &Gpt, parameters: &Parameters, tokens: &[u32]) -> Vec<f32> {
    let time = tokens.len();
    let predictor = Predictor::new(gpu, parameters, |graph| {
        let tokens = graph.tokens("tokens", [1, time], VOCABULARY);
        vec![gpt.logits(graph, tokens)]
    });
    let batch = Batch::new().with("tokens", tokens);
    let mut logits = block_on(block_on(predictor).expect("a predictor").run(&batch)).expect("run");
    logits.swap_remove(0).split_off((time - 1) * VOCABULARY)
}

fn logits_are_those_of_the_last_token() {
    let Some(gpu) = support::gpu() else { return };
    let (gpt, parameters) = model(&gpu);
    let generator = block_on(Generator::new(&gpu, &parameters, &gpt)).expect("a generator");
    let tokens = support::tokens(4, 14, VOCABULARY as u32);
    for length in [1, 2, 5, CONTEXT - 1, CONTEXT, CONTEXT + 1, 14] {
        let found = block_on(generator.logits(&tokens[..length])).expect("logits");
        let window = &tokens[length.saturating_sub(CONTEXT)..length];
        let expected = support::wide(&expected(&gpu, &gpt, &parameters, window));
        let tolerance = support::Tolerance {
            absolute: 1e-5,
            relative: 1e-5,
            because: "sums of another length in the same attention, in f32",
        };
        support::assert_close(&format!("{length} tokens"), &found, &expected, tolerance);
    }
    let early = block_on(generator.logits(&tokens[..2])).expect("logits");
    let late = block_on(generator.logits(&tokens[..5])).expect("logits");
    assert!(early.iter().zip(&late).any(|(a, b)| (a - b).abs() > 0.01), "{early:?} {late:?}");
}

fn text_depends_on_prompt_and_seed_alone() {
    let Some(gpu) = support::gpu() else { return };
    let (gpt, parameters) = model(&gpu);
    let generator = block_on(Generator::new(&gpu, &parameters, &gpt)).expect("a generator");
    let run = |prompt: &[u32], count, sampling: Sampling| {
        let mut seen = Vec::new();
        let tokens = block_on(generator.generate(prompt, count, &sampling, |t| seen.push(t)));
        let tokens = tokens.expect("tokens");
        assert_eq!(seen, tokens);
        tokens
    };
    let sampling = Sampling { seed: 1, ..Sampling::default() };
    let first = run(&[3, 1], 20, sampling);
    assert_eq!(first.len(), 20);
    assert!(first.iter().all(|&token| token < VOCABULARY as u32));
    assert_eq!(run(&[3, 1], 20, sampling), first);
    assert_eq!(run(&[3, 1], 5, sampling), first[..5]);
    assert_ne!(run(&[3, 1], 20, Sampling { seed: 2, ..sampling }), first);
    assert_ne!(run(&[3, 2], 20, sampling), first);
    assert_eq!(run(&[3], 0, sampling), [0u32; 0]);

    // The most likely token, step by step.
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    let mut tokens = vec![7];
    for token in run(&[7], 12, greedy) {
        let logits = block_on(generator.logits(&tokens)).expect("logits");
        let most = logits.iter().fold(f32::MIN, |most, &logit| most.max(logit));
        assert_eq!(logits[token as usize], most);
        tokens.push(token);
    }
}

fn bad_prompts_and_settings_are_refused() {
    let Some(gpu) = support::gpu() else { return };
    let (gpt, parameters) = model(&gpu);
    let generator = block_on(Generator::new(&gpu, &parameters, &gpt)).expect("a generator");
    let fail = |prompt: &[u32], sampling: &Sampling| {
        let unexpected = |_| panic!("a token was drawn");
        block_on(generator.generate(prompt, 3, sampling, unexpected)).expect_err("an error")
    };
    let sampling = Sampling::default();
    assert!(fail(&[], &sampling).to_string().contains("at least one to go on from"));
    let error = fail(&[1, 19], &sampling);
    assert!(matches!(error, Error::TokenOutOfRange { position: 1, token: 19, bound: 19, .. }));
    let error = fail(&[1], &Sampling { temperature: -0.5, ..sampling });
    assert!(error.to_string().starts_with("temperature is -0.5"), "{error}");

    // Logits far beyond f32's range.
    parameters.write("norm.weight", &[f32::MAX; 16]).expect("written");
    let table = block_on(parameters.read("token_embedding.weight")).expect("readable");
    let table: Vec<_> = table.iter().map(|x| 100.0 * x).collect();
    parameters.write("token_embedding.weight", &table).expect("written");
    let error = fail(&[1], &sampling);
    assert!(matches!(error, Error::NonFinite { .. }), "{error}");
}
