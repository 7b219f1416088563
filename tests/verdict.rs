//! What the documentation says of the verdict and of skipped steps, a test for each sentence, with
//! faults of every kind that the verdict sees: in the gradients, in the loss alone, in new running
//! statistics alone; in any microbatch.

#[macro_use]
mod support;

use evenkeel::graph::{Graph, Shape, Value};
use evenkeel::nn::{Classifier, Gpt, GptConfig, Init, LanguageModel, MlpClassifier, QkClip};
use evenkeel::step::{Event, Reason, StepState};
use evenkeel::train::stability::{AdaGc, AutoClip, Reaction, SnapshotRing, SpikeGuard, ZClip};
use evenkeel::train::{
    AdamW, Batch, Clip, DynamicLossScale, Lion, LossScale, Model, ModelOutput, Refill, Schedule,
    Sgd, Telemetry, Trainer, TrainerBuilder,
};
use evenkeel::{Error, Gpu};
use support::models::small_gpt_batch;
use support::{block_on, tokens, values};

tests! {
    the_loss_is_part_of_nan_or_inf, all_that_a_step_changes_obeys_the_verdict,
    nan_and_inf_are_found_on_bits, the_loss_of_any_microbatch_counts,
    a_skipped_step_is_counted_and_reported, a_step_commits_or_skips_without_a_readback,
    the_first_of_gradient_loss_state_and_policy_is_the_reason,
    the_loss_scale_moves_by_gradients_alone, a_skipped_step_advances_no_schedule,
    skipped_steps_never_enter_the_memory_of_a_policy, a_loss_that_is_not_finite_is_a_spike,
    clip_harder_applies_no_step_without_a_finite_loss, skipped_steps_bring_a_rollback,
    layers_act_under_the_same_verdict, training_gives_up_whatever_the_reason,
    the_host_can_stop_at_a_loss_or_a_state, a_skipped_step_changes_no_weight_by_telemetry,
    an_overflowing_update_is_seen_by_the_next_step, batch_norm_keeps_finite_statistics,
}

const WEIGHTS: usize = 12;
const PROBE: usize = 4 * 3;

/// mean((w factor - target)²) + extra, and running statistics of a probe that nothing else reads:
/// so gradients, loss and states can be spoiled one by one.
#[derive(Clone, Copy, Debug)]
struct Parted;

impl Model for Parted {
    fn build(&self, graph: &mut Graph) -> ModelOutput {
        let weight = graph.parameter("w", [3, 4], Init::Uniform { low: -1.0, high: 1.0 });
        let [factor, target] =
            ["factor", "target"].map(|name| graph.input(name, Shape::real([3, 4])));
        let product = graph.multiply(weight, factor);
        let error = graph.mean_squared_error(product, target);
        let loss = plus_extra(graph, error);
        let probe = graph.input("probe", Shape::real([4, 3]));
        let running = graph.state(&[("mean", 0.0), ("variance", 1.0)], 3);
        let [one, zero] = [1.0, 0.0].map(|x| graph.constant("constant", Shape::real([3]), &[x; 3]));
        let (_, statistics) = graph.batch_norm(probe, one, zero, 1e-5);
        graph.update_running(running, statistics, probe, 0.1);
        ModelOutput { loss, prediction: product }
    }
}

/// A loss, and an input added to it that no gradient depends on.
fn plus_extra(graph: &mut Graph, loss: Value) -> Value {
    let extra = graph.input("extra", Shape::f32([1]));
    graph.add(loss, extra)
}

/// What a step is given, all of its microbatches.
#[derive(Clone, Debug)]
struct Data {
    factor: Vec<f32>,
    target: Vec<f32>,
    probe: Vec<f32>,
    extra: Vec<f32>,
}

impl Data {
    fn new(seed: u64, microbatches: usize) -> Self {
        Self {
            factor: vec![1.0; WEIGHTS * microbatches],
            target: values(3 * seed, WEIGHTS * microbatches),
            probe: values(3 * seed + 1, PROBE * microbatches),
            extra: values(3 * seed + 2, microbatches),
        }
    }

