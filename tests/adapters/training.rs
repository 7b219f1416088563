//! What a training does to adapters and to what stands beside them.

use std::collections::HashMap;

use evenkeel::Precision;
use evenkeel::graph::{Graph, HostData, Phase, Value};
use evenkeel::nn::lora::is_adapter;
use evenkeel::nn::{GptConfig, LanguageModel, Lora};
use evenkeel::plan::Parameters;
use evenkeel::train::{AdamW, Batch, Checkpoint, Clip, LossScale, Model, Trainer};

use super::models::*;
use super::support::{self, Tolerance, assert_close, block_on, tokens, wide};

pub fn a_model_begins_as_its_base() {
    let Some(gpu) = support::gpu() else { return };
    let batch = batch(1);
    for (what, config) in all() {
        let [base, adapted] =
            [without(&config), config.clone()].map(|config| parameters(&gpu, &config, 3));
        let expected = logits(&gpu, &base, &without(&config), &batch);
        let found = logits(&gpu, &adapted, &config, &batch);
        assert_eq!(bits(&found), bits(&expected), "{what}");
        // Not because nothing counts.
        let b = adapted.names().find(|name| name.ends_with("lora_B")).expect("adapted");
        let count = read(&adapted, b).len();
        adapted.write(b, &vec![0.5; count]).expect("written");
        if what.contains("embedding") || what.contains("tied") {
            let a = read(&adapted, "token_embedding.lora_A").len();
            adapted.write("token_embedding.lora_A", &vec![0.5; a]).expect("written");
        }
        assert_ne!(bits(&logits(&gpu, &adapted, &config, &batch)), bits(&expected), "{what}");
    }
}

/// The graph of a training with what it computes in f64.
struct Exact {
    graph: Graph,
    loss: Value,
    data: HostData,
}

impl Exact {
    fn new(config: &GptConfig, parameters: &Parameters, seed: u64) -> Self {
        let mut graph = Graph::new(Phase::Train);
        let loss = model(config).build(&mut graph).loss;
        graph.backward(loss, 1.0);
        let ids = |seed| tokens(seed, BATCH * TIME, VOCABULARY as u32);
        let inputs = [("tokens", ids(2 * seed)), ("targets", ids(2 * seed + 1))];
        let mut values: HashMap<_, _> = inputs
            .map(|(name, ids)| (name.to_owned(), ids.into_iter().map(f64::from).collect()))
            .into();
        for spec in graph.parameters() {
            values.insert(spec.name.clone(), wide(&read(parameters, &spec.name)));
        }
        let data = HostData { values, ..HostData::default() };
        Self { graph, loss, data }
    }

    fn loss(&self, data: &HostData) -> f64 {
        self.graph.evaluate(data).get(self.loss)[0]
    }

    /// Gradients of trained tensors by name.
    fn gradients(&self) -> Vec<(String, Vec<f64>)> {
        let gradients = self.graph.evaluated_gradients(&self.graph.evaluate(&self.data));
        let all = self.graph.parameters().iter().zip(gradients);
        all.filter(|(spec, _)| spec.requires_grad).map(|(s, g)| (s.name.clone(), g)).collect()
    }
}

/// All, without dropout and with it: the reference draws the same masks.
fn with_dropout() -> impl Iterator<Item = (&'static str, GptConfig, f32)> {
    all().into_iter().flat_map(|(what, config)| {
        [0.0, 0.4].map(|dropout| {
            let lora = config.lora.clone().map(|lora| Lora { dropout, ..lora });
            (what, GptConfig { lora, ..config.clone() }, dropout)
        })
    })
}

fn trainer(gpu: &evenkeel::Gpu, config: &GptConfig) -> Trainer<LanguageModel> {
    build(Trainer::builder(model(config)).clip(Clip::Norm(1.0)), gpu)
}

