//! What a single dispatch takes, by the device's clock where it can be trusted, and what the device
//! could do at best.

mod limits;
mod repetition;
mod timestamps;

pub use limits::DeviceLimits;
#[cfg(not(target_arch = "wasm32"))]
pub(super) use limits::copy;
use timestamps::Stamped;
pub(crate) use timestamps::Timestamps;

use std::fmt;

use web_time::Instant;

use super::{Dispatch, Gpu};
use crate::error::Result;

/// How the times of single dispatches are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// By timestamps of the device around a pass of its own for each.
    Timestamps,
    /// By the clock on the wall around many repetitions, where the device has no timestamps, or
    /// such that do not agree with that clock, or are too coarse.
    Repetition,
}

impl fmt::Display for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Timestamps => "timestamps of the device",
            Self::Repetition => "repetition",
        })
    }
}

/// From when to when a dispatch ran, in seconds after the beginning of the first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Span {
    pub begin: f64,
    pub end: f64,
}

impl Span {
    pub fn seconds(self) -> f64 {
        self.end - self.begin
    }
}

/// Some runs of one dispatch by the device's clock, and the seconds of all by the one on the wall.
async fn stamped(gpu: &Gpu, dispatch: &Dispatch, repeats: usize) -> Result<(Stamped, f64)> {
    let timestamps = Timestamps::new(gpu, 0..repeats);
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    (0..repeats).for_each(|index| timestamps.encode(gpu, &mut encoder, index, dispatch));
    let begin = Instant::now();
    let submission = gpu.submit(encoder);
    gpu.wait(submission).await?;
    let by_the_wall = begin.elapsed().as_secs_f64();
    Ok((timestamps.read(gpu).await?, by_the_wall))
}
