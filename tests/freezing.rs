//! Frozen tensors: no gradient, no moments, no memory for either, not in the norm, and every bit as
//! it was, whatever trains the others. The backward pass ends where nothing below is trained.

#[macro_use]
mod support;

use std::collections::HashMap;

use evenkeel::graph::{Graph, HostData, ParameterSpec, Phase};
use evenkeel::nn::{Classifier, Gpt, GptConfig, Init, LanguageModel, MlpClassifier, QkClip};
use evenkeel::plan::{Parameters, RecordedNode};
use evenkeel::step::{Reason, TensorSettings};
use evenkeel::train::stability::{
    AdaGc, AdaptiveGradientClip, AutoClip, ClipBlockRms, ClipPerTensor, Reaction, SnapshotRing,
    SpikeGuard, ZClip,
};
use evenkeel::train::{
    Adafactor, Adam, AdamAtan2, AdamW, Batch, Checkpoint, Clip, Lion, LossScale, Model,
    ModelOutput, Muon, Norm, Predictor, Sgd, StableAdamW, Telemetry, Trainer, TrainerBuilder,
};
use evenkeel::{Error, Gpu, Precision, WeightStorage};
use support::models::Terms;
use support::{Tolerance, assert_close, block_on, tokens, values, wide};

tests! {
    a_frozen_tensor_is_not_in_the_norm, every_optimizer_leaves_frozen_bits_alone,
    every_storage_leaves_frozen_bits_alone, policies_know_trained_tensors_only,
    gradients_are_those_of_the_whole_model, the_backward_pass_ends_where_nothing_is_trained,
    half_precision_trains_what_is_left, microbatches_and_faults_leave_frozen_bits_alone,
    checkpoints_hold_frozen_tensors, given_parameters_move_with_every_bit,
    running_statistics_move_in_frozen_layers, qk_clip_leaves_frozen_projections_alone,
    telemetry_is_of_trained_tensors, frozen_tensors_are_checked_and_written,
    what_cannot_be_frozen_is_refused, dispatches_do_not_grow_with_frozen_tensors,
}

fn build<M: Model>(builder: TrainerBuilder<M>, gpu: &Gpu) -> Trainer<M> {
    block_on(builder.build(gpu)).expect("a trainer")
}

fn step<M: Model>(trainer: &mut Trainer<M>, batch: &Batch) -> Telemetry {
    block_on(trainer.step(batch)).expect("a step");
    *block_on(trainer.telemetry()).expect("telemetry").last().expect("a record")
}

fn read<M: Model>(trainer: &Trainer<M>, name: &str) -> Vec<f32> {
    block_on(trainer.parameters().read(name)).expect("a parameter")
}

/// Every bit of the frozen segments, with what the storage keeps beside the weights.
fn frozen_bits<M: Model>(trainer: &Trainer<M>) -> Vec<u8> {
    let parameters = trainer.parameters();
    let frozen = &parameters.weights()[parameters.trained_segments().len()..];
    let bits = |b: &wgpu::Buffer| block_on(trainer.gpu().read::<u8>(b, 0, b.size() as usize));
    frozen.iter().flat_map(|buffer| bits(buffer).expect("readable")).collect()
}

/// A learning-rate factor of 0, as a user would try it first.
fn no_learning_rate(spec: &ParameterSpec) -> TensorSettings {
    let learning_rate = if spec.name == "w1" { 0.0 } else { 1.0 };
    TensorSettings { weight_decay: 1.0, learning_rate }
}

/// Gradients of 0.25 for w0, norm 0.5, and of 50 for w1, norm 100; all four ways to freeze w1.
fn a_frozen_tensor_is_not_in_the_norm() {
    let Some(gpu) = support::gpu() else { return };
    let terms = Terms { tensors: vec![(vec![4], 1.0), (vec![4], 1.0)] };
    let in_model = |graph: &mut Graph| {
        let terms = Terms { tensors: vec![(vec![4], 1.0), (vec![4], 1.0)] };
        let _ = graph.frozen(|graph| graph.parameter("w1", [4], Init::ZERO));
        terms.build(graph)
    };
    let data = evenkeel::train::Batch::new()
        .with("factor0", &[1.0f32; 4][..])
        .with("target0", &[-0.5f32; 4][..])
        .with("factor1", &[1.0f32; 4][..])
        .with("target1", &[-100.0f32; 4][..]);
    fn check<M: Model>(gpu: &Gpu, data: &Batch, builder: TrainerBuilder<M>, frozen: bool) {
        let sgd = Sgd { learning_rate: 1.0, ..Sgd::default() };
        let mut trainer = build(builder.optimizer(sgd).clip(Clip::Norm(1.0)), gpu);
        for name in ["w0", "w1"] {
            trainer.parameters().write(name, &[0.0; 4]).expect("written");
        }
        let record = step(&mut trainer, data);
        // The loss is that of both terms.
        assert_eq!(record.loss, 0.25 + 1e4);
        if frozen {
            assert_eq!(record.gradient_norm, 0.5);
            assert_eq!(read(&trainer, "w0"), [-0.25; 4]);
            assert_eq!(read(&trainer, "w1"), [0.0; 4]);
        } else {
            assert!(record.gradient_norm > 100.0);
            assert!(read(&trainer, "w0")[0] > -0.003 && read(&trainer, "w1")[0] < -0.4);
        }
    }
    let builder = || Trainer::builder(terms.clone());
    check(&gpu, &data, builder(), false);
    check(&gpu, &data, builder().tensor_settings(no_learning_rate), true);
    let name = String::from("w1");
    check(&gpu, &data, builder().freeze(move |spec| spec.name == name), true);
    check(&gpu, &data, builder().freeze_named("w1"), true);
    check(&gpu, &data, Trainer::builder(in_model), true);
}