pub fn gradients_are_those_of_the_graph_in_f64() {
    let Some(gpu) = support::gpu() else { return };
    for (what, config, dropout) in with_dropout() {
        let what = &format!("{what}, dropout {dropout}");
        let mut trainer = trainer(&gpu, &config);
        enlarge(trainer.parameters());
        let exact = Exact::new(&config, trainer.parameters(), 1);
        let expected = exact.gradients();
        let record = step(&mut trainer, &batch(1));
        let rounding = |largest: f64| Tolerance {
            absolute: 2e-6 + 2e-5 * largest,
            relative: 0.0,
            because: "f32 through two blocks, relative to the tensor's largest",
        };
        let loss = exact.loss(&exact.data);
        assert_close(what, &[record.loss], &[loss], rounding(loss));
        assert_eq!(expected.len(), trainer.parameters().trained().len(), "{what}");
        let mut squares = 0.0;
        for (name, expected) in &expected {
            assert!(is_adapter(name), "{what}: {name}");
            let found = block_on(trainer.gradient(name)).expect("a gradient");
            let largest = expected.iter().fold(0f64, |largest, g| largest.max(g.abs()));
            assert!(largest > 1e-6, "{what}: {name} has a gradient");
            assert_close(&format!("{what}: {name}"), &found, expected, rounding(largest));
            squares += expected.iter().map(|g| g * g).sum::<f64>();
        }
        let norm = squares.sqrt();
        assert_close(what, &[record.gradient_norm], &[norm], rounding(norm));
    }
}

/// Of DoRA those of magnitudes: what they are divided by counts as a constant.
pub fn gradients_are_finite_differences() {
    let Some(gpu) = support::gpu() else { return };
    for (what, config) in all() {
        let parameters = parameters(&gpu, &config, 1);
        enlarge(&parameters);
        let exact = Exact::new(&config, &parameters, 1);
        let has_magnitudes = config.lora.as_ref().is_some_and(|lora| lora.dora);
        let gradients = exact.gradients();
        let checked =
            gradients.iter().filter(|(name, _)| !has_magnitudes || name.ends_with("magnitude"));
        let mut count = 0;
        for (name, gradient) in checked.filter(|(name, _)| !name.starts_with("blocks.0")) {
            let largest = (0..gradient.len())
                .max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs()))
                .expect("not empty");
            for index in [largest, gradient.len() / 2] {
                let mut data = exact.data.clone();
                let mut at = |moved: f64| {
                    data.values.get_mut(name).expect("a leaf")[index] += moved;
                    exact.loss(&data)
                };
                let step = 1e-5;
                let above = at(step);
                let numeric = (above - at(-2.0 * step)) / (2.0 * step);
                let error = (numeric - gradient[index]).abs();
                assert!(error < 1e-7, "{what}: {name}[{index}]: {numeric}, {}", gradient[index]);
            }
            count += 1;
        }
        assert!(count > 1, "{what}");
    }
}

