//! Generation with a cache of keys and values against passes over the whole context: the same logits
//! for every kind of model, however a text is cut, whatever texts are beside it.

#[macro_use]
mod support;

use evenkeel::graph::ops::{AttentionLayout, AttentionSettings};
use evenkeel::graph::{Graph, HostData, Phase, Shape};
use evenkeel::kernels::Activation;
use evenkeel::nn::{
    FeedForwardKind, Generator, GeneratorSettings, Gpt, GptConfig, Init, LayerKind, Lora,
    Positions, QkNorm, Rotary, RotaryScaling, Sampling, Targets,
};
use evenkeel::plan::Parameters;
use evenkeel::reference::generation as reference;
use evenkeel::train::{Batch, Predictor};
use evenkeel::{Error, Gpu, Precision};
use support::recorded::Recorded;
use support::{Tolerance, assert_close, block_on, tokens, values, wide};

tests! {
    every_kind_of_model_goes_on_as_it_begins, blocks_change_no_bit, neighbours_change_no_bit,
    caches_of_halves, models_in_halves, tokens_are_those_that_the_host_draws,
    a_text_longer_than_the_context_slides, finished_texts_rest_and_go_on,
    texts_that_were_set_aside_go_on,
    a_token_costs_one_small_read, penalties_know_the_whole_text, weights_are_those_of_the_moment,
    operations_are_what_they_evaluate_to, mistakes_are_named,
}

const VOCABULARY: usize = 37;
const CONTEXT: usize = 40;
const LENGTH: usize = 30;

fn llama() -> GptConfig {
    GptConfig { hidden: 20, ..GptConfig::llama(VOCABULARY, CONTEXT, 2, [4, 2], 32) }
}

fn gemma() -> GptConfig {
    GptConfig {
        layers: 3,
        width: 24,
        head_dim: Some(8),
        tied_head: true,
        window: Some(6),
        layer_kinds: LayerKind::every(2, 3),
        norm_weight_offset: 1.0,
        post_norms: true,
        feed_forward: FeedForwardKind::GeGlu,
        embedding_scale: Some(24f32.sqrt()),
        attention_scale: Some(0.3),
        ..llama()
    }
}

fn models() -> Vec<(&'static str, GptConfig)> {
    let linear = RotaryScaling::Linear { factor: 8.0 };
    let lora = Lora::new(4, 8.0, Targets::AllLinear);
    vec![
        ("gpt2", GptConfig::gpt2(VOCABULARY, CONTEXT, 2, 2, 16)),
        ("llama", llama()),
        ("mistral", GptConfig { window: Some(5), ..llama() }),
        ("a window of one", GptConfig { window: Some(1), ..llama() }),
        ("qwen2", GptConfig { qkv_bias: true, tied_head: true, ..llama() }),
        ("qwen3", GptConfig { head_dim: Some(16), qk_norm: Some(QkNorm::Rms), ..llama() }),
        ("gemma2", GptConfig { soft_cap: Some(5.0), logit_soft_cap: Some(3.0), ..gemma() }),
        (
            "gemma3",
            GptConfig {
                positions: Positions::Rotary(Rotary { base: 1e6, scaling: linear }),
                window_rotary: Some(Rotary::new(1e4)),
                qk_norm: Some(QkNorm::Rms),
                ..gemma()
            },
        ),
        (
            "heads of 256",
            GptConfig { head_dim: Some(256), heads: 2, kv_heads: 1, layers: 1, ..llama() },
        ),
        ("adapters", GptConfig { lora: Some(lora), ..llama() }),
        ("recomputation", GptConfig { recompute: true, ..llama() }),
    ]
}

/// A model whose attention and positions matter.
fn make(gpu: &Gpu, config: &GptConfig) -> (Gpt, Parameters) {
    let gpt = Gpt::new(config.clone()).expect("valid");
    let mut graph = Graph::new(Phase::Evaluate);
    let ids = graph.tokens("tokens", [1, LENGTH], VOCABULARY);
    gpt.logits(&mut graph, ids);
    let parameters = block_on(Parameters::new(gpu, &graph, 3)).expect("parameters");
    for (seed, spec) in (100u64..).zip(parameters.specs()) {
        let scaled = values(seed, spec.shape.count()).into_iter().map(|x| 0.4 * x);
        parameters.write(&spec.name, &scaled.collect::<Vec<_>>()).expect("written");
    }
    (gpt, parameters)
}

