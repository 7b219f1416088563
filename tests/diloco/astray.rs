//! Ranks that are left out of a round, and come back.

use std::fmt;

use evenkeel::record::Recorder;
use evenkeel::train::optimizers::{Rule, Segment};
use evenkeel::train::ranks::{
    DiLoCo, DiLoCoSettings, DifferenceEncoding, Exchange, LeftOut, Local, Round, Why,
};
use evenkeel::train::{
    AdamW, Checkpoint, DynamicLossScale, LossScale, Optimizer, Sgd, Trainer, TrainerBuilder,
};

use crate::support::models::Terms;
use crate::support::parted::{Data, Parted, parted};
use crate::support::{block_on, gpu};
use crate::{begin, by_hand, on_ranks, rank, same, spoil, step, terms, weights};

fn builder() -> TrainerBuilder<Terms> {
    let optimizer = AdamW { learning_rate: 0.02, ..AdamW::default() };
    Trainer::builder(Terms::three()).optimizer(optimizer).seed(5)
}

fn rounds(
    diloco: &mut DiLoCo<Terms>,
    numbers: std::ops::Range<u64>,
    mut before: impl FnMut(&mut DiLoCo<Terms>, u64),
) -> Vec<Round> {
    let rank = rank(diloco);
    let round = |number: u64| {
        for inner in 0..2 {
            step(diloco, &terms(rank, 2 * number + inner));
        }
        before(diloco, number);
        block_on(diloco.round()).expect("a round")
    };
    numbers.map(round).collect()
}

/// A rank whose weights are not finite takes nothing with it: the others come to what they would have
/// come to without it, bit by bit, it goes on with theirs, and counts in the next round.
#[test]
fn a_rank_that_is_not_finite_is_left_out_and_comes_back() {
    let Some(gpu) = gpu() else { return };
    for (ranks, encoding, value, name) in [
        (2, DifferenceEncoding::F32, f32::NAN, "w0"),
        (2, DifferenceEncoding::F16, f32::NEG_INFINITY, "w2"),
        (2, DifferenceEncoding::F16, 1e6, "w1"),
        (3, DifferenceEncoding::Int8, f32::NAN, "w1"),
        (4, DifferenceEncoding::F16, f32::NAN, "w2"),
    ] {
        let what = format!("{value} in {encoding} on {ranks} ranks");
        let spoiled = ranks - 1;
        let of = |exchange: Local, numbers: std::ops::Range<u64>| {
            let mut diloco = begin(&gpu, builder(), exchange, by_hand(encoding));
            let told = rounds(&mut diloco, numbers.clone(), |diloco, number| {
                if number == 1 && rank(diloco) == spoiled {
                    spoil(diloco, name, value);
                }
            });
            (told, weights(&diloco))
        };
        let found = on_ranks(ranks, |exchange| of(exchange, 0..3));
        let told: Vec<_> = found.iter().map(|(told, _)| told.clone()).collect();
        for told in &told {
            let why = Why::NotFinite { tensor: name.to_owned() };
            assert_eq!(told[1].left_out, [LeftOut { rank: spoiled, why: why.clone() }], "{what}");
            assert_eq!(told[1].counted, (0..spoiled).collect::<Vec<_>>(), "{what}");
            assert_eq!(told[1].why(spoiled), Some(&why));
            assert_eq!((told[1].why(0), told[1].norms[spoiled]), (None, None));
            assert!(told[2].left_out.is_empty() && told[0].left_out.is_empty(), "{what}");
            assert_eq!(told[1].emptied, [""; 0]);
        }
        let text = told[0][1].left_out[0].to_string();
        let head = format!("rank {spoiled} was left out: its {name} is NaN, Inf, or too far");
        assert!(text.starts_with(&head), "{text}");
        same(&what, found.into_iter().map(|(_, weights)| weights).collect());
    }
}

/// AdamW whose second moments are NaN, which tells of itself that it is AdamW.
struct Broken(AdamW);

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Optimizer for Broken {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn moments(&self) -> &'static [&'static str] {
        self.0.moments()
    }

    fn learning_rate(&self) -> f64 {
        self.0.learning_rate
    }

    fn rule(&self, recorder: &mut Recorder<'_>, segment: &Segment<'_>) -> Rule {
        let [beta1, _] = self.0.betas;
        AdamW { betas: [beta1, f64::NAN], ..self.0 }.rule(recorder, segment)
    }
}