    fn batch(&self) -> Batch {
        let batch = Batch::new().with("factor", &self.factor[..]).with("target", &self.target[..]);
        batch.with("probe", &self.probe[..]).with("extra", &self.extra[..])
    }

    /// The same with a fault in one microbatch.
    fn with(&self, fault: Fault, microbatch: usize) -> Self {
        let mut data = self.clone();
        match fault {
            Fault::Gradient(value) => data.target[WEIGHTS * microbatch + 5] = value,
            Fault::Loss(value) => data.extra[microbatch] = value,
            Fault::LossOverflow => data.target[WEIGHTS * microbatch + 7] = 1e20,
            Fault::State(value) => data.probe[PROBE * microbatch + 7] = value,
        }
        data
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// A target, which makes loss and gradient NaN or Inf.
    Gradient(f32),
    /// A loss, with finite gradients.
    Loss(f32),
    /// A target whose square is no f32, with finite gradients.
    LossOverflow,
    /// A part of the probe, with finite loss and gradients.
    State(f32),
}

impl Fault {
    fn reason(self) -> Reason {
        match self {
            Self::Gradient(_) => Reason::NonFiniteGradient,
            Self::Loss(_) | Self::LossOverflow => Reason::NonFiniteLoss,
            Self::State(_) => Reason::NonFiniteState,
        }
    }
}

const FAULTS: [Fault; 9] = [
    Fault::Gradient(f32::NAN),
    Fault::Gradient(f32::INFINITY),
    Fault::Loss(f32::NAN),
    Fault::Loss(f32::INFINITY),
    Fault::Loss(f32::NEG_INFINITY),
    Fault::LossOverflow,
    Fault::State(f32::NAN),
    Fault::State(f32::NEG_INFINITY),
    // Its variance is no f32.
    Fault::State(1e30),
];
/// One of each reason.
const KINDS: [Fault; 3] = [FAULTS[0], FAULTS[2], FAULTS[6]];

fn build<M: Model>(gpu: &Gpu, builder: TrainerBuilder<M>) -> Trainer<M> {
    block_on(builder.build(gpu)).expect("a trainer")
}

fn parted() -> TrainerBuilder<Parted> {
    Trainer::builder(Parted).seed(3)
}

fn step<M: Model>(trainer: &mut Trainer<M>, batch: &Batch) -> Telemetry {
    block_on(trainer.step(batch)).expect("a step");
    block_on(trainer.telemetry()).expect("telemetry").pop().expect("a record")
}

fn bytes<M: Model>(trainer: &Trainer<M>) -> Vec<u8> {
    block_on(trainer.committed_bytes()).expect("bytes")
}

fn state<M: Model>(trainer: &Trainer<M>) -> StepState {
    block_on(trainer.state()).expect("a state")
}

/// README: "a step whose loss, gradients or new running statistics hold a NaN or Inf changes
/// nothing". Weights of zero, a target of 1e20: the loss is no f32, the norm is 1e20.
fn the_loss_is_part_of_nan_or_inf() {
    let Some(gpu) = support::gpu() else { return };
    let model = |graph: &mut Graph| {
        let weight = graph.parameter("w", [4], Init::ZERO);
        let target = graph.input("target", Shape::real([4]));
        let loss = graph.mean_squared_error(weight, target);
        ModelOutput { loss, prediction: weight }
    };
    let builder = Trainer::builder(model).clip(Clip::Norm(1.0));
    let mut trainer = build(&gpu, builder);
    let before = bytes(&trainer);
    let record = step(&mut trainer, &Batch::new().with("target", vec![1e20f32; 4]));
    assert_eq!((record.applied, record.reason), (false, Reason::NonFiniteLoss));
    assert_eq!((record.loss, record.nonfinite_count), (f32::INFINITY, 0));
    assert!((record.gradient_norm / 1e20 - 1.0).abs() < 1e-6, "{record:?}");
    assert!(before == bytes(&trainer));
    let record = step(&mut trainer, &Batch::new().with("target", vec![1.0f32; 4]));
    assert!(record.applied && before != bytes(&trainer));
}

/// README, ARCHITECTURE: "Whatever a step changes (weights, moments, counters, bias corrections, the
/// schedule's position, BatchNorm's running statistics) obeys that word"; a run with faults is the
/// run without them.
fn all_that_a_step_changes_obeys_the_verdict() {
    let Some(gpu) = support::gpu() else { return };
    let optimizers: [fn(TrainerBuilder<Parted>) -> TrainerBuilder<Parted>; 3] = [
        |builder| builder.optimizer(AdamW { weight_decay: 0.1, ..AdamW::default() }),
        |builder| builder.optimizer(Sgd { momentum: 0.9, weight_decay: 0.1, ..Sgd::default() }),
        |builder| builder.optimizer(Lion { weight_decay: 0.1, ..Lion::default() }),
    ];
    for (microbatches, optimizer) in [1, 3].into_iter().flat_map(|m| optimizers.map(|o| (m, o))) {
        let schedule = Schedule::Linear { warmup: 2, total: 9, final_factor: 0.1 };
        let make = || {
            let builder = optimizer(parted()).clip(Clip::Norm(0.5)).schedule(schedule.clone());
            build(&gpu, builder.accumulation(microbatches))
        };
        let (mut trainer, mut control) = (make(), make());
        for (index, fault) in (0..).zip(FAULTS) {
            let data = Data::new(index, microbatches);
            assert!(step(&mut trainer, &data.batch()).applied);
            step(&mut control, &data.batch());
            let (committed, counted) = (bytes(&trainer), state(&trainer));
            for microbatch in 0..microbatches {
                let what = format!("{fault:?} in microbatch {microbatch} of {microbatches}");
                let record = step(&mut trainer, &data.with(fault, microbatch).batch());
                assert_eq!((record.applied, record.reason), (false, fault.reason()), "{what}");
                assert!(committed == bytes(&trainer), "{what}: a committed byte changed");
                let after = state(&trainer);
                assert_eq!(after.applied_total, counted.applied_total, "{what}");
                assert_eq!(after.learning_rate, counted.learning_rate, "{what}");
            }
        }
        assert!(bytes(&trainer) == bytes(&control), "not the run without faults");
        let (found, expected) = (step(&mut trainer, &Data::new(50, microbatches).batch()), {
            step(&mut control, &Data::new(50, microbatches).batch())
        });
        assert_eq!(found.loss.to_bits(), expected.loss.to_bits());
        assert_eq!(found.learning_rate, expected.learning_rate);
        assert!(bytes(&trainer) == bytes(&control));
    }
}

/// README: "NaN and Inf are found on bits": any payload, either sign; and nothing beside them.
fn nan_and_inf_are_found_on_bits() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, parted().accumulation(2).give_up_after(0));
    let data = Data::new(1, 2);
    for bits in [0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 0xffff_ffff, 0x7f80_0001, 0xff81_2345] {
        let value = f32::from_bits(bits);
        for fault in [Fault::Gradient(value), Fault::Loss(value), Fault::State(value)] {
            let record = step(&mut trainer, &data.with(fault, 1).batch());
            assert_eq!(record.reason, fault.reason(), "{bits:#x}, {fault:?}");
        }
    }
    for value in [1e38, f32::from_bits(1), -0.0] {
        let record = step(&mut trainer, &data.with(Fault::Loss(value), 1).batch());
        assert!(record.applied, "{value}: {record:?}");
    }
}