fn generator(gpu: &Gpu, model: &(Gpt, Parameters), settings: GeneratorSettings) -> Generator {
    let made = Generator::with_settings(gpu, &model.1, &model.0, &settings);
    block_on(made).unwrap_or_else(|error| panic!("{error}"))
}

/// The logits behind each of the tokens, of one pass over all.
fn whole(
    gpu: &Gpu,
    (gpt, parameters): &(Gpt, Parameters),
    precision: Precision,
    ids: &[u32],
) -> Vec<Vec<f64>> {
    let build = |graph: &mut Graph| {
        let ids = graph.tokens("tokens", [1, ids.len()], VOCABULARY);
        vec![gpt.logits(graph, ids)]
    };
    let predictor = block_on(Predictor::in_precision(gpu, parameters, precision, build));
    let batch = Batch::new().with("tokens", ids);
    let logits = block_on(predictor.expect("a predictor").run(&batch)).expect("logits");
    logits[0].chunks(VOCABULARY).map(wide).collect()
}

/// The logits behind each token from the last of the prompt on, of a cache that gets them one by one.
fn step_by_step(generator: &Generator, ids: &[u32], prompt: usize) -> Vec<Vec<f32>> {
    let prompts = [(&ids[..prompt], Sampling::default())];
    let mut generation = block_on(generator.start(&prompts)).expect("a generation");
    let mut all = Vec::new();
    for next in prompt..=ids.len() {
        all.extend(block_on(generation.logits()).expect("logits"));
        if next < ids.len() {
            generation.append(0, &[ids[next]]).expect("a token");
        }
    }
    all
}

const ORDER: Tolerance = Tolerance {
    absolute: 2e-5,
    relative: 2e-5,
    because: "attention adds up in another order, in f32, in each of the layers",
};

fn every_kind_of_model_goes_on_as_it_begins() {
    let Some(gpu) = support::gpu() else { return };
    goes_on_as_it_begins(&gpu);
    if gpu.is_software() {
        goes_on_as_it_begins(&support::gpu_with_hardware_kernels().expect("the same adapter"));
    }
}

fn goes_on_as_it_begins(gpu: &Gpu) {
    let ids = tokens(4, LENGTH, VOCABULARY as u32);
    for (name, config) in models() {
        let model = make(gpu, &config);
        let expected = whole(gpu, &model, Precision::F32, &ids);
        let settings = GeneratorSettings { block: 8, ..GeneratorSettings::default() };
        let generator = generator(gpu, &model, settings);
        let found = step_by_step(&generator, &ids, 1);
        assert_eq!(found.len(), LENGTH);
        for (position, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_close(&format!("{name}, {position}"), found, expected, ORDER);
        }
        // Blocks of 8, whole ones and others.
        for prompt in [2, 7, 8, 9, 16, 17, LENGTH] {
            let found = block_on(generator.logits(&ids[..prompt])).expect("logits");
            let what = format!("{name}, a prompt of {prompt}");
            assert_close(&what, &found, &expected[prompt - 1], ORDER);
        }
        let differs =
            |row: &Vec<f64>| row.iter().zip(&expected[0]).any(|(a, b)| (a - b).abs() > 0.05);
        assert!(expected.iter().any(differs), "{name}: all alike");
    }
}

/// The same bits on a CPU; on a GPU products of few rows add up in another order.
#[track_caller]
fn assert_same(gpu: &Gpu, what: &str, found: &[f32], expected: &[f32]) {
    if gpu.is_software() {
        assert_eq!(found, expected, "{what}");
    } else {
        assert_close(what, found, &wide(expected), ORDER);
    }
}

