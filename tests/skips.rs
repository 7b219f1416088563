//! What the documentation says of skipped steps beside the verdict's own word: loss scale, schedule,
//! policies, layers and the end of training, a test for each sentence.

#[macro_use]
mod support;

use evenkeel::Error;
use evenkeel::graph::Graph;
use evenkeel::nn::{Gpt, GptConfig, LanguageModel, QkClip};
use evenkeel::step::{Event, Reason};
use evenkeel::train::stability::{AdaGc, AutoClip, Reaction, SnapshotRing, SpikeGuard, ZClip};
use evenkeel::train::{
    DynamicLossScale, LossScale, Model, ModelOutput, Refill, Schedule, Sgd, Telemetry, Trainer,
    TrainerBuilder,
};
use support::block_on;
use support::models::small_gpt_batch;
use support::parted::*;

tests! {
    the_loss_scale_moves_by_gradients_alone, a_skipped_step_advances_no_schedule, skipped_steps_never_enter_the_memory_of_a_policy, a_loss_that_is_not_finite_is_a_spike, clip_harder_applies_no_step_without_a_finite_loss, skipped_steps_bring_a_rollback, layers_act_under_the_same_verdict, training_gives_up_whatever_the_reason, an_overflowing_update_is_seen_by_the_next_step,
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
