//! Ranks that differ, and trainers that do not fit: all ranks are told.

use evenkeel::train::ranks::{DiLoCo, DiLoCoSettings, DifferenceEncoding, Exchange, Local};
use evenkeel::train::stability::{Reaction, SnapshotRing, SpikeGuard};
use evenkeel::train::{AdamW, Trainer, TrainerBuilder};
use evenkeel::{Error, Gpu};

use crate::support::models::Terms;
use crate::support::{block_on, gpu};
use crate::{begin, by_hand, on_ranks, rank, spoil, step, terms};

fn builder() -> TrainerBuilder<Terms> {
    Trainer::builder(Terms::three())
}

/// What each rank is told where rank 1 begins otherwise than the others.
fn told(
    gpu: &Gpu,
    other: impl Fn() -> (TrainerBuilder<Terms>, DiLoCoSettings) + Sync,
) -> Vec<Error> {
    on_ranks(3, |exchange| {
        let usual = || (builder(), by_hand(DifferenceEncoding::F16));
        let (builder, settings) = if exchange.rank() == 1 { other() } else { usual() };
        let built = block_on(builder.build(gpu));
        let begun = block_on(DiLoCo::new(built, exchange, settings));
        begun.map(|_| ()).expect_err("ranks that differ")
    })
}