/// Telemetry: "NaN or Inf where that of one microbatch is", also where a sum of floats would lose it.
fn the_loss_of_any_microbatch_counts() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, parted().accumulation(3).give_up_after(0));
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let cases = [[inf, -inf, 0.0], [0.0, nan, 1.0], [1.0, 0.0, nan], [-inf, 0.0, inf], [nan; 3]];
    for extra in cases {
        let data = Data { extra: extra.to_vec(), ..Data::new(1, 3) };
        let record = step(&mut trainer, &data.batch());
        assert_eq!((record.applied, record.reason), (false, Reason::NonFiniteLoss), "{extra:?}");
        assert!(!record.loss.is_finite(), "{extra:?}: {record:?}");
        let first = extra.into_iter().find(|x| !x.is_finite()).expect("one");
        assert_eq!(record.loss.is_nan(), first.is_nan(), "{extra:?}: the first one stays");
    }
    // Losses whose mean is finite.
    let data = Data { extra: vec![3e38, -3e38, 1.0], ..Data::new(1, 3) };
    let record = step(&mut trainer, &data.batch());
    assert!(record.applied && record.loss.abs() < 1e32, "{record:?}");
}

/// README: "is counted and reported"; Telemetry's counts are those of a simulation on the host.
fn a_skipped_step_is_counted_and_reported() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, parted());
    let (mut total, mut in_row, mut applied) = (0, 0, 0);
    let order = [None, Some(0), Some(5), None, Some(6), Some(2), Some(8), None, None, Some(1)];
    for (index, fault) in (0..).zip(order) {
        let fault = fault.map(|fault: usize| FAULTS[fault]);
        let good = Data::new(index, 1);
        let data = fault.map_or(good.clone(), |fault| good.with(fault, 0));
        let record = step(&mut trainer, &data.batch());
        let skips = u32::from(fault.is_some());
        (total, in_row) = (total + skips, if skips == 1 { in_row + 1 } else { 0 });
        applied += 1 - skips;
        let counts = (record.skipped_total, record.skipped_in_row, record.applied_total);
        assert_eq!(counts, (total, in_row, applied), "step {index}, {fault:?}");
        assert_eq!((record.step, record.applied), (index, fault.is_none()));
        assert_eq!(record.reason, fault.map_or(Reason::None, Fault::reason));
        let state = state(&trainer);
        let counts = (state.skipped_total, state.skipped_in_row, state.applied_total);
        assert_eq!(counts, (total, in_row, applied), "step {index}, {fault:?}");
    }
}

