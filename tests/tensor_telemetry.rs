//! What a trainer measures of each tensor, against the same numbers computed from what can be read:
//! gradients, and weights before and after each step.

#[macro_use]
mod support;

use evenkeel::nn::{Classifier, MlpClassifier};
use evenkeel::train::{
    AdamW, Batch, Clip, LossScale, Model, Sgd, TensorTelemetry, Trainer, TrainerBuilder,
    group_norms,
};
use evenkeel::watch::Record;
use evenkeel::{Gpu, Precision};
use support::models::{Terms, small_gpt, small_gpt_batch};
use support::{Tolerance, assert_close, block_on, tokens, values};

tests! {
    every_third_step_is_measured, accumulation_and_half_precision_are_measured,
    skipped_frozen_and_clipped, watching_changes_nothing, shares_below_eps_are_told,
    groups_have_norms_of_their_own,
}

const ROUNDING: Tolerance = Tolerance {
    absolute: 1e-12,
    relative: 1e-5,
    because: "f32 sums of squares, and changes of weights that are differences of f32",
};

fn build<M: Model>(gpu: &Gpu, builder: TrainerBuilder<M>) -> Trainer<M> {
    block_on(builder.build(gpu)).expect("a trainer")
}

fn weights<M: Model>(trainer: &Trainer<M>) -> Vec<Vec<f32>> {
    let specs = trainer.parameters().specs().iter();
    specs.map(|spec| block_on(trainer.parameters().read(&spec.name)).expect("a weight")).collect()
}

/// Root of the mean square.
fn rms(values: &[f64]) -> f64 {
    (values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64).sqrt()
}

/// Makes a step and computes what should be known of it.
fn step<M: Model>(trainer: &mut Trainer<M>, batch: &Batch, scale: f64) -> Vec<TensorTelemetry> {
    let (number, before) = (trainer.steps(), weights(trainer));
    block_on(trainer.step(batch)).expect("a step");
    let names: Vec<_> = trainer.parameters().specs().iter().map(|s| s.name.clone()).collect();
    let after = weights(trainer);
    let mut expected = Vec::new();
    for ((name, before), after) in names.into_iter().zip(before).zip(after) {
        let gradient: Vec<f64> = block_on(trainer.gradient(&name))
            .expect("a gradient")
            .iter()
            .map(|&g| f64::from(g) / scale)
            .collect();
        let finite: Vec<_> = gradient.iter().copied().filter(|g| g.is_finite()).collect();
        let change: Vec<_> = after.iter().zip(&before).map(|(a, b)| f64::from(a - b)).collect();
        let after: Vec<_> = after.iter().map(|&w| f64::from(w)).collect();
        let largest = |values: &[f64]| values.iter().fold(0f64, |most, x| most.max(x.abs()));
        let frozen = gradient.iter().zip(&change).filter(|&(&g, &d)| g != 0.0 && d == 0.0).count();
        expected.push(TensorTelemetry {
            step: number,
            name,
            gradient_norm: rms(&finite) * (finite.len() as f64).sqrt(),
            largest_gradient: largest(&finite),
            nonfinite_count: (gradient.len() - finite.len()) as u32,
            zero_count: gradient.iter().filter(|&&g| g == 0.0).count() as u32,
            weight_rms: rms(&after),
            largest_weight: largest(&after),
            update_rms: rms(&change),
            update_to_weight: rms(&change) / rms(&after).max(1e-300),
            frozen_share: frozen as f64 / gradient.len() as f64,
            clipped_share: 0.0,
            eps_share: None,
        });
    }
    expected
}

