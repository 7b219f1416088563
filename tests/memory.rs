//! The report before the allocation: byte by byte what the built trainer holds.

#[macro_use]
mod support;

use evenkeel::gpu::MemoryLimits;
use evenkeel::kernel::MomentStorage;
use evenkeel::nn::{
    Classifier, Gpt, GptConfig, LanguageModel, Lora, MlpClassifier, QkClip, QkNorm, Targets,
};
use evenkeel::train::stability::{AdaGc, AutoClip, SnapshotRing, SpikeGuard};
use evenkeel::train::{
    Adafactor, AdamW, Clip, Ema, Lengths, Lion, MemoryPlan, Model, Muon, Trainer, TrainerBuilder,
    TrainerReport,
};
use evenkeel::{BlockFormat, Error, Gpu, Precision, WeightStorage};
use support::block_on;
use support::models::Terms;

tests! {
    what_is_told_is_what_is_held, storages_are_told, optimizers_and_policies_are_told,
    adapters_and_blocks_are_told, other_models_are_told, plans_of_other_lengths_are_told,
    given_parameters_are_told, products_on_hardware_are_told, a_checkpoint_is_told,
    what_cannot_be_built_is_refused_before, a_plan_is_printed_as_a_table,
}

const VOCABULARY: usize = 29;
const CONTEXT: usize = 16;

fn gpt2() -> GptConfig {
    GptConfig::gpt2(VOCABULARY, CONTEXT, 2, 2, 16)
}

fn llama() -> GptConfig {
    GptConfig { qk_norm: Some(QkNorm::Rms), ..GptConfig::llama(VOCABULARY, CONTEXT, 2, [4, 2], 32) }
}

fn language(config: GptConfig, batch: usize) -> TrainerBuilder<LanguageModel> {
    let time = config.context;
    Trainer::builder(LanguageModel { gpt: Gpt::new(config).expect("valid"), batch, time })
}

/// Fails unless the report of the built trainer says what was told.
#[track_caller]
fn assert_same(what: &str, plan: &MemoryPlan, report: &TrainerReport) {
    let told = [
        plan.parameter_bytes,
        plan.frozen_bytes,
        plan.copy_bytes,
        plan.gradient_bytes,
        plan.moment_bytes,
        plan.average_bytes,
        plan.optimizer_bytes,
        plan.slot_bytes + plan.scratch_bytes,
        plan.input_bytes + plan.constant_bytes,
        plan.staging_bytes,
        plan.telemetry_bytes,
        plan.policy_bytes,
        plan.watch_bytes,
        plan.snapshot_bytes,
        plan.total_bytes() - plan.other_length_bytes,
    ];
    let held = [
        report.parameter_bytes,
        report.frozen_bytes,
        report.copy_bytes,
        report.gradient_bytes,
        report.moment_bytes,
        report.average_bytes,
        report.optimizer_bytes,
        report.plan.slot_bytes,
        report.plan.leaf_bytes,
        report.staging_bytes,
        report.telemetry_bytes,
        report.policy_bytes,
        report.watch_bytes,
        report.snapshot_bytes,
        report.total_bytes(),
    ];
    assert_eq!(told, held, "{what}");
    let counts = (report.parameters, report.frozen_parameters);
    assert_eq!((plan.parameters, plan.frozen_parameters), counts, "{what}");
    assert_eq!(plan.activation_bytes(), report.activation_bytes, "{what}");
}

#[track_caller]
fn assert_told<M: Model>(what: &str, gpu: &Gpu, builder: TrainerBuilder<M>) -> MemoryPlan {
    let plan = builder.memory(gpu).expect(what);
    let trainer = block_on(builder.build(gpu)).expect(what);
    assert_same(what, &plan, &trainer.report());
    plan
}

