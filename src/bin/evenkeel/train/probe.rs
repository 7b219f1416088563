//! How many steps a time has room for.

use std::time::{Duration, Instant};

use evenkeel::data::CachedWindows;
use evenkeel::{Gpu, Result};

use super::dial::Reason;
use super::progress::Progress;
use super::settings::Settings;

/// Steps before those that are measured, in which drivers compile and caches fill.
const WARM_STEPS: u64 = 2;
/// Steps that are measured, at most.
const STEPS: u32 = 8;
/// Time to measure, once it is over no further step is taken.
const LONGEST: Duration = Duration::from_secs(10);
/// Share of the time that is for steps; the rest is for validation, saves and the sample.
const SHARE: f64 = 0.95;

/// Measures some steps of a trainer that is thrown away, and gives the steps that fit the time, and
/// why.
///
/// # Errors
/// Those of the trainer.
pub async fn steps_within(
    time: Duration,
    settings: &Settings,
    training: &CachedWindows,
    gpu: &Gpu,
    quiet: bool,
) -> Result<(usize, Reason)> {
    let mut trainer = settings.builder().build(gpu).await?;
    let windows = settings.batch * settings.accumulation;
    let batch = |step| training.batch(settings.seed, step, windows);
    for step in 0..WARM_STEPS {
        trainer.step(&batch(step)?).await?;
    }
    trainer.telemetry().await?;
    let bar = Progress::count("measuring a step", quiet);
    let (begun, mut measured) = (Instant::now(), 0);
    while measured < STEPS && begun.elapsed() < LONGEST {
        trainer.step(&batch(trainer.steps())?).await?;
        // Waits for the device.
        trainer.telemetry().await?;
        measured += 1;
        bar.show(measured.into(), STEPS.into());
    }
    bar.finish();
    let each = begun.elapsed().as_secs_f64() / f64::from(measured);
    let steps = ((SHARE * time.as_secs_f64() / each) as usize).clamp(1, 10_000_000);
    let why = format!(
        "{:.0} s, of which {:.0} % are for steps, at {:.1} ms each, measured over {measured}",
        time.as_secs_f64(),
        100.0 * SHARE,
        1e3 * each
    );
    Ok((steps, Reason { setting: "steps", value: steps.to_string(), why }))
}