#[track_caller]
fn assert_same(found: &[TensorTelemetry], expected: &[TensorTelemetry]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let TensorTelemetry { step, name, .. } = expected;
        let what = format!("{name} in step {step}");
        let numbers = |t: &TensorTelemetry| {
            [t.gradient_norm, t.largest_gradient, t.weight_rms, t.largest_weight, t.update_rms]
        };
        let single: Vec<_> = numbers(found).iter().map(|&x| x as f32).collect();
        assert_close(&what, &single, &numbers(expected), ROUNDING);
        let ratio = found.update_to_weight as f32;
        assert_close(&what, &[ratio], &[expected.update_to_weight], ROUNDING);
        let counts =
            |t: &TensorTelemetry| (t.step, t.name.clone(), t.nonfinite_count, t.zero_count);
        assert_eq!(counts(found), counts(expected));
        assert_eq!(found.frozen_share, expected.frozen_share, "{what}");
    }
}

fn every_third_step_is_measured() {
    let Some(gpu) = support::gpu() else { return };
    let builder = Trainer::builder(small_gpt(0.1, 2)).loss_scale(LossScale::Static(64.0));
    let mut trainer = build(&gpu, builder.watch_tensors(3).clip(Clip::Norm(0.1)));
    let flat: u64 = trainer.parameters().weights().iter().map(|weights| weights.size()).sum();
    assert_eq!(trainer.report().watch_bytes, flat);
    let mut expected = Vec::new();
    for seed in 0..8 {
        let measured = step(&mut trainer, &small_gpt_batch(seed, 2), 64.0);
        if seed % 3 == 0 {
            expected.extend(measured);
        }
    }
    let found = block_on(trainer.tensor_telemetry()).expect("telemetry");
    assert_same(&found, &expected);
    assert!(block_on(trainer.tensor_telemetry()).expect("nothing new").is_empty());
    let measured = step(&mut trainer, &small_gpt_batch(8, 2), 64.0);
    assert!(block_on(trainer.tensor_telemetry()).expect("not watched").is_empty());
    drop(measured);
    let ninth = step(&mut trainer, &small_gpt_batch(9, 2), 64.0);
    assert_same(&block_on(trainer.tensor_telemetry()).expect("telemetry"), &ninth);

    let mut record = Record::new(9);
    found.iter().take(2).for_each(|tensor| record.add_tensor_telemetry(tensor));
    assert_eq!(record.tensors("update_to_weight").count(), 2);
}

fn accumulation_and_half_precision_are_measured() {
    let Some(gpu) = support::gpu() else { return };
    let mlp = MlpClassifier { inputs: 5, hidden: vec![7], classes: 3, batch_norm: true };
    let builder = Trainer::builder(Classifier { mlp, batch: 6 }).precision(Precision::Bf16);
    let mut trainer = build(&gpu, builder.accumulation(2).watch_tensors(1));
    let batch =
        Batch::new().with("inputs", &values(3, 60)[..]).with("targets", &tokens(4, 12, 3)[..]);
    let expected = step(&mut trainer, &batch, 1.0);
    assert_same(&block_on(trainer.tensor_telemetry()).expect("telemetry"), &expected);
}

/// A skipped step has an update of 0 and counts what was not finite; a learning rate far too small
/// leaves weights frozen; a clip by value shows its share.
fn skipped_frozen_and_clipped() {
    let Some(gpu) = support::gpu() else { return };
    let model = Terms::three();
    let data = model.data(1, 1);
    let mut bad = data.clone();
    bad.targets[1][5] = f32::NAN;
    let mut trainer = build(&gpu, Trainer::builder(model.clone()).watch_tensors(1));
    let expected = step(&mut trainer, &bad.batch(), 1.0);
    let found = block_on(trainer.tensor_telemetry()).expect("telemetry");
    assert_same(&found, &expected);
    let counts: Vec<_> = found.iter().map(|t| (t.nonfinite_count, t.update_rms)).collect();
    assert_eq!(counts, [(0, 0.0), (1, 0.0), (0, 0.0)]);

    let slow = AdamW { learning_rate: 1e-12, ..AdamW::default() };
    let builder = Trainer::builder(model.clone()).optimizer(slow).watch_tensors(1);
    let mut trainer = build(&gpu, builder);
    step(&mut trainer, &data.batch(), 1.0);
    let found = block_on(trainer.tensor_telemetry()).expect("telemetry");
    assert!(found.iter().all(|t| t.frozen_share > 0.99), "{found:?}");

    let sgd = Sgd { momentum: 0.0, ..Sgd::default() };
    let builder = Trainer::builder(model).optimizer(sgd).clip(Clip::Value(1e-4));
    let mut trainer = build(&gpu, builder.watch_tensors(1));
    step(&mut trainer, &data.batch(), 1.0);
    for tensor in block_on(trainer.tensor_telemetry()).expect("telemetry") {
        let gradient = block_on(trainer.gradient(&tensor.name)).expect("a gradient");
        let cut = gradient.iter().filter(|g| g.abs() > 1e-4).count() as f64;
        assert_eq!(tensor.clipped_share, cut / gradient.len() as f64, "{}", tensor.name);
        assert!(cut > 0.0);
    }
}

