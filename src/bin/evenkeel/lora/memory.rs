//! What a run takes, and what to change where that is too much.

use evenkeel::nn::{Change, LanguageModel, Suggestion};
use evenkeel::train::{MemoryPlan, TrainerBuilder};
use evenkeel::{Error, Gpu, Result};

use super::settings::Settings;

const GIB: f64 = (1_u64 << 30) as f64;

/// What the run will take.
///
/// # Errors
/// [`Error::OutOfMemory`] where that is more than it may take, with what would make it fit.
pub fn plan(
    builder: &TrainerBuilder<LanguageModel>,
    gpu: &Gpu,
    settings: &Settings,
) -> Result<MemoryPlan> {
    // The saves are those of what is trained.
    let plan = builder.memory(gpu)?.saving_trained();
    match limit(gpu, settings).filter(|&limit| plan.total_bytes() > limit) {
        None => Ok(plan),
        Some(limit) => Err(Error::OutOfMemory {
            what: format!("this run, which may take {:.2} GiB,", limit as f64 / GIB),
            bytes: plan.total_bytes(),
            advice: advice(builder, gpu, settings, limit),
        }),
    }
}

/// Whether the run may take as much as it will.
///
/// # Errors
/// What is wrong with the settings.
pub fn fits(
    builder: &TrainerBuilder<LanguageModel>,
    gpu: &Gpu,
    settings: &Settings,
) -> Result<bool> {
    let bytes = builder.memory(gpu)?.total_bytes();
    Ok(limit(gpu, settings).is_none_or(|limit| bytes <= limit))
}

/// Bytes that it may take, where that is known.
fn limit(gpu: &Gpu, settings: &Settings) -> Option<u64> {
    settings.memory_limit.map(|gib| (gib * GIB) as u64).or_else(|| host_memory(gpu))
}

/// With what would make it take less, for an error of a device that did not say what it has.
pub fn with_advice(
    error: Error,
    builder: &TrainerBuilder<LanguageModel>,
    gpu: &Gpu,
    settings: &Settings,
) -> Error {
    match error {
        Error::OutOfMemory { what, bytes, .. } => {
            let total = builder.memory(gpu).map_or(bytes, |plan| plan.total_bytes());
            let advice = advice(builder, gpu, settings, total - total / 4);
            Error::OutOfMemory { what, bytes, advice }
        }
        other => other,
    }
}

/// The memory of the machine that is free, where its processors are the device.
fn host_memory(gpu: &Gpu) -> Option<u64> {
    if !gpu.is_software() {
        return None;
    }
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib << 10)
}

fn advice(
    builder: &TrainerBuilder<LanguageModel>,
    gpu: &Gpu,
    settings: &Settings,
    budget: u64,
) -> String {
    let found = builder.fitting(gpu, budget).unwrap_or_default();
    let words: Vec<_> = found.iter().filter_map(|found| in_options(found, settings)).collect();
    match words.len() {
        0 => "no setting makes it fit: take a smaller model".to_owned(),
        _ => format!("it fits with {}", words.join(", or ")),
    }
}

/// A suggestion as options, if all of it can be had by options.
fn in_options(suggestion: &Suggestion, settings: &Settings) -> Option<String> {
    let options = suggestion.changes.iter().map(|change| match change {
        Change::Microbatches { batch, accumulation } => {
            // Iterations are batches: the same records take as many more of them.
            let iters = settings.iters * (settings.batch_size / batch) as u64;
            Some(format!(
                "--batch-size {batch} --grad-accumulation-steps {accumulation} --iters {iters}"
            ))
        }
        Change::Recompute => Some("--grad-checkpoint".to_owned()),
        Change::Precision(precision) => Some(format!("--precision {precision}")),
        Change::BaseFormat(format) => Some(format!("--quantize {format}")),
        Change::Rank(rank) => Some(format!("a rank of {rank} in lora_parameters")),
        Change::Context(time) => Some(format!("--max-seq-length {time}")),
        Change::LogitsBudget(_) | Change::Moments(_) => None,
    });
    let options = options.collect::<Option<Vec<_>>>()?.join(" ");
    let gib = suggestion.memory.total_bytes() as f64 / GIB;
    Some(format!("{options} ({gib:.2} GiB)"))
}
