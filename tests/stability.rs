//! Faults in the middle of training: a step whose gradients are not finite changes nothing, and
//! what comes after it is what would have come without it. Gradients of any finite size are
//! measured and clipped right.

#[macro_use]
mod support;

use evenkeel::nn::{Classifier, MlpClassifier};
use evenkeel::step::{Reason, StepState};
use evenkeel::train::{
    Adam, AdamW, Batch, Clip, DynamicLossScale, LossScale, Model, Norm, Sgd, Telemetry, Trainer,
    TrainerBuilder,
};
use evenkeel::{Error, Gpu};
use support::models::{Terms, TermsData};
use support::{Tolerance, assert_close, block_on, tokens, values, wide};

tests! {
    a_bad_step_changes_nothing, a_bad_first_step_changes_nothing,
    one_bad_microbatch_spoils_the_step_and_no_other, opposite_infinities_are_seen,
    running_statistics_survive_a_bad_batch,
    running_statistics_survive_a_bad_batch_with_hardware_kernels, the_host_can_stop_at_a_bad_step,
    finite_gradients_of_any_size_are_clipped_right, a_clipped_update_is_the_clipped_gradient,
    every_norm_measures_and_clips, a_dynamic_loss_scale_in_training,
    training_gives_up_with_a_report,
}

const CLIPS: [Clip; 4] =
    [Clip::None, Clip::Norm(0.01), Clip::InfinityNorm(0.001), Clip::Value(0.0001)];

/// Values of a target, and the gradients they make: 2 (w - target) / count.
const FAULTS: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

/// The three optimizers, each with decay.
fn with_optimizer<M: Model>(builder: TrainerBuilder<M>, index: usize) -> TrainerBuilder<M> {
    match index {
        0 => builder.optimizer(AdamW { weight_decay: 0.1, ..AdamW::default() }),
        1 => builder.optimizer(Adam { weight_decay: 0.1, ..Adam::default() }),
        _ => builder.optimizer(Sgd { weight_decay: 0.1, ..Sgd::default() }),
    }
}

/// Optimizers, as indices, times clip policies.
fn combinations() -> impl Iterator<Item = (usize, Clip)> {
    (0..3).flat_map(|optimizer| CLIPS.map(|clip| (optimizer, clip)))
}

fn build<M: Model>(gpu: &Gpu, builder: TrainerBuilder<M>) -> Trainer<M> {
    block_on(builder.build(gpu)).expect("a trainer")
}

fn step<M: Model>(trainer: &mut Trainer<M>, batch: &Batch) {
    block_on(trainer.step(batch)).expect("a step");
}

fn telemetry<M: Model>(trainer: &mut Trainer<M>) -> Vec<Telemetry> {
    block_on(trainer.telemetry()).expect("telemetry")
}

/// Everything that steps commit.
fn committed<M: Model>(trainer: &Trainer<M>) -> (Vec<u8>, StepState) {
    let bytes = block_on(trainer.committed_bytes()).expect("committed bytes");
    (bytes, block_on(trainer.state()).expect("a state"))
}

/// The counters of the state that only an applied step may change.
fn clocks(state: &StepState) -> [u32; 3] {
    [state.applied_total, state.growth_count, state.loss_scale.to_bits()]
}

/// Makes a bad step, asserts that it changed nothing and was reported.
fn assert_skipped<M: Model>(trainer: &mut Trainer<M>, batch: &Batch, what: &str) -> Telemetry {
    telemetry(trainer);
    let (bytes, state) = committed(trainer);
    step(trainer, batch);
    let (bytes_after, after) = committed(trainer);
    assert!(bytes == bytes_after, "{what}: a committed byte changed");
    assert_eq!(clocks(&state), clocks(&after), "{what}");
    assert_eq!(after.skipped_total, state.skipped_total + 1, "{what}");
    assert_eq!(after.skipped_in_row, state.skipped_in_row + 1, "{what}");
    assert_eq!(after.learning_rate, state.learning_rate, "{what}");
    let records = telemetry(trainer);
    let [record] = records[..] else { panic!("{what}: {} records", records.len()) };
    assert!(!record.applied, "{what}");
    assert_eq!(record.reason, Reason::NonFiniteGradient, "{what}");
    assert!(record.nonfinite_count > 0, "{what}");
    assert!(!record.gradient_norm.is_finite(), "{what}: norm {}", record.gradient_norm);
    assert_eq!(record.skipped_total, after.skipped_total, "{what}");
    record
}