fn what_is_told_is_what_is_held() {
    let Some(gpu) = support::gpu() else { return };
    let plain = assert_told("plain", &gpu, language(gpt2(), 4));
    assert_eq!((plain.copy_bytes, plain.staging_bytes, plain.snapshot_bytes), (0, 0, 0));
    // The definition of the form, tensor by tensor: two tables, two blocks, a norm.
    let block = 2 * 2 * 16 + (16 + 1) * 48 + (16 + 1) * 16 + (16 + 1) * 64 + (64 + 1) * 16;
    assert_eq!(plain.parameters, (VOCABULARY + CONTEXT) * 16 + 2 * block + 2 * 16);

    let deep =
        |recompute| GptConfig { recompute, ..GptConfig::gpt2(VOCABULARY, CONTEXT, 4, 2, 16) };
    let [kept, again] = [false, true]
        .map(|recompute| assert_told("recomputed", &gpu, language(deep(recompute), 4)).slot_bytes);
    assert!(again < kept, "{again} of {kept} bytes");
    let watched = GptConfig {
        watch_logits: true,
        dropout: 0.1,
        qk_clip: Some(QkClip { threshold: 0.5, ..QkClip::default() }),
        ..gpt2()
    };
    assert_told("watched", &gpu, language(watched, 2).accumulation(3).watch_tensors(2));
    let capped = GptConfig { logits_budget: 8192, logit_soft_cap: Some(3.0), ..llama() };
    assert_told("logits in chunks", &gpu, language(capped, 9).telemetry_capacity(7));
    assert_told("averages", &gpu, language(llama(), 1).ema(Ema::default()));
    let averaged = language(gpt2(), 1).ema(Ema::default()).freeze_named("blocks.0");
    let averaged = averaged.policy(SnapshotRing::default()).weights(WeightStorage::Bf16Stochastic);
    let averaged = assert_told("averages in a ring", &gpu, averaged.host_snapshots(2));
    assert_eq!(averaged.snapshot_bytes, averaged.host.staged_bytes);
    let snapshots = assert_told("snapshots", &gpu, language(llama(), 1).host_snapshots(2));
    assert_eq!(snapshots.snapshot_bytes, snapshots.host.staged_bytes);
    let frozen = language(gpt2(), 2).freeze_named("blocks.0").clip(Clip::InfinityNorm(1.0));
    let frozen = assert_told("frozen", &gpu, frozen);
    assert_eq!(frozen.frozen_parameters, block);
}

fn storages_are_told() {
    let Some(gpu) = support::gpu() else { return };
    for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
        for weights in [
            WeightStorage::F32,
            WeightStorage::Bf16Stochastic,
            WeightStorage::Bf16Kahan,
            WeightStorage::Bf16Split,
        ] {
            let builder = language(llama(), 2).precision(precision).weights(weights);
            let plan = assert_told(&format!("{precision} {weights}"), &gpu, builder);
            assert!(plan.copy_bytes > 0 || precision == weights.precision());
        }
    }
}

fn optimizers_and_policies_are_told() {
    let Some(gpu) = support::gpu() else { return };
    let run = || language(gpt2(), 1);
    let whole = assert_told("AdamW", &gpu, run()).moment_bytes;
    for (storage, at_most) in
        [(MomentStorage::Bf16, whole / 2), (MomentStorage::Blocks8, whole - 1)]
    {
        let optimizer = AdamW::default().with_moments(storage);
        let plan = assert_told(&format!("{storage}"), &gpu, run().optimizer(optimizer));
        assert!(plan.moment_bytes <= at_most);
    }
    let lion = Lion::default().with_moments(MomentStorage::Blocks8);
    assert_told("Lion", &gpu, run().optimizer(lion));
    assert_told("Adafactor", &gpu, run().optimizer(Adafactor::default()));
    let muon = assert_told("Muon", &gpu, run().optimizer(Muon::default()));
    assert!(muon.optimizer_bytes > 0);
    let amsgrad = AdamW { amsgrad: true, ..AdamW::default() };
    assert_told("AMSGrad", &gpu, run().optimizer(amsgrad));
    let guarded = run().policy(SpikeGuard::with_rollback()).policy(SnapshotRing::default());
    assert_told("guarded", &gpu, guarded);
    let clipped = run().policy(AdaGc::default()).policy(AutoClip::default());
    assert_told("clipped", &gpu, clipped);
}

