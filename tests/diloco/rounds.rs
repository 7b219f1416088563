//! Rounds in which all ranks count, against their rule.

use evenkeel::graph::ParameterSpec;
use evenkeel::train::ranks::{DiLoCoSettings, DifferenceEncoding};
use evenkeel::train::{AdamW, Ema, Sgd, Trainer, TrainerBuilder};
use evenkeel::{Precision, WeightStorage};

use crate::support::models::{Terms, small_gpt, small_gpt_batch};
use crate::support::parted::{Data, parted};
use crate::support::{Tolerance, assert_close, block_on, gpu, wide};
use crate::{begin, by_hand, on_ranks, rank, same, step, terms, trained, weights};

fn builder() -> TrainerBuilder<Terms> {
    let optimizer = AdamW { learning_rate: 0.02, ..AdamW::default() };
    Trainer::builder(Terms::three()).optimizer(optimizer).seed(5)
}

/// A rank alone whose outer step is the whole way is the trainer without DiLoCo, bit by bit, with
/// dropout and stochastic rounding.
#[test]
fn one_rank_that_goes_all_the_way_is_a_trainer_by_itself() {
    let Some(gpu) = gpu() else { return };
    let storages = [WeightStorage::F32, WeightStorage::Bf16Split, WeightStorage::Bf16Stochastic];
    for storage in storages {
        let builder = || {
            let optimizer = AdamW { learning_rate: 0.01, ..AdamW::default() };
            let builder = Trainer::builder(small_gpt(0.2, 2)).optimizer(optimizer).seed(3);
            builder.weights(storage).precision(match storage {
                WeightStorage::F32 => Precision::F32,
                _ => Precision::Bf16,
            })
        };
        let mut alone = block_on(builder().build(&gpu)).expect("a trainer");
        let settings = DiLoCoSettings {
            inner_steps: 1,
            learning_rate: 1.0,
            momentum: 0.0,
            encoding: DifferenceEncoding::F32,
            ..DiLoCoSettings::default()
        };
        on_ranks(1, |exchange| {
            let mut diloco = begin(&gpu, builder(), exchange, settings);
            for seed in 0..6 {
                let round = step(&mut diloco, &small_gpt_batch(seed, 2)).expect("a round");
                assert_eq!(
                    (round.number, round.steps, &round.counted[..]),
                    (seed + 1, 1, &[0][..])
                );
                assert_eq!((round.left_out.len(), round.bytes_sent), (0, 0));
            }
            (
                block_on(diloco.trainer().committed_bytes()).expect("bytes"),
                block_on(diloco.trainer().state()).expect("a state"),
            )
        })
        .into_iter()
        .for_each(|(bytes, state)| {
            for seed in 0..6 {
                block_on(alone.step(&small_gpt_batch(seed, 2))).expect("a step");
            }
            assert!(bytes == block_on(alone.committed_bytes()).expect("bytes"), "{storage}");
            assert_eq!(state, block_on(alone.state()).expect("a state"), "{storage}");
        });
    }
}

/// Weights of a rank before and after each round.
type Seen = Vec<(Vec<f32>, Vec<f32>)>;

fn seen(ranks: usize, encoding: DifferenceEncoding, storage: WeightStorage) -> Option<Vec<Seen>> {
    let gpu = gpu()?;
    Some(on_ranks(ranks, |exchange| {
        let builder = builder().weights(storage);
        let mut diloco = begin(&gpu, builder, exchange, by_hand(encoding));
        let began = weights(&diloco);
        let mut seen = vec![(began.clone(), began)];
        for round in 0..3 {
            for number in 0..2 {
                let batch = terms(rank(&diloco), 2 * round + number);
                step(&mut diloco, &batch);
            }
            let before = weights(&diloco);
            let told = block_on(diloco.round()).expect("a round");
            assert_eq!(told.counted, (0..ranks).collect::<Vec<_>>());
            assert_eq!((told.steps, told.norms.len()), (2, ranks));
            let began = &seen.last().expect("a round").1;
            let moved = began.iter().zip(&before).map(|(a, w)| f64::from(*a) - f64::from(*w));
            let norm = moved.map(|x| x * x).sum::<f64>().sqrt();
            let found = told.norms[rank(&diloco)].expect("finite");
            assert!((found - norm).abs() <= 1e-12 * norm, "{found} {norm}");
            seen.push((before, weights(&diloco)));
        }
        seen
    }))
}