pub fn the_base_keeps_its_bits_and_costs_nothing() {
    let Some(gpu) = support::gpu() else { return };
    for (what, config) in all() {
        let optimizer = AdamW { learning_rate: 0.05, weight_decay: 0.1, ..AdamW::default() };
        let builder = Trainer::builder(model(&config)).optimizer(optimizer);
        let mut trainer = build(builder, &gpu);
        let all_bits = |trainer: &Trainer<LanguageModel>| -> Vec<(String, Vec<u32>)> {
            let parameters = trainer.parameters();
            let names =
                parameters.names().map(|name| (name.to_owned(), bits(&read(parameters, name))));
            names.collect()
        };
        let before = all_bits(&trainer);
        for seed in 0..3 {
            assert!(step(&mut trainer, &batch(seed)).applied, "{what}");
        }
        for ((name, before), (_, after)) in before.iter().zip(all_bits(&trainer)) {
            assert_eq!(*before == after, !is_adapter(name), "{what}: {name}");
        }
        let base = build(Trainer::builder(model(&without(&config))), &gpu).report();
        let report = trainer.report();
        let own: usize = before.iter().filter(|(n, _)| is_adapter(n)).map(|(_, v)| v.len()).sum();
        assert_eq!([report.parameters, report.frozen_parameters], [own, base.parameters], "{what}");
        let states = trainer.parameters().committed().size();
        assert_eq!(report.frozen_bytes + states, base.parameter_bytes, "{what}");
        let trained = trainer.parameters().trained().iter();
        let bytes = |quads: usize| (16 * quads as u64).next_multiple_of(512);
        let flat: u64 = trained.map(|spec| bytes(spec.shape.quads())).sum();
        assert_eq!(report.gradient_bytes, flat + states, "{what}");
        assert_eq!(report.moment_bytes, 2 * flat, "{what}");
        let products = trainer.plan().nodes.iter().filter(|node| !node.first.is_empty());
        let of_base = products.filter(|node| node.label.ends_with("gradient.matmul_transposed_a"));
        // Only the A of an adapter is a linear layer's trained weight.
        let count = before.iter().filter(|(n, _)| n.ends_with("lora_A")).count()
            - usize::from(before.iter().any(|(n, _)| n == "token_embedding.lora_A"));
        assert_eq!(of_base.count(), count, "{what}");
    }
}

pub fn dropout_is_in_training_alone() {
    let Some(gpu) = support::gpu() else { return };
    for (what, config) in all() {
        let lora = config.lora.clone().expect("adapted");
        let with =
            |dropout| GptConfig { lora: Some(Lora { dropout, ..lora.clone() }), ..config.clone() };
        let [mut dropped, mut whole] = [0.5, 0.0].map(|dropout| {
            let trainer = trainer(&gpu, &with(dropout));
            enlarge(trainer.parameters());
            trainer
        });
        let [found, expected] =
            [&mut dropped, &mut whole].map(|t| block_on(t.evaluate(&batch(2))).expect("a loss"));
        assert_eq!(found.to_bits(), expected.to_bits(), "{what}");
        let [found, expected] = [&mut dropped, &mut whole].map(|t| step(t, &batch(2)).loss);
        assert_ne!(found, expected, "{what}");
        assert!((found - expected).abs() < 3.0, "{what}: {found} and {expected}");
    }
}

pub fn a_run_goes_on_from_a_checkpoint() {
    let Some(gpu) = support::gpu() else { return };
    for (what, config) in all() {
        let lora = config.lora.clone().map(|lora| Lora { dropout: 0.3, ..lora });
        let config = GptConfig { lora, ..config };
        let builder = |seed| Trainer::builder(model(&config)).seed(seed).clip(Clip::Norm(0.5));
        let mut trainer = build(builder(3), &gpu);
        for seed in 0..2 {
            step(&mut trainer, &batch(seed));
        }
        let checkpoint = block_on(trainer.checkpoint()).expect("a checkpoint");
        let file = Checkpoint::from_bytes(&checkpoint.to_bytes()).expect("readable");
        let mut other = build(builder(8), &gpu);
        block_on(other.restore(&file)).expect("it fits");
        let [expected, found] = [&mut trainer, &mut other].map(|trainer| {
            for seed in 2..4 {
                step(trainer, &batch(seed));
            }
            block_on(trainer.committed_bytes()).expect("bytes")
        });
        assert!(expected == found, "{what}");
        // Another scale is another model.
        let lora = config.lora.clone().map(|lora| Lora { alpha: 2.0 * lora.alpha, ..lora });
        let scaled = GptConfig { lora, ..config.clone() };
        let mut scaled = build(Trainer::builder(model(&scaled)), &gpu);
        let error = block_on(scaled.restore(&file)).expect_err("another model").to_string();
        assert!(error.contains("lora scale"), "{what}: {error}");
    }
}