type Builder = TrainerBuilder<Terms>;
type Choice = (&'static str, fn(Builder) -> Builder);

const OPTIMIZERS: [Choice; 11] = [
    ("AdamW", |b| b.optimizer(AdamW { weight_decay: 0.5, ..AdamW::default() })),
    ("AdamW amsgrad", |b| b.optimizer(AdamW { amsgrad: true, ..AdamW::default() })),
    ("AdamW cautious", |b| {
        b.optimizer(AdamW { cautious: true, cautious_decay: true, ..AdamW::default() })
    }),
    ("Adam", |b| b.optimizer(Adam { weight_decay: 0.1, ..Adam::default() })),
    ("SGD", |b| b.optimizer(Sgd::default())),
    ("SGD momentum", |b| b.optimizer(Sgd { momentum: 0.9, weight_decay: 0.1, ..Sgd::default() })),
    ("StableAdamW", |b| b.optimizer(StableAdamW::default())),
    ("Adam-atan2", |b| b.optimizer(AdamAtan2::default())),
    ("Lion", |b| b.optimizer(Lion { weight_decay: 0.1, ..Lion::default() })),
    ("Adafactor", |b| b.optimizer(Adafactor { weight_decay: 0.1, ..Adafactor::default() })),
    ("Muon", |b| b.optimizer(Muon::default())),
];

/// Trains three tensors, w1 frozen, beside a model that has only the other two: they must be the
/// same bit by bit, and w1 what it was.
fn same_as_without(gpu: &Gpu, what: &str, with: impl Fn(Builder) -> Builder) -> u32 {
    let terms = Terms::three();
    let alone = Terms { tensors: [0, 2].map(|i| terms.tensors[i].clone()).to_vec() };
    let mut trainer = build(with(Trainer::builder(terms.clone())).freeze_named("w1"), gpu);
    let mut control = build(with(Trainer::builder(alone.clone())), gpu);
    let pairs = [("w0", "w0"), ("w2", "w1")];
    for (mine, other) in pairs {
        control.parameters().write(other, &read(&trainer, mine)).expect("written");
    }
    let before = frozen_bits(&trainer);
    assert!(before.iter().any(|&byte| byte != 0), "{what}");
    let mut events = 0;
    for seed in 0..4 {
        let mut data = terms.data(seed, 1);
        // One step of larger gradients.
        data.targets.iter_mut().flatten().for_each(|x| *x *= if seed == 3 { 9.0 } else { 1.0 });
        let record = step(&mut trainer, &data.batch());
        for list in [&mut data.factors, &mut data.targets] {
            list.remove(1);
        }
        let expected = step(&mut control, &data.batch());
        let bits = |r: &Telemetry| [r.gradient_norm, r.clip_coefficient].map(f32::to_bits);
        assert_eq!(bits(&record), bits(&expected), "{what}");
        assert_eq!((record.applied, record.event_bits), (expected.applied, expected.event_bits));
        assert_eq!((record.zero_count, record.event_tensor), (0, expected.event_tensor), "{what}");
        events |= record.event_bits;
    }
    for (mine, other) in pairs {
        assert_eq!(read(&trainer, mine), read(&control, other), "{what}: {mine}");
    }
    assert!(frozen_bits(&trainer) == before, "{what}: a frozen bit changed");
    let (report, expected) = (trainer.report(), control.report());
    let bytes = |r: &evenkeel::train::TrainerReport| {
        [r.gradient_bytes, r.moment_bytes, r.policy_bytes, r.watch_bytes]
    };
    assert_eq!(bytes(&report), bytes(&expected), "{what}");
    assert_eq!(report.update_dispatches, expected.update_dispatches, "{what}");
    let counts = [report.parameters, report.tensors, report.frozen_parameters];
    assert_eq!(counts, [15 + 7, 2, 37 * 61], "{what}");
    assert_eq!(report.frozen_tensors, 1);
    let frozen = (report.frozen_bytes, report.parameter_bytes - expected.parameter_bytes);
    assert_eq!(frozen.0, frozen.1, "{what}");
    assert_eq!(report.frozen_bytes, before.len() as u64, "{what}");
    events
}

fn every_optimizer_leaves_frozen_bits_alone() {
    let Some(gpu) = support::gpu() else { return };
    for (what, with) in OPTIMIZERS {
        same_as_without(&gpu, what, |builder| with(builder).clip(Clip::Norm(0.05)));
    }
    for norm in [Norm::ExactL2, Norm::L1, Norm::Lp(3.0), Norm::Infinity] {
        let with = |builder: Builder| builder.norm(norm).clip(Clip::Norm(0.05));
        same_as_without(&gpu, &format!("{norm:?}"), with);
    }
}

const STORAGES: [WeightStorage; 4] = [
    WeightStorage::F32,
    WeightStorage::Bf16Stochastic,
    WeightStorage::Bf16Kahan,
    WeightStorage::Bf16Split,
];

fn every_storage_leaves_frozen_bits_alone() {
    let Some(gpu) = support::gpu() else { return };
    for storage in STORAGES {
        for (what, with) in [OPTIMIZERS[0], OPTIMIZERS[5], OPTIMIZERS[9]] {
            same_as_without(&gpu, &format!("{what} in {storage}"), |builder| {
                with(builder).weights(storage).watch_tensors(2)
            });
        }
    }
}

fn policies_know_trained_tensors_only() {
    let Some(gpu) = support::gpu() else { return };
    // The loss of both models is not the same.
    let reset = || SpikeGuard {
        window: 2,
        threshold: 3.0,
        watch_loss: false,
        reactions: vec![Reaction::ResetMoments],
        ..SpikeGuard::default()
    };
    let ring = || SnapshotRing { every: 1, after: 1, ..SnapshotRing::default() };
    let events = [
        same_as_without(&gpu, "AdaGC", |b| b.policy(AdaGc { warmup: 1, ..AdaGc::default() })),
        same_as_without(&gpu, "per tensor", |b| b.policy(ClipPerTensor { max_norm: 0.01 })),
        same_as_without(&gpu, "block RMS", |b| b.policy(ClipBlockRms { threshold: 1e-3 })),
        same_as_without(&gpu, "reset", |b| b.policy(reset())),
    ];
    assert!(events.iter().all(|&events| events != 0), "{events:?}");
    same_as_without(&gpu, "AGC", |b| b.policy(AdaptiveGradientClip::default()));
    same_as_without(&gpu, "AutoClip", |b| b.policy(AutoClip::default()));
    same_as_without(&gpu, "ZClip", |b| b.policy(ZClip::default()));
    same_as_without(&gpu, "ring", |b| b.policy(ring()));
}

const SIZE: [usize; 3] = [2, 6, 8]; // batch, time, width

fn gpt(layers: usize, change: impl Fn(&mut GptConfig)) -> LanguageModel {
    let [batch, time, width] = SIZE;
    let mut config = GptConfig { tied_head: false, ..GptConfig::gpt2(13, 8, layers, 2, width) };
    change(&mut config);
    LanguageModel { gpt: Gpt::new(config).expect("valid"), batch, time }
}

fn gpt_batch(seed: u64, microbatches: usize) -> Batch {
    let ids = |seed| tokens(seed, microbatches * SIZE[0] * SIZE[1], 13);
    Batch::new().with("tokens", ids(2 * seed)).with("targets", ids(2 * seed + 1))
}

/// Larger weights than models start with, so that every gradient counts.
fn enlarge<M: Model>(trainer: &Trainer<M>) {
    for spec in trainer.parameters().specs() {
        let drawn = values(90 + u64::from(spec.stream), spec.shape.count());
        let shift =
            if spec.shape.dims.len() == 1 && spec.name.contains("norm") { 1.0 } else { 0.0 };
        let drawn: Vec<_> = drawn.iter().map(|x| shift + 0.5 * x).collect();
        trainer.parameters().write(&spec.name, &drawn).expect("written");
    }
}

/// Loss and gradients of the whole model in f64, nothing frozen.
fn reference<M: Model>(trainer: &Trainer<M>, batch: [(&str, Vec<u32>); 2]) -> (f64, Vec<Vec<f64>>) {
    let mut graph = Graph::new(Phase::Train);
    let loss = trainer.model().build(&mut graph).loss;
    for spec in graph.parameters() {
        assert!(spec.requires_grad);
    }
    graph.backward(loss, 1.0);
    let mut values: HashMap<_, _> =
        batch.map(|(name, ids)| (name.to_owned(), ids.into_iter().map(f64::from).collect())).into();
    for spec in graph.parameters() {
        values.insert(spec.name.clone(), wide(&read(trainer, &spec.name)));
    }
    let evaluation = graph.evaluate(&HostData { values, ..HostData::default() });
    (evaluation.get(loss)[0], graph.evaluated_gradients(&evaluation))
}

type Predicate = fn(&ParameterSpec) -> bool;

/// What is frozen of a GPT of three layers.
const CHOICES: [(&str, Predicate); 8] = [
    ("all but the head", |spec| spec.name != "head.weight"),
    ("the embedding and the first block", |spec| {
        spec.name.contains("embedding") || spec.name.starts_with("blocks.0.")
    }),
    ("the block in the middle", |spec| spec.name.starts_with("blocks.1.")),
    ("the last block and the head", |spec| {
        spec.name.starts_with("blocks.2.") || spec.name == "head.weight"
    }),
    ("all but the biases", |spec| !spec.name.ends_with("bias")),
    ("norms", |spec| spec.name.contains("norm")),
    ("weights of norms", |spec| spec.name.contains("norm") && spec.name.ends_with("weight")),
    ("all but the tokens", |spec| spec.name != "token_embedding.weight"),
];

/// Gradients of what is trained are those of the whole model, in f64 and bit by bit, and the norm is
/// theirs.
fn gradients_are_those_of_the_whole_model() {
    let Some(gpu) = support::gpu() else { return };
    let rounding =
        Tolerance { absolute: 2e-6, relative: 2e-4, because: "f32 through three blocks" };
    let forms: [fn(&mut GptConfig); 3] =
        [|_| (), |config| config.tied_head = true, |config| config.rms_norm = true];
    for (form, change) in forms.into_iter().enumerate() {
        let model = gpt(3, change);
        let mut whole = build(Trainer::builder(model.clone()), &gpu);
        enlarge(&whole);
        let ids = |seed| tokens(seed, SIZE[0] * SIZE[1], 13);
        let (loss, gradients) = reference(&whole, [("tokens", ids(2)), ("targets", ids(3))]);
        let names = whole.parameters().specs().iter().map(|spec| spec.name.clone());
        let expected: HashMap<_, _> = names.zip(gradients).collect();
        step(&mut whole, &gpt_batch(1, 1));
        for (what, is_frozen) in CHOICES {
            let what = format!("{what}, form {form}");
            if form > 0 && what.contains("head") {
                continue;
            }
            let mut trainer = build(Trainer::builder(model.clone()).freeze(is_frozen), &gpu);
            enlarge(&trainer);
            let record = step(&mut trainer, &gpt_batch(1, 1));
            assert_close(&what, &[record.loss], &[loss], rounding);
            let mut squares = 0.0;
            for spec in whole.parameters().specs() {
                let gradient = block_on(trainer.gradient(&spec.name)).expect("known");
                if is_frozen(spec) {
                    assert!(gradient.is_empty(), "{what}: {}", spec.name);
                    continue;
                }
                let name = format!("{what}: {}", spec.name);
                assert_close(&name, &gradient, &expected[&spec.name], rounding);
                let bits = block_on(whole.gradient(&spec.name)).expect("known");
                assert_eq!(gradient, bits, "{name}");
                squares += expected[&spec.name].iter().map(|g| g * g).sum::<f64>();
            }
            assert_close(&what, &[record.gradient_norm], &[squares.sqrt()], rounding);
        }
    }
}

/// The operations of the backward pass that are dispatched.
fn gradient_nodes<M: Model>(trainer: &Trainer<M>) -> impl Iterator<Item = &RecordedNode> {
    let dispatched = trainer.plan().nodes.iter().filter(|node| !node.first.is_empty());
    dispatched.filter(|node| node.label.contains(".gradient."))
}

fn backward<M: Model>(trainer: &Trainer<M>) -> Vec<String> {
    gradient_nodes(trainer).map(|node| node.label.clone()).collect()
}

fn backward_dispatches<M: Model>(trainer: &Trainer<M>) -> usize {
    gradient_nodes(trainer).map(|node| node.first.len()).sum()
}

fn flat_bytes<'a>(specs: impl Iterator<Item = &'a ParameterSpec>) -> u64 {
    specs.map(|spec| (16 * spec.shape.quads() as u64).next_multiple_of(512)).sum()
}

