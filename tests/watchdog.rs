//! Steps in several submits, so that watchdogs let them be: the same bits, whatever the budget.

#[macro_use]
mod support;

use std::time::Duration;

use evenkeel::Gpu;
use evenkeel::nn::Generator;
use evenkeel::nn::{Gpt, GptConfig, LanguageModel};
use evenkeel::train::{
    AdamW, Batch, Checkpoint, Clip, Model, SpikeGuard, Telemetry, Trainer, TrainerBuilder,
};
use support::{block_on, tokens};

tests! {
    a_split_step_gives_the_same_bits, a_budget_of_zero_splits_everything,
    what_is_new_in_a_later_step_is_measured_then,
}

const MICROBATCHES: usize = 2;

/// More than a hundred dispatches.
fn deep_gpt() -> LanguageModel {
    let config = GptConfig { dropout: 0.1, ..GptConfig::gpt2(64, 16, 4, 2, 32) };
    LanguageModel { gpt: Gpt::new(config).expect("valid"), batch: 2, time: 16 }
}

fn batch(step: u64) -> Batch {
    let ids = |seed| tokens(seed, MICROBATCHES * 2 * 16, 64);
    Batch::new().with("tokens", ids(2 * step)).with("targets", ids(2 * step + 1))
}

fn one_microbatch(step: u64) -> Batch {
    let ids = |seed| tokens(seed, 2 * 16, 64);
    Batch::new().with("tokens", ids(2 * step)).with("targets", ids(2 * step + 1))
}

fn builder(budget: Duration) -> TrainerBuilder<LanguageModel> {
    Trainer::builder(deep_gpt())
        .optimizer(AdamW { learning_rate: 0.01, ..AdamW::default() })
        .clip(Clip::Norm(0.5))
        .policy(SpikeGuard::default())
        .accumulation(MICROBATCHES)
        .watch_tensors(3)
        .host_snapshots(2)
        .seed(7)
        .submit_budget(budget)
}

fn build<M: Model>(gpu: &Gpu, builder: TrainerBuilder<M>) -> Trainer<M> {
    block_on(builder.build(gpu)).expect("a trainer")
}

type Run = (Vec<u64>, Trainer<LanguageModel>, Vec<Telemetry>, Checkpoint);

/// Submits of each of six steps, and all that the run leaves.
fn run(gpu: &Gpu, budget: Duration) -> Run {
    let mut trainer = build(gpu, builder(budget));
    let mut submits = Vec::new();
    for step in 0..6 {
        let before = gpu.counters().submits;
        block_on(trainer.step(&batch(step))).expect("a step");
        submits.push(gpu.counters().submits - before);
    }
    let telemetry = block_on(trainer.telemetry()).expect("telemetry");
    let checkpoint = block_on(trainer.checkpoint()).expect("a checkpoint");
    assert!(trainer.host_snapshot().is_some_and(|snapshot| snapshot.steps() >= 2));
    (submits, trainer, telemetry, checkpoint)
}

fn a_split_step_gives_the_same_bits() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    let (submits, trainer, telemetry, whole) = run(&gpu, Duration::MAX);
    let dispatches = trainer.dispatches().count() as u64;
    assert!(dispatches > 100, "{dispatches} dispatches");
    // Once in growing parts, then in one.
    assert!((4..30).contains(&submits[0]), "{submits:?}");
    assert_eq!(submits[1..], [1; 5]);
    let report = trainer.submits();
    assert_eq!((report.submits, report.slow_dispatch), (1, None));
    assert!(report.longest > Duration::ZERO);

    // The longest still holds some of what the first step took, in which drivers compile. So a step
    // may fit into a part of it, but not into the smallest.
    for (part, splits) in [(4, false), (50, true), (u32::MAX, true)] {
        let budget = report.longest / part;
        let (submits, trainer, split_telemetry, split) = run(&gpu, budget);
        let split_somewhere = submits[1..].iter().any(|&submits| submits > 1);
        assert!(split_somewhere || !splits, "{budget:?}: {submits:?}");
        assert!(telemetry == split_telemetry, "{budget:?}: other telemetry");
        assert!(whole == split, "{budget:?}: another run");
        let split = trainer.submits();
        assert_eq!(split.budget, budget);
        assert!(split.longest <= budget || split.slow_dispatch.is_some(), "{split:?}");
    }
}

