//! A language model that learns on ranks which rarely meet, one of them astray for a while.

use evenkeel::nn::{Gpt, GptConfig, LanguageModel};
use evenkeel::train::ranks::{DiLoCoSettings, DifferenceEncoding, Why};
use evenkeel::train::{AdamW, Batch, Clip, Schedule, Trainer, TrainerBuilder};

use crate::support::{block_on, gpu, values};
use crate::{begin, on_ranks, rank, same, step, weights};

const TIME: usize = 8;
const BATCH: usize = 4;
const VOCABULARY: usize = 11;
const STEPS: u64 = 60;

fn builder() -> TrainerBuilder<LanguageModel> {
    let config = GptConfig::gpt2(VOCABULARY, TIME, 1, 2, 16);
    let gpt = Gpt::new(config).expect("valid");
    Trainer::builder(LanguageModel { gpt, batch: BATCH, time: TIME })
        .optimizer(AdamW { learning_rate: 0.01, ..AdamW::default() })
        .schedule(Schedule::Cosine { warmup: 5, total: STEPS as usize, final_factor: 0.1 })
        .clip(Clip::Norm(1.0))
        .seed(1)
}

/// Sequences in which the next token is one of two: 3 a + 1, or seldom a + 5.
fn text(seed: u64) -> Batch {
    let (mut tokens, mut targets) = (Vec::new(), Vec::new());
    for row in 0..BATCH as u64 {
        let draws = values(997 * seed + row, TIME + 1);
        let mut token = ((draws[0] + 1.0) * 5.0) as u32;
        for draw in &draws[1..] {
            tokens.push(token);
            token = (if *draw < 0.8 { 3 * token + 1 } else { token + 5 }) % VOCABULARY as u32;
            targets.push(token);
        }
    }
    Batch::new().with("tokens", tokens).with("targets", targets)
}

fn held_out() -> Vec<Batch> {
    (0..4).map(|index| text(1_000_000 + index)).collect()
}

fn settings(encoding: DifferenceEncoding) -> DiLoCoSettings {
    // A momentum of 0.9 looks back over more rounds than there are.
    DiLoCoSettings { inner_steps: 10, momentum: 0.5, encoding, ..DiLoCoSettings::default() }
}

/// The loss on what no rank has seen, and in which rounds rank 1 was left out. Where it goes astray, it
/// does so from step 35 to 50.
fn learn(ranks: usize, encoding: DifferenceEncoding, goes_astray: bool) -> Option<(f32, Vec<u64>)> {
    let gpu = gpu()?;
    let found = on_ranks(ranks, |exchange| {
        let mut diloco = begin(&gpu, builder(), exchange, settings(encoding));
        let mut left_out = Vec::new();
        for number in 0..STEPS {
            if rank(&diloco) == 1 && goes_astray {
                let factor = if (35..50).contains(&number) { 100.0 } else { 1.0 };
                diloco.trainer_mut().set_learning_rate_factor(factor);
            }
            let seed = 1000 * rank(&diloco) as u64 + number;
            let Some(round) = step(&mut diloco, &text(seed)) else { continue };
            for out in &round.left_out {
                assert!(out.rank == 1 && matches!(out.why, Why::Outlier { .. }), "{out}");
                left_out.push(round.number);
            }
        }
        let loss = block_on(diloco.trainer_mut().evaluate_all(&held_out())).expect("a loss");
        (loss, left_out, weights(&diloco))
    });
    let (loss, left_out, _) = same("ranks", found);
    Some((loss, left_out))
}

#[test]
fn two_ranks_learn_as_one_does_and_one_that_goes_astray_spoils_nothing() {
    let Some(gpu) = gpu() else { return };
    let mut alone = block_on(builder().build(&gpu)).expect("a trainer");
    let first = block_on(alone.evaluate_all(&held_out())).expect("a loss");
    for number in 0..STEPS {
        block_on(alone.step(&text(number))).expect("a step");
    }
    let alone = block_on(alone.evaluate_all(&held_out())).expect("a loss");
    let learned = |encoding, astray| learn(2, encoding, astray).expect("as above");
    let (exact, none) = learned(DifferenceEncoding::F32, false);
    let (coded, none_either) = learned(DifferenceEncoding::Int8, false);
    let (guarded, left_out) = learned(DifferenceEncoding::Int8, true);
    println!("{first} at first; alone {alone}, two {exact}, int8 {coded}, one astray {guarded}");
    assert!(none.is_empty() && none_either.is_empty());
    assert_eq!(left_out, [4, 5]);
    let fall = first - alone;
    assert!(fall > 1.0, "one rank learns: {first} to {alone}");
    for (what, loss) in [("f32", exact), ("int8", coded), ("one astray", guarded)] {
        assert!(first - loss > 0.9 * fall, "{what}: {loss}, alone {alone}");
    }
    assert!((exact - coded).abs() < 0.05 * fall, "{exact} {coded}");
}