fn blocks_change_no_bit() {
    let Some(gpu) = support::gpu() else { return };
    let model = make(&gpu, &models()[7].1);
    let ids = tokens(4, LENGTH, VOCABULARY as u32);
    let of_block = |block, prompt| {
        let settings = GeneratorSettings { block, ..GeneratorSettings::default() };
        step_by_step(&generator(&gpu, &model, settings), &ids, prompt).pop().expect("logits")
    };
    let expected = of_block(64, LENGTH);
    for (block, prompt) in [(1, LENGTH), (3, LENGTH), (15, LENGTH), (29, LENGTH), (8, 1), (8, 13)] {
        let what = format!("blocks of {block}, a prompt of {prompt}");
        assert_same(&gpu, &what, &of_block(block, prompt), &expected);
    }
}

/// Prompts of different lengths, together and one by one: the same logits, and the same tokens, each
/// with a sampling of its own.
fn neighbours_change_no_bit() {
    let Some(gpu) = support::gpu() else { return };
    for index in [0, 2, 7] {
        let model = make(&gpu, &models()[index].1);
        let ids = tokens(5, 60, VOCABULARY as u32);
        let prompts = [&ids[..1], &ids[10..27], &ids[30..38], &ids[40..49]];
        let sampling =
            |seed| Sampling { seed, top_p: 0.9, repetition_penalty: 1.2, ..Sampling::default() };
        let run = |sequences, prompts: &[(&[u32], Sampling)]| {
            let settings =
                GeneratorSettings { block: 8, sequences, ..GeneratorSettings::default() };
            let generator = generator(&gpu, &model, settings);
            let mut generation = block_on(generator.start(prompts)).expect("a generation");
            let logits = block_on(generation.logits()).expect("logits");
            for _ in 0..8 {
                block_on(generation.next()).expect("tokens");
            }
            let last = block_on(generation.logits()).expect("logits");
            (0..prompts.len())
                .map(|text| {
                    (logits[text].clone(), last[text].clone(), generation.text(text).to_vec())
                })
                .collect::<Vec<_>>()
        };
        let all: Vec<_> =
            (0u32..).zip(prompts).map(|(seed, prompt)| (prompt, sampling(seed))).collect();
        let together = run(5, &all);
        for (text, together) in all.iter().zip(&together) {
            let alone = run(1, std::slice::from_ref(text));
            assert_eq!(together.2.len(), text.0.len() + 8);
            let what = format!("model {index}, a prompt of {}", text.0.len());
            assert_same(&gpu, &what, &together.0, &alone[0].0);
            assert_same(&gpu, &what, &together.1, &alone[0].1);
            assert_eq!(together.2, alone[0].2, "{what}");
        }
    }
}

fn caches_of_halves() {
    let Some(gpu) = support::gpu() else { return };
    let ids = tokens(4, LENGTH, VOCABULARY as u32);
    for index in [0, 1, 6] {
        let model = make(&gpu, &models()[index].1);
        let expected = whole(&gpu, &model, Precision::F32, &ids);
        let largest = expected.iter().flatten().fold(0.0f64, |most, x| most.max(x.abs()));
        for (cache, unit) in [(Precision::F16, 2f64.powi(-11)), (Precision::Bf16, 2f64.powi(-8))] {
            let settings =
                GeneratorSettings { block: 8, cache: Some(cache), ..GeneratorSettings::default() };
            let generator = generator(&gpu, &model, settings);
            let because = "queries, keys, values and what attention gives are rounded to halves";
            let tolerance = Tolerance { absolute: 4.0 * unit * largest, relative: 0.0, because };
            let mut largest_error = 0.0f64;
            for (found, expected) in step_by_step(&generator, &ids, 5).iter().zip(&expected[4..]) {
                assert_close(&format!("{index} in {cache}"), found, expected, tolerance);
                let errors = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs());
                largest_error = errors.fold(largest_error, f64::max);
            }
            assert!(largest_error > 0.05 * unit, "{index} in {cache}: {largest_error}, no halves");
        }
    }
}