/// README: "commits or skips without one readback".
fn a_step_commits_or_skips_without_a_readback() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    let mut trainer = build(&gpu, parted().accumulation(2));
    let data = Data::new(1, 2);
    step(&mut trainer, &data.batch());
    let before = gpu.counters();
    for fault in FAULTS {
        block_on(trainer.step(&data.with(fault, 1).batch())).expect("a step");
    }
    assert_eq!(gpu.counters().maps, before.maps);
    let records = block_on(trainer.telemetry()).expect("telemetry");
    let reasons: Vec<_> = records.iter().map(|record| record.reason).collect();
    assert_eq!(reasons, FAULTS.map(Fault::reason));
}

/// Verdict: "The first of these is the reason."
fn the_first_of_gradient_loss_state_and_policy_is_the_reason() {
    let Some(gpu) = support::gpu() else { return };
    let guard = SpikeGuard { window: 2, threshold: 1.0, ..SpikeGuard::default() };
    let mut trainer = build(&gpu, parted().policy(guard));
    for index in 0..4 {
        step(&mut trainer, &Data::new(index % 2, 1).batch());
    }
    let spike = Data { target: vec![1e6; WEIGHTS], ..Data::new(1, 1) };
    let [gradient, loss, new_state] = KINDS;
    let all = spike.with(new_state, 0).with(loss, 0);
    let reason = |trainer: &mut Trainer<_>, data: &Data| step(trainer, &data.batch()).reason;
    assert_eq!(reason(&mut trainer, &all.with(gradient, 0)), Reason::NonFiniteGradient);
    assert_eq!(reason(&mut trainer, &all), Reason::NonFiniteLoss);
    assert_eq!(reason(&mut trainer, &spike.with(new_state, 0)), Reason::NonFiniteState);
    assert_eq!(reason(&mut trainer, &spike), Reason::LossSpike);
}

