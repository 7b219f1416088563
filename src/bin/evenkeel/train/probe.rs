//! How many steps a time has room for.

use std::time::{Duration, Instant};

use evenkeel::data::CachedWindows;
use evenkeel::train::Batch;
use evenkeel::{Gpu, Result};

use super::batch_of::batch_of;
use super::dial::Reason;
use super::progress::Progress;
use super::settings::Settings;
use crate::ranks::{Ranks, Share};

/// Steps before those that are measured, in which drivers compile and caches fill.
const WARM_STEPS: u64 = 2;
/// Steps that are measured, at most.
const STEPS: u32 = 8;
/// Time to measure, once it is over no further step is taken.
const LONGEST: Duration = Duration::from_secs(10);
/// Share of the time that is for steps; the rest is for validation, saves and the sample.
const SHARE: f64 = 0.95;

/// Measures some steps of a trainer that is thrown away, on all ranks together, and gives the steps
/// that fit the time, and why: as rank 0 measures them.
///
/// # Errors
/// Those of the trainer.
pub async fn steps_within(
    time: Duration,
    (settings, share): (&Settings, Share),
    training: &CachedWindows,
    (gpu, ranks): (&Gpu, &Ranks),
    quiet: bool,
) -> Result<(usize, Reason)> {
    let mut trainer = settings.build_of(share, gpu, ranks).await?;
    let (own, all) = (share.sequences(ranks.rank()), settings.batch * settings.accumulation);
    let batch = |step| batch_of(training, settings.seed, step, (&own, all));
    for step in 0..WARM_STEPS {
        ranks.step(&mut trainer, &ranks.agree(batch(step))?).await?;
    }
    ranks.agree(trainer.telemetry().await)?;
    let bar = Progress::count("measuring a step", quiet);
    let (begun, mut measured) = (Instant::now(), 0_u32);
    // None on any rank ends it on all.
    let next = |step| -> Result<Option<Batch>> {
        let is_over = measured_enough(step, begun) && ranks.is_first();
        if is_over { Ok(None) } else { batch(step).map(Some) }
    };
    while let Some(batch) = ranks.take_together(next(trainer.steps()))? {
        ranks.step(&mut trainer, &batch).await?;
        // Waits for the device.
        ranks.agree(trainer.telemetry().await)?;
        measured += 1;
        bar.show(measured.into(), STEPS.into());
    }
    bar.finish();
    let each = begun.elapsed().as_secs_f64() / f64::from(measured);
    let each = ranks.broadcast(Ok(ranks.is_first().then_some(each)))?;
    let steps = ((SHARE * time.as_secs_f64() / each) as usize).clamp(1, 10_000_000);
    let why = format!(
        "{:.0} s, of which {:.0} % are for steps, at {:.1} ms each, measured over {measured}",
        time.as_secs_f64(),
        100.0 * SHARE,
        1e3 * each
    );
    Ok((steps, Reason { setting: "steps", value: steps.to_string(), why }))
}

/// Whether so many steps, with the warm ones, are enough.
fn measured_enough(steps: u64, begun: Instant) -> bool {
    steps >= WARM_STEPS + u64::from(STEPS) || steps > WARM_STEPS && begun.elapsed() >= LONGEST
}