#[test]
fn a_rank_that_begins_otherwise_is_named() {
    let Some(gpu) = gpu() else { return };
    let usual = by_hand(DifferenceEncoding::F16);
    type Other = (&'static str, fn() -> TrainerBuilder<Terms>, DiLoCoSettings);
    let others: [Other; 5] = [
        ("has the seed 7, rank 0 has 0;", || builder().seed(7), usual),
        (
            "learning_rate: 0.5",
            || builder().optimizer(AdamW { learning_rate: 0.5, ..AdamW::default() }),
            usual,
        ),
        ("inner_steps: 5", builder, DiLoCoSettings { inner_steps: 5, ..usual }),
        ("encoding: Int8", builder, by_hand(DifferenceEncoding::Int8)),
        ("outlier_factor: inf", builder, DiLoCoSettings { outlier_factor: f64::INFINITY, ..usual }),
    ];
    for (expected, builder, settings) in others {
        for error in told(&gpu, || (builder(), settings)) {
            assert!(matches!(error, Error::Rank { rank: 1, .. }), "{expected:?}: {error}");
            assert!(error.to_string().contains(expected), "{expected:?} is missing in {error}");
        }
    }
}

#[test]
fn a_rank_that_cannot_begin_ends_all() {
    let Some(gpu) = gpu() else { return };
    type Other = (&'static str, fn() -> TrainerBuilder<Terms>, DiLoCoSettings);
    let usual = by_hand(DifferenceEncoding::F16);
    let rolls_back = || {
        let guard = SpikeGuard { reactions: vec![Reaction::RollBack], ..SpikeGuard::default() };
        builder().policy(guard).policy(SnapshotRing::default())
    };
    let others: [Other; 4] = [
        ("accumulation is 0", || builder().accumulation(0), usual),
        (
            "momentum of DiLoCo is 1, but must be",
            builder,
            DiLoCoSettings { momentum: 1.0, ..usual },
        ),
        ("leave out SnapshotRing", rolls_back, usual),
        (
            "leave out TrainerBuilder::exchange",
            || builder().exchange(Local::ranks(1).pop().expect("one")),
            usual,
        ),
    ];
    for (expected, builder, settings) in others {
        let told = told(&gpu, || (builder(), settings));
        for (rank, error) in told.iter().enumerate() {
            let text = error.to_string();
            assert!(text.contains(expected), "{expected:?} is missing in {text}");
            assert_eq!(text.starts_with("rank 1 cannot go on: "), rank != 1, "{text}");
        }
    }
}

#[test]
fn weights_that_differ_or_are_not_finite_are_no_beginning() {
    let Some(gpu) = gpu() else { return };
    let with = |weights: fn(usize) -> f32| {
        on_ranks(2, |exchange| {
            let trainer = block_on(builder().build(&gpu)).expect("a trainer");
            let slot = trainer.parameters().find("w1").expect("a weight");
            let value = weights(exchange.rank());
            gpu.write(&slot.buffer, slot.offset, &value.to_le_bytes());
            let settings = DiLoCoSettings::default();
            let begun = block_on(DiLoCo::new(Ok(trainer), exchange, settings));
            begun.map(|_| ()).expect_err("no beginning")
        })
    };
    for error in with(|rank| rank as f32) {
        assert!(matches!(error, Error::Rank { rank: 1, .. }), "{error}");
        assert!(error.to_string().contains("has weights with the fingerprint"), "{error}");
    }
    for error in with(|_| f32::INFINITY) {
        assert!(matches!(error, Error::NonFinite { .. }), "{error}");
    }
}

/// A step, a restore or whatever else goes on beside it.
#[test]
fn steps_beside_it_are_noticed() {
    let Some(gpu) = gpu() else { return };
    on_ranks(1, |exchange| {
        let mut diloco = begin(&gpu, builder(), exchange, by_hand(DifferenceEncoding::F16));
        step(&mut diloco, &terms(0, 1));
        let other = terms(0, 2);
        block_on(diloco.trainer_mut().step(&other)).expect("a step");
        let errors = [
            block_on(diloco.step(&other)).map(|_| ()),
            block_on(diloco.round()).map(|_| ()),
            block_on(diloco.checkpoint()).map(|_| ()),
        ];
        for error in errors.map(|result| result.expect_err("refused").to_string()) {
            assert!(error.contains("at step 2 where DiLoCo has taken it to 1"), "{error}");
        }
    });
}

/// A bad batch is no step, and the round waits for a good one.
#[test]
fn a_bad_batch_is_no_step() {
    let Some(gpu) = gpu() else { return };
    let rounds = on_ranks(2, |exchange| {
        let settings = DiLoCoSettings { inner_steps: 2, ..by_hand(DifferenceEncoding::F16) };
        let mut diloco = begin(&gpu, builder(), exchange, settings);
        let rank = rank(&diloco);
        step(&mut diloco, &terms(rank, 1));
        if rank == 0 {
            let error = block_on(diloco.step(&evenkeel::train::Batch::new())).expect_err("empty");
            assert!(error.to_string().contains("input"), "{error}");
            assert_eq!((diloco.steps_in_round(), diloco.rounds()), (1, 0));
        }
        let round = step(&mut diloco, &terms(rank, 2));
        assert_eq!((diloco.steps_in_round(), diloco.rounds()), (0, 1));
        round
    });
    assert_eq!(rounds[0].as_ref().map(|round| round.counted.len()), Some(2));
}

/// Ranks whose rounds do not come together, and one that leaves.
#[test]
fn rounds_that_do_not_fit_are_told() {
    let Some(gpu) = gpu() else { return };
    let errors = on_ranks(3, |exchange| {
        let mut diloco = begin(&gpu, builder(), exchange, by_hand(DifferenceEncoding::F16));
        for number in 0..=u64::from(rank(&diloco) == 2) {
            step(&mut diloco, &terms(0, number));
        }
        block_on(diloco.round()).expect_err("another number of steps")
    });
    for error in errors {
        let text = error.to_string();
        assert!(text.starts_with("rank 2 has steps in this round: 2, rank 0 has 1;"), "{text}");
    }
    let errors = on_ranks(2, |exchange| {
        let mut diloco = begin(&gpu, builder(), exchange, by_hand(DifferenceEncoding::F16));
        if rank(&diloco) == 1 {
            spoil(&diloco, "w0", f32::NAN);
            return None;
        }
        Some(block_on(diloco.round()).expect_err("rank 1 is gone"))
    });
    for error in errors.into_iter().flatten() {
        assert!(matches!(error, Error::Rank { .. }), "{error}");
        assert!(error.to_string().starts_with("rank 1 has left the run"), "{error}");
    }
}