/// ARCHITECTURE: "an overflow lowers it, clean steps raise it, and the step that saw the overflow
/// changes nothing else"; an overflow is one of the gradient. Guide: "the step changes nothing".
fn the_loss_scale_moves_by_gradients_alone() {
    let Some(gpu) = support::gpu() else { return };
    let scale = DynamicLossScale {
        init: 256.0,
        interval: 3,
        min: 128.0,
        hysteresis: 2,
        refill: Refill::OnGrowth,
        ..DynamicLossScale::default()
    };
    let mut trainer = build(&gpu, parted().loss_scale(LossScale::Dynamic(scale)));
    let good = Data::new(1, 1);
    let after = |trainer: &mut Trainer<_>, data: &Data| {
        step(trainer, &data.batch());
        let state = state(trainer);
        (state.loss_scale, state.growth_count, state.hysteresis_left)
    };
    assert_eq!(after(&mut trainer, &good), (256.0, 1, 2));
    for fault in FAULTS.into_iter().filter(|fault| fault.reason() != Reason::NonFiniteGradient) {
        assert_eq!(after(&mut trainer, &good.with(fault, 0)), (256.0, 1, 2), "{fault:?}");
    }
    let committed = bytes(&trainer);
    let overflow = good.with(FAULTS[0], 0);
    assert_eq!(after(&mut trainer, &overflow), (256.0, 0, 1));
    assert_eq!(after(&mut trainer, &overflow), (128.0, 0, 0));
    assert!(committed == bytes(&trainer));
    // A loss that is NaN at the smallest scale is no overflow that ends training.
    let record = step(&mut trainer, &good.with(FAULTS[2], 0).batch());
    assert_eq!(record.gave_up, None);
    assert_eq!(after(&mut trainer, &good), (128.0, 1, 0));
    assert_eq!(after(&mut trainer, &good), (128.0, 2, 0));
    assert_eq!(after(&mut trainer, &good), (256.0, 0, 2));
}

/// Schedule, guide: "A skipped step does not advance a schedule"; "no step counter, bias correction,
/// schedule, running statistic or detector".
fn a_skipped_step_advances_no_schedule() {
    let Some(gpu) = support::gpu() else { return };
    let factors = vec![1.0, 0.5, 0.25, 2.0, 0.125];
    let optimizer = Sgd { learning_rate: 0.5, ..Sgd::default() };
    let schedule = Schedule::Factors(factors.clone());
    let mut trainer = build(&gpu, parted().optimizer(optimizer).schedule(schedule));
    let mut rates = Vec::new();
    for index in 0..factors.len() as u64 {
        for fault in KINDS {
            let record = step(&mut trainer, &Data::new(index, 1).with(fault, 0).batch());
            let last = rates.last().copied().unwrap_or(0.0);
            assert_eq!(record.learning_rate, last, "that of the last applied step");
        }
        rates.push(step(&mut trainer, &Data::new(index, 1).batch()).learning_rate);
    }
    let expected: Vec<_> = factors.iter().map(|factor| (0.5 * factor) as f32).collect();
    assert_eq!(rates, expected);
    let steps: Vec<_> =
        block_on(trainer.tensor_states()).expect("readable").iter().map(|t| t.steps).collect();
    assert_eq!(steps, [5]);
}

