//! Checkpoints of a sharded optimizer, calls that not all ranks make, and what goes over the network.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use evenkeel::nn::LanguageModel;
use evenkeel::train::ranks::{Exchange, Local};
use evenkeel::train::{Checkpoint, Ema, Trainer, TrainerBuilder};
use evenkeel::{Error, Gpu, Result, WeightStorage};

use crate::on_ranks;
use crate::sharded::{DECAY, Outcome, batch, builder, ended, sharded, tables};
use crate::support::models::{small_gpt, small_gpt_batch};
use crate::support::{block_on, gpu};

type Small = TrainerBuilder<LanguageModel>;

fn small() -> Small {
    Trainer::builder(small_gpt(0.2, 1)).seed(4).optimizer(DECAY).ema(Ema::default())
}

fn steps(trainer: &mut Trainer<LanguageModel>, (rank, ranks): (usize, usize), seeds: Range<u64>) {
    for seed in seeds {
        let batch = small_gpt_batch(seed, ranks).of_rank(rank, ranks).expect("even");
        block_on(trainer.step(&batch)).expect("a step");
    }
}

#[test]
fn a_checkpoint_restores_on_any_number_of_ranks() {
    let Some(gpu) = gpu() else { return };
    let saved = on_ranks(3, |exchange| {
        let place = (exchange.rank(), exchange.size());
        let builder = small().exchange(exchange).shard_optimizer_state(true);
        let mut trainer = block_on(builder.build(&gpu)).expect("a trainer");
        steps(&mut trainer, place, 0..2);
        let saved = block_on(trainer.checkpoint()).expect("a checkpoint");
        assert_eq!(saved.shard(), None);
        steps(&mut trainer, place, 2..4);
        (saved.to_bytes(), ended(&mut trainer))
    });
    assert!(saved.iter().all(|(bytes, _)| *bytes == saved[0].0), "ranks have other checkpoints");
    let resumed = |ranks: usize, shards: bool| {
        on_ranks(ranks, |exchange| {
            let place = (exchange.rank(), exchange.size());
            let builder = small().exchange(exchange).shard_optimizer_state(shards);
            resume(&gpu, builder, place, &saved[0].0)
        })
    };
    let states =
        |runs: &[Outcome]| runs.iter().map(|run| run.checkpoint.clone()).collect::<Vec<_>>();
    let never_stopped: Vec<_> = saved.iter().map(|(_, end)| end.checkpoint.clone()).collect();
    assert!(states(&resumed(3, true)) == never_stopped, "not the run that never stopped");
    assert!(states(&resumed(3, false)) == never_stopped, "not so where each has everything");
    for ranks in [1, 2] {
        let [ranges, whole] = [true, false].map(|shards| resumed(ranks, shards));
        assert!(states(&ranges) == states(&whole), "{ranks} ranks");
        assert_eq!(ranges[0].records.len(), 2);
    }
}

/// Goes on from a checkpoint for two steps.
fn resume(gpu: &Gpu, builder: Small, place: (usize, usize), bytes: &[u8]) -> Outcome {
    let checkpoint = Checkpoint::from_bytes(bytes).expect("a checkpoint");
    let mut trainer = block_on(builder.build(gpu)).expect("a trainer");
    block_on(trainer.restore(&checkpoint)).expect("restored");
    let again = block_on(trainer.checkpoint()).expect("a checkpoint");
    assert!(again.to_bytes() == bytes, "another checkpoint than was restored");
    steps(&mut trainer, place, 2..4);
    ended(&mut trainer)
}

/// Moments of another rank's range are checked too, before anything is written.
#[test]
fn a_damaged_checkpoint_is_refused_on_all_ranks() {
    let Some(gpu) = gpu() else { return };
    let told = on_ranks(2, |exchange| {
        let rank = exchange.rank();
        let builder = builder(|b| b.optimizer(DECAY)).shard_optimizer_state(true);
        let mut trainer = block_on(builder.exchange(exchange).build(&gpu)).expect("a trainer");
        let step = |seed| batch(seed, 2, 1.0).of_rank(rank, 2).expect("even");
        block_on(trainer.step(&step(1))).expect("a step");
        let mut bytes = block_on(trainer.checkpoint()).expect("a checkpoint").to_bytes();
        let (length, header) = safetensors::SafeTensors::read_metadata(&bytes).expect("a header");
        // Of the first tensor, which is rank 0's.
        let (start, _) = header.info("evenkeel/moment/v/w0").expect("a moment").data_offsets;
        bytes[8 + length + start..][..4].copy_from_slice(&(-1f32).to_le_bytes());
        let damaged = Checkpoint::from_bytes(&bytes).expect("numbers");
        let before = block_on(trainer.committed_bytes()).expect("bytes");
        let told = block_on(trainer.restore(&damaged)).expect_err("a negative square").to_string();
        assert!(before == block_on(trainer.committed_bytes()).expect("bytes"));
        block_on(trainer.step(&step(2))).expect("a step");
        told
    });
    assert!(told[0].contains("v/w0 holds -1 at index 0: a mean of squares"), "{told:?}");
    assert_eq!(told[0], told[1]);
}