/// Asserts that a run which skipped steps is where one is that never saw them.
fn assert_same<M: Model>(trainer: &Trainer<M>, control: &Trainer<M>, what: &str) {
    let ((bytes, state), (control_bytes, control_state)) = (committed(trainer), committed(control));
    assert!(bytes == control_bytes, "{what}: the run differs from one without the bad steps");
    let expected = StepState { skipped_total: state.skipped_total, ..control_state };
    assert_eq!(state, expected, "{what}");
    assert_eq!(control_state.skipped_total, 0, "{what}");
}

/// (tensor, element) of the first, a middle and the last element of the three tensors.
const PLACES: [(usize, usize); 5] = [(0, 0), (1, 0), (1, 1100), (1, 37 * 61 - 1), (2, 6)];

fn with_target(data: &TermsData, (tensor, element): (usize, usize), value: f32) -> Batch {
    let mut data = data.clone();
    data.targets[tensor][element] = value;
    data.batch()
}

fn a_bad_step_changes_nothing() {
    let Some(gpu) = support::gpu() else { return };
    for (optimizer, clip) in combinations() {
        let make = || {
            let builder = Trainer::builder(Terms::three()).clip(clip).seed(2);
            build(&gpu, with_optimizer(builder, optimizer))
        };
        let (mut trainer, mut control) = (make(), make());
        let good: Vec<_> = (0..4).map(|seed| trainer.model().data(seed, 1)).collect();
        step(&mut trainer, &good[0].batch());
        for fault in FAULTS {
            for place in PLACES {
                let what = format!("optimizer {optimizer}, {clip:?}, {fault} at {place:?}");
                let batch = with_target(&good[1], place, fault);
                let record = assert_skipped(&mut trainer, &batch, &what);
                assert_eq!(record.nonfinite_count, 1, "{what}");
                assert_eq!(record.zero_count, 0, "{what}");
            }
            step(&mut trainer, &good[1].batch());
        }
        step(&mut trainer, &good[2].batch());
        for data in [&good[0], &good[1], &good[1], &good[1], &good[2]] {
            step(&mut control, &data.batch());
        }
        assert_same(&trainer, &control, &format!("optimizer {optimizer}, {clip:?}"));
        let (before, _) = committed(&control);
        step(&mut control, &good[3].batch());
        assert!(before != committed(&control).0, "optimizer {optimizer}, {clip:?}: no training");
    }
}

/// A run may begin with bad steps: moments and clocks start with the first good one.
fn a_bad_first_step_changes_nothing() {
    let Some(gpu) = support::gpu() else { return };
    for optimizer in 0..3 {
        let make = || build(&gpu, with_optimizer(Trainer::builder(Terms::three()), optimizer));
        let (mut trainer, mut control) = (make(), make());
        let good = trainer.model().data(1, 1);
        for fault in FAULTS {
            let batch = with_target(&good, (0, 7), fault);
            assert_skipped(&mut trainer, &batch, &format!("optimizer {optimizer}, {fault}"));
        }
        assert_eq!(committed(&trainer).1.skipped_in_row, 3);
        step(&mut trainer, &good.batch());
        step(&mut control, &good.batch());
        assert_same(&trainer, &control, &format!("optimizer {optimizer}"));
    }
}

