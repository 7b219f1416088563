//! What each feature costs: a training step with it against the plain step, in one run.
//!
//! `cargo bench --bench features`, or `cargo bench --bench features -- PART` for those with this in
//! their names. The model is a GPT of 2 layers and width 128; every variant makes
//! a few steps in turn, round after round, each time right after the plain one, so that both see the
//! same machine. Printed are the median time of a step, the median of its ratios to the plain one
//! (the plain one's own tells the noise), and the bytes per parameter on the device without
//! activations, which do not depend on the number of parameters.

use std::time::{Duration, Instant};

use evenkeel::gpu::GpuOptions;
use evenkeel::nn::{Gpt, GptConfig, LanguageModel, QkClip, QkNorm};
use evenkeel::train::stability::{
    AdaGc, AdaptiveGradientClip, AutoClip, ClipPerTensor, SnapshotRing, SpikeGuard, ZClip,
};
use evenkeel::train::{
    Adafactor, Adam, AdamAtan2, AdamW, Batch, Clip, Lion, LossScale, Muon, Norm, Sgd, StableAdamW,
    Trainer, TrainerBuilder,
};
use evenkeel::{Gpu, Precision, WeightStorage};
use pollster::block_on;

const VOCABULARY: usize = 96;
const CONTEXT: usize = 64;
const BATCH: usize = 4;
const ROUNDS: usize = 15;
const STEPS: usize = 2;

type Builder = TrainerBuilder<LanguageModel>;