pub fn half_precision_starts_at_a_low_loss_scale() {
    let Some(gpu) = support::gpu() else { return };
    for (what, config) in all() {
        let scale = |config: &GptConfig| {
            let builder = Trainer::builder(model(config)).precision(Precision::F16);
            let mut trainer = build(builder, &gpu);
            let record = step(&mut trainer, &batch(1));
            assert!(record.loss.is_finite(), "{what}");
            (record.loss_scale, record.applied)
        };
        assert_eq!(scale(&config), (1024.0, true), "{what}");
        assert_eq!(scale(&without(&config)).0, 65_536.0, "{what}");
        // What is said counts.
        let builder = Trainer::builder(model(&config)).precision(Precision::F16);
        let mut trainer = build(builder.loss_scale(LossScale::Static(8.0)), &gpu);
        enlarge(trainer.parameters());
        let exact = Exact::new(&config, trainer.parameters(), 1).gradients();
        let record = step(&mut trainer, &batch(1));
        assert_eq!((record.loss_scale, record.applied), (8.0, true), "{what}");
        let norm = exact.iter().flat_map(|(_, g)| g).map(|g| g * g).sum::<f64>().sqrt();
        let rounding = Tolerance {
            absolute: 0.0,
            relative: 0.03,
            because: "activations and their gradients in f16",
        };
        assert_close(what, &[record.gradient_norm], &[norm], rounding);
    }
}

pub fn magnitudes_start_as_the_norms_of_what_was_loaded() {
    let Some(gpu) = support::gpu() else { return };
    let (_, config) = all().into_iter().find(|(what, _)| *what == "magnitudes").expect("there");
    let check = |parameters: &Parameters| {
        let lora = config.lora.clone().expect("adapted");
        for module in lora.modules(&config) {
            let weight = read(parameters, &module.weight);
            let rows = &weight[module.rows.start * module.inputs..module.rows.end * module.inputs];
            let square = |row: &[f32]| row.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>();
            let norms: Vec<_> = rows.chunks(module.inputs).map(|row| square(row).sqrt()).collect();
            let found = read(parameters, &module.magnitude.expect("of DoRA"));
            let rounding = Tolerance { absolute: 0.0, relative: 1e-6, because: "an f32 sum" };
            assert_close(&module.name, &found, &norms, rounding);
        }
    };
    let mut trainer = trainer(&gpu, &config);
    check(trainer.parameters());
    // A source that has weights, and nothing of the adapter.
    struct Weights;
    impl evenkeel::plan::parameters::WeightSource for Weights {
        fn check(&mut self, _: &Parameters) -> evenkeel::Result<()> {
            Ok(())
        }

        fn provides(&self, name: &str) -> bool {
            name.ends_with("weight")
        }

        fn rows(&mut self, name: &str, rows: std::ops::Range<usize>) -> evenkeel::Result<Vec<f32>> {
            let cols = if name.contains("norm") {
                1
            } else if name.contains("down") {
                20
            } else {
                32
            };
            Ok(support::values(rows.start as u64 + 7, rows.len() * cols))
        }
    }
    let before = read(trainer.parameters(), "blocks.0.attention.projection.lora_magnitude");
    let a = read(trainer.parameters(), "blocks.0.attention.projection.lora_A");
    block_on(trainer.load_weights(&mut Weights)).expect("loaded");
    check(trainer.parameters());
    let name = "blocks.0.attention.projection.lora_magnitude";
    assert_ne!(read(trainer.parameters(), name), before);
    assert_eq!(read(trainer.parameters(), "blocks.0.attention.projection.lora_A"), a);
    let batch: Batch = batch(1);
    let base = parameters(&gpu, &without(&config), 1);
    for name in base.names() {
        base.write(name, &read(trainer.parameters(), name)).expect("written");
    }
    let expected = logits(&gpu, &base, &without(&config), &batch);
    assert_eq!(bits(&logits(&gpu, trainer.parameters(), &config, &batch)), bits(&expected));
}