/// With no time at all each dispatch is a submit of its own, and named as too slow.
fn a_budget_of_zero_splits_everything() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    let mut trainer = build(&gpu, builder(Duration::ZERO));
    let counted = |before: evenkeel::gpu::Counters| {
        let after = gpu.counters();
        (after.submits - before.submits, after.dispatches - before.dispatches)
    };
    for step in 0..4 {
        let before = gpu.counters();
        block_on(trainer.step(&batch(step))).expect("a step");
        let (submits, dispatches) = counted(before);
        assert_eq!(submits, dispatches, "step {step}");
    }
    let slow = trainer.submits().slow_dispatch.expect("one that takes longer than nothing");
    assert!(trainer.dispatches().any(|dispatch| dispatch.name == slow.kernel), "{slow:?}");

    // What only reads splits, too. One more submit copies what is read.
    let evaluate = |trainer: &mut Trainer<LanguageModel>| {
        block_on(trainer.evaluate(&one_microbatch(1))).expect("a loss")
    };
    let loss = evaluate(&mut trainer);
    let before = gpu.counters();
    assert_eq!(evaluate(&mut trainer).to_bits(), loss.to_bits());
    let (submits, dispatches) = counted(before);
    assert_eq!(submits, dispatches + 1);
    assert!(dispatches > 30, "{dispatches} dispatches");

    let before = gpu.counters();
    let split = block_on(trainer.diagnose(&batch(1))).expect("a diagnosis");
    let (submits, dispatches) = counted(before);
    // For each microbatch one that reads, and one for the state.
    assert_eq!(submits, dispatches + MICROBATCHES as u64 + 1);

    let mut whole = build(&gpu, builder(Duration::MAX));
    for step in 0..4 {
        block_on(whole.step(&batch(step))).expect("a step");
    }
    assert_eq!(evaluate(&mut whole).to_bits(), loss.to_bits());
    assert_eq!(block_on(whole.diagnose(&batch(1))).expect("a diagnosis"), split);

    let generator = |budget| {
        let made = Generator::new(&gpu, trainer.parameters(), &trainer.model().gpt);
        block_on(made).expect("a generator").with_submit_budget(budget)
    };
    let [split, whole] = [Duration::ZERO, Duration::MAX]
        .map(|budget| block_on(generator(budget).logits(&[1, 2, 3])).expect("logits"));
    assert_eq!(split, whole);
}

/// A trainer that was restored, or whose first watched step comes late, measures what it has not
/// run before, and nothing twice.
fn what_is_new_in_a_later_step_is_measured_then() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    let mut trainer = build(&gpu, builder(Duration::MAX));
    block_on(trainer.step(&batch(0))).expect("a step");
    let checkpoint = block_on(trainer.checkpoint()).expect("a checkpoint");
    let mut other = build(&gpu, builder(Duration::MAX));
    block_on(other.restore(&checkpoint)).expect("it fits");
    let submits: Vec<_> = (1..7)
        .map(|step| {
            let before = gpu.counters().submits;
            block_on(other.step(&batch(step))).expect("a step");
            gpu.counters().submits - before
        })
        .collect();
    // Step 1 is the first of this trainer; step 3 the first that is watched.
    assert!(submits[0] > 1 && submits[2] > 1, "{submits:?}");
    assert_eq!([submits[1], submits[3], submits[4], submits[5]], [1; 4], "{submits:?}");
    // Some drivers crash where a program ends while they work.
    assert_eq!(block_on(other.telemetry()).expect("telemetry").len(), 6);
}