fn adapters_and_blocks_are_told() {
    let Some(gpu) = support::gpu() else { return };
    let lora = Lora::new(4, 8.0, Targets::AllLinear);
    let with = |lora: Lora| GptConfig { lora: Some(lora), ..llama() };
    assert_told("LoRA", &gpu, language(with(lora.clone()), 2).accumulation(2));
    let dora = Lora { dora: true, ..lora.clone() };
    assert_told("DoRA", &gpu, language(with(dora), 2).precision(Precision::Bf16));
    for format in BlockFormat::ALL {
        // Widths of whole blocks.
        let config = GptConfig { hidden: 96, base_format: Some(format), ..with(lora.clone()) };
        let plan = assert_told(&format!("{format}"), &gpu, language(config, 2));
        assert!(plan.frozen_bytes > 0);
    }
}

fn other_models_are_told() {
    let Some(gpu) = support::gpu() else { return };
    let mlp = MlpClassifier { inputs: 7, hidden: vec![9, 5], classes: 3, batch_norm: true };
    let classifier = || Trainer::builder(Classifier { mlp: mlp.clone(), batch: 6 });
    assert_told("classifier", &gpu, classifier().policy(SnapshotRing::default()));
    assert_told("microbatches", &gpu, classifier().accumulation(5));
    assert_told("terms", &gpu, Trainer::builder(Terms::three()).watch_tensors(1));
}

fn plans_of_other_lengths_are_told() {
    let Some(gpu) = support::gpu() else { return };
    let watched = GptConfig { watch_logits: true, ..gpt2() };
    for (config, precision) in [(watched, Precision::F32), (llama(), Precision::Bf16)] {
        let lengths = Lengths::new([4, 8, 12, CONTEXT]).expect("lengths");
        let builder = language(config, 2).precision(precision).lengths(lengths).accumulation(2);
        let plan = builder.memory(&gpu).expect("a plan");
        let mut trainer = block_on(builder.build(&gpu)).expect("a trainer");
        assert_same("the longest", &plan, &trainer.report());
        for length in [12, 8, 4] {
            block_on(trainer.prepare(length)).expect("a plan");
        }
        let report = trainer.report();
        assert!(plan.other_length_bytes > 0);
        assert_eq!(plan.activation_bytes() + plan.other_length_bytes, report.activation_bytes);
        assert_eq!(plan.total_bytes(), report.total_bytes());
    }
}

fn given_parameters_are_told() {
    let Some(gpu) = support::gpu() else { return };
    let trained = block_on(language(gpt2(), 1).weights(WeightStorage::Bf16Kahan).build(&gpu));
    let parameters = block_on(trained.expect("a trainer").parameters().copy()).expect("a copy");
    let builder = language(gpt2(), 2).parameters(parameters).freeze_named("blocks.1");
    let plan = assert_told("given", &gpu, builder);
    assert!(plan.frozen_bytes > 0 && plan.copy_bytes > 0);
}

/// On hardware, products with few tiles and long sums are divided, and their parts lie in scratch.
fn products_on_hardware_are_told() {
    let (Some(software), Some(hardware)) = (support::gpu(), support::gpu_with_hardware_kernels())
    else {
        return;
    };
    let config = || GptConfig { context: 64, ..gpt2() };
    let plan = assert_told("hardware", &hardware, language(config(), 4));
    assert!(plan.scratch_bytes > 0);
    let chunked = GptConfig { logits_budget: 64 * 128, ..config() };
    assert_told("hardware, chunks", &hardware, language(chunked, 4).accumulation(2));
    let lora = GptConfig { lora: Some(Lora::new(4, 8.0, Targets::AllLinear)), ..config() };
    assert_told("hardware, adapters", &hardware, language(lora, 4).precision(Precision::Bf16));
    if software.is_software() {
        assert_eq!(assert_told("software", &software, language(config(), 4)).scratch_bytes, 0);
    }
}

/// Bytes of the tensors of a safetensors file.
fn tensor_bytes(file: &[u8]) -> u64 {
    let header = u64::from_le_bytes(file[..8].try_into().expect("8 bytes"));
    file.len() as u64 - 8 - header
}

