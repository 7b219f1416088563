//! Settings that are sizes: whatever number is given, it is either an error that names it or costs
//! no more than what the run needs.

#[macro_use]
mod support;

use evenkeel::data::Corpus;
use evenkeel::train::{
    AdaGc, AutoClip, Model, Muon, Reaction, Schedule, SnapshotRing, SpikeGuard, Trainer,
    TrainerBuilder, ZClip,
};
use evenkeel::watch::{Record, RunStatistics, SpikeScore};
use evenkeel::{Error, Gpu};
use support::block_on;
use support::models::Terms;

tests! {
    sizes_out_of_range_are_named, the_largest_sizes_train, windows_of_any_length,
}

fn terms() -> TrainerBuilder<Terms> {
    Trainer::builder(Terms::many(2))
}

#[track_caller]
fn refused<M: Model>(gpu: &Gpu, builder: TrainerBuilder<M>) -> String {
    let Err(error) = block_on(builder.build(gpu)) else { panic!("built") };
    let is_named = matches!(error, Error::Setting { .. } | Error::Limit { .. });
    assert!(is_named, "{error}");
    error.to_string()
}

fn sizes_out_of_range_are_named() {
    let Some(gpu) = support::gpu() else { return };
    const MOST: u32 = u32::MAX;
    let cut = |steps| Reaction::CutLearningRate { factor: 0.5, steps };
    let builders = [
        (terms().policy(SnapshotRing { snapshots: MOST, ..Default::default() }), "snapshots"),
        (terms().policy(SnapshotRing { snapshots: 0, ..Default::default() }), "snapshots"),
        (terms().policy(AutoClip { history: MOST, ..Default::default() }), "history"),
        (terms().policy(AutoClip { history: 1025, ..Default::default() }), "history"),
        (terms().policy(SpikeGuard { window: MOST, ..Default::default() }), "window"),
        (terms().policy(SpikeGuard { repeats: MOST, ..Default::default() }), "repeats"),
        (
            terms().policy(SpikeGuard { reactions: vec![cut(1); 65], ..Default::default() }),
            "reactions",
        ),
        (terms().optimizer(Muon { iterations: MOST, ..Muon::default() }), "iterations"),
        (terms().optimizer(Muon { iterations: 101, ..Muon::default() }), "iterations"),
        (terms().accumulation(0), "accumulation is 0"),
        (terms().accumulation(usize::MAX), if usize::BITS > 32 { "accumulation" } else { "input" }),
        (terms().schedule(Schedule::Factors(Vec::new())), "schedule factors"),
    ];
    for (builder, word) in builders {
        let error = refused(&gpu, builder);
        assert!(error.contains(word), "{word} is not in: {error}");
    }
}

/// Counters and intervals take any number; tables have a bound.
fn the_largest_sizes_train() {
    let Some(gpu) = support::gpu() else { return };
    const MOST: u32 = u32::MAX;
    let ring = SnapshotRing {
        snapshots: 1024,
        every: MOST,
        after: MOST,
        max_rollbacks: MOST,
        cut_steps: MOST,
        ..Default::default()
    };
    let cut = Reaction::CutLearningRate { factor: 0.5, steps: MOST };
    let guard = SpikeGuard {
        window: 65_536,
        within: MOST,
        patience: MOST,
        reactions: vec![cut; 64],
        ..Default::default()
    };
    let builder = terms()
        .telemetry_capacity(MOST)
        .watch_tensors(MOST)
        .host_snapshots(MOST)
        .give_up_after(MOST)
        .policy(ring)
        .policy(guard)
        .policy(ZClip { warmup: MOST, ..Default::default() })
        .policy(AdaGc { warmup: MOST, ..Default::default() })
        .schedule(Schedule::Cosine { warmup: 0, total: usize::MAX, final_factor: 0.0 });
    let mut trainer = block_on(builder.build(&gpu)).expect("a trainer");
    for seed in 0..3 {
        let batch = Terms::many(2).data(seed, 1).batch();
        block_on(trainer.step(&batch)).expect("a step");
    }
    let records = block_on(trainer.telemetry()).expect("telemetry");
    assert_eq!(
        records.iter().map(|r| (r.step, r.applied)).collect::<Vec<_>>(),
        [(0, true), (1, true), (2, true)]
    );
    assert_eq!(block_on(trainer.tensor_telemetry()).expect("records").len(), 2);
}

#[test]
fn many_factors_need_a_binding() {
    let Some(gpu) = support::gpu_with_bindings(12 << 10) else { return };
    let error = refused(&gpu, terms().schedule(Schedule::Factors(vec![1.0; 3073])));
    assert!(error.contains("a schedule of 3073 factors"), "{error}");
    let fits = terms().schedule(Schedule::Factors(vec![1.0; 3072]));
    assert!(block_on(fits.build(&gpu)).is_ok());
}

fn windows_of_any_length() {
    let mut score = SpikeScore::new(usize::MAX, 6.0, usize::MAX);
    let mut statistics = RunStatistics::new(usize::MAX);
    for step in 0..3 {
        assert!(score.observe(1.0).is_none());
        statistics.update(&Record::new(step));
    }
    let corpus = Corpus::new("text", b"a text of a few letters").expect("a text");
    for context in [usize::MAX, usize::MAX / 2, 1000] {
        let error = corpus.split(0.1, context).expect_err("too short").to_string();
        assert!(error.contains("a context of at most"), "{error}");
    }
}