/// Values in halves: as the whole context in halves, whose own rounding the difference is measured by.
fn models_in_halves() {
    let Some(gpu) = support::gpu() else { return };
    let ids = tokens(4, LENGTH, VOCABULARY as u32);
    let model = make(&gpu, &models()[1].1);
    let exact = whole(&gpu, &model, Precision::F32, &ids);
    for precision in [Precision::F16, Precision::Bf16] {
        let halves = whole(&gpu, &model, precision, &ids);
        let off = exact.iter().flatten().zip(halves.iter().flatten());
        let off = off.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let settings = GeneratorSettings { block: 8, precision, ..GeneratorSettings::default() };
        let generator = generator(&gpu, &model, settings);
        let because = "what halves round off, by another order twice";
        let tolerance = Tolerance { absolute: 2.0 * off, relative: 0.0, because };
        for (found, exact) in step_by_step(&generator, &ids, 5).iter().zip(&exact[4..]) {
            assert_close(&format!("{precision}"), found, exact, tolerance);
        }
    }
}

fn tokens_are_those_that_the_host_draws() {
    let Some(gpu) = support::gpu() else { return };
    let model = make(&gpu, &models()[1].1);
    let generator = generator(&gpu, &model, GeneratorSettings::default());
    let plain = Sampling { seed: 3, ..Sampling::default() };
    for sampling in [
        Sampling::greedy(),
        plain,
        Sampling { temperature: 0.6, ..plain },
        Sampling { top_k: Some(3), ..plain },
        Sampling { top_p: 0.8, ..plain },
        Sampling { min_p: 0.3, ..plain },
        Sampling { repetition_penalty: 1.8, ..plain },
        Sampling { temperature: 1e-60, ..plain },
        Sampling {
            temperature: 0.8,
            top_k: Some(20),
            top_p: 0.9,
            min_p: 0.05,
            repetition_penalty: 1.1,
            seed: 9,
        },
    ] {
        let mut generation = block_on(generator.start(&[(&[3, 1], sampling)])).expect("a start");
        for index in 0..12 {
            let logits = block_on(generation.logits()).expect("logits").swap_remove(0);
            let expected =
                sampling.draw_after(generation.text(0), &logits, index).expect("a token");
            let drawn = block_on(generation.next()).expect("a token");
            assert_eq!(drawn, [Some(expected)], "{sampling:?}, token {index}");
        }
    }
}

/// Beyond its context a text goes on with its last tokens, beside one that does not.
fn a_text_longer_than_the_context_slides() {
    let Some(gpu) = support::gpu() else { return };
    for index in [0, 1] {
        let model = make(&gpu, &models()[index].1);
        let (context, settings) = (12, GeneratorSettings::default());
        let settings =
            GeneratorSettings { block: 8, sequences: 2, context: Some(context), ..settings };
        let generator = generator(&gpu, &model, settings);
        let ids = tokens(6, 20, VOCABULARY as u32);
        let prompts = [(&ids[..9], Sampling::greedy()), (&ids[..3], Sampling::greedy())];
        let mut generation = block_on(generator.start(&prompts)).expect("a generation");
        for step in 0..8 {
            let found = block_on(generation.logits()).expect("logits");
            for (text, found) in found.iter().enumerate() {
                let all = generation.text(text);
                let seen = &all[all.len().saturating_sub(context)..];
                let expected = whole(&gpu, &model, Precision::F32, seen).pop().expect("a row");
                assert_close(&format!("step {step}, text {text}"), found, &expected, ORDER);
            }
            block_on(generation.next()).expect("tokens");
        }
        drop(generation);
        // A prompt that is longer from the start.
        let found = block_on(generator.logits(&ids)).expect("logits");
        let expected = whole(&gpu, &model, Precision::F32, &ids[8..]).pop().expect("a row");
        assert_close("a long prompt", &found, &expected, ORDER);
    }
}