fn the_backward_pass_ends_where_nothing_is_trained() {
    let Some(gpu) = support::gpu() else { return };
    let model = gpt(3, |_| ());
    let whole = build(Trainer::builder(model.clone()), &gpu);
    let all = backward(&whole);
    for (what, is_frozen) in CHOICES {
        let trainer = build(Trainer::builder(model.clone()).freeze(is_frozen), &gpu);
        let (found, report) = (backward(&trainer), trainer.report());
        assert!(found.len() < all.len(), "{what}");
        // Which four sums are joined depends on which there are.
        let is_found = |label: &String| all.contains(label) || label.contains(".column_sum");
        assert!(found.iter().all(is_found), "{what}");
        // All that is missing is what belongs to the gradient operations that are left out.
        let missing = backward_dispatches(&whole) - backward_dispatches(&trainer);
        let dispatches = whole.report().model_dispatches - report.model_dispatches;
        assert_eq!(dispatches, missing, "{what}");
        let trained = || whole.parameters().specs().iter().filter(|spec| !is_frozen(spec));
        let staged = trainer.parameters().committed().size();
        assert_eq!(report.gradient_bytes, flat_bytes(trained()) + staged, "{what}");
        assert_eq!(report.moment_bytes, 2 * flat_bytes(trained()), "{what}");
        assert_eq!(
            report.frozen_bytes + flat_bytes(trained()),
            flat_bytes(whole.parameters().specs().iter())
        );
        assert!(trainer.parameters().trained().iter().all(|spec| !is_frozen(spec)), "{what}");
        let count = |part: &str| found.iter().filter(|label| label.contains(part)).count();
        let has = |part: &str| count(part) > 0;
        match what {
            "all but the head" => assert_eq!(
                found,
                [
                    "cross_entropy.gradient.cross_entropy_backward",
                    "head.linear.gradient.matmul_transposed_a"
                ]
            ),
            "the embedding and the first block" => {
                assert!(!has("embedding") && !has("add_positions") && !has("blocks.0."));
                // Of the two norms of the second block, nothing is trained below the first.
                assert_eq!(count("blocks.1.residual_layer_norm.gradient.layer_norm_backward"), 1);
                let partials =
                    "blocks.1.residual_layer_norm.gradient.layer_norm_parameter_partials";
                assert_eq!(count(partials), 2);
                assert_eq!(count("blocks.1.attention.qkv.linear.gradient.matmul"), 2);
            }
            "the block in the middle" => {
                let middle = found.iter().filter(|label| label.starts_with("blocks.1."));
                for label in middle.clone() {
                    let of_weights = ["matmul_transposed_a", "column_sum", "partials"];
                    assert!(!of_weights.iter().any(|part| label.contains(part)), "{label}");
                }
                // Through two norms, attention and four products, one of them through an activation.
                assert_eq!(middle.count(), 2 + 1 + 4);
                assert!(has("blocks.0.layer_norm.gradient.layer_norm_backward"));
            }
            "all but the biases" => assert!(!has("matmul_transposed_a") && !has("embedding")),
            "norms" => assert!(!has("layer_norm_parameter_partials")),
            "all but the tokens" => {
                assert!(!has("matmul_transposed_a") && !has("column_sum") && has("embedding"));
            }
            _ => (),
        }
    }
}

