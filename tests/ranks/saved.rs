//! Checkpoints and rebuilt trainers of a run on several ranks.

use evenkeel::train::ranks::{Exchange, Local};
use evenkeel::train::{Checkpoint, Trainer, TrainerBuilder};

use crate::support::models::{small_gpt, small_gpt_batch};
use crate::support::{block_on, gpu};
use crate::{on_ranks, run_alone, state};

fn builder() -> TrainerBuilder<evenkeel::nn::LanguageModel> {
    Trainer::builder(small_gpt(0.2, 1)).seed(4)
}

/// Steps of a rank from one number to another.
fn steps(
    trainer: &mut Trainer<evenkeel::nn::LanguageModel>,
    (rank, ranks): (usize, usize),
    seeds: std::ops::Range<u64>,
) {
    for seed in seeds {
        let batch = small_gpt_batch(seed, ranks).of_rank(rank, ranks).expect("even");
        block_on(trainer.step(&batch)).expect("a step");
    }
}

#[test]
fn one_rank_writes_and_all_restore() {
    let Some(gpu) = gpu() else { return };
    let whole = on_ranks(2, |exchange| {
        let place = (exchange.rank(), exchange.size());
        let mut trainer = block_on(builder().exchange(exchange).build(&gpu)).expect("a trainer");
        steps(&mut trainer, place, 0..2);
        let saved = (place.0 == 0).then(|| block_on(trainer.checkpoint()).expect("a checkpoint"));
        steps(&mut trainer, place, 2..5);
        (saved.map(|checkpoint| checkpoint.to_bytes()), state(&trainer))
    });
    let bytes = whole[0].0.clone().expect("of rank 0");
    assert!(whole[0].1 == whole[1].1);
    let resumed = on_ranks(2, |exchange| {
        let place = (exchange.rank(), exchange.size());
        // Only rank 0 has the file.
        let own = if place.0 == 0 { &bytes[..] } else { &[] };
        let bytes = exchange.broadcast(own).expect("bytes");
        let checkpoint = Checkpoint::from_bytes(&bytes).expect("a checkpoint");
        let mut trainer = block_on(builder().exchange(exchange).build(&gpu)).expect("a trainer");
        block_on(trainer.restore(&checkpoint)).expect("restored");
        steps(&mut trainer, place, 2..5);
        state(&trainer)
    });
    assert!(resumed.iter().all(|state| *state == whole[0].1), "not the run that never stopped");
    // On one process, which goes on with the microbatches of both.
    let checkpoint = Checkpoint::from_bytes(&bytes).expect("a checkpoint");
    let mut alone = block_on(builder().accumulation(2).build(&gpu)).expect("a trainer");
    block_on(alone.restore(&checkpoint)).expect("restored");
    for seed in 2..5 {
        block_on(alone.step(&small_gpt_batch(seed, 2))).expect("a step");
    }
    let [together, alone] = [&whole[0].1.committed, &state(&alone).committed];
    let far = |bytes: &[u8]| -> Vec<f32> { bytemuck::pod_collect_to_vec(&bytes[..64]) };
    let pairs = far(together).into_iter().zip(far(alone));
    assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-4), "another run");
}

#[test]
fn a_rank_that_restored_alone_is_named() {
    let Some(gpu) = gpu() else { return };
    let (_, _) = run_alone(&gpu, builder(), &[]);
    let errors = on_ranks(2, |exchange: Local| {
        let place = (exchange.rank(), exchange.size());
        let mut trainer = block_on(builder().exchange(exchange).build(&gpu)).expect("a trainer");
        steps(&mut trainer, place, 0..1);
        let checkpoint = block_on(trainer.checkpoint()).expect("a checkpoint");
        steps(&mut trainer, place, 1..2);
        if place.0 == 1 {
            block_on(trainer.restore(&checkpoint)).expect("restored");
        }
        let batch = small_gpt_batch(2, 2).of_rank(place.0, 2).expect("even");
        block_on(trainer.step(&batch)).expect_err("ranks at different steps").to_string()
    });
    for told in errors {
        assert!(told.starts_with("rank 1 has steps behind it: 1, rank 0 has 2;"), "{told}");
    }
}

/// Every rank lost its device, say: they go on from their host snapshots.
#[test]
fn all_rebuild_together() {
    let Some(gpu) = gpu() else { return };
    let states = on_ranks(2, |exchange| {
        let place = (exchange.rank(), exchange.size());
        let builder = builder().host_snapshots(1).exchange(exchange);
        let mut trainer = block_on(builder.build(&gpu)).expect("a trainer");
        steps(&mut trainer, place, 0..3);
        let expected = state(&trainer);
        let snapshot = trainer.host_snapshot().expect("a snapshot").clone();
        let taken = snapshot.steps();
        block_on(trainer.rebuild_from(&gpu, &snapshot)).expect("rebuilt");
        steps(&mut trainer, place, taken..3);
        assert!(expected.committed == state(&trainer).committed);
        state(&trainer)
    });
    assert!(states[0] == states[1]);
}
