//! One verdict for all ranks: a fault of one skips the step on all, bit by bit.

use evenkeel::step::Reason;
use evenkeel::train::ranks::Exchange;
use evenkeel::train::stability::{
    AdaGc, AdaptiveGradientClip, AutoClip, ClipPerTensor, Reaction, SnapshotRing, SpikeGuard, ZClip,
};
use evenkeel::train::{
    Adafactor, AdamAtan2, AdamW, Batch, Clip, DynamicLossScale, Lion, LossScale, Muon, Norm, Sgd,
    StableAdamW, Trainer, TrainerBuilder,
};
use evenkeel::{Error, Gpu};

use crate::support::models::Terms;
use crate::support::parted::{Data, FAULTS, Fault, Parted};
use crate::support::{block_on, gpu};
use crate::{all_the_same, on_ranks, run, state};

fn parted() -> TrainerBuilder<Parted> {
    Trainer::builder(Parted).seed(3)
}

/// The microbatches of a step are those of ranks, so the fault of one is that of a rank.
fn batch(seed: u64, ranks: usize, fault: Option<(Fault, usize)>) -> Batch {
    let data = Data::new(seed, ranks);
    fault.map_or(data.clone(), |(fault, rank)| data.with(fault, rank)).batch()
}

#[test]
fn a_fault_of_any_kind_on_any_rank_skips_the_step_on_all() {
    let Some(gpu) = gpu() else { return };
    for ranks in [2, 3] {
        let good: Vec<_> = (0..4).map(|seed| batch(seed, ranks, None)).collect();
        let faults = FAULTS.into_iter().flat_map(|f| (0..ranks).map(move |rank| (f, rank)));
        let faults: Vec<_> = faults.collect();
        let mut batches = good[..2].to_vec();
        batches.extend(faults.iter().map(|&fault| batch(9, ranks, Some(fault))));
        batches.extend_from_slice(&good[2..]);
        let builder = || {
            let optimizer = AdamW { weight_decay: 0.1, ..AdamW::default() };
            parted().optimizer(optimizer).clip(Clip::Norm(0.5)).compare_ranks_every(1)
        };
        let with = |batches: &[Batch]| {
            let all = on_ranks(ranks, |exchange| run(&gpu, builder(), exchange, batches));
            all_the_same(&format!("{ranks} ranks"), all)
        };
        let (state, records) = with(&batches);
        for ((fault, rank), record) in faults.iter().zip(&records[2..]) {
            let what = format!("{fault:?} on rank {rank} of {ranks}");
            assert_eq!((record.applied, record.reason), (false, fault.reason()), "{what}");
        }
        let applied = records.iter().filter(|record| record.applied).count();
        assert_eq!(applied, good.len());
        let (control, _) = with(&good);
        assert!(state.committed == control.committed, "{ranks} ranks: the faults left a trace");
    }
}

#[test]
fn the_loss_scale_moves_on_all_ranks_alike() {
    let Some(gpu) = gpu() else { return };
    let scale = DynamicLossScale { init: 256.0, interval: 2, ..DynamicLossScale::default() };
    // An overflow of one rank alone: twice, so that every hysteresis is used up.
    let overflow = Some((FAULTS[1], 1));
    let faults = [None, overflow, overflow, None, None, None];
    let batches: Vec<_> = (0..).zip(faults).map(|(seed, fault)| batch(seed, 2, fault)).collect();
    let of_rank =
        |exchange| run(&gpu, parted().loss_scale(LossScale::Dynamic(scale)), exchange, &batches);
    let (_, records) = all_the_same("a dynamic loss scale", on_ranks(2, of_rank));
    let scales: Vec<_> = records.iter().map(|record| record.loss_scale).collect();
    assert!(scales[3] < scales[0], "it went down: {scales:?}");
    assert!(scales[5] > scales[3], "and up again: {scales:?}");
}

