//! DiLoCo: rounds against their rule, ranks that are left out, saves, and a model that learns. Ranks are
//! threads here.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod astray;
mod learning;
mod refusals;
mod rounds;
mod saved;

use evenkeel::Gpu;
use evenkeel::plan::Parameters;
use evenkeel::train::ranks::{DiLoCo, DiLoCoSettings, DifferenceEncoding, Local, Round};
use evenkeel::train::{Batch, Model, TrainerBuilder};
use support::block_on;
use support::models::Terms;

/// What each of so many ranks comes to, in their order.
pub(crate) fn on_ranks<T: Send>(ranks: usize, run: impl Fn(Local) -> T + Sync) -> Vec<T> {
    let run = &run;
    std::thread::scope(|scope| {
        let ranks = Local::ranks(ranks).into_iter();
        let ranks: Vec<_> = ranks.map(|exchange| scope.spawn(move || run(exchange))).collect();
        ranks.into_iter().map(|rank| rank.join().expect("no panic")).collect()
    })
}

pub(crate) fn begin<M: Model>(
    gpu: &Gpu,
    builder: TrainerBuilder<M>,
    exchange: Local,
    settings: DiLoCoSettings,
) -> DiLoCo<M> {
    let built = block_on(builder.build(gpu));
    block_on(DiLoCo::new(built, exchange, settings)).expect("a run")
}

/// Settings for rounds that a test asks for.
pub(crate) fn by_hand(encoding: DifferenceEncoding) -> DiLoCoSettings {
    DiLoCoSettings { inner_steps: 1000, encoding, ..DiLoCoSettings::default() }
}

pub(crate) fn rank<M: Model>(diloco: &DiLoCo<M>) -> usize {
    diloco.exchange().rank()
}

pub(crate) fn step<M: Model>(diloco: &mut DiLoCo<M>, batch: &Batch) -> Option<Round> {
    block_on(diloco.step(batch)).expect("a step")
}

/// The data of a rank in a step, of [`Terms::three`].
pub(crate) fn terms(rank: usize, step: u64) -> Batch {
    Terms::three().data(100 * rank as u64 + step, 1).batch()
}

/// All trained weights, tensor by tensor.
pub(crate) fn weights<M: Model>(diloco: &DiLoCo<M>) -> Vec<f32> {
    trained(diloco.trainer().parameters())
}

pub(crate) fn trained(parameters: &Parameters) -> Vec<f32> {
    let names = parameters.trained().iter().map(|spec| &spec.name);
    names.flat_map(|name| block_on(parameters.read(name)).expect("weights")).collect()
}

/// Puts a number into a weight, past all that is checked.
pub(crate) fn spoil<M: Model>(diloco: &DiLoCo<M>, name: &str, value: f32) {
    let trainer = diloco.trainer();
    let slot = trainer.parameters().find(name).expect("a weight");
    trainer.gpu().write(&slot.buffer, slot.offset, &value.to_le_bytes());
}

/// Fails unless all ranks have come to the same; that.
#[track_caller]
pub(crate) fn same<T: PartialEq>(what: &str, ranks: Vec<T>) -> T {
    let mut ranks = ranks.into_iter();
    let first = ranks.next().expect("a rank");
    for (other, rank) in ranks.zip(1..) {
        assert!(other == first, "{what}: rank {rank} differs from rank 0");
    }
    first
}
