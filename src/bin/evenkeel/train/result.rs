//! The result of a run for programs.

use std::path::Path;

use evenkeel::run::{MonitorSummary, Outputs};
use serde_json::{Value, json};

use super::CONFIGURATION;
use super::keep;
use super::session::{BEST, BEST_SAVE, Ended};
use super::settings::Settings;

/// One object: what was learned, how fast, and where it lies. Numbers that are not there or not
/// finite are null.
pub fn as_json(
    out: &Path,
    settings: &Settings,
    outputs: &Outputs,
    ended: &Ended,
    sampled: bool,
) -> Value {
    let MonitorSummary { skipped, first_loss, last_loss, validation_loss, .. } = ended.summary;
    let best = ended.best.map(|best| json!({ "step": best.step, "validation_loss": best.loss }));
    let loader = ended.loader.map(|data| {
        json!({
            "batches_per_second": data.batches_per_second(),
            "taken_per_second": data.taken_per_second(),
            "waiting_share": data.waiting_share(),
        })
    });
    json!({
        "folder": out,
        "steps": ended.steps,
        "of_steps": settings.steps,
        "skipped_steps": skipped,
        "tokens_in_a_step": settings.tokens_per_step(),
        "tokens_per_second": ended.tokens_per_second,
        "loss": { "first": first_loss, "last": last_loss, "validation": validation_loss },
        "best": best,
        "loader": loader,
        "files": files(out, outputs, ended, sampled),
    })
}

/// The files that are there.
fn files(out: &Path, outputs: &Outputs, ended: &Ended, sampled: bool) -> Value {
    let there = |path: &Path| path.exists().then(|| path.to_owned());
    json!({
        "configuration": there(&out.join(CONFIGURATION)),
        "metrics": there(&outputs.metrics),
        "table": outputs.csv,
        "events": outputs.tensorboard,
        "report": outputs.report,
        "trace": outputs.trace,
        "plot": there(&outputs.plot),
        "sample": sampled.then_some(&outputs.sample),
        "weights": there(&outputs.weights),
        "checkpoints": keep::paths(out),
        "model": ended.model,
        "best": ended.best.and_then(|_| there(&out.join(BEST_SAVE))),
        "best_model": ended.best.and_then(|_| there(&out.join(BEST))),
    })
}