/// In half precision, gradients of what is trained are still those of the whole model, bit by bit.
fn half_precision_trains_what_is_left() {
    let Some(gpu) = support::gpu() else { return };
    for (precision, storage) in [
        (Precision::F16, WeightStorage::F32),
        (Precision::Bf16, WeightStorage::F32),
        (Precision::Bf16, WeightStorage::Bf16Kahan),
        (Precision::F16, WeightStorage::Bf16Split),
    ] {
        let builder = || {
            let builder = Trainer::builder(gpt(2, |_| ())).precision(precision).weights(storage);
            builder.loss_scale(LossScale::Static(64.0))
        };
        let is_frozen = |spec: &ParameterSpec| {
            spec.name.starts_with("blocks.1.") || spec.name == "position_embedding.weight"
        };
        let [mut whole, mut trainer] =
            [builder(), builder().freeze(is_frozen)].map(|builder| build(builder, &gpu));
        enlarge(&whole);
        enlarge(&trainer);
        let before = frozen_bits(&trainer);
        let [all, rest] = [&mut whole, &mut trainer].map(|t| step(t, &gpt_batch(4, 1)));
        assert_eq!(all.loss, rest.loss, "{precision} {storage}");
        assert!(rest.applied && rest.gradient_norm < all.gradient_norm);
        for spec in trainer.parameters().trained() {
            let gradients = [&whole, &trainer].map(|t| block_on(t.gradient(&spec.name)));
            let [expected, found] = gradients.map(|gradient| gradient.expect("known"));
            assert!(found == expected && found.iter().any(|&g| g != 0.0), "{}", spec.name);
        }
        for seed in 5..8 {
            assert!(step(&mut trainer, &gpt_batch(seed, 1)).applied);
        }
        assert!(frozen_bits(&trainer) == before, "{precision} {storage}");
        // Evaluation and prediction read the same weights as ever.
        let mut trainer = trainer;
        let evaluated = block_on(trainer.evaluate(&gpt_batch(4, 1))).expect("a loss");
        let build = |graph: &mut Graph| vec![trainer.model().build(graph).loss];
        let predictor = Predictor::in_precision(&gpu, trainer.parameters(), precision, build);
        let predicted = block_on(block_on(predictor).expect("made").run(&gpt_batch(4, 1)));
        assert_eq!(predicted.expect("a loss")[0], [evaluated]);
    }
}