/// The anchor after each round: a plain loop over ranks, in f64.
fn expected(ranks: &[Seen]) -> Vec<Vec<f64>> {
    let mut anchor = wide(&ranks[0][0].1);
    let mut momentum = vec![0f64; anchor.len()];
    let mut anchors = Vec::new();
    for round in 1..ranks[0].len() {
        for (i, (anchor, momentum)) in anchor.iter_mut().zip(&mut momentum).enumerate() {
            let differences = ranks.iter().map(|seen| *anchor - f64::from(seen[round].0[i]));
            let gradient = differences.sum::<f64>() / ranks.len() as f64;
            *momentum = 0.9 * *momentum + gradient;
            *anchor -= 0.7 * (gradient + 0.9 * *momentum);
        }
        anchors.push(anchor.clone());
    }
    anchors
}

fn largest_move(ranks: &[Seen]) -> f64 {
    let of_round = |pair: &[(Vec<f32>, Vec<f32>)]| {
        let moves = pair[0].1.iter().zip(&pair[1].0).map(|(a, w)| f64::from((a - w).abs()));
        moves.fold(0.0, f64::max)
    };
    ranks.iter().flat_map(|seen| seen.windows(2).map(of_round)).fold(0.0, f64::max)
}

#[test]
fn rounds_are_those_of_nesterov_over_the_mean_difference() {
    for (ranks, encoding) in [
        (2, DifferenceEncoding::F32),
        (2, DifferenceEncoding::Int8),
        (3, DifferenceEncoding::F16),
        (4, DifferenceEncoding::Int8),
    ] {
        let Some(found) = seen(ranks, encoding, WeightStorage::F32) else { return };
        let expected = expected(&found);
        // What an error of one round has become after three, with a momentum of 0.9.
        let grown = 3.0 * 0.7 * (1.0 + 0.9 + 0.81 + 0.729);
        let largest = largest_move(&found);
        let tolerance = match encoding {
            DifferenceEncoding::F32 => {
                Tolerance { absolute: 0.0, relative: 0.0, because: "weights are rounded" }
            }
            DifferenceEncoding::F16 => Tolerance {
                absolute: grown * largest * 2f64.powi(-11),
                relative: 0.0,
                because: "half a step of f16",
            },
            DifferenceEncoding::Int8 => Tolerance {
                absolute: grown * largest / 254.0,
                relative: 0.0,
                because: "half a step of 1/127 of the largest",
            },
        };
        // Means and anchors are rounded to f32 once a round; weights are below 4.
        let rounding = grown * 2.0 * 4.0 * 2f64.powi(-24);
        let tolerance = Tolerance { absolute: tolerance.absolute + rounding, ..tolerance };
        let after = |round: usize| found.iter().map(move |seen| seen[round].1.clone()).collect();
        for (round, expected) in (1..).zip(&expected) {
            let what = format!("round {round} of {ranks} ranks in {encoding}");
            let after = same(&what, after(round));
            assert_close(&what, &after, expected, tolerance);
        }
    }
}

/// What bf16 does not hold of the anchor stays on the host: rounds come to the same as in f32, within
/// half a step of bf16 of the weights.
#[test]
fn ranks_with_weights_in_bf16_have_the_same_and_lose_nothing() {
    let storage = WeightStorage::Bf16Stochastic;
    let Some(found) = seen(2, DifferenceEncoding::F32, storage) else { return };
    let mut anchor = wide(&found[0][0].1);
    let mut momentum = vec![0f64; anchor.len()];
    for round in 1..4 {
        let of = |seen: &Seen| (seen[round - 1].1.clone(), seen[round].0.clone());
        let [(began, first), (_, second)] = [of(&found[0]), of(&found[1])];
        for i in 0..anchor.len() {
            let mean = (f64::from(first[i]) + f64::from(second[i])) / 2.0;
            let gradient = f64::from(began[i]) - mean;
            momentum[i] = 0.9 * momentum[i] + gradient;
            anchor[i] -= 0.7 * (gradient + 0.9 * momentum[i]);
        }
        let after = same("bf16", found.iter().map(|seen| seen[round].1.clone()).collect());
        let because = "half a step of bf16";
        let tolerance = Tolerance { absolute: 1e-6, relative: 2f64.powi(-8), because };
        assert_close(&format!("round {round}"), &after, &anchor, tolerance);
        assert!(after.iter().all(|x| x.to_bits() & 0xffff == 0), "no bf16");
    }
}