fn one_bad_microbatch_spoils_the_step_and_no_other() {
    let Some(gpu) = support::gpu() else { return };
    let microbatches = 3;
    for (optimizer, clip) in combinations() {
        let make = || {
            let builder = Trainer::builder(Terms::three()).clip(clip).accumulation(microbatches);
            build(&gpu, with_optimizer(builder, optimizer))
        };
        let (mut trainer, mut control) = (make(), make());
        let good: Vec<_> = (0..3).map(|seed| trainer.model().data(seed, microbatches)).collect();
        step(&mut trainer, &good[0].batch());
        for (microbatch, fault) in FAULTS.into_iter().enumerate() {
            let place = (1, microbatch * 37 * 61 + 5);
            let what = format!("optimizer {optimizer}, {clip:?}, {fault} in {microbatch}");
            let record = assert_skipped(&mut trainer, &with_target(&good[1], place, fault), &what);
            assert_eq!(record.nonfinite_count, 1, "{what}");
        }
        step(&mut trainer, &good[2].batch());
        step(&mut control, &good[0].batch());
        step(&mut control, &good[2].batch());
        assert_same(&trainer, &control, &format!("optimizer {optimizer}, {clip:?}"));
    }
}

/// +Inf and -Inf in two microbatches add up to NaN, which is as bad.
fn opposite_infinities_are_seen() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, Trainer::builder(Terms::three()).accumulation(2));
    let mut data = trainer.model().data(1, 2);
    data.targets[2][3] = f32::INFINITY;
    data.targets[2][7 + 3] = f32::NEG_INFINITY;
    let record = assert_skipped(&mut trainer, &data.batch(), "opposite infinities");
    assert_eq!(record.nonfinite_count, 1);
}

/// Widths that are no multiple of four, so that rows have padding everywhere.
fn classifier() -> Classifier {
    let mlp = MlpClassifier { inputs: 5, hidden: vec![6, 7], classes: 3, batch_norm: true };
    Classifier { mlp, batch: 4 }
}

fn classifier_batch(seed: u64, microbatches: usize, fault: Option<(usize, f32)>) -> Batch {
    let rows = 4 * microbatches;
    let mut inputs = values(seed, rows * 5);
    if let Some((index, fault)) = fault {
        inputs[index] = fault;
    }
    Batch::new().with("inputs", inputs).with("targets", tokens(seed + 1000, rows, 3))
}

fn running_statistics_survive_a_bad_batch() {
    let Some(gpu) = support::gpu() else { return };
    running_statistics(&gpu);
}

/// Matrix products with NaN go another way there.
fn running_statistics_survive_a_bad_batch_with_hardware_kernels() {
    let Some(gpu) = support::gpu_with_hardware_kernels() else { return };
    running_statistics(&gpu);
}

fn running_statistics(gpu: &Gpu) {
    for microbatches in [1, 2] {
        for (optimizer, clip) in combinations() {
            let make = || {
                let builder = Trainer::builder(classifier()).clip(clip).accumulation(microbatches);
                build(gpu, with_optimizer(builder, optimizer))
            };
            let (mut trainer, mut control) = (make(), make());
            step(&mut trainer, &classifier_batch(1, microbatches, None));
            let running = |trainer: &Trainer<Classifier>| {
                let names = ["layers.0.norm.running_mean", "layers.1.norm.running_var"];
                names.map(|name| block_on(trainer.parameters().read(name)).expect("read"))
            };
            let before = running(&trainer);
            assert!(before[0].iter().all(|&mean| mean != 0.0), "{before:?}");
            assert!(before[1].iter().all(|&variance| variance != 1.0), "{before:?}");
            for fault in FAULTS {
                for place in [2, microbatches * 20 - 1] {
                    let batch = classifier_batch(2, microbatches, Some((place, fault)));
                    let what = format!(
                        "optimizer {optimizer}, {clip:?}, {microbatches} microbatches, {fault} at \
                         {place}"
                    );
                    let record = assert_skipped(&mut trainer, &batch, &what);
                    let count = trainer.parameters().count() as u32;
                    assert!(record.nonfinite_count + record.zero_count <= count, "{record:?}");
                    assert_eq!(before, running(&trainer), "{what}");
                }
            }
            step(&mut trainer, &classifier_batch(3, microbatches, None));
            step(&mut control, &classifier_batch(1, microbatches, None));
            step(&mut control, &classifier_batch(3, microbatches, None));
            assert_same(&trainer, &control, &format!("optimizer {optimizer}, {clip:?}"));
        }
    }
}

