//! Runs on several ranks: the bits of one process, one verdict, and what is refused. Ranks are threads
//! here; `tests/mpi` has them as processes.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod exchanges;
mod gone;
mod overlap;
mod refusals;
mod same_run;
mod saved;
mod shard_saves;
mod sharded;
mod verdict;

use evenkeel::train::ranks::{Exchange, Local};
use evenkeel::train::{Batch, Model, Telemetry, Trainer, TrainerBuilder};
use evenkeel::{Gpu, Result};
use support::block_on;

/// What each of so many ranks comes to, in their order.
pub(crate) fn on_ranks<T: Send>(ranks: usize, run: impl Fn(Local) -> T + Sync) -> Vec<T> {
    let run = &run;
    std::thread::scope(|scope| {
        let ranks = Local::ranks(ranks).into_iter();
        let ranks: Vec<_> = ranks.map(|exchange| scope.spawn(move || run(exchange))).collect();
        ranks.into_iter().map(|rank| rank.join().expect("no panic")).collect()
    })
}

/// All that a step may change, and what is known of the last one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    committed: Vec<u8>,
    of_device: Vec<u8>,
}

pub(crate) fn state<M: Model>(trainer: &Trainer<M>) -> State {
    let committed = block_on(trainer.committed_bytes()).expect("bytes");
    let of_device = block_on(trainer.state()).expect("a state");
    State { committed, of_device: bytemuck::bytes_of(&of_device).to_vec() }
}

/// What becomes of a rank that has its share of each of these batches.
pub(crate) fn run<M: Model>(
    gpu: &Gpu,
    builder: TrainerBuilder<M>,
    exchange: Local,
    batches: &[Batch],
) -> Result<(State, Vec<Telemetry>)> {
    let (rank, ranks) = (exchange.rank(), exchange.size());
    let mut trainer = block_on(builder.exchange(exchange).build(gpu))?;
    let mut records = Vec::new();
    for batch in batches {
        block_on(trainer.step(&batch.of_rank(rank, ranks)?))?;
        records.extend(block_on(trainer.telemetry())?);
    }
    Ok((state(&trainer), records))
}

/// The same in one process.
pub(crate) fn run_alone<M: Model>(
    gpu: &Gpu,
    builder: TrainerBuilder<M>,
    batches: &[Batch],
) -> (State, Vec<Telemetry>) {
    let mut trainer = block_on(builder.build(gpu)).expect("a trainer");
    batches.iter().for_each(|batch| block_on(trainer.step(batch)).expect("a step"));
    let records = block_on(trainer.telemetry()).expect("telemetry");
    (state(&trainer), records)
}

/// Fails unless all ranks are in the same state and told the same of every step; that.
#[track_caller]
pub(crate) fn all_the_same(
    what: &str,
    ranks: Vec<Result<(State, Vec<Telemetry>)>>,
) -> (State, Vec<Telemetry>) {
    let ranks: Vec<_> = ranks.into_iter().map(|rank| rank.expect("a run")).collect();
    let bits = |records: &[Telemetry]| -> Vec<_> { records.iter().map(told).collect() };
    for (rank, (state, records)) in ranks.iter().enumerate() {
        assert!(state.committed == ranks[0].0.committed, "{what}: weights of rank {rank}");
        assert!(state.of_device == ranks[0].0.of_device, "{what}: state of rank {rank}");
        assert_eq!(bits(records), bits(&ranks[0].1), "{what}: telemetry of rank {rank}");
    }
    ranks.into_iter().next().expect("a rank")
}

/// A record whose NaN is equal to itself.
pub(crate) fn told(record: &Telemetry) -> String {
    let floats = [
        record.loss,
        record.gradient_norm,
        record.clip_coefficient,
        record.loss_scale,
        record.learning_rate,
        record.event_value,
    ];
    let reason = (record.applied, record.reason, record.event_bits);
    format!("{} {reason:?} {:x?}", record.step, floats.map(f32::to_bits))
}