/// ARCHITECTURE, stability: "skipped steps never enter its memory and no window holds the sample it
/// judges": what policies do later is what they would have done without the skipped steps.
fn skipped_steps_never_enter_the_memory_of_a_policy() {
    let Some(gpu) = support::gpu() else { return };
    type With = fn(TrainerBuilder<Parted>) -> TrainerBuilder<Parted>;
    let policies: [(&str, With); 4] = [
        ("spike guard", |b| {
            let guard = SpikeGuard { window: 4, threshold: 1.2, ..SpikeGuard::default() };
            b.policy(SpikeGuard { patience: 100, ..guard })
        }),
        ("ZClip", |b| b.policy(ZClip { warmup: 3, ..ZClip::default() })),
        ("AutoClip", |b| b.policy(AutoClip::default())),
        ("AdaGC", |b| b.policy(AdaGc { warmup: 2, ..AdaGc::default() })),
    ];
    for (name, with) in policies {
        let (mut trainer, mut control) = (build(&gpu, with(parted())), build(&gpu, with(parted())));
        for index in 0..14 {
            let mut data = Data::new(index, 1);
            if index > 8 {
                data.target.iter_mut().for_each(|x| *x *= index as f32);
            }
            for fault in [Fault::Loss(f32::NAN), Fault::LossOverflow, FAULTS[6], FAULTS[8]] {
                let record = step(&mut trainer, &data.with(fault, 0).batch());
                assert_eq!(record.reason, fault.reason(), "{name}, step {index}");
            }
            let found = step(&mut trainer, &data.batch());
            let expected = step(&mut control, &data.batch());
            let seen = |record: &Telemetry| {
                let floats = [record.max_norm, record.clip_coefficient, record.event_value];
                (floats.map(f32::to_bits), record.event_bits, record.reason)
            };
            assert_eq!(seen(&found), seen(&expected), "{name}, step {index}");
        }
        assert!(bytes(&trainer) == bytes(&control), "{name}");
    }
}

/// SpikeGuard: "a spike where z > threshold, or where the loss is NaN or Inf"; "A loss that stays NaN
/// is never taken in; there give_up_after ends the run".
fn a_loss_that_is_not_finite_is_a_spike() {
    let Some(gpu) = support::gpu() else { return };
    let guard = SpikeGuard { window: 4, patience: 2, ..SpikeGuard::default() };
    let mut trainer = build(&gpu, parted().policy(guard).give_up_after(6));
    let good = Data::new(1, 1);
    for _ in 0..4 {
        assert!(step(&mut trainer, &good.batch()).applied);
    }
    for attempt in 1..=6 {
        let record = step(&mut trainer, &good.with(Fault::Loss(f32::NAN), 0).batch());
        assert!(record.events().any(|event| event == Event::LossSpike), "{record:?}");
        assert_eq!((record.reason, record.event_value), (Reason::NonFiniteLoss, f32::MAX));
        let gave_up = (attempt == 6).then_some(Reason::NonFiniteLoss);
        assert_eq!(record.gave_up, gave_up, "{attempt}");
    }
}

/// Reaction::ClipHarder: "Skipped ... where the loss is not finite."
fn clip_harder_applies_no_step_without_a_finite_loss() {
    let Some(gpu) = support::gpu() else { return };
    let reactions = vec![Reaction::ClipHarder { factor: 0.5 }];
    let guard = SpikeGuard { window: 2, reactions, ..SpikeGuard::default() };
    let mut trainer = build(&gpu, parted().policy(guard));
    let good = Data::new(1, 1);
    for _ in 0..3 {
        step(&mut trainer, &good.batch());
    }
    let committed = bytes(&trainer);
    for fault in [Fault::Loss(f32::INFINITY), Fault::LossOverflow] {
        let record = step(&mut trainer, &good.with(fault, 0).batch());
        assert_eq!((record.applied, record.reason), (false, Reason::NonFiniteLoss), "{fault:?}");
    }
    assert!(committed == bytes(&trainer));
}

/// SnapshotRing: "A skipped step is bad unless it lowered the loss scale"; a rollback "ends with the
/// bytes of the snapshot".
fn skipped_steps_bring_a_rollback() {
    let Some(gpu) = support::gpu() else { return };
    for fault in FAULTS {
        let ring = SnapshotRing { every: 100, after: 2, ..SnapshotRing::default() };
        let mut trainer = build(&gpu, parted().policy(ring));
        step(&mut trainer, &Data::new(0, 1).batch());
        let snapshot = bytes(&trainer);
        step(&mut trainer, &Data::new(1, 1).batch());
        assert!(snapshot != bytes(&trainer));
        let bad = Data::new(2, 1).with(fault, 0);
        assert_eq!(step(&mut trainer, &bad.batch()).reason, fault.reason());
        let record = step(&mut trainer, &bad.batch());
        assert_eq!((record.applied, record.reason), (false, Reason::RolledBack), "{fault:?}");
        assert!(snapshot == bytes(&trainer), "{fault:?}");
    }
}