fn the_host_can_stop_at_a_bad_step() {
    let Some(gpu) = support::gpu() else { return };
    let make = || build(&gpu, Trainer::builder(Terms::three()).error_if_nonfinite(true).seed(4));
    let (mut trainer, mut control) = (make(), make());
    let good = trainer.model().data(1, 1);
    step(&mut trainer, &good.batch());
    telemetry(&mut trainer);
    let (bytes, state) = committed(&trainer);
    step(&mut trainer, &with_target(&good, (2, 2), f32::NAN));
    let error = block_on(trainer.telemetry()).expect_err("a bad step");
    assert!(matches!(error, Error::NonFiniteGradient { step: 1, count: 1 }), "{error}");
    assert!(error.to_string().contains("the step changed nothing"), "{error}");
    let (bytes_after, after) = committed(&trainer);
    assert!(bytes == bytes_after, "a committed byte changed");
    assert_eq!(clocks(&state), clocks(&after));

    step(&mut trainer, &good.batch());
    assert_eq!(telemetry(&mut trainer).len(), 1);
    step(&mut control, &good.batch());
    step(&mut control, &good.batch());
    assert_same(&trainer, &control, "after an error");
}

/// All gradients of the last step, in f64.
fn gradients(trainer: &Trainer<Terms>) -> Vec<f64> {
    let names = ["w0", "w1", "w2"];
    let all = names.map(|name| block_on(trainer.gradient(name)).expect("a gradient"));
    all.iter().flatten().map(|&g| f64::from(g)).collect()
}

fn weights(trainer: &Trainer<Terms>) -> Vec<f32> {
    let names = ["w0", "w1", "w2"];
    let all = names.map(|name| block_on(trainer.parameters().read(name)).expect("a weight"));
    all.concat()
}

/// The norm a policy measures, in f64.
fn norm(clip: Clip, gradients: &[f64]) -> f64 {
    match clip {
        Clip::InfinityNorm(_) => gradients.iter().fold(0.0, |largest, g| g.abs().max(largest)),
        _ => gradients.iter().map(|g| g * g).sum::<f64>().sqrt(),
    }
}

/// Sizes of gradients whose squares leave f32's range, alone and side by side.
const SCALES: [[f32; 3]; 5] = [
    [1e-25, 1e-25, 1e-25],
    [1e20, 1e20, 1e20],
    [1e30, 1e30, 1e30],
    [1e-25, 1e30, 1e-25],
    [1e30, 1.0, 1e20],
];

fn finite_gradients_of_any_size_are_clipped_right() {
    let Some(gpu) = support::gpu() else { return };
    for scales in SCALES {
        for (optimizer, clip) in combinations() {
            let what = format!("{scales:?}, optimizer {optimizer}, {clip:?}");
            let builder = Trainer::builder(Terms::scaled(scales)).clip(clip);
            let mut trainer = build(&gpu, with_optimizer(builder, optimizer));
            let batch = trainer.model().data(1, 1).batch();
            step(&mut trainer, &batch);
            let record = telemetry(&mut trainer)[0];
            assert!(record.applied && record.nonfinite_count == 0, "{what}: {record:?}");
            let expected = norm(clip, &gradients(&trainer));
            let tolerance = Tolerance {
                absolute: 0.0,
                relative: 1e-6,
                because: "a tree of f32 sums over 2,279 squares, and a square root",
            };
            assert_close(&what, &[record.gradient_norm], &[expected], tolerance);
            let max = match clip {
                Clip::Norm(max) | Clip::InfinityNorm(max) => f64::from(max),
                _ => f64::INFINITY,
            };
            let coefficient = (max / expected).min(1.0);
            assert_close(&what, &[record.clip_coefficient], &[coefficient], tolerance);
            for _ in 0..3 {
                step(&mut trainer, &batch);
            }
            // Without a clip, weights of 1e16 make the next gradients overflow.
            let records = telemetry(&mut trainer);
            assert!(clip == Clip::None || records.iter().all(|record| record.applied), "{what}");
            let (bytes, _) = committed(&trainer);
            let all: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
            assert!(all.iter().all(|x| x.is_finite()), "{what}: weights or moments");
        }
    }
}