/// Moments that are not finite are emptied with the round, so that a save of them can be read again.
#[test]
fn spoiled_moments_are_emptied() {
    let Some(gpu) = gpu() else { return };
    on_ranks(2, |exchange| {
        let rank = exchange.rank();
        let adamw = AdamW { learning_rate: 0.02, ..AdamW::default() };
        let builder = Trainer::builder(Terms::three());
        let builder = match rank {
            0 => builder.optimizer(adamw),
            _ => builder.optimizer(Broken(adamw)),
        };
        let mut diloco = begin(&gpu, builder, exchange, by_hand(DifferenceEncoding::F16));
        step(&mut diloco, &terms(rank, 0));
        let moments = |diloco: &DiLoCo<Terms>| {
            let trainer = diloco.trainer();
            block_on(trainer.checkpoint()).expect("a checkpoint").to_bytes()
        };
        assert_eq!(Checkpoint::from_bytes(&moments(&diloco)).is_err(), rank == 1);
        let round = block_on(diloco.round()).expect("a round");
        assert_eq!(round.counted, [0]);
        let emptied: &[&str] = if rank == 1 { &["w0", "w1", "w2"] } else { &[] };
        assert_eq!(round.emptied, emptied);
        Checkpoint::from_bytes(&moments(&diloco)).expect("finite numbers");
        let states = block_on(diloco.trainer().tensor_states()).expect("tensors");
        assert!(states.iter().all(|state| state.steps == 1 - rank as u32));
    });
}

/// Running statistics that are not finite are in no mean, and become those of the others.
#[test]
fn a_rank_whose_running_statistics_are_not_finite_is_left_out() {
    let Some(gpu) = gpu() else { return };
    let found = on_ranks(3, |exchange| {
        let builder = parted().optimizer(Sgd::default());
        let mut diloco = begin(&gpu, builder, exchange, by_hand(DifferenceEncoding::F16));
        let rank = rank(&diloco);
        step(&mut diloco, &Data::new(7 + rank as u64, 1).batch());
        let read = |diloco: &DiLoCo<Parted>| {
            block_on(diloco.trainer().parameters().read("variance")).expect("a state")
        };
        let own = read(&diloco);
        if rank == 2 {
            spoil(&diloco, "variance", f32::INFINITY);
        }
        let round = block_on(diloco.round()).expect("a round");
        let why = Why::NotFinite { tensor: "variance".into() };
        assert_eq!(round.left_out, [LeftOut { rank: 2, why }]);
        (own, read(&diloco))
    });
    let pairs = found[0].0.iter().zip(&found[1].0);
    let mean: Vec<_> = pairs.map(|(a, b)| ((f64::from(*a) + f64::from(*b)) / 2.0) as f32).collect();
    for (rank, (own, after)) in found.into_iter().enumerate() {
        assert!(own != mean && after == mean, "rank {rank}: {own:?} became {after:?}");
    }
}

/// The same two rounds without the rank that was spoiled in the first.
#[test]
fn the_others_come_to_what_they_would_without_it() {
    let Some(gpu) = gpu() else { return };
    for encoding in DifferenceEncoding::ALL {
        let of = |exchange: Local| {
            let spoiled = exchange.size() - 1;
            let mut diloco = begin(&gpu, builder(), exchange, by_hand(encoding));
            rounds(&mut diloco, 0..2, |diloco, _| {
                if rank(diloco) == spoiled {
                    spoil(diloco, "w1", f32::NAN);
                }
            });
            weights(&diloco)
        };
        let with = same("with it", on_ranks(3, of));
        let without = same(
            "without it",
            on_ranks(2, |exchange| {
                let mut diloco = begin(&gpu, builder(), exchange, by_hand(encoding));
                rounds(&mut diloco, 0..2, |_, _| {});
                weights(&diloco)
            }),
        );
        assert!(with == without, "{encoding}");
    }
}

