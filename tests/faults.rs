//! Faults against every optimizer with every policy: a step whose gradients are not finite leaves
//! each committed byte as it was, wherever the fault is and whatever watches or clips, and the run
//! goes on as if it had not been.

#[macro_use]
mod support;

use evenkeel::Gpu;
use evenkeel::step::Reason;
use evenkeel::train::stability::{
    AdaGc, AdaptiveGradientClip, AutoClip, ClipBlockRms, ClipPerTensor, SnapshotRing, SpikeGuard,
    ZClip,
};
use evenkeel::train::{
    Adafactor, Adam, AdamAtan2, AdamW, Clip, Lion, LossScale, Muon, Norm, Sgd, StableAdamW,
    Trainer, TrainerBuilder,
};
use support::block_on;
use support::models::Terms;

tests! {
    every_optimizer_with_every_policy, one_bad_microbatch_of_three,
}

type Builder = TrainerBuilder<Terms>;
type Choice = (&'static str, fn(Builder) -> Builder);

const OPTIMIZERS: [Choice; 10] = [
    ("AdamW", |b| b.optimizer(AdamW::default())),
    ("AdamW amsgrad", |b| b.optimizer(AdamW { amsgrad: true, ..AdamW::default() })),
    ("AdamW cautious", |b| b.optimizer(AdamW { cautious: true, ..AdamW::default() })),
    ("Adam", |b| b.optimizer(Adam { weight_decay: 0.1, ..Adam::default() })),
    ("SGD", |b| b.optimizer(Sgd::default())),
    ("StableAdamW", |b| b.optimizer(StableAdamW::default())),
    ("Adam-atan2", |b| b.optimizer(AdamAtan2::default())),
    ("Lion", |b| b.optimizer(Lion::default())),
    ("Adafactor", |b| b.optimizer(Adafactor::default())),
    ("Muon", |b| b.optimizer(Muon::default())),
];

const POLICIES: [Choice; 12] = [
    ("no policy", |b| b),
    ("norm", |b| b.clip(Clip::Norm(0.01))),
    ("exact norm", |b| b.norm(Norm::ExactL2).clip(Clip::Norm(0.01))),
    ("value", |b| b.clip(Clip::Value(1e-4)).loss_scale(LossScale::Static(256.0))),
    ("per tensor", |b| b.policy(ClipPerTensor { max_norm: 0.01 })),
    ("block RMS", |b| b.policy(ClipBlockRms { threshold: 1e-3 })),
    ("AGC", |b| b.policy(AdaptiveGradientClip::default())),
    ("AutoClip", |b| b.policy(AutoClip::default())),
    ("ZClip", |b| b.policy(ZClip::default())),
    ("AdaGC", |b| b.policy(AdaGc::default())),
    ("spike guard", |b| b.policy(SpikeGuard::default())),
    ("rollback", |b| b.policy(SpikeGuard::with_rollback()).policy(SnapshotRing::default())),
];

/// A value, and the (tensor, element) whose gradient it spoils: first, middle, last.
const FAULTS: [(f32, (usize, usize)); 4] = [
    (f32::NAN, (0, 0)),
    (f32::INFINITY, (1, 1100)),
    (f32::NEG_INFINITY, (1, 37 * 61 - 1)),
    (f32::NAN, (2, 6)),
];

fn survives(gpu: &Gpu, what: &str, builder: impl Fn() -> Builder, microbatches: usize) {
    let build = || block_on(builder().accumulation(microbatches).build(gpu)).expect("a trainer");
    let (mut trainer, mut control) = (build(), build());
    let good = |seed| Terms::three().data(seed, microbatches);
    let step = |trainer: &mut Trainer<Terms>, batch: &evenkeel::train::Batch| {
        block_on(trainer.step(batch)).expect("a step");
    };
    step(&mut trainer, &good(1).batch());
    let before = block_on(trainer.committed_bytes()).expect("bytes");
    for (fault, (tensor, element)) in FAULTS {
        let mut bad = good(2);
        // In the last microbatch only.
        let each = bad.targets[tensor].len() / microbatches;
        bad.targets[tensor][each * (microbatches - 1) + element] = fault;
        step(&mut trainer, &bad.batch());
    }
    let records = block_on(trainer.telemetry()).expect("telemetry");
    assert!(records[0].applied && records.len() == 5, "{what}");
    for record in &records[1..] {
        assert!(
            !record.applied && record.reason == Reason::NonFiniteGradient,
            "{what}: {record:?}"
        );
    }
    let after = block_on(trainer.committed_bytes()).expect("bytes");
    assert!(before == after, "{what}: a committed byte changed");
    step(&mut trainer, &good(3).batch());
    for seed in [1, 3] {
        step(&mut control, &good(seed).batch());
    }
    let bytes = |trainer: &Trainer<Terms>| block_on(trainer.committed_bytes()).expect("bytes");
    assert!(bytes(&trainer) != before, "{what}: nothing moves any more");
    assert!(bytes(&trainer) == bytes(&control), "{what}: the bad steps left a trace");
}

fn every_optimizer_with_every_policy() {
    let Some(gpu) = support::gpu() else { return };
    for (optimizer, with_optimizer) in OPTIMIZERS {
        for (policy, with_policy) in POLICIES {
            let builder = || with_policy(with_optimizer(Trainer::builder(Terms::three()).seed(2)));
            survives(&gpu, &format!("{optimizer}, {policy}"), builder, 1);
        }
    }
}

fn one_bad_microbatch_of_three() {
    let Some(gpu) = support::gpu() else { return };
    for (optimizer, with_optimizer) in OPTIMIZERS {
        let builder = || with_optimizer(Trainer::builder(Terms::three()).seed(2));
        survives(&gpu, optimizer, builder, 3);
    }
}