#[test]
fn ranks_draw_dropout_of_their_own() {
    let Some(gpu) = gpu() else { return };
    let builder = || Trainer::builder(small_gpt(0.5, 2)).seed(3);
    let batch = small_gpt_batch(1, 2);
    let found = on_ranks(3, |exchange| {
        let settings = by_hand(DifferenceEncoding::F16);
        let mut diloco = begin(&gpu, builder(), exchange, settings);
        let began = weights(&diloco);
        step(&mut diloco, &batch);
        assert_eq!(diloco.seed(), 3);
        (began, diloco.trainer().seed(), weights(&diloco))
    });
    let mut alone = block_on(builder().build(&gpu)).expect("a trainer");
    block_on(alone.step(&batch)).expect("a step");
    assert_eq!(found[0].1, 3);
    assert!(found[0].2 == trained(alone.parameters()));
    assert!(found[0].0 == found[1].0 && found[0].0 == found[2].0);
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        assert!(found[a].1 != found[b].1 && found[a].2 != found[b].2, "ranks {a} and {b}");
    }
}

#[test]
fn running_statistics_become_their_mean_and_averages_stay() {
    let Some(gpu) = gpu() else { return };
    let ema = Ema { decay: 0.5, warmup: false };
    let found = on_ranks(2, |exchange| {
        let builder = parted().optimizer(Sgd::default()).ema(ema);
        let mut diloco = begin(&gpu, builder, exchange, by_hand(DifferenceEncoding::Int8));
        let seed = 7 + rank(&diloco) as u64;
        step(&mut diloco, &Data::new(seed, 1).batch());
        let read = |diloco: &evenkeel::train::ranks::DiLoCo<_>, name: &str| {
            block_on(diloco.trainer().parameters().read(name)).expect("a state")
        };
        let average = |diloco: &evenkeel::train::ranks::DiLoCo<_>| {
            let checkpoint = block_on(diloco.trainer().checkpoint()).expect("a checkpoint");
            checkpoint.average("w").expect("an average").1
        };
        let states = |diloco: &_| ["mean", "variance"].map(|name| read(diloco, name)).concat();
        let before = (states(&diloco), average(&diloco));
        block_on(diloco.round()).expect("a round");
        assert_eq!(average(&diloco), before.1, "an average has moved");
        (before.0, before.1, states(&diloco))
    });
    let pairs = found[0].0.iter().zip(&found[1].0);
    let mean: Vec<_> = pairs.map(|(a, b)| ((f64::from(*a) + f64::from(*b)) / 2.0) as f32).collect();
    assert!(found[0].0 != found[1].0 && found[0].1 != found[1].1);
    assert_eq!(found[0].2, mean);
    assert_eq!(found[1].2, mean);
}

#[test]
fn only_what_is_trained_goes_out() {
    let Some(gpu) = gpu() else { return };
    let frozen = |spec: &ParameterSpec| spec.name == "w1";
    for (encoding, sent) in [
        // Two ranks give their whole difference in few bytes, and halves of weights and of means in
        // four: whole blocks.
        (DifferenceEncoding::F16, 2 * (15 + 7)),
        (DifferenceEncoding::Int8, 15 + 7 + 4),
        (DifferenceEncoding::F32, 4 * (15 + 7)),
    ] {
        let found = on_ranks(2, |exchange| {
            let builder = builder().freeze(frozen);
            let mut diloco = begin(&gpu, builder, exchange, by_hand(encoding));
            let kept = 15 + 7;
            let bytes = if encoding == DifferenceEncoding::F32 { 8 * kept } else { 12 * kept };
            assert_eq!(diloco.host_bytes(), bytes);
            let read = |name| block_on(diloco.trainer().parameters().read(name)).expect("weights");
            let before = read("w1");
            let batch = terms(rank(&diloco), 1);
            step(&mut diloco, &batch);
            let round = block_on(diloco.round()).expect("a round");
            let read = |name| block_on(diloco.trainer().parameters().read(name)).expect("weights");
            assert_eq!(before, read("w1"));
            (round.bytes_sent, weights(&diloco))
        });
        assert!(found[0].1 == found[1].1);
        assert_eq!(found[0].0.max(found[1].0), sent, "{encoding}");
    }
}