fn a_clipped_update_is_the_clipped_gradient() {
    let Some(gpu) = support::gpu() else { return };
    for scales in SCALES {
        for clip in [Clip::Norm(0.01), Clip::InfinityNorm(0.001), Clip::Value(0.0001)] {
            let optimizer = Sgd { learning_rate: 1.0, momentum: 0.0, ..Sgd::default() };
            let builder = Trainer::builder(Terms::scaled(scales)).optimizer(optimizer).clip(clip);
            let mut trainer = build(&gpu, builder);
            let batch = trainer.model().data(1, 1).batch();
            let before = weights(&trainer);
            step(&mut trainer, &batch);
            let (after, gradients) = (weights(&trainer), gradients(&trainer));
            let measured = norm(clip, &gradients);
            let clipped = gradients.iter().map(|&g| match clip {
                Clip::Norm(max) | Clip::InfinityNorm(max) => {
                    g * (f64::from(max) / measured).min(1.0)
                }
                Clip::Value(bound) => g.clamp(-f64::from(bound), f64::from(bound)),
                Clip::None => g,
            });
            let updated = before.iter().zip(clipped).map(|(&w, g)| f64::from(w) - g);
            let tolerance = Tolerance {
                absolute: 1e-7,
                relative: 1e-7,
                because: "the rounding of a weight below 1; updates are at most 0.01",
            };
            let what = format!("{scales:?}, {clip:?}");
            assert_close(&what, &after, &updated.collect::<Vec<_>>(), tolerance);
            if scales[0] > 1.0 {
                assert!(before[..15] != after[..15], "{what}: nothing was updated");
            }
        }
    }
}