/// Every rank lost its device, say: each goes on from its own range.
#[test]
fn host_snapshots_have_the_moments_of_their_rank() {
    let Some(gpu) = gpu() else { return };
    let snapshots = on_ranks(2, |exchange| {
        let place = (exchange.rank(), exchange.size());
        let builder = small().host_snapshots(1).exchange(exchange).shard_optimizer_state(true);
        let mut trainer = block_on(builder.build(&gpu)).expect("a trainer");
        for step in 0..2 {
            steps(&mut trainer, place, step..step + 1);
            // What was copied in the step has arrived once the device is done.
            block_on(trainer.telemetry()).expect("telemetry");
        }
        let snapshot = trainer.host_snapshot().expect("a snapshot").clone();
        let taken = snapshot.steps();
        let shard = snapshot.shard().expect("a shard").to_owned();
        assert!(shard.starts_with(&format!("rank {} of 2, quads ", place.0)), "{shard}");
        steps(&mut trainer, place, 2..4);
        let expected = block_on(trainer.checkpoint()).expect("a checkpoint");
        let read = Checkpoint::from_bytes(&snapshot.to_bytes()).expect("readable");
        assert!(read == snapshot);
        block_on(trainer.rebuild_from(&gpu, &read)).expect("rebuilt");
        steps(&mut trainer, place, taken..4);
        assert!(block_on(trainer.checkpoint()).expect("a checkpoint") == expected);
        snapshot.to_bytes()
    });
    let refused = |mut trainer: Trainer<LanguageModel>, bytes: &[u8]| {
        let snapshot = Checkpoint::from_bytes(bytes).expect("readable");
        let told = block_on(trainer.restore(&snapshot)).expect_err("a shard").to_string();
        assert!(told.contains("take one that Trainer::checkpoint made on all ranks"), "{told}");
        told
    };
    let told = refused(block_on(small().build(&gpu)).expect("a trainer"), &snapshots[1]);
    assert!(told.contains("it has the moments of rank 1 of 2, quads "), "{told}");
    on_ranks(2, |exchange| {
        let other = 1 - exchange.rank();
        let builder = small().exchange(exchange).shard_optimizer_state(true);
        refused(block_on(builder.build(&gpu)).expect("a trainer"), &snapshots[other]);
    });
}

#[test]
fn a_checkpoint_that_one_rank_alone_wants_is_told_to_all() {
    let Some(gpu) = gpu() else { return };
    let ends = on_ranks(3, |exchange| {
        let place = (exchange.rank(), exchange.size());
        let builder = small().exchange(exchange).shard_optimizer_state(true);
        let mut trainer = block_on(builder.build(&gpu)).expect("a trainer");
        steps(&mut trainer, place, 0..1);
        let batch = small_gpt_batch(1, 3).of_rank(place.0, 3).expect("even");
        let error = match place.0 {
            0 => block_on(trainer.checkpoint()).map(drop),
            _ => block_on(trainer.step(&batch)),
        };
        let told = error.expect_err("different calls").to_string();
        assert!(told.starts_with("rank 0 has called Trainer::checkpoint where rank 1 "), "{told}");
        // Nobody has taken the step, and all can.
        steps(&mut trainer, place, 1..2);
        ended(&mut trainer)
    });
    let control = sharded(&gpu, 3, small, &[0, 1].map(|seed| small_gpt_batch(seed, 3)));
    assert!(ends[0].checkpoint == control[0].checkpoint);
}

#[test]
fn ranks_that_differ_are_named() {
    let Some(gpu) = gpu() else { return };
    let told = on_ranks(3, |exchange| {
        let shards = exchange.rank() != 2;
        let builder = small().exchange(exchange).shard_optimizer_state(shards);
        block_on(builder.build(&gpu)).map(drop).expect_err("not all are sharded").to_string()
    });
    let expected = "rank 2 has a sharded optimizer: false, rank 0 has true;";
    assert!(told.iter().all(|told| told.starts_with(expected)), "{told:?}");
    let told = on_ranks(3, |exchange| {
        let place = (exchange.rank(), exchange.size());
        let builder = small().exchange(exchange).shard_optimizer_state(true);
        let mut trainer = block_on(builder.compare_ranks_every(1).build(&gpu)).expect("a trainer");
        steps(&mut trainer, place, 0..1);
        if place.0 == 1 {
            let name = &trainer.parameters().specs()[0].name.clone();
            let mut values = block_on(trainer.parameters().read(name)).expect("readable");
            values[1] += 1.0;
            trainer.parameters().write(name, &values).expect("written");
        }
        let batch = small_gpt_batch(1, 3).of_rank(place.0, 3).expect("even");
        block_on(trainer.step(&batch)).expect_err("other weights").to_string()
    });
    let expected = "rank 1 has weights with the fingerprint ";
    assert!(told.iter().all(|told| told.starts_with(expected)), "{told:?}");
}