/// A name, a change to the model, a change to the run.
type Feature = (&'static str, fn(&mut GptConfig), fn(Builder) -> Builder);

const SAME: fn(&mut GptConfig) = |_| {};

/// On a device that was opened with `GpuOptions::integer_halves`.
const F16_BY_INTEGERS: &str = "f16 by integers";

const FEATURES: [Feature; 35] = [
    ("plain: f32, AdamW, Clip::Norm", SAME, |b| b),
    ("no clip", SAME, |b| b.clip(Clip::None)),
    ("loss scale, dynamic", SAME, |b| b.loss_scale(LossScale::dynamic())),
    ("f16", SAME, |b| b.precision(Precision::F16)),
    (F16_BY_INTEGERS, SAME, |b| b.precision(Precision::F16)),
    ("bf16", SAME, |b| b.precision(Precision::Bf16)),
    ("bf16, stochastic weights", SAME, |b| bf16(b, WeightStorage::Bf16Stochastic)),
    ("bf16, Kahan weights", SAME, |b| bf16(b, WeightStorage::Bf16Kahan)),
    ("bf16, split weights", SAME, |b| bf16(b, WeightStorage::Bf16Split)),
    ("norm L1", SAME, |b| b.norm(Norm::L1)),
    ("norm L3.5", SAME, |b| b.norm(Norm::Lp(3.5))),
    ("norm L2, exact", SAME, |b| b.norm(Norm::ExactL2)),
    ("clip per tensor", SAME, |b| b.policy(ClipPerTensor { max_norm: 1.0 })),
    ("AGC", SAME, |b| b.policy(AdaptiveGradientClip::default())),
    ("AutoClip", SAME, |b| b.policy(AutoClip::default())),
    ("ZClip", SAME, |b| b.policy(ZClip::default())),
    ("AdaGC", SAME, |b| b.policy(AdaGc::default())),
    ("spike guard", SAME, |b| b.policy(SpikeGuard::default())),
    ("spike guard, rollback", SAME, |b| {
        b.policy(SpikeGuard::with_rollback()).policy(SnapshotRing::default())
    }),
    ("tensors watched every step", SAME, |b| b.watch_tensors(1)),
    ("tensors watched every 100", SAME, |b| b.watch_tensors(100)),
    ("SGD with momentum", SAME, |b| b.optimizer(Sgd::default())),
    ("Adam", SAME, |b| b.optimizer(Adam::default())),
    ("AdamW, amsgrad", SAME, |b| b.optimizer(AdamW { amsgrad: true, ..AdamW::default() })),
    ("AdamW, cautious", SAME, |b| b.optimizer(AdamW { cautious: true, ..AdamW::default() })),
    ("StableAdamW", SAME, |b| b.optimizer(StableAdamW::default())),
    ("Adam-atan2", SAME, |b| b.optimizer(AdamAtan2::default())),
    ("Lion", SAME, |b| b.optimizer(Lion::default())),
    ("Adafactor", SAME, |b| b.optimizer(Adafactor::default())),
    ("Muon", SAME, |b| b.optimizer(Muon::default())),
    ("attention soft cap", |c| c.soft_cap = Some(50.0), |b| b),
    ("QK-norm", |c| c.qk_norm = Some(QkNorm::Rms), |b| b),
    ("QK-clip", |c| c.qk_clip = Some(QkClip::default()), |b| b),
    ("z-loss", |c| c.loss.z_loss = 1e-4, |b| b),
    ("logits watched", |c| c.watch_logits = true, |b| b),
];

fn bf16(builder: Builder, weights: WeightStorage) -> Builder {
    builder.precision(Precision::Bf16).weights(weights)
}

/// A trainer with the feature, and the device that it is on.
fn trainer(gpu: &Gpu, (name, change, build): Feature) -> (Gpu, Trainer<LanguageModel>) {
    let options = GpuOptions { integer_halves: true, ..GpuOptions::default() };
    let gpu = match name {
        F16_BY_INTEGERS => block_on(Gpu::with(options)).expect("an adapter"),
        _ => gpu.clone(),
    };
    let mut config = GptConfig::gpt2(VOCABULARY, CONTEXT, 2, 4, 128);
    change(&mut config);
    let gpt = Gpt::new(config).expect("valid");
    let model = LanguageModel { gpt, batch: BATCH, time: CONTEXT };
    let builder = Trainer::builder(model).clip(Clip::Norm(1.0)).seed(1);
    let trainer = block_on(build(builder).build(&gpu)).expect("a trainer");
    (gpu, trainer)
}

fn batch() -> Batch {
    let count = BATCH * CONTEXT;
    let token = |i: usize| (i * 7919 % VOCABULARY) as u32;
    Batch::new()
        .with("tokens", (0..count).map(token).collect::<Vec<_>>())
        .with("targets", (1..=count).map(token).collect::<Vec<_>>())
}

/// Time of a few steps, until the device has done them.
fn time((gpu, trainer): &mut (Gpu, Trainer<LanguageModel>), batch: &Batch) -> Duration {
    let finish = || gpu.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device");
    finish();
    let start = Instant::now();
    for _ in 0..STEPS {
        block_on(trainer.step(batch)).expect("a step");
    }
    finish();
    start.elapsed() / STEPS as u32
}

/// Whether the first argument is a part of the name, if there is one.
fn is_wanted(name: &str) -> bool {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    arguments.next().is_none_or(|part| name.contains(&part))
}

fn main() {
    let gpu = block_on(Gpu::new()).expect("an adapter");
    let kind = if gpu.is_software() { "software" } else { "hardware" };
    println!("adapter: {} ({kind}), {}", gpu.info.name, gpu.info.driver_info);
    let batch = batch();
    let mut plain = trainer(&gpu, FEATURES[0]);
    let features: Vec<_> = FEATURES.into_iter().filter(|(name, ..)| is_wanted(name)).collect();
    let mut trainers: Vec<_> = features.iter().map(|&f| trainer(&gpu, f)).collect();
    let mut times = vec![Vec::new(); features.len()];
    let mut ratios = times.clone();
    for round in 0..=ROUNDS {
        for ((trainer, times), ratios) in trainers.iter_mut().zip(&mut times).zip(&mut ratios) {
            let [peer, own] = [&mut plain, trainer].map(|t| time(t, &batch).as_secs_f64());
            // The first round compiles and warms up.
            if round > 0 {
                times.push(own);
                ratios.push(own / peer);
            }
        }
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let medians = times.iter_mut().map(median).zip(ratios.iter_mut().map(median));
    println!(
        "{:<31} {:>8} {:>6} {:>11} {:>10}",
        "feature", "ms/step", "ratio", "dispatches", "bytes/par."
    );
    let named = features.iter().zip(&trainers);
    for (((name, ..), (_, trainer)), (seconds, ratio)) in named.zip(medians) {
        let report = trainer.report();
        let bytes = report.total_bytes() - report.activation_bytes;
        println!(
            "{name:<31} {:>8.1} {ratio:>6.2} {:>11} {:>10.1}",
            1e3 * seconds,
            report.model_dispatches + report.update_dispatches,
            bytes as f64 / report.parameters as f64,
        );
    }
}