/// A GPT with QK-clip, whose loss can be spoiled alone.
fn clipped_gpt(graph: &mut Graph) -> ModelOutput {
    let config = GptConfig::gpt2(27, 8, 1, 2, 8);
    let clip = Some(QkClip { threshold: 1e-3, alpha: 0.5 });
    let gpt = Gpt::new(GptConfig { qk_clip: clip, ..config }).expect("valid");
    let output = LanguageModel { gpt, batch: 2, time: 8 }.build(graph);
    ModelOutput { loss: plus_extra(graph, output.loss), ..output }
}

/// ARCHITECTURE: "Layers may act after an update (QK-clip), under the same verdict."
fn layers_act_under_the_same_verdict() {
    let Some(gpu) = support::gpu() else { return };
    // Nothing but the clip moves weights.
    let optimizer = Sgd { learning_rate: 0.0, weight_decay: 0.0, ..Sgd::default() };
    let mut trainer = build(&gpu, Trainer::builder(clipped_gpt).optimizer(optimizer));
    let before = bytes(&trainer);
    let batch = |extra: f32| small_gpt_batch(1, 2).with("extra", vec![extra]);
    assert_eq!(step(&mut trainer, &batch(f32::NAN)).reason, Reason::NonFiniteLoss);
    assert!(before == bytes(&trainer), "clipped in a skipped step");
    let weights = |trainer: &Trainer<_>| {
        block_on(trainer.parameters().read("blocks.0.attention.qkv.weight")).expect("readable")
    };
    let old = weights(&trainer);
    assert!(step(&mut trainer, &batch(0.0)).applied);
    assert!(old != weights(&trainer), "never clipped");
}

/// TrainerBuilder::give_up_after, Error::GaveUp: "the device skips all further steps", "Weights and
/// moments are those of the last applied step".
fn training_gives_up_whatever_the_reason() {
    let Some(gpu) = support::gpu() else { return };
    for fault in KINDS {
        let mut trainer = build(&gpu, parted().give_up_after(2));
        let good = Data::new(1, 1);
        step(&mut trainer, &good.batch());
        let committed = bytes(&trainer);
        for data in [&good.with(fault, 0), &good.with(fault, 0), &good] {
            block_on(trainer.step(&data.batch())).expect("the host does not know yet");
        }
        let last = block_on(trainer.telemetry()).expect("telemetry")[2];
        assert_eq!((last.reason, last.gave_up), (Reason::GaveUp, Some(fault.reason())));
        assert!(committed == bytes(&trainer), "{fault:?}");
        let error = block_on(trainer.step(&good.batch())).expect_err("refused");
        assert!(matches!(error, Error::GaveUp { applied_total: 1, .. }), "{error}");
        assert!(error.to_string().contains(&format!("{:?}", fault.reason())), "{error}");
    }
}

/// TrainerBuilder::error_if_nonfinite: "fail at the first step whose gradients, loss or new running
/// statistics are not finite. Such a step changes nothing either way."
fn the_host_can_stop_at_a_loss_or_a_state() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, parted().error_if_nonfinite(true));
    let good = Data::new(1, 1);
    step(&mut trainer, &good.batch());
    let committed = bytes(&trainer);
    let mut stopped = |fault| {
        block_on(trainer.step(&good.with(fault, 0).batch())).expect("a step");
        let error = block_on(trainer.telemetry()).expect_err("a bad step");
        assert!(committed == bytes(&trainer), "{fault:?}");
        assert!(error.to_string().contains("the step changed nothing"), "{error}");
        error
    };
    let error = stopped(Fault::Gradient(f32::NAN));
    assert!(matches!(error, Error::NonFiniteGradient { step: 1, count: 1 }), "{error}");
    let error = stopped(Fault::LossOverflow);
    assert!(matches!(error, Error::NonFiniteLoss { step: 2, loss: f32::INFINITY }), "{error}");
    let error = stopped(Fault::State(f32::NAN));
    assert!(matches!(error, Error::NonFiniteState { step: 3 }), "{error}");
}