fn finished_texts_rest_and_go_on() {
    let Some(gpu) = support::gpu() else { return };
    let model = make(&gpu, &models()[1].1);
    let settings = GeneratorSettings { sequences: 3, ..GeneratorSettings::default() };
    let batched = generator(&gpu, &model, settings);
    let prompts = [(&[1, 2, 3][..], Sampling::greedy()), (&[4, 5], Sampling::greedy())];
    let mut generation = block_on(batched.start(&prompts)).expect("a generation");
    block_on(generation.next()).expect("tokens");
    generation.finish(0);
    for _ in 0..3 {
        assert!(matches!(block_on(generation.next()).expect("tokens")[..], [None, Some(_)]));
    }
    assert_eq!(generation.text(0).len(), 4);
    generation.finish(1);
    assert_eq!(block_on(generation.next()).expect("no tokens"), [None, None]);
    // The next part of a conversation, read in one go.
    generation.append(0, &[9, 8, 7, 6]).expect("tokens");
    let logits = block_on(generation.logits()).expect("logits");
    assert!(logits[1].is_empty());
    let text = generation.text(0).to_vec();
    let expected = whole(&gpu, &model, Precision::F32, &text).pop().expect("a row");
    assert_close("appended", &logits[0], &expected, ORDER);
    let error = generation.append(0, &[VOCABULARY as u32]).expect_err("no such token");
    assert!(matches!(error, Error::TokenOutOfRange { .. }), "{error}");
    let speed = generation.speed();
    assert_eq!([speed.prompt_tokens, speed.tokens], [3 + 2 + 5, 3]);
    assert!(speed.tokens_per_second() > 0.0 && speed.prompt_tokens_per_second() > 0.0);
    drop(generation);
    // What was in the cache is no part of the next text.
    let single = generator(&gpu, &model, GeneratorSettings::default());
    let [found, expected] =
        [&batched, &single].map(|generator| block_on(generator.logits(&[9, 9])).expect("logits"));
    assert_eq!(found, expected);
}

fn texts_that_were_set_aside_go_on() {
    let Some(gpu) = support::gpu() else { return };
    let model = make(&gpu, &models()[1].1);
    let generator = generator(&gpu, &model, GeneratorSettings::default());
    let sampling = Sampling { repetition_penalty: 1.3, seed: 4, ..Sampling::default() };
    let prompt = [(&[1, 2, 3][..], sampling)];
    let mut unbroken = block_on(generator.start(&prompt)).expect("a generation");
    let expected: Vec<_> =
        (0..12).map(|_| block_on(unbroken.next()).expect("a token")[0]).collect();
    drop(unbroken);

    let mut paused = block_on(generator.start(&prompt)).expect("a generation").pause();
    let mut found = Vec::new();
    let mut reads = Vec::new();
    for round in 0..4 {
        let mut generation = block_on(generator.resume(paused)).expect("a generation");
        found.extend((0..3).map(|_| block_on(generation.next()).expect("a token")[0]));
        reads.push(generation.speed().prompt_tokens);
        paused = generation.pause();
        if round == 1 {
            // Another text takes the cache, and what is seen.
            block_on(generator.generate(&[9, 8, 7, 6], 5, &sampling, |_| {})).expect("a text");
        }
    }
    assert_eq!(found, expected);
    // The prompt once, and once more with what was written until then.
    assert_eq!(reads, [3, 3, 3 + 3 + 6, 3 + 3 + 6]);

    let small = GptConfig { vocabulary: 7, ..llama() };
    let small = Gpt::new(small).expect("valid");
    let mut graph = Graph::new(Phase::Evaluate);
    let ids = graph.tokens("tokens", [1, 1], 7);
    small.logits(&mut graph, ids);
    let parameters = block_on(Parameters::new(&gpu, &graph, 3)).expect("parameters");
    let other = block_on(Generator::new(&gpu, &parameters, &small)).expect("a generator");
    let error = block_on(other.resume(paused)).expect_err("another vocabulary");
    assert!(matches!(error, Error::TokenOutOfRange { .. }), "{error}");
}

fn a_token_costs_one_small_read() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    let model = make(&gpu, &models()[1].1);
    let generator = generator(&gpu, &model, GeneratorSettings::default());
    let prompt = [(&[1, 2, 3][..], Sampling { top_p: 0.9, ..Sampling::default() })];
    let mut generation = block_on(generator.start(&prompt)).expect("a generation");
    for _ in 0..3 {
        block_on(generation.next()).expect("a token");
    }
    let before = gpu.counters();
    for _ in 0..4 {
        block_on(generation.next()).expect("a token");
    }
    let after = gpu.counters();
    // The pass, and the copy of what was drawn.
    assert_eq!(after.submits - before.submits, 4 * 2);
}

