//! Saves of a run with DiLoCo: on as many ranks, on fewer, on more, and what is refused.

use evenkeel::Error;
use evenkeel::graph::ParameterSpec;
use evenkeel::nn::LanguageModel;
use evenkeel::train::ranks::{
    DiLoCo, DiLoCoCheckpoint, DiLoCoSettings, DifferenceEncoding, Exchange, Local, Resumed,
};
use evenkeel::train::{Sgd, Trainer, TrainerBuilder};

use crate::support::models::{small_gpt, small_gpt_batch};
use crate::support::parted::{Data, parted};
use crate::support::{block_on, gpu};
use crate::{begin, by_hand, on_ranks, rank, same, step, weights};

fn builder() -> TrainerBuilder<LanguageModel> {
    Trainer::builder(small_gpt(0.2, 1)).seed(4)
}

fn settings(encoding: DifferenceEncoding) -> DiLoCoSettings {
    DiLoCoSettings { inner_steps: 2, ..by_hand(encoding) }
}

fn steps(diloco: &mut DiLoCo<LanguageModel>, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let seed = 100 * rank(diloco) as u64 + number;
        step(diloco, &small_gpt_batch(seed, 1));
    }
}

fn save(diloco: &DiLoCo<LanguageModel>) -> Vec<u8> {
    block_on(diloco.checkpoint()).expect("a checkpoint").to_bytes()
}

fn read(bytes: &[u8]) -> DiLoCoCheckpoint {
    DiLoCoCheckpoint::from_bytes(bytes).expect("a checkpoint")
}

/// What so many ranks leave in the middle of a round, and at the end.
fn whole(ranks: usize, encoding: DifferenceEncoding) -> Option<Vec<[Vec<u8>; 2]>> {
    let gpu = gpu()?;
    Some(on_ranks(ranks, |exchange| {
        let mut diloco = begin(&gpu, builder(), exchange, settings(encoding));
        steps(&mut diloco, 0..9);
        let middle = save(&diloco);
        steps(&mut diloco, 9..12);
        [middle, save(&diloco)]
    }))
}

#[test]
fn a_resumed_run_is_the_one_that_never_stopped() {
    for encoding in [DifferenceEncoding::F32, DifferenceEncoding::Int8] {
        let Some(whole) = whole(2, encoding) else { return };
        let gpu = gpu().expect("as above");
        on_ranks(2, |exchange| {
            let rank = exchange.rank();
            let saved = read(&whole[rank][0]);
            assert_eq!((saved.rank(), saved.ranks(), saved.rounds()), (rank, 2, 4));
            assert_eq!((saved.steps_in_round(), saved.trainer().steps()), (1, 9));
            assert!(saved.to_bytes() == whole[rank][0], "read and written again");
            let mut diloco = begin(&gpu, builder(), exchange, settings(encoding));
            let resumed = block_on(diloco.restore(&saved)).expect("restored");
            assert_eq!(resumed, Resumed { ranks: 2, dropped: vec![], is_new: false });
            assert!(save(&diloco) == whole[rank][0], "{encoding}: not what was saved");
            steps(&mut diloco, 9..12);
            assert!(save(&diloco) == whole[rank][1], "{encoding}: not the run that never stopped");
        });
    }
}

/// Ranks 0 and 2 of 3 go on, and then 3 of which one is new.
#[test]
fn a_run_goes_on_with_fewer_and_with_more_ranks() {
    let encoding = DifferenceEncoding::F16;
    let Some(whole) = whole(3, encoding) else { return };
    let gpu = gpu().expect("as above");
    let go_on = |exchange: Local, saved: &[usize], expected: (&[usize], usize)| {
        let rank = exchange.rank();
        let mut diloco = begin(&gpu, builder(), exchange, settings(encoding));
        let saved = read(&whole[saved[rank]][0]);
        let resumed = block_on(diloco.restore(&saved)).expect("restored");
        let (dropped, new_from) = expected;
        let is_new = rank >= new_from;
        assert_eq!(resumed, Resumed { ranks: 3, dropped: dropped.to_vec(), is_new });
        let fresh = begin(&gpu, builder(), Local::ranks(1).remove(0), settings(encoding));
        assert_eq!(diloco.seed(), 4);
        assert_eq!(diloco.trainer().seed() == fresh.trainer().seed(), rank == 0);
        let kept = saved.trainer().tensor("token_embedding.weight").expect("weights").1;
        let begins = weights(&diloco);
        assert_eq!(begins[..kept.len()] == kept[..], !is_new, "weights of its own");
        steps(&mut diloco, 9..12);
        assert_eq!((diloco.rounds(), diloco.steps_in_round()), (6, 0));
        weights(&diloco)
    };
    let fewer = on_ranks(2, |exchange| go_on(exchange, &[0, 2], (&[1], 2)));
    same("fewer", fewer);
    let more = on_ranks(4, |exchange| go_on(exchange, &[0, 1, 2, 1], (&[], 3)));
    same("more", more);
}