/// Any norm a run may measure agrees with f64 and clips to its threshold; the exact one has the
/// bits of the correctly rounded root.
fn every_norm_measures_and_clips() {
    let Some(gpu) = support::gpu() else { return };
    let p_norm = |gradient: &[f64], p: f64| -> f64 {
        gradient.iter().map(|g| g.abs().powf(p)).sum::<f64>().powf(1.0 / p)
    };
    let largest = |gradient: &[f64]| gradient.iter().fold(0f64, |most, g| most.max(g.abs()));
    type Expected<'a> = &'a dyn Fn(&[f64]) -> f64;
    let norms: [(Norm, Expected<'_>); 6] = [
        (Norm::L2, &|g| p_norm(g, 2.0)),
        (Norm::ExactL2, &|g| p_norm(g, 2.0)),
        (Norm::L1, &|g| p_norm(g, 1.0)),
        (Norm::Lp(0.5), &|g| p_norm(g, 0.5)),
        (Norm::Lp(3.5), &|g| p_norm(g, 3.5)),
        (Norm::Infinity, &largest),
    ];
    let model = Terms::scaled([1.0, 30.0, 1.0]);
    for (norm, expected) in norms {
        let sgd = Sgd { learning_rate: 1.0, momentum: 0.0, ..Sgd::default() };
        let builder = || Trainer::builder(model.clone()).optimizer(sgd).norm(norm).seed(3);
        let mut free = build(&gpu, builder());
        step(&mut free, &model.data(5, 1).batch());
        let max = telemetry(&mut free)[0].gradient_norm / 2.0;
        let mut trainer = build(&gpu, builder().clip(Clip::Norm(max)));
        let before = wide(&weights(&trainer));
        step(&mut trainer, &model.data(5, 1).batch());
        let mut gradient = Vec::new();
        for index in 0..3 {
            let share = block_on(trainer.gradient(&format!("w{index}"))).expect("a gradient");
            gradient.extend(share.into_iter().map(f64::from));
        }
        let expected_norm = expected(&gradient);
        let record = telemetry(&mut trainer)[0];
        let rounding =
            Tolerance { absolute: 0.0, relative: 4e-6, because: "roundings of a sum of powers" };
        assert_close(&format!("{norm:?}"), &[record.gradient_norm], &[expected_norm], rounding);
        if norm == Norm::ExactL2 {
            assert_eq!(record.gradient_norm, expected_norm as f32, "rounded once");
        }
        // A step of size 1 shows what was left of the gradients.
        let moved: Vec<_> =
            before.iter().zip(wide(&weights(&trainer))).map(|(a, b)| a - b).collect();
        let clipped = expected(&moved);
        let max = f64::from(max);
        assert!((clipped / max - 1.0).abs() < 0.01, "{norm:?}: clipped to {clipped:e}");
    }
}

/// test_grad_scaling of PyTorch: four batches, an Inf in the second, a scale that grows at every
/// clean step. The run is the one that never saw the second batch, and the scale is 128 · 2³ / 2.
fn a_dynamic_loss_scale_in_training() {
    let Some(gpu) = support::gpu() else { return };
    let scale = DynamicLossScale { init: 128.0, interval: 1, ..DynamicLossScale::default() };
    for (clip, optimizer) in [(Clip::None, 0), (Clip::Norm(0.2), 0), (Clip::Norm(0.2), 2)] {
        let make = |scale| {
            let builder = Trainer::builder(Terms::three()).clip(clip).loss_scale(scale).seed(2);
            build(&gpu, with_optimizer(builder, optimizer))
        };
        let (mut trainer, mut control) =
            (make(LossScale::Dynamic(scale)), make(LossScale::Static(1.0)));
        let data: Vec<_> = (0..4).map(|seed| trainer.model().data(seed, 1)).collect();
        for (index, data) in data.iter().enumerate() {
            if index == 1 {
                step(&mut trainer, &with_target(data, (1, 37), f32::INFINITY));
            } else {
                step(&mut trainer, &data.batch());
                step(&mut control, &data.batch());
            }
        }
        let scales: Vec<_> = telemetry(&mut trainer).iter().map(|r| r.loss_scale).collect();
        assert_eq!(scales, [128.0, 256.0, 128.0, 256.0]);
        assert_eq!(block_on(trainer.state()).expect("a state").loss_scale, 512.0);
        // A scale of a power of two moves exponents and nothing else.
        assert!(committed(&trainer).0 == committed(&control).0, "{clip:?}");
    }
}

/// After too many skipped steps, or an overflow at the smallest scale, the device skips all steps;
/// once telemetry has told, a step is refused with a report. A checkpoint brings the run back.
fn training_gives_up_with_a_report() {
    let Some(gpu) = support::gpu() else { return };
    let at_min = DynamicLossScale { init: 2.0, ..DynamicLossScale::default() };
    type With = fn(TrainerBuilder<Terms>, DynamicLossScale) -> TrainerBuilder<Terms>;
    let cases: [(&str, With); 2] = [
        ("three in a row", |builder, _| builder.give_up_after(3)),
        ("at the minimum", |builder, scale| builder.loss_scale(LossScale::Dynamic(scale))),
    ];
    for (what, with) in cases {
        let mut trainer = build(&gpu, with(Trainer::builder(Terms::three()).seed(2), at_min));
        let good = trainer.model().data(1, 1);
        let bad = with_target(&good, (0, 3), f32::NAN);
        step(&mut trainer, &good.batch());
        let (before, checkpoint) = (committed(&trainer).0, block_on(trainer.checkpoint()));
        for _ in 0..3 {
            step(&mut trainer, &bad);
        }
        // The host does not know yet; the device does.
        step(&mut trainer, &good.batch());
        assert!(committed(&trainer).0 == before, "{what}");
        let last = telemetry(&mut trainer)[4];
        assert_eq!((last.reason, last.gave_up), (Reason::GaveUp, Some(Reason::NonFiniteGradient)));
        let error = block_on(trainer.step(&good.batch())).expect_err("refused");
        assert!(matches!(error, Error::GaveUp { applied_total: 1, .. }), "{what}: {error}");
        assert!(error.to_string().contains("NonFiniteGradient"), "{error}");
        block_on(trainer.restore(&checkpoint.expect("a checkpoint"))).expect("it fits");
        step(&mut trainer, &good.batch());
        assert!(committed(&trainer).0 != before, "{what}: goes on");
    }
}