#[test]
fn where_no_rank_counts_the_last_round_stays() {
    let Some(gpu) = gpu() else { return };
    let found = on_ranks(2, |exchange| {
        let mut diloco = begin(&gpu, builder(), exchange, by_hand(DifferenceEncoding::Int8));
        rounds(&mut diloco, 0..1, |_, _| {});
        let before = weights(&diloco);
        let told = rounds(&mut diloco, 1..2, |diloco, _| spoil(diloco, "w0", f32::NAN));
        assert_eq!((told[0].counted.len(), told[0].left_out.len()), (0, 2));
        assert_eq!((told[0].bytes_sent, told[0].number), (0, 2));
        assert!(weights(&diloco) == before);
        // Straight on: nobody has moved.
        let told = block_on(diloco.round()).expect("a round");
        assert_eq!(told.why(1), Some(&Why::Still));
        assert!(weights(&diloco) == before);
        rounds(&mut diloco, 2..3, |_, _| {});
        weights(&diloco)
    });
    assert!(found[0] == found[1]);
}

/// Bad data of one rank, for longer than it bears: it is still at the round, and takes steps again
/// after it, with a loss scale that fits.
#[test]
fn a_rank_that_gave_up_takes_steps_again_after_the_round() {
    let Some(gpu) = gpu() else { return };
    let scale = DynamicLossScale { init: 1024.0, ..DynamicLossScale::default() };
    let found = on_ranks(2, |exchange| {
        let builder = builder().give_up_after(2).loss_scale(LossScale::Dynamic(scale));
        let settings = DiLoCoSettings { inner_steps: 4, ..by_hand(DifferenceEncoding::F16) };
        let mut diloco = begin(&gpu, builder, exchange, settings);
        let rank = rank(&diloco);
        let mut told = Vec::new();
        for number in 0..12 {
            let mut data = Terms::three().data(100 * rank as u64 + number, 1);
            if rank == 1 && (4..8).contains(&number) {
                data.targets[0][3] = f32::NAN;
            }
            told.extend(step(&mut diloco, &data.batch()));
            // Whoever reads telemetry hears of it, and the run goes on.
            block_on(diloco.trainer_mut().telemetry()).expect("telemetry");
            if number == 7 {
                let state = block_on(diloco.trainer().state()).expect("a state");
                assert_eq!((state.gave_up, state.skipped_total), (0, 4 * rank as u32));
            }
        }
        assert_eq!(diloco.trainer().steps(), 12);
        let state = block_on(diloco.trainer().state()).expect("a state");
        assert_eq!(state.applied_total, 12 - 4 * rank as u32);
        let left_out: Vec<_> = told.iter().map(|round| round.left_out.clone()).collect();
        let still = vec![LeftOut { rank: 1, why: Why::Still }];
        assert_eq!(left_out, [vec![], still, vec![]]);
        weights(&diloco)
    });
    assert!(found[0] == found[1]);
}

/// A learning rate a hundred times too high on one of 2, 3 and 4 ranks: with two, once there are rounds
/// to compare with, or at once where it goes ten times further.
#[test]
fn a_rank_that_goes_astray_is_left_out() {
    let Some(gpu) = gpu() else { return };
    for ranks in [2, 3, 4] {
        let found = on_ranks(ranks, |exchange| {
            let mut diloco = begin(&gpu, builder(), exchange, by_hand(DifferenceEncoding::Int8));
            let good = rounds(&mut diloco, 0..3, |_, _| {});
            assert!(good.iter().all(|round| round.left_out.is_empty()), "{good:?}");
            if rank(&diloco) == 1 {
                diloco.trainer_mut().set_learning_rate_factor(100.0);
            }
            let bad = rounds(&mut diloco, 3..5, |_, _| {});
            for round in &bad {
                let [LeftOut { rank: 1, why: Why::Outlier { norm, limit } }] = round.left_out[..]
                else {
                    panic!("{round:?}")
                };
                assert!(norm > limit && Some(norm) == round.norms[1]);
            }
            if rank(&diloco) == 1 {
                diloco.trainer_mut().set_learning_rate_factor(1.0);
            }
            let good = rounds(&mut diloco, 5..6, |_, _| {});
            assert!(good[0].left_out.is_empty(), "{good:?}");
            weights(&diloco)
        });
        same(&format!("{ranks} ranks"), found);
    }
}