/// TensorTelemetry: "Root of the mean square of the changes of the weights; 0 in a skipped step".
fn a_skipped_step_changes_no_weight_by_telemetry() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, parted().watch_tensors(1));
    let good = Data::new(1, 1);
    block_on(trainer.step(&good.batch())).expect("a step");
    for fault in FAULTS {
        block_on(trainer.step(&good.with(fault, 0).batch())).expect("a step");
    }
    let watched = block_on(trainer.tensor_telemetry()).expect("telemetry");
    assert!(watched[0].update_rms > 0.0);
    assert!(watched[1..].iter().all(|record| record.update_rms == 0.0));
    assert_eq!(watched.len(), 1 + FAULTS.len());
}

/// README: "An update that takes a weight out of f32 is seen by the next step", which is skipped, as
/// are all after it; a snapshot from before brings the weights back.
fn an_overflowing_update_is_seen_by_the_next_step() {
    let Some(gpu) = support::gpu() else { return };
    let optimizer = Sgd { learning_rate: 1.0, ..Sgd::default() };
    let ring = SnapshotRing { every: 1, after: 2, cut_steps: 0, ..SnapshotRing::default() };
    for rolls_back in [false, true] {
        let builder = parted().optimizer(optimizer);
        let builder = if rolls_back { builder.policy(ring) } else { builder };
        let mut trainer = build(&gpu, builder);
        let (good, mut steep) = (Data::new(1, 1), Data::new(1, 1));
        steep.target.fill(1e3);
        assert!(step(&mut trainer, &good.batch()).applied);
        let before = bytes(&trainer);
        trainer.set_learning_rate_factor(3e38);
        assert!(step(&mut trainer, &steep.batch()).applied, "its loss and gradients are finite");
        trainer.set_learning_rate_factor(1.0);
        let weights = block_on(trainer.parameters().read("w")).expect("readable");
        assert!(weights.iter().any(|w| !w.is_finite()), "{weights:?}");
        // The newest snapshot holds what the update left, the one before it does not.
        for index in 0..4 {
            let record = step(&mut trainer, &good.batch());
            let rolled_back = rolls_back && index % 2 == 1;
            let reason = if rolled_back { Reason::RolledBack } else { Reason::NonFiniteGradient };
            assert_eq!((record.applied, record.reason), (false, reason), "{index}");
        }
        assert_eq!(bytes(&trainer) == before, rolls_back);
        assert_eq!(step(&mut trainer, &good.batch()).applied, rolls_back);
    }
}

/// nn::BatchNorm: "a step that is skipped leaves them as they were", and no applied step makes them
/// NaN or Inf, however large the inputs are.
fn batch_norm_keeps_finite_statistics() {
    let Some(gpu) = support::gpu() else { return };
    let mlp = MlpClassifier { inputs: 5, hidden: vec![6, 7], classes: 3, batch_norm: true };
    let mut trainer = build(&gpu, Trainer::builder(Classifier { mlp, batch: 4 }));
    let batch = |scale: f32| {
        let inputs: Vec<_> = values(1, 20).into_iter().map(|x| x * scale).collect();
        Batch::new().with("inputs", inputs).with("targets", tokens(2, 4, 3))
    };
    for scale in [1.0, 1e10, 1e19, 1e22, 1e30, 3e38, 1.0] {
        let before = bytes(&trainer);
        let record = step(&mut trainer, &batch(scale));
        assert_eq!(record.applied, before != bytes(&trainer), "{scale}: {record:?}");
        for layer in 0..2 {
            for name in ["running_mean", "running_var"] {
                let name = format!("layers.{layer}.norm.{name}");
                let running = block_on(trainer.parameters().read(&name)).expect("readable");
                assert!(running.iter().all(|x| x.is_finite()), "{scale}, {name}: {running:?}");
            }
        }
        assert!(record.applied || scale > 1e10, "{scale}: {record:?}");
        assert!(!record.applied || scale < 1e25, "{scale}: {record:?}");
    }
}
