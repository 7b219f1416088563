//! The batches of a run, each in parts.

use std::ops::Range;

use evenkeel::Result;
use evenkeel::data::CachedWindows;
use evenkeel::train::Batch;

/// The part `windows` of the batch of a step: only those are read.
///
/// # Errors
/// [`Error::File`] where the tokens cannot be read.
pub fn batch_of(
    training: &CachedWindows,
    seed: u32,
    step: u64,
    (windows, of): (&Range<usize>, usize),
) -> Result<Batch> {
    let starts = training.starts(seed, step, of).skip(windows.start).take(windows.len());
    let (mut tokens, mut targets) = (Vec::new(), Vec::new());
    for start in starts {
        let (inputs, next) = training.window(start)?;
        tokens.extend(inputs);
        targets.extend(next);
    }
    Ok(Batch::new().with("tokens", tokens).with("targets", targets))
}
