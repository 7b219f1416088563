//! A whole training step of a GPT: time on the device, time on the host, and how the step divides
//! among its kernels.
//!
//! `cargo bench --bench step`, or `cargo bench --bench step -- FILTER` with a part of a benchmark's
//! name. The first model is the one for which the README gives tokens per second; the larger ones
//! are for GPUs and left out on software drivers. `cargo xtask bench-peers` sets them beside peers.

#![allow(missing_docs, reason = "criterion's macros make public functions without docs")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use evenkeel::gpu::GpuOptions;
use evenkeel::nn::{Gpt, GptConfig, LanguageModel};
use evenkeel::train::{AdamW, Batch, Clip, Trainer};
use evenkeel::{Gpu, Precision};
use pollster::block_on;

/// A model and its batch.
struct Model {
    name: &'static str,
    vocabulary: usize,
    context: usize,
    layers: usize,
    heads: usize,
    width: usize,
    batch: usize,
}

const MODELS: [Model; 3] = [
    Model { name: "0.8 M", vocabulary: 96, context: 64, layers: 4, heads: 4, width: 128, batch: 8 },
    Model {
        name: "10.8 M",
        vocabulary: 96,
        context: 256,
        layers: 6,
        heads: 6,
        width: 384,
        batch: 32,
    },
    Model {
        name: "124 M",
        vocabulary: 50_257,
        context: 256,
        layers: 12,
        heads: 12,
        width: 768,
        batch: 8,
    },
];

impl Model {
    fn trainer(&self, gpu: &Gpu, precision: Precision) -> Trainer<LanguageModel> {
        let Self { vocabulary, context, layers, heads, width, .. } = *self;
        let gpt = Gpt::new(GptConfig::gpt2(vocabulary, context, layers, heads, width));
        let model =
            LanguageModel { gpt: gpt.expect("valid"), batch: self.batch, time: self.context };
        let builder = Trainer::builder(model).precision(precision);
        let builder = builder.optimizer(AdamW::default()).clip(Clip::Norm(1.0)).seed(1);
        block_on(builder.build(gpu)).expect("a trainer")
    }

    fn tokens(&self) -> usize {
        self.batch * self.context
    }

    /// Tokens in no order.
    fn data(&self) -> Batch {
        let token =
            |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) % self.vocabulary as u32;
        Batch::new()
            .with("tokens", (0..self.tokens()).map(token).collect::<Vec<_>>())
            .with("targets", (1..=self.tokens()).map(token).collect::<Vec<_>>())
    }
}

/// Waits until the device has done everything.
fn finish(gpu: &Gpu) {
    gpu.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device");
}

fn steps(criterion: &mut Criterion) {
    let gpu = block_on(Gpu::new()).expect("an adapter");
    println!("adapter: {} ({})", gpu.info.name, gpu.info.driver_info);
    let models = if gpu.is_software() { &MODELS[..1] } else { &MODELS };
    for model in models {
        step(criterion, &gpu, model);
        in_halves(criterion, &gpu, model);
    }
}

fn step(criterion: &mut Criterion, gpu: &Gpu, model: &Model) {
    let (mut trainer, batch) = (model.trainer(gpu, Precision::F32), model.data());
    let report = trainer.report();
    println!(
        "{}: {} parameters in {} tensors, {} + {} dispatches, {:.1} MB on the device",
        model.name,
        report.parameters,
        report.tensors,
        report.model_dispatches,
        report.update_dispatches,
        report.total_bytes() as f64 / 1e6
    );

    let mut group = criterion.benchmark_group(format!("step {}", model.name));
    group.sample_size(10).throughput(Throughput::Elements(model.tokens() as u64));
    group.bench_function("tokens", |bencher| {
        bencher.iter_custom(|count| time(gpu, &mut trainer, &batch, count));
    });
    group.bench_function("host", |bencher| {
        bencher.iter_custom(|count| {
            let mut host = Duration::ZERO;
            for _ in 0..count {
                finish(gpu);
                let start = Instant::now();
                block_on(trainer.step(black_box(&batch))).expect("a step");
                host += start.elapsed();
            }
            host
        });
    });
    group.finish();

    let mut by_kernel: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for dispatch in trainer.dispatches() {
        by_kernel.entry(dispatch.name).or_default().push(dispatch);
    }
    let mut group = criterion.benchmark_group(format!("step {} by kernel", model.name));
    group.sample_size(10).measurement_time(Duration::from_secs(2));
    group.warm_up_time(Duration::from_millis(300));
    for (name, dispatches) in by_kernel {
        let count = dispatches.len();
        group.bench_function(format!("{name} x {count}"), |bencher| {
            bencher.iter_custom(|repeats| {
                finish(gpu);
                let start = Instant::now();
                // Many at once, since a submit takes a GPU as long as some kernels.
                for first in (0..repeats).step_by(PER_SUBMIT) {
                    let mut encoder = gpu.device.create_command_encoder(&Default::default());
                    for _ in first..repeats.min(first + PER_SUBMIT as u64) {
                        gpu.encode(&mut encoder, dispatches.iter().copied());
                    }
                    gpu.submit(encoder);
                }
                finish(gpu);
                start.elapsed()
            });
        });
    }
    group.finish();
}

/// The same step in bf16 and in f16, which is converted as the device was found to, and by integers.
fn in_halves(criterion: &mut Criterion, gpu: &Gpu, model: &Model) {
    let options = GpuOptions { integer_halves: true, ..GpuOptions::default() };
    let integers = block_on(Gpu::with(options)).expect("an adapter");
    let batch = model.data();
    let mut group = criterion.benchmark_group(format!("step {} in halves", model.name));
    group.sample_size(10).throughput(Throughput::Elements(model.tokens() as u64));
    let rows = [
        ("bf16", gpu, Precision::Bf16),
        ("f16", gpu, Precision::F16),
        ("f16 by integers", &integers, Precision::F16),
    ];
    for (name, gpu, precision) in rows {
        let mut trainer = model.trainer(gpu, precision);
        println!("{name}: {:?}", gpu.half_conversions());
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| time(gpu, &mut trainer, &batch, count));
        });
    }
    group.finish();
}

/// How long the device takes for so many steps.
fn time(gpu: &Gpu, trainer: &mut Trainer<LanguageModel>, batch: &Batch, count: u64) -> Duration {
    finish(gpu);
    let start = Instant::now();
    for _ in 0..count {
        block_on(trainer.step(black_box(batch))).expect("a step");
    }
    finish(gpu);
    start.elapsed()
}

/// Repetitions of a kernel's dispatches per submit.
const PER_SUBMIT: usize = 16;

criterion_group!(benches, steps);
criterion_main!(benches);