/// Counts what comes from other ranks, and fails where it is told to.
#[derive(Debug)]
struct Watched {
    inner: Local,
    received: Cell<usize>,
    shares: Cell<usize>,
    /// The number of the `share` that fails.
    fails_at: Cell<usize>,
}

impl Watched {
    fn new(inner: Local) -> Rc<Self> {
        let (received, shares, fails_at) = Default::default();
        Rc::new(Self { inner, received, shares, fails_at })
    }
}

impl Exchange for Watched {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn scatter(&self, sent: &[u8], parts: &[Range<usize>], received: &mut [u8]) -> Result<()> {
        let others = (self.size() - 1) * parts[self.rank()].len();
        self.received.set(self.received.get() + others);
        self.inner.scatter(sent, parts, received)
    }

    fn share(&self, bytes: &mut [u8], parts: &[Range<usize>]) -> Result<()> {
        self.shares.set(self.shares.get() + 1);
        if self.shares.get() == self.fails_at.get() {
            return Err(Error::Rank { rank: 1, reason: "is gone".into() });
        }
        let others = parts.iter().enumerate().filter(|(rank, _)| *rank != self.rank());
        let others: usize = others.map(|(_, part)| part.len()).sum();
        self.received.set(self.received.get() + others);
        self.inner.share(bytes, parts)
    }
}

#[test]
fn weights_go_once_over_the_network() {
    let Some(gpu) = gpu() else { return };
    // Quads of all four, with what lies between them.
    let weights = 16 * (672 + 1280);
    for (storage, bytes) in [(WeightStorage::F32, weights), (WeightStorage::Bf16Kahan, weights)] {
        let of_step = |shards: bool| {
            on_ranks(3, |exchange| {
                let rank = exchange.rank();
                let exchange = Watched::new(exchange);
                let builder = Trainer::builder(tables()).weights(storage);
                let builder = builder.exchange(exchange.clone()).shard_optimizer_state(shards);
                let mut trainer = block_on(builder.build(&gpu)).expect("a trainer");
                let step = |seed| batch(seed, 3, 1.0).of_rank(rank, 3).expect("even");
                block_on(trainer.step(&step(1))).expect("a step");
                let before = exchange.received.get();
                block_on(trainer.step(&step(2))).expect("a step");
                exchange.received.get() - before
            })
        };
        let [with, without]: [usize; 2] = [true, false].map(|shards| of_step(shards).iter().sum());
        assert_eq!(with - without, 2 * bytes, "{storage}");
        // Gradients twice: as parts that are added up, and as sums.
        assert!(without >= 4 * weights && without < 4 * weights + 2000, "{without}");
    }
}

#[test]
fn a_step_that_ends_between_ranges_is_not_gone_on_from() {
    let Some(gpu) = gpu() else { return };
    on_ranks(2, |exchange| {
        let place = (exchange.rank(), exchange.size());
        let exchange = Watched::new(exchange);
        let builder = small().exchange(exchange.clone()).shard_optimizer_state(true);
        let mut trainer = block_on(builder.build(&gpu)).expect("a trainer");
        steps(&mut trainer, place, 0..1);
        let saved = block_on(trainer.checkpoint()).expect("a checkpoint");
        // The last one of a step brings weights.
        let before = exchange.shares.get();
        steps(&mut trainer, place, 1..2);
        let of_step = exchange.shares.get() - before;
        let expected = block_on(trainer.checkpoint()).expect("a checkpoint");
        block_on(trainer.restore(&saved)).expect("restored");
        steps(&mut trainer, place, 1..2);
        exchange.fails_at.set(exchange.shares.get() + of_step);
        let batch = small_gpt_batch(2, 2).of_rank(place.0, 2).expect("even");
        let told = block_on(trainer.step(&batch)).expect_err("rank 1 is gone").to_string();
        assert_eq!(told, "rank 1 is gone");
        for told in [
            block_on(trainer.step(&batch)).expect_err("torn").to_string(),
            block_on(trainer.checkpoint()).expect_err("torn").to_string(),
        ] {
            assert!(told.contains("restore a checkpoint, or rebuild the trainer"), "{told}");
        }
        block_on(trainer.restore(&saved)).expect("restored");
        steps(&mut trainer, place, 1..2);
        assert!(block_on(trainer.checkpoint()).expect("a checkpoint") == expected);
    });
}