fn penalties_know_the_whole_text() {
    let Some(gpu) = support::gpu() else { return };
    let model = make(&gpu, &models()[1].1);
    let generator = generator(&gpu, &model, GeneratorSettings::default());
    let penalty = 1.6;
    let sampling = Sampling { repetition_penalty: penalty, ..Sampling::greedy() };
    let mut generation = block_on(generator.start(&[(&[5, 0, 36], sampling)])).expect("a start");
    let mut changed = 0;
    for _ in 0..20 {
        let logits = block_on(generation.logits()).expect("logits").swap_remove(0);
        // As `RepetitionPenaltyLogitsProcessor` of transformers.
        let score = |token: usize| {
            let (score, text) = (f64::from(logits[token]), generation.text(0));
            match text.contains(&(token as u32)) {
                true if score < 0.0 => score * penalty,
                true => score / penalty,
                false => score,
            }
        };
        let first = |best, token| if score(token) > score(best) { token } else { best };
        let expected = (0..VOCABULARY).fold(0, first);
        let most = |best, token| if logits[token] > logits[best] { token } else { best };
        changed += usize::from(expected != (0..VOCABULARY).fold(0, most));
        assert_eq!(block_on(generation.next()).expect("a token"), [Some(expected as u32)]);
    }
    assert!(changed > 0, "no token is another for the penalty");
}

/// A generator shares the parameters: what is written later is what later texts are made with, where
/// they are computed with as they are and where they are copied.
fn weights_are_those_of_the_moment() {
    let Some(gpu) = support::gpu() else { return };
    let model = make(&gpu, &models()[1].1);
    for precision in [Precision::F32, Precision::Bf16] {
        let settings = GeneratorSettings { precision, ..GeneratorSettings::default() };
        let generator = generator(&gpu, &model, settings);
        let run = || block_on(generator.logits(&[1, 2, 3])).expect("logits");
        let before = run();
        assert_eq!(run(), before);
        let weight = block_on(model.1.read("head.weight")).expect("a weight");
        let doubled: Vec<_> = weight.iter().map(|x| 2.0 * x).collect();
        model.1.write("head.weight", &doubled).expect("written");
        let expected: Vec<_> = before.iter().map(|x| 2.0 * x).collect();
        assert_eq!(run(), expected, "{precision}");
        // And a single token's plan.
        let token = block_on(generator.logits(&[1])).expect("logits");
        model.1.write("head.weight", &weight).expect("written");
        let halved = block_on(generator.logits(&[1])).expect("logits");
        assert_eq!(token, halved.iter().map(|x| 2.0 * x).collect::<Vec<_>>(), "{precision}");
    }
}

/// The operations in a graph of their own, with padding, against their evaluation in f64.
fn operations_are_what_they_evaluate_to() {
    let Some(gpu) = support::gpu() else { return };
    let mut graph = Graph::new(Phase::Evaluate);
    let positions = graph.tokens("positions", [1, 6], 9);
    let qkv = graph.input("qkv", Shape::real([1, 6, 64]));
    let cache = ["keys", "values"].map(|name| graph.input(name, Shape::real([2, 2, 9, 8])));
    let turns = graph.rotary_rows(positions, 9, &[1.0, 0.3, 0.1, 0.03]);
    let turned = graph.rotary_by_row(qkv, 6, turns);
    let layout = AttentionLayout { heads: 4, kv_heads: 2, head_dim: 8 };
    let settings = AttentionSettings { scale: None, soft_cap: Some(2.0), window: Some(4) };
    let mixed = graph.attention_cached([turned, positions], cache, layout, settings);
    let weight = graph.parameter("weight", [21, 32], Init::ZERO);
    let logits = graph.linear(mixed, weight, None, Activation::None);
    let words = graph.tokens("settings", [6, 8], usize::MAX);
    let seen = graph.tokens("seen", [6, 1], usize::MAX);
    let sampled = graph.sample(logits, words, seen);

    let mut data = HostData::default();
    let mut set = |name: &str, values: Vec<f64>| data.values.insert(name.into(), values);
    set("positions", [0, 3, 4, 8, u32::MAX, 5].map(f64::from).to_vec());
    set("qkv", wide(&values(1, 6 * 64)));
    set("keys", wide(&values(2, 2 * 2 * 9 * 8)));
    set("values", wide(&values(3, 2 * 2 * 9 * 8)));
    set("weight", wide(&values(4, 21 * 32)));
    set("seen", [0u32, 0x1f_ffff, 0b1011, 1, 2, 0x10_0001].map(f64::from).to_vec());
    let sampling = |index: u32| reference::Sampling {
        temperature: f64::from(index % 3),
        top_k: 4,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.5,
        seed: 1,
        index,
    };
    set("settings", (0..6).flat_map(|row| sampling(row).words()).map(f64::from).collect());

    let evaluation = graph.evaluate(&data);
    let recorded = Recorded::new(&gpu, &graph, &data, &[turned, mixed, sampled]);
    recorded.run(&recorded.plan.first);
    assert_close("rotated", &recorded.output(0), evaluation.get(turned), ORDER);
    assert_close("attention", &recorded.output(1), evaluation.get(mixed), ORDER);
    let drawn: Vec<u32> =
        block_on(gpu.read(&recorded.plan.outputs[2].buffer, 0, 24)).expect("readable");
    let drawn: Vec<_> = drawn.into_iter().map(f64::from).collect();
    assert_eq!(drawn, evaluation.get(sampled));
    // Padding is zero, the first of whose tokens is drawn if any.
    assert_eq!(recorded.output(1)[4 * 32..5 * 32], [0.0; 32]);
}