fn microbatches_and_faults_leave_frozen_bits_alone() {
    let Some(gpu) = support::gpu() else { return };
    let terms = Terms::three();
    let build = |with: fn(Builder) -> Builder| {
        let builder = with(Trainer::builder(terms.clone())).accumulation(3);
        build(builder.policy(SnapshotRing { every: 1, after: 2, ..Default::default() }), &gpu)
    };
    let (mut trainer, mut whole) = (build(|b| b.freeze_named("w1")), build(|b| b));
    let before = frozen_bits(&trainer);
    for seed in 0..2 {
        let data = terms.data(seed, 3);
        let [found, all] = [&mut trainer, &mut whole].map(|t| step(t, &data.batch()));
        assert!(found.applied && found.gradient_norm < all.gradient_norm);
        for name in ["w0", "w2"] {
            let gradients = [&whole, &trainer].map(|t| block_on(t.gradient(name)).expect("known"));
            assert_eq!(gradients[0], gradients[1], "{name}");
            assert_eq!(read(&trainer, name), read(&whole, name), "{name}");
        }
    }
    // Twice a fault: skipped, then back to the snapshot.
    let trained = read(&trainer, "w0");
    let mut bad = terms.data(3, 3);
    bad.targets[0][14] = f32::NAN;
    assert_eq!(step(&mut trainer, &bad.batch()).reason, Reason::NonFiniteGradient);
    let record = step(&mut trainer, &bad.batch());
    assert_eq!(record.reason, Reason::RolledBack, "{record:?}");
    assert_eq!(read(&trainer, "w0"), trained);
    assert!(frozen_bits(&trainer) == before);
    // A fault in the frozen term has no gradient to be in: the loss alone is NaN.
    let mut bad = terms.data(3, 3);
    bad.targets[1][14] = f32::NAN;
    assert_eq!(step(&mut trainer, &bad.batch()).nonfinite_count, 0);
}