type Choice = (&'static str, fn(TrainerBuilder<Terms>) -> TrainerBuilder<Terms>);

const CHOICES: [Choice; 17] = [
    ("Adafactor", |b| b.optimizer(Adafactor::default())),
    ("Adam-atan2", |b| b.optimizer(AdamAtan2::default())),
    ("Lion", |b| b.optimizer(Lion::default())),
    ("Muon", |b| b.optimizer(Muon::default())),
    ("SGD", |b| b.optimizer(Sgd { momentum: 0.9, ..Sgd::default() })),
    ("StableAdamW", |b| b.optimizer(StableAdamW::default())),
    ("AMSGrad", |b| b.optimizer(AdamW { amsgrad: true, ..AdamW::default() })),
    ("exact norm", |b| b.norm(Norm::ExactL2).clip(Clip::Norm(0.01))),
    ("value", |b| b.clip(Clip::Value(1e-4)).loss_scale(LossScale::Static(256.0))),
    ("per tensor", |b| b.policy(ClipPerTensor { max_norm: 0.01 })),
    ("AGC", |b| b.policy(AdaptiveGradientClip::default())),
    ("AutoClip", |b| b.policy(AutoClip::default())),
    ("ZClip", |b| b.policy(ZClip { warmup: 2, ..ZClip::default() })),
    ("AdaGC", |b| b.policy(AdaGc { warmup: 2, ..AdaGc::default() })),
    ("spike guard", |b| b.policy(SpikeGuard { window: 3, ..SpikeGuard::default() })),
    ("rollback", |b| {
        let reactions = vec![Reaction::RollBack];
        let guard = SpikeGuard { window: 3, reactions, ..SpikeGuard::default() };
        b.policy(guard).policy(SnapshotRing { every: 1, ..SnapshotRing::default() })
    }),
    ("watched", |b| b.watch_tensors(2)),
];

/// Loss and norm of rank 1 alone leap, then are not finite; the reaction is that of all.
#[test]
fn optimizers_and_policies_stay_together() {
    let Some(gpu) = gpu() else { return };
    let data = |seed: u64, factor: f32| {
        let mut data = Terms::three().data(seed, 2);
        for target in &mut data.targets {
            let half = target.len() / 2;
            target[half..].iter_mut().for_each(|x| *x *= factor);
        }
        data.batch()
    };
    let factors = [1.0, 1.0, 1.0, 1.0, 1e3, f32::NAN, 1e3, 1e3, 1.0];
    let batches: Vec<_> = (1..).zip(factors).map(|(seed, factor)| data(seed, factor)).collect();
    for (what, with) in CHOICES {
        let of_rank = |exchange| {
            let builder = with(Trainer::builder(Terms::three()).seed(2)).compare_ranks_every(1);
            run(&gpu, builder, exchange, &batches)
        };
        let (_, records) = all_the_same(what, on_ranks(2, of_rank));
        assert_eq!(records[5].reason, Reason::NonFiniteGradient, "{what}");
        let vetoed = records.iter().any(|record| record.reason == Reason::LossSpike);
        assert!(vetoed || what != "spike guard", "{what}: {records:?}");
        let back = records.iter().any(|record| record.reason == Reason::RolledBack);
        assert_eq!(back, what == "rollback", "{what}: {records:?}");
    }
}

/// Telemetry that one rank alone has read stops all of them, not that one.
#[test]
fn all_ranks_give_up_together() {
    let Some(gpu) = gpu() else { return };
    let bad = batch(1, 2, Some((FAULTS[0], 0)));
    let ends = on_ranks(2, |exchange| ends(&gpu, exchange, &bad));
    assert!(matches!(ends[0], Error::GaveUp { .. }), "{:?}", ends[0]);
    let told = ends[1].to_string();
    assert!(told.starts_with("rank 0 cannot go on: training gave up at step 2"), "{told}");
}

fn ends(gpu: &Gpu, exchange: evenkeel::train::ranks::Local, bad: &Batch) -> Error {
    let (rank, ranks) = (exchange.rank(), exchange.size());
    let builder = parted().give_up_after(3).exchange(exchange);
    let mut trainer = block_on(builder.build(gpu)).expect("a trainer");
    let batch = bad.of_rank(rank, ranks).expect("even");
    let before = state(&trainer).committed;
    for _ in 0..3 {
        block_on(trainer.step(&batch)).expect("a step");
    }
    if rank == 0 {
        block_on(trainer.telemetry()).expect("telemetry");
    }
    let error = block_on(trainer.step(&batch)).expect_err("it gave up");
    assert!(before == state(&trainer).committed);
    error
}
