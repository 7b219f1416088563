//! One point: a trainer's times and memory.

use std::time::{Duration, Instant};

use evenkeel::gpu::Dispatch;
use evenkeel::nn::{Gpt, LanguageModel};
use evenkeel::train::{AdamW, Batch, Clip, Model, Trainer, TrainerReport};
use evenkeel::{Gpu, Result};
use pollster::block_on;

use crate::series::Subject;

/// What was measured; times in seconds.
pub struct Point {
    step: f64,
    host: f64,
    update: f64,
    /// 0 without attention.
    attention: f64,
    report: TrainerReport,
}

/// One of the numbers of a point.
pub struct Column {
    pub title: &'static str,
    pub value: fn(&Point) -> f64,
    digits: usize,
}

impl Column {
    pub fn cell(&self, point: &Point) -> String {
        format!("{:.*}", self.digits, (self.value)(point))
    }
}

pub const COLUMNS: [Column; 9] = [
    Column { title: "step ms", value: |p| 1e3 * p.step, digits: 3 },
    Column { title: "update ms", value: |p| 1e3 * p.update, digits: 3 },
    Column { title: "attention ms", value: |p| 1e3 * p.attention, digits: 3 },
    Column { title: "host ms", value: |p| 1e3 * p.host, digits: 3 },
    Column { title: "dispatches", value: |p| p.dispatches() as f64, digits: 0 },
    Column { title: "µs each", value: |p| 1e6 * p.host / p.dispatches() as f64, digits: 2 },
    Column { title: "all MB", value: |p| p.report.total_bytes() as f64 / 1e6, digits: 3 },
    Column { title: "values MB", value: |p| p.report.activation_bytes as f64 / 1e6, digits: 3 },
    Column { title: "parameters", value: |p| p.report.parameters as f64, digits: 0 },
];

impl Point {
    fn dispatches(&self) -> usize {
        self.report.model_dispatches + self.report.update_dispatches
    }
}

/// Longer than any step here: between the submits of a step that is split the host waits, which is
/// not its own time.
const ONE_SUBMIT: Duration = Duration::from_secs(60);

/// Times of a subject, each the median of as many runs as take some seconds.
pub fn measure(gpu: &Gpu, subject: Subject, seconds: f64) -> Result<Point> {
    match subject {
        Subject::Tensors(model) => measure_model(gpu, model, &Batch::new(), seconds),
        Subject::Gpt { config, batch } => {
            let (vocabulary, time) = (config.vocabulary, config.context);
            let token =
                |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) % vocabulary as u32;
            let data = Batch::new()
                .with("tokens", (0..batch * time).map(token).collect::<Vec<_>>())
                .with("targets", (1..=batch * time).map(token).collect::<Vec<_>>());
            measure_model(
                gpu,
                LanguageModel { gpt: Gpt::new(*config)?, batch, time },
                &data,
                seconds,
            )
        }
    }
}

fn measure_model<M: Model>(gpu: &Gpu, model: M, batch: &Batch, seconds: f64) -> Result<Point> {
    let builder = Trainer::builder(model)
        .optimizer(AdamW::default())
        .clip(Clip::Norm(1.0))
        .submit_budget(ONE_SUBMIT);
    let mut trainer = block_on(builder.build(gpu))?;
    // The first step compiles and finds out how to submit; the second is warm.
    for _ in 0..2 {
        block_on(trainer.step(batch))?;
    }
    let mut host = Vec::new();
    let step = median_of(seconds, || {
        finish(gpu);
        let start = Instant::now();
        block_on(trainer.step(batch)).expect("a step");
        host.push(start.elapsed().as_secs_f64());
        finish(gpu);
        start.elapsed()
    });
    let last = block_on(trainer.telemetry())?.pop().expect("a step");
    assert_eq!(last.skipped_total, 0, "a step that is skipped would be fast: {last:?}");
    let report = trainer.report();
    let update: Vec<_> = trainer.dispatches().skip(report.model_dispatches).collect();
    let attention: Vec<_> =
        trainer.dispatches().filter(|dispatch| dispatch.name.contains("attention")).collect();
    Ok(Point {
        step,
        host: median(&mut host),
        update: time_of(gpu, &update, seconds),
        attention: time_of(gpu, &attention, seconds),
        report,
    })
}

/// Some dispatches of a step, in a submit of their own.
fn time_of(gpu: &Gpu, dispatches: &[&Dispatch], seconds: f64) -> f64 {
    if dispatches.is_empty() {
        return 0.0;
    }
    median_of(seconds, || {
        finish(gpu);
        let start = Instant::now();
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        gpu.encode(&mut encoder, dispatches.iter().copied());
        gpu.submit(encoder);
        finish(gpu);
        start.elapsed()
    })
}

/// The median of at least three runs, and of as many as take some seconds.
fn median_of(seconds: f64, mut run: impl FnMut() -> Duration) -> f64 {
    let mut times = Vec::new();
    while times.len() < 3 || times.iter().sum::<f64>() < seconds {
        times.push(run().as_secs_f64());
    }
    median(&mut times)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Waits until the device has done everything.
fn finish(gpu: &Gpu) {
    gpu.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device");
}