fn checkpoints_hold_frozen_tensors() {
    let Some(gpu) = support::gpu() else { return };
    for (precision, storage) in
        [(Precision::F16, WeightStorage::F32), (Precision::Bf16, WeightStorage::Bf16Kahan)]
    {
        let builder = || {
            let builder = Trainer::builder(gpt(2, |config| config.dropout = 0.2)).seed(3);
            let builder = builder.precision(precision).weights(storage).freeze_named("blocks.0");
            builder.policy(AdaGc::default()).clip(Clip::Norm(0.5)).freeze_named("head")
        };
        let mut trainer = build(builder(), &gpu);
        enlarge(&trainer);
        for seed in 0..3 {
            step(&mut trainer, &gpt_batch(seed, 1));
        }
        let checkpoint = block_on(trainer.checkpoint()).expect("a checkpoint");
        let file = Checkpoint::from_bytes(&checkpoint.to_bytes()).expect("readable");
        let head = checkpoint.tensor("head.weight").expect("by its name");
        assert_eq!(head, (&[13, SIZE[2]][..], read(&trainer, "head.weight")));
        let moments = |name: &str| checkpoint.tensor(&format!("evenkeel/moment/m/{name}"));
        assert!(moments("head.weight").is_none() && moments("norm.weight").is_some());
        let mut other = build(builder().seed(8), &gpu);
        block_on(other.restore(&file)).expect("it fits");
        let mut rebuilt = build(builder().seed(9), &gpu);
        block_on(rebuilt.rebuild_from(&gpu, &file)).expect("rebuilt");
        let mut bytes = [&mut trainer, &mut other, &mut rebuilt].map(|trainer| {
            for seed in 3..5 {
                step(trainer, &gpt_batch(seed, 1));
            }
            block_on(trainer.committed_bytes()).expect("bytes")
        });
        assert!(bytes[0] == bytes[1] && bytes[0] == bytes[2], "{precision} {storage}");
        assert!(bytes.iter_mut().all(|bytes| !bytes.is_empty()));
        assert_eq!(read(&rebuilt, "head.weight"), head.1);
    }
}

