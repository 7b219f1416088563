//! A whole training step of a small GPT: time on the device, time on the host, and how the step
//! divides among its kernels.
//!
//! `cargo bench --bench step`. The model is the one for which the README gives tokens per second:
//! vocabulary 96, context 64, 4 layers, 4 heads, width 128, batch 8.

#![allow(missing_docs, reason = "criterion's macros make public functions without docs")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use evenkeel::Gpu;
use evenkeel::nn::{Gpt, GptConfig, LanguageModel};
use evenkeel::train::{AdamW, Batch, Clip, Trainer};
use pollster::block_on;

const VOCABULARY: usize = 96;
const CONTEXT: usize = 64;
const BATCH: usize = 8;

fn trainer(gpu: &Gpu) -> Trainer<LanguageModel> {
    let gpt = Gpt::new(GptConfig::gpt2(VOCABULARY, CONTEXT, 4, 4, 128)).expect("valid");
    let model = LanguageModel { gpt, batch: BATCH, time: CONTEXT };
    let builder = Trainer::builder(model).optimizer(AdamW::default()).clip(Clip::Norm(1.0)).seed(1);
    block_on(builder.build(gpu)).expect("a trainer")
}

fn batch() -> Batch {
    let count = BATCH * CONTEXT;
    let token = |i: usize| (i * 7919 % VOCABULARY) as u32;
    Batch::new()
        .with("tokens", (0..count).map(token).collect::<Vec<_>>())
        .with("targets", (1..=count).map(token).collect::<Vec<_>>())
}

/// Waits until the device has done everything.
fn finish(gpu: &Gpu) {
    gpu.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device");
}

fn step(criterion: &mut Criterion) {
    let gpu = block_on(Gpu::new()).expect("an adapter");
    println!("adapter: {} ({})", gpu.info.name, gpu.info.driver_info);
    let (mut trainer, batch) = (trainer(&gpu), batch());
    let report = trainer.report();
    println!(
        "{} parameters in {} tensors, {} + {} dispatches, {:.1} MB on the device",
        report.parameters,
        report.tensors,
        report.model_dispatches,
        report.update_dispatches,
        report.total_bytes() as f64 / 1e6
    );

    let mut group = criterion.benchmark_group("step");
    group.sample_size(10).throughput(Throughput::Elements((BATCH * CONTEXT) as u64));
    group.bench_function("tokens", |bencher| {
        bencher.iter_custom(|count| {
            finish(&gpu);
            let start = Instant::now();
            for _ in 0..count {
                block_on(trainer.step(black_box(&batch))).expect("a step");
            }
            finish(&gpu);
            start.elapsed()
        });
    });
    group.bench_function("host", |bencher| {
        bencher.iter_custom(|count| {
            let mut host = Duration::ZERO;
            for _ in 0..count {
                finish(&gpu);
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
    let mut group = criterion.benchmark_group("step by kernel");
    group.sample_size(10).measurement_time(Duration::from_secs(2));
    group.warm_up_time(Duration::from_millis(300));
    for (name, dispatches) in by_kernel {
        let count = dispatches.len();
        group.bench_function(format!("{name} x {count}"), |bencher| {
            bencher.iter_custom(|repeats| {
                finish(&gpu);
                let start = Instant::now();
                for _ in 0..repeats {
                    let mut encoder = gpu.device.create_command_encoder(&Default::default());
                    gpu.encode(&mut encoder, dispatches.iter().copied());
                    gpu.submit(encoder);
                    finish(&gpu);
                }
                start.elapsed()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