fn a_checkpoint_is_told() {
    let Some(gpu) = support::gpu() else { return };
    let lora = GptConfig {
        hidden: 96,
        lora: Some(Lora::new(4, 8.0, Targets::AllLinear)),
        base_format: Some(BlockFormat::Q4_0),
        ..llama()
    };
    let compact = AdamW::default().with_moments(MomentStorage::Blocks8);
    let builders = [
        language(gpt2(), 1),
        language(gpt2(), 1).weights(WeightStorage::Bf16Kahan).policy(AdaGc::default()),
        language(gpt2(), 1).optimizer(Adafactor::default()),
        language(gpt2(), 1).optimizer(Muon::default()),
        language(lora, 1).optimizer(compact),
    ];
    for (index, builder) in builders.into_iter().enumerate() {
        let plan = builder.memory(&gpu).expect("a plan");
        let trainer = block_on(builder.build(&gpu)).expect("a trainer");
        let file = block_on(trainer.checkpoint()).expect("a checkpoint").to_bytes();
        assert_eq!(plan.host.checkpoint_bytes, tensor_bytes(&file), "{index}");
        let frozen = block_on(trainer.fingerprint_of_frozen()).expect("a fingerprint");
        let trained = block_on(trainer.checkpoint_of_trained(&frozen)).expect("a checkpoint");
        let small = plan.clone().saving_trained().host;
        assert_eq!(small.checkpoint_bytes, tensor_bytes(&trained.to_bytes()), "{index}");
        let has_frozen = plan.frozen_bytes > 0;
        assert_eq!(small.staged_bytes < plan.host.staged_bytes, has_frozen, "{index}");
    }
}

fn what_cannot_be_built_is_refused_before() {
    let Some(gpu) = support::gpu() else { return };
    let refusals = [
        language(gpt2(), 1).accumulation(0),
        language(gpt2(), 1).freeze_named("blocks.7"),
        language(gpt2(), 1).freeze(|_| true),
    ];
    for builder in refusals {
        let told = builder.memory(&gpu).expect_err("refused").to_string();
        let Err(error) = block_on(builder.build(&gpu)) else { panic!("built") };
        assert_eq!(told, error.to_string());
    }
    let narrow = MemoryLimits { largest_binding: 1024, ..MemoryLimits::DEFAULT };
    let error = language(gpt2(), 8).memory(narrow).expect_err("too large");
    assert!(matches!(error, Error::Limit { available: 1024, .. }), "{error}");
}

fn a_plan_is_printed_as_a_table() {
    let mib = |bytes: u64| format!("{:.2}", bytes as f64 / f64::from(1 << 20));
    let config = GptConfig::gpt2(1000, 64, 2, 2, 64);
    let builder = language(config, 4).precision(Precision::Bf16);
    let plan = builder.memory(MemoryLimits::DEFAULT).expect("without a device");
    let printed = plan.to_string();
    let line = |what: &str| {
        let line = printed.lines().find(|line| line.trim_start().starts_with(what));
        line.unwrap_or_else(|| panic!("no {what} in:\n{printed}")).to_owned()
    };
    for (what, bytes) in [
        ("gradients", plan.gradient_bytes),
        ("moments", plan.moment_bytes),
        ("weights in another precision", plan.copy_bytes),
        ("all", plan.total_bytes()),
        ("a checkpoint", plan.host.checkpoint_bytes),
    ] {
        assert!(line(what).ends_with(&mib(bytes)), "{}: {bytes}", line(what));
    }
    assert!(!printed.contains("frozen"), "what is not there has no line:\n{printed}");
}

/// A device whose bindings hold half of the largest tensor.
#[cfg(all(test, not(target_arch = "wasm32")))]
#[test]
fn tensors_in_parts_are_told() {
    let Some(gpu) = support::gpu_with_bindings(65_536) else { return };
    let config = || GptConfig::gpt2(1000, 8, 1, 2, 32);
    assert_told("parts", &gpu, language(config(), 1));
    assert_told("parts in halves", &gpu, language(config(), 1).precision(Precision::Bf16));
    // Rows of the logits are shorter than those of the table.
    let chunked = GptConfig {
        hidden: 128,
        head_dim: Some(8),
        logits_budget: 64 * 800,
        ..GptConfig::gpt2(200, 8, 1, 2, 96)
    };
    let plan = assert_told("parts and chunks", &gpu, language(chunked, 9).accumulation(2));
    assert!(plan.scratch_bytes > 0);
    let lora = Lora::new(4, 8.0, Targets::AllLinear);
    let adapted = GptConfig { lora: Some(lora), ..config() };
    assert_told("parts and adapters", &gpu, language(adapted, 1));
}