/// Weights that come from another run keep their bits, whichever were frozen there and are here.
fn given_parameters_move_with_every_bit() {
    let Some(gpu) = support::gpu() else { return };
    let all = |trainer: &Trainer<Classifier>| -> Vec<(String, Vec<f32>)> {
        let names: Vec<_> = trainer.parameters().names().map(str::to_owned).collect();
        let mut all: Vec<_> =
            names.into_iter().map(|name| (name.clone(), read(trainer, &name))).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    let order = |trainer: &Trainer<Classifier>| -> Vec<u32> {
        trainer.parameters().specs().iter().map(|spec| spec.stream).collect()
    };
    for storage in STORAGES {
        let builder = || Trainer::builder(classifier()).weights(storage);
        let mut first = build(builder().freeze_named("layers.0.linear"), &gpu);
        assert_eq!(order(&first), [2, 3, 4, 5, 6, 7, 8, 9, 0, 1]);
        for seed in 0..3 {
            step(&mut first, &classifier_batch(seed));
        }
        let before = all(&first);
        // As a user has them: initialised, then written to.
        let parameters = |seed| {
            let mut graph = Graph::new(Phase::Train).with_weights(storage);
            graph.frozen(|graph| classifier().build(graph));
            block_on(Parameters::new(&gpu, &graph, seed)).expect("parameters")
        };
        let given = parameters(4);
        assert_eq!((given.trained().len(), given.frozen().len()), (0, 10));
        for (name, values) in &before {
            given.write(name, values).expect("written");
        }
        let mut second = build(builder().parameters(given).freeze_named("head"), &gpu);
        assert_eq!(order(&second), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(all(&second), before, "{storage}");
        assert_eq!(second.report().frozen_tensors, 2);
        let head = read(&second, "head.weight");
        step(&mut second, &classifier_batch(5));
        assert_eq!(read(&second, "head.weight"), head, "{storage}");
        assert_ne!(all(&second), before, "{storage}");
        // Freed again: in the order of the model, and everything is trained.
        let third = build(builder().parameters(parameters(4)), &gpu);
        assert_eq!(order(&third), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(third.report().frozen_bytes, 0);
        let fresh = build(builder().seed(4), &gpu);
        assert_eq!(all(&third), all(&fresh), "{storage}");
    }
}

fn classifier() -> Classifier {
    let mlp = MlpClassifier { inputs: 5, hidden: vec![7, 6], classes: 3, batch_norm: true };
    Classifier { mlp, batch: 6 }
}

fn classifier_batch(seed: u64) -> Batch {
    let inputs = values(seed, 6 * 5);
    Batch::new().with("inputs", &inputs[..]).with("targets", &tokens(seed + 100, 6, 3)[..])
}

/// As in PyTorch: parameters are frozen, statistics go on.
fn running_statistics_move_in_frozen_layers() {
    let Some(gpu) = support::gpu() else { return };
    let mut whole = build(Trainer::builder(classifier()), &gpu);
    let mut trainer = build(Trainer::builder(classifier()).freeze_named("layers"), &gpu);
    let before = frozen_bits(&trainer);
    for name in ["layers.0.norm.running_mean", "layers.1.norm.running_var"] {
        assert!(read(&trainer, name).iter().all(|&x| x == f32::from(name.ends_with("var"))));
    }
    let batch = classifier_batch(1);
    step(&mut whole, &batch);
    let record = step(&mut trainer, &batch);
    assert!(record.applied);
    for name in ["layers.0.norm.running_mean", "layers.1.norm.running_var"] {
        assert_eq!(read(&trainer, name), read(&whole, name), "{name}");
    }
    assert_ne!(read(&trainer, "layers.0.norm.running_mean"), [0.0; 7]);
    assert!(frozen_bits(&trainer) == before);
    assert!(!backward(&trainer).iter().any(|label| label.contains("layers")));
    // A trained bias beside a frozen weight: one kernel makes both gradients.
    let of_weights = |spec: &ParameterSpec| spec.name.ends_with("weight");
    let mut trainer = build(Trainer::builder(classifier()).freeze(of_weights), &gpu);
    step(&mut trainer, &batch);
    for spec in trainer.parameters().trained() {
        let found = block_on(trainer.gradient(&spec.name)).expect("known");
        assert_eq!(found, block_on(whole.gradient(&spec.name)).expect("known"), "{}", spec.name);
    }
}

/// A clip of the projection after the update obeys, too; with a threshold that every head exceeds.
fn qk_clip_leaves_frozen_projections_alone() {
    let Some(gpu) = support::gpu() else { return };
    let clip = QkClip { threshold: 1e-6, alpha: 0.5 };
    let model = gpt(2, |config| config.qk_clip = Some(clip));
    let name = |layer, part| format!("blocks.{layer}.attention.qkv.{part}");
    for part in ["weight", "bias"] {
        let frozen = name(0, part);
        let mut trainer = build(Trainer::builder(model.clone()).freeze_named(&*frozen), &gpu);
        enlarge(&trainer);
        let before = [0, 1].map(|layer| read(&trainer, &name(layer, "weight")));
        step(&mut trainer, &gpt_batch(1, 1));
        let after = [0, 1].map(|layer| read(&trainer, &name(layer, "weight")));
        let rows = SIZE[2] * SIZE[2];
        let largest = |values: &[f32]| values[..rows].iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(largest(&after[1]) < 0.1 * largest(&before[1]), "the other layer is clipped");
        assert!(largest(&after[0]) > 0.9 * largest(&before[0]), "{frozen}");
        assert_eq!(after[0] == before[0], part == "weight");
    }
}

fn telemetry_is_of_trained_tensors() {
    let Some(gpu) = support::gpu() else { return };
    let builder = Trainer::builder(gpt(2, |_| ())).watch_tensors(1).freeze_named("blocks.0");
    let mut trainer = build(builder, &gpu);
    enlarge(&trainer);
    let before = read(&trainer, "norm.weight");
    let record = step(&mut trainer, &gpt_batch(1, 1));
    let found = block_on(trainer.tensor_telemetry()).expect("telemetry");
    let names: Vec<_> = found.iter().map(|tensor| &tensor.name).collect();
    let trained = trainer.parameters().trained();
    assert_eq!(names, trained.iter().map(|spec| &spec.name).collect::<Vec<_>>());
    assert!(names.iter().all(|name| !name.starts_with("blocks.0")) && names.len() == 17);
    let norm = found.iter().map(|t| t.gradient_norm * t.gradient_norm).sum::<f64>().sqrt();
    let rounding = Tolerance { absolute: 0.0, relative: 1e-5, because: "f32 sums" };
    assert_close("norm", &[record.gradient_norm], &[norm], rounding);
    for tensor in &found {
        let gradient = block_on(trainer.gradient(&tensor.name)).expect("known");
        let zeros = gradient.iter().filter(|&&g| g == 0.0).count();
        assert_eq!(tensor.zero_count as usize, zeros, "{}", tensor.name);
    }
    let zeros: u32 = found.iter().map(|tensor| tensor.zero_count).sum();
    assert_eq!(record.zero_count, zeros);
    let after = read(&trainer, "norm.weight");
    let squares = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
    let moved = before.iter().zip(&after).map(squares).sum::<f64>() / before.len() as f64;
    let mine = found.iter().find(|tensor| tensor.name == "norm.weight").expect("trained");
    assert_close("update", &[mine.update_rms as f32], &[moved.sqrt()], rounding);
    assert_eq!(trainer.report().watch_bytes, flat_bytes(trained.iter()));
    assert_eq!(block_on(trainer.tensor_states()).expect("states").len(), 17);
}

fn frozen_tensors_are_checked_and_written() {
    let Some(gpu) = support::gpu() else { return };
    for storage in STORAGES {
        for bad in [f32::NAN, f32::INFINITY] {
            let model = move |graph: &mut Graph| {
                let start = Init::Constant(bad);
                let _ = graph.frozen(|graph| graph.parameter("other", [700], start));
                Terms::three().build(graph)
            };
            let built = block_on(Trainer::builder(model).weights(storage).build(&gpu));
            let error = built.err().expect("not finite").to_string();
            assert!(error.contains("other"), "{storage}: {error}");
        }
        // What is written between steps counts from the next one on, in half precision too.
        let builder = || Trainer::builder(gpt(1, |_| ())).precision(Precision::Bf16);
        let builder = || builder().weights(storage).freeze_named("token_embedding.weight");
        let [mut late, mut early] = [builder(), builder()].map(|builder| build(builder, &gpu));
        let idle = block_on(late.evaluate(&gpt_batch(1, 1))).expect("a loss");
        let table = values(5, 13 * SIZE[2]);
        early.parameters().write("token_embedding.weight", &table).expect("written");
        let start = step(&mut late, &gpt_batch(1, 1)).loss;
        assert!((start - idle).abs() < 1e-3, "{storage}");
        let checkpoint = block_on(early.checkpoint()).expect("a checkpoint");
        block_on(late.restore(&checkpoint)).expect("restored");
        let [found, expected] = [&mut late, &mut early].map(|t| step(t, &gpt_batch(1, 1)).loss);
        assert_eq!(found, expected, "{storage}");
        assert_ne!(found, start, "{storage}");
    }
}

fn what_cannot_be_frozen_is_refused() {
    let Some(gpu) = support::gpu() else { return };
    fn error<M: Model>(gpu: &Gpu, builder: TrainerBuilder<M>) -> Error {
        block_on(builder.build(gpu)).err().expect("refused")
    }
    let builder = || Trainer::builder(gpt(2, |_| ()));
    for name in ["blocks.2", "blocks.", "block", "head.weigh", "", "blocks.0.attention.qkv.weigh"] {
        match error(&gpu, builder().freeze_named("head").freeze_named(name)) {
            Error::UnknownName { name: found, known, .. } => {
                assert_eq!(found, name);
                assert!(known.contains("blocks.1.attention.qkv.weight"), "{known}");
            }
            other => panic!("{name:?}: {other}"),
        }
    }
    let everything: [TrainerBuilder<LanguageModel>; 3] = [
        builder().freeze(|_| true),
        builder().tensor_settings(|_| TensorSettings { weight_decay: 1.0, learning_rate: 0.0 }),
        ["token_embedding", "position_embedding", "blocks", "norm", "head"]
            .into_iter()
            .fold(builder(), TrainerBuilder::freeze_named),
    ];
    for builder in everything {
        let message = error(&gpu, builder).to_string();
        assert!(message.contains("trained tensors") && message.contains("29 of 29"), "{message}");
    }
    // What is left has nothing to do with the loss.
    let aside = |graph: &mut Graph| {
        let _ = graph.parameter("aside", [3], Init::ZERO);
        graph.frozen(|graph| Terms::three().build(graph))
    };
    assert!(matches!(error(&gpu, Trainer::builder(aside)), Error::Setting { .. }));
    for bad in [f32::NAN, f32::INFINITY] {
        let settings =
            move |_: &ParameterSpec| TensorSettings { weight_decay: 1.0, learning_rate: bad };
        let message = error(&gpu, builder().tensor_settings(settings)).to_string();
        assert!(message.contains("token_embedding.weight"), "{message}");
    }
    // A predicate that chooses nothing freezes nothing.
    let trainer = build(builder().freeze(|spec| spec.name == "blocks.9"), &gpu);
    assert_eq!(trainer.report().frozen_tensors, 0);
    // Tied weights are one tensor: frozen in one place is frozen in the other.
    let tied = gpt(1, |config| config.tied_head = true);
    let in_part = move |graph: &mut Graph| -> ModelOutput {
        let output = tied.build(graph);
        graph.frozen(|graph| {
            graph.scope("token_embedding", |g| g.parameter("weight", [13, SIZE[2]], Init::ZERO))
        });
        output
    };
    let trainer = build(Trainer::builder(in_part), &gpu);
    assert_eq!(trainer.parameters().frozen()[0].name, "token_embedding.weight");
    let heads = ["embedding", "head.linear.gradient.matmul_transposed_a"];
    assert!(!backward(&trainer).iter().any(|label| heads.iter().any(|h| label.starts_with(h))));
}

fn dispatches_do_not_grow_with_frozen_tensors() {
    let Some(gpu) = support::gpu() else { return };
    let found = [(2, 1), (60, 1), (60, 40), (60, 59)].map(|(tensors, frozen)| {
        let model = Terms::many(tensors);
        let is_frozen = move |spec: &ParameterSpec| (spec.stream as usize) < frozen;
        let trainer = build(Trainer::builder(model).freeze(is_frozen), &gpu);
        assert_eq!(trainer.report().tensors, tensors - frozen);
        trainer.report().update_dispatches
    });
    // Scan, norm, verdict, optimizer, telemetry.
    assert_eq!(found, [5; 4]);
}

/// Trained and frozen tensors that fill several segments each.
#[test]
fn segments_are_of_trained_or_of_frozen_tensors() {
    let Some(gpu) = support::gpu_with_bindings(64 << 10) else { return };
    // 25 KiB each: two in a segment.
    let model = |count| Terms { tensors: vec![(vec![100, 64], 1.0); count] };
    let frozen = [1, 3, 4];
    for storage in [WeightStorage::F32, WeightStorage::Bf16Split] {
        let builder = |count| {
            let builder = Trainer::builder(model(count)).weights(storage).clip(Clip::Norm(0.01));
            builder.telemetry_capacity(16).policy(AdaGc { warmup: 1, ..AdaGc::default() })
        };
        let is_frozen = move |spec: &ParameterSpec| frozen.contains(&spec.stream);
        let mut trainer = build(builder(7).freeze(is_frozen), &gpu);
        let parameters = trainer.parameters();
        let segments = [parameters.trained_segments().len(), parameters.segments().len()];
        assert_eq!((segments, parameters.weights().len()), ([2, 4], 4));
        let mut control = build(builder(4), &gpu);
        let pairs = ["w0", "w2", "w5", "w6"].into_iter().zip(["w0", "w1", "w2", "w3"]);
        for (mine, other) in pairs.clone() {
            control.parameters().write(other, &read(&trainer, mine)).expect("written");
        }
        let before = frozen_bits(&trainer);
        for seed in 0..3 {
            let mut data = model(7).data(seed, 1);
            let record = step(&mut trainer, &data.batch());
            for list in [&mut data.factors, &mut data.targets] {
                frozen.iter().rev().for_each(|&index| drop(list.remove(index as usize)));
            }
            let expected = step(&mut control, &data.batch());
            assert_eq!(record.gradient_norm, expected.gradient_norm, "{storage}");
        }
        for (mine, other) in pairs {
            assert_eq!(read(&trainer, mine), read(&control, other), "{storage}: {mine}");
        }
        assert!(frozen_bits(&trainer) == before, "{storage}");
        assert_eq!(trainer.report().moment_bytes, control.report().moment_bytes);
    }
}
