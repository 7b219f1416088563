//! What would make a run fit into memory: what is suggested, once built, does.

#[macro_use]
mod support;

use evenkeel::kernel::MomentStorage;
use evenkeel::nn::{Change, Gpt, GptConfig, LanguageModel, Lora, Targets};
use evenkeel::train::{Trainer, TrainerBuilder};
use evenkeel::{BlockFormat, Gpu, Precision};
use support::block_on;

tests! {
    what_is_suggested_fits, several_changes_are_suggested_where_none_is_enough,
    adapters_are_made_to_fit,
}

fn language(config: GptConfig, batch: usize) -> TrainerBuilder<LanguageModel> {
    let time = config.context;
    Trainer::builder(LanguageModel { gpt: Gpt::new(config).expect("valid"), batch, time })
}

/// Builds what was suggested, and fails unless it takes what was said.
#[track_caller]
fn assert_fits(
    gpu: &Gpu,
    make: &dyn Fn() -> TrainerBuilder<LanguageModel>,
    budget: u64,
) -> Vec<Vec<Change>> {
    let suggestions = make().fitting(gpu, budget).expect("suggestions");
    for suggestion in &suggestions {
        let builder = make().with_changes(&suggestion.changes).expect("possible");
        let report = block_on(builder.build(gpu)).expect("a trainer").report();
        assert_eq!(report.total_bytes(), suggestion.memory.total_bytes(), "{suggestion}");
        assert!(report.total_bytes() <= budget, "{suggestion}, of {budget} bytes");
    }
    suggestions.into_iter().map(|suggestion| suggestion.changes).collect()
}

/// Activations are most of it.
fn wide_batch() -> TrainerBuilder<LanguageModel> {
    language(GptConfig::gpt2(101, 64, 3, 2, 32), 8).telemetry_capacity(1)
}

fn what_is_suggested_fits() {
    let Some(gpu) = support::gpu() else { return };
    let all = wide_batch().memory(&gpu).expect("a plan").total_bytes();
    let as_it_is = vec![Vec::<Change>::new()];
    assert_eq!(assert_fits(&gpu, &wide_batch, all), as_it_is, "it fits");
    assert!(assert_fits(&gpu, &wide_batch, 1000).is_empty(), "nothing helps");
    let found = assert_fits(&gpu, &wide_batch, all - 1);
    let mildest = Change::Microbatches { batch: 4, accumulation: 2 };
    assert_eq!(found[0], [mildest], "the mildest, of what costs no quality");
    assert!(found.contains(&vec![Change::Recompute]), "{found:?}");
    assert!(found.contains(&vec![Change::Precision(Precision::Bf16)]), "{found:?}");
    assert!(found.contains(&vec![Change::Context(32)]), "{found:?}");
    let half = assert_fits(&gpu, &wide_batch, all / 2);
    assert!(half.iter().all(|changes| changes.len() == 1), "{half:?}");
}

fn several_changes_are_suggested_where_none_is_enough() {
    let Some(gpu) = support::gpu() else { return };
    let bytes = |changes: &[Change]| {
        let builder = wide_batch().with_changes(changes).expect("possible");
        builder.memory(&gpu).expect("a plan").total_bytes()
    };
    // Weights and gradients leave room for little else.
    let smallest = [
        Change::Microbatches { batch: 1, accumulation: 8 },
        Change::Recompute,
        Change::Moments(MomentStorage::Blocks8),
    ];
    let budget = bytes(&smallest);
    let found = assert_fits(&gpu, &wide_batch, budget);
    let [changes] = &found[..] else { panic!("{found:?}") };
    assert!(changes.len() > 1, "{changes:?}");
    for index in 0..changes.len() {
        let mut others = changes.clone();
        let spare = others.remove(index);
        assert!(bytes(&others) > budget, "{spare} of {changes:?} is not needed");
    }
}

fn adapters_are_made_to_fit() {
    let Some(gpu) = support::gpu() else { return };
    let run = || {
        let lora = Lora::new(16, 32.0, Targets::AllLinear);
        let config =
            GptConfig { hidden: 192, lora: Some(lora), ..GptConfig::llama(256, 8, 2, [4, 2], 64) };
        language(config, 1).telemetry_capacity(1)
    };
    let plan = run().memory(&gpu).expect("a plan");
    let found = assert_fits(&gpu, &run, plan.total_bytes() - plan.frozen_bytes / 2);
    assert!(found.contains(&vec![Change::BaseFormat(BlockFormat::Q8_0)]), "{found:?}");
    let found = assert_fits(&gpu, &run, plan.total_bytes() - 1);
    assert!(found.contains(&vec![Change::Rank(8)]), "{found:?}");
    // Given parameters lie as they lie.
    let trainer = block_on(run().build(&gpu)).expect("a trainer");
    let parameters = block_on(trainer.parameters().copy()).expect("a copy");
    let given = run().parameters(parameters);
    let found = given.fitting(&gpu, plan.total_bytes() - 1).expect("suggestions");
    let of_base = |change: &Change| matches!(change, Change::BaseFormat(_) | Change::Rank(_));
    assert!(!found.iter().flat_map(|suggestion| &suggestion.changes).any(of_base), "{found:?}");
}
