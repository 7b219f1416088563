//! The result of a run for programs.

use std::path::Path;

use serde_json::{Value, json};

use super::resume::About;
use super::session::Losses;
use super::settings::Settings;

/// One object: how far the run came, what was learned, and where it lies. Numbers that are not there
/// or not finite are null.
pub fn as_json(
    folder: &Path,
    settings: &Settings,
    about: &About,
    (iteration, skipped, losses): (u64, u64, Losses),
) -> Value {
    let best = about.best.map(|best| {
        json!({
            "iteration": best.iteration,
            "validation_loss": best.loss,
            "folder": folder.join("best"),
        })
    });
    json!({
        "folder": folder,
        "iterations": iteration,
        "of_iterations": settings.iters,
        "skipped_steps": skipped,
        "trained_tokens": about.trained_tokens,
        "loss": { "last": losses.last, "validation": losses.validation },
        "best": best,
        "test": losses.test.map(test),
    })
}

/// What a test says.
pub fn test(loss: f64) -> Value {
    json!({ "loss": loss, "perplexity": loss.exp() })
}