/// Watching changes no bit of the run.
fn watching_changes_nothing() {
    let Some(gpu) = support::gpu() else { return };
    let run = |every| {
        let builder = Trainer::builder(small_gpt(0.1, 2)).watch_tensors(every);
        let mut trainer = build(&gpu, builder);
        for seed in 0..5 {
            block_on(trainer.step(&small_gpt_batch(seed, 2))).expect("a step");
        }
        block_on(trainer.committed_bytes()).expect("bytes")
    };
    assert!(run(0) == run(2));
}

/// With an eps above all roots of second moments its share is 1, and a record warns; with one below
/// it is 0; SGD has none.
fn shares_below_eps_are_told() {
    let Some(gpu) = support::gpu() else { return };
    let batch = Terms::three().data(1, 1).batch();
    let shares = |builder: TrainerBuilder<Terms>| {
        let mut trainer = build(&gpu, builder.watch_tensors(1));
        block_on(trainer.step(&batch)).expect("a step");
        block_on(trainer.tensor_telemetry()).expect("telemetry")
    };
    let with_eps = |eps| {
        let optimizer = AdamW { eps, ..AdamW::default() };
        shares(Trainer::builder(Terms::three()).optimizer(optimizer))
    };
    let large = with_eps(1e3);
    assert!(large.iter().all(|t| t.eps_share == Some(1.0) && t.eps_warning().is_some()));
    let mut record = Record::new(0);
    record.add_tensor_telemetry(&large[0]);
    assert!(record.events[0].contains("eps holds back 100 % of w0"), "{:?}", record.events);
    let small = with_eps(1e-12);
    assert!(small.iter().all(|t| t.eps_share == Some(0.0) && t.eps_warning().is_none()));
    let sgd = shares(Trainer::builder(Terms::three()).optimizer(Sgd::default()));
    assert!(sgd.iter().all(|t| t.eps_share.is_none()));
}

/// Norms of groups are those of their gradients together, and of all together the global one.
fn groups_have_norms_of_their_own() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, Trainer::builder(small_gpt(0.0, 2)).watch_tensors(1));
    block_on(trainer.step(&small_gpt_batch(1, 2))).expect("a step");
    let tensors = block_on(trainer.tensor_telemetry()).expect("telemetry");
    let kind = |name: &str| if name.starts_with("blocks.") { "blocks" } else { "rest" };
    let norms = group_norms(&tensors, |name| kind(name));
    let mut squares = [0.0; 2];
    for spec in trainer.parameters().specs() {
        let gradient = block_on(trainer.gradient(&spec.name)).expect("a gradient");
        let sum: f64 = gradient.iter().map(|&g| f64::from(g).powi(2)).sum();
        squares[usize::from(kind(&spec.name) == "rest")] += sum;
    }
    let found = [norms["blocks"] as f32, norms["rest"] as f32];
    assert_close("groups", &found, &squares.map(f64::sqrt), ROUNDING);
    let all = group_norms(&tensors, |_| "all")["all"];
    let record = block_on(trainer.telemetry()).expect("telemetry")[0];
    assert_close("all", &[record.gradient_norm], &[all], ROUNDING);
}