fn mistakes_are_named() {
    let Some(gpu) = support::gpu() else { return };
    let model = make(&gpu, &models()[1].1);
    let settings = GeneratorSettings::default();
    for (settings, message) in [
        (GeneratorSettings { sequences: 0, ..settings }, "sequences is 0"),
        (GeneratorSettings { block: 0, ..settings }, "block is 0"),
        (GeneratorSettings { context: Some(0), ..settings }, "context is 0"),
        (GeneratorSettings { context: Some(41), ..settings }, "context is 41"),
    ] {
        let made = Generator::with_settings(&gpu, &model.1, &model.0, &settings);
        let error = block_on(made).expect_err(message).to_string();
        assert!(error.contains(message), "{error}");
    }
    let generator = generator(&gpu, &model, settings);
    let prompt = (&[1u32][..], Sampling::default());
    let fail = |prompts: &[(&[u32], Sampling)]| {
        block_on(generator.start(prompts)).expect_err("an error").to_string()
    };
    assert!(fail(&[prompt, prompt]).contains("there are 2 for the 1 sequences"));
    let plain = Sampling::default();
    for (sampling, message) in [
        (Sampling { temperature: f64::NAN, ..plain }, "temperature is NaN"),
        (Sampling { top_k: Some(0), ..plain }, "top_k is 0"),
        (Sampling { top_p: 0.0, ..plain }, "top_p is 0"),
        (Sampling { top_p: 1.5, ..plain }, "top_p is 1.5"),
        (Sampling { min_p: -0.1, ..plain }, "min_p is -0.1"),
        (Sampling { min_p: f64::NAN, ..plain }, "min_p is NaN"),
        (Sampling { repetition_penalty: 0.0, ..plain }, "repetition_penalty is 0"),
        (Sampling { repetition_penalty: f64::INFINITY, ..plain }, "repetition_penalty is inf"),
    ] {
        let error = fail(&[(&[1], sampling)]);
        assert!(error.contains(message), "{error}");
    }
    // A logit that is not finite is an error wherever it is, and draws nothing.
    let mut weight = block_on(model.1.read("head.weight")).expect("a weight");
    weight[9 * 32..10 * 32].fill(3e38);
    model.1.write("head.weight", &weight).expect("written");
    for sampling in [plain, Sampling::greedy(), Sampling { top_k: Some(2), ..plain }] {
        let mut generation = block_on(generator.start(&[(&[1], sampling)])).expect("a start");
        let error = block_on(generation.next()).expect_err("an error");
        assert!(matches!(error, Error::NonFinite { index: 9, .. }), "{error}");
        assert_eq!(generation.text(0), [1]);
    }
}