#[test]
fn checkpoints_that_do_not_fit_are_refused_on_all_ranks() {
    let encoding = DifferenceEncoding::Int8;
    let Some(whole) = whole(2, encoding) else { return };
    let gpu = gpu().expect("as above");
    let [middle, end] =
        [0, 1].map(|at| whole.iter().map(|saves| &saves[at][..]).collect::<Vec<_>>());
    // Ranks with saves of other steps; then all is as before.
    let errors = on_ranks(2, |exchange| {
        let rank = exchange.rank();
        let mut diloco = begin(&gpu, builder(), exchange, settings(encoding));
        let before = save(&diloco);
        let other = read(if rank == 0 { middle[0] } else { end[1] });
        let error = block_on(diloco.restore(&other)).expect_err("other steps");
        assert!(save(&diloco) == before);
        block_on(diloco.restore(&read(middle[rank]))).expect("restored");
        assert!(save(&diloco) == middle[rank]);
        error
    });
    for error in errors {
        let text = error.to_string();
        assert!(
            text.starts_with("rank 1 has a checkpoint after rounds: 6, rank 0 has 4;"),
            "{text}"
        );
    }
    // One of another model, on one rank.
    let errors = on_ranks(2, |exchange| {
        let is_first = exchange.rank() == 0;
        let builder = parted().optimizer(Sgd::default());
        let mut diloco = begin(&gpu, builder, exchange, settings(encoding));
        step(&mut diloco, &Data::new(1, 1).batch());
        let own = block_on(diloco.checkpoint()).expect("a checkpoint");
        let saved = if is_first { read(middle[0]) } else { own.clone() };
        let error = block_on(diloco.restore(&saved)).expect_err("another model");
        assert!(block_on(diloco.checkpoint()).expect("a checkpoint") == own);
        error.to_string()
    });
    assert!(errors[0].contains("it has token_embedding.weight of the shape"), "{errors:?}");
    assert!(
        errors[1].starts_with("rank 0 cannot go on: the checkpoint cannot be used"),
        "{errors:?}"
    );
}

#[test]
fn damaged_files_are_refused() {
    let Some(whole) = whole(1, DifferenceEncoding::F16) else { return };
    let bytes = &whole[0][0];
    let refused = |bytes: &[u8], expected: &str| {
        let error = DiLoCoCheckpoint::from_bytes(bytes).expect_err("damaged");
        assert!(matches!(error, Error::Checkpoint { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{expected:?} is missing in {error}");
    };
    for length in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        refused(&bytes[..length], "");
    }
    let with = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = bytes.windows(from.len()).position(|part| part == from.as_bytes());
        let mut other = bytes.clone();
        other[at.expect("it is there")..][..to.len()].copy_from_slice(to.as_bytes());
        other
    };
    refused(&with("evenkeel DiLoCo 1", "evenkeel DiLoCo 2"), "its format is \"evenkeel DiLoCo 2\"");
    refused(&with(r#"ranks\":1"#, r#"ranks\":0"#), "it is of rank 0 of 0");
    refused(&with("\"momentum/", "\"momentun/"), "it has no momentum/");
    let trainer = read(bytes).trainer().to_bytes();
    refused(&trainer, "its format is \"none\"");
    // The anchor is behind the header, as F32 goes before U8.
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let mut spoiled = bytes.clone();
    spoiled[8 + header..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    refused(&spoiled, "holds NaN at index 0");
}

/// A run in which something is frozen saves what is trained.
#[test]
fn frozen_weights_are_not_saved() {
    let Some(gpu) = gpu() else { return };
    let frozen = |spec: &ParameterSpec| spec.name.contains("embedding");
    let encoding = DifferenceEncoding::F16;
    let sizes = on_ranks(2, |exchange| {
        let mut diloco = begin(&gpu, builder().freeze(frozen), exchange, settings(encoding));
        steps(&mut diloco, 0..3);
        let saved = block_on(diloco.checkpoint()).expect("a checkpoint");
        assert!(!saved.trainer().is_whole());
        steps(&mut diloco, 3..4);
        let expected = save(&diloco);
        block_on(diloco.restore(&saved)).expect("restored");
        steps(&mut diloco, 3..4);
        assert!(save(&diloco) == expected);
        expected.len()
    });
    assert!(sizes[0] > 0);
}
