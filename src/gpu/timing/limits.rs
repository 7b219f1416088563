//! What a device does at best: copies, multiplications and additions, and dispatches of nothing.

use super::{Timing, stamped};
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu};
use crate::kernels::{CopyQuads, CopyQuadsParams, ProbeMultiplyAdd, ProbeMultiplyAddParams};

/// Bytes read and written by the smallest copy; each further one has eight times as many.
const SMALLEST_COPY: u64 = 32 << 10;
/// Runs of which the fastest counts.
const REPEATS: usize = 12;
/// Steps of the device's clock in the fastest empty dispatch, for dispatches to be told apart.
const FINE: f64 = 4.0;

/// What a device does at best, measured as dispatches are: by the same [`Timing`].
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceLimits {
    /// How it was measured.
    pub timing: Timing,
    /// Seconds of a dispatch that does nothing.
    pub empty_seconds: f64,
    /// Copies from small, which stay in caches, to large: bytes read and written, and seconds.
    pub copies: Vec<(u64, f64)>,
    /// Multiplications and additions of f32 per second, in registers alone.
    pub operations_per_second: f64,
}

impl DeviceLimits {
    /// Bytes per second of the largest copy.
    pub fn bytes_per_second(&self) -> f64 {
        self.copies.last().map_or(0.0, |&(bytes, seconds)| bytes as f64 / seconds)
    }

    /// The better ones of two measurements.
    pub(crate) fn take_best(&mut self, other: &Self) {
        self.empty_seconds = self.empty_seconds.min(other.empty_seconds);
        self.operations_per_second = self.operations_per_second.max(other.operations_per_second);
        for (mine, other) in self.copies.iter_mut().zip(&other.copies) {
            mine.1 = mine.1.min(other.1);
        }
    }

    /// Seconds in which the copy kernel reads and writes so many bytes, on the lines between the
    /// sizes that were measured.
    pub fn copy_seconds(&self, bytes: u64) -> f64 {
        let mut below = (0.0, self.empty_seconds);
        for &(size, seconds) in &self.copies {
            let above = (size as f64, seconds);
            if bytes <= size {
                let share = (bytes as f64 - below.0) / (above.0 - below.0);
                return below.1 + share * (above.1 - below.1);
            }
            below = above;
        }
        if below.0 > 0.0 { below.1 * (bytes as f64 / below.0).max(1.0) } else { below.1 }
    }
}

impl Gpu {
    /// Measures what the device does at best: less than a second, in which nothing else should run.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub async fn device_limits(&self) -> Result<DeviceLimits> {
        let empty = empty(self);
        let (arithmetic, operations) = arithmetic(self);
        // Compiled and warm.
        self.seconds_repeated(&empty).await?;
        self.seconds_repeated(&arithmetic).await?;
        let (timing, empty_seconds) = self.timing(&empty, &arithmetic).await?;
        let mut copies = Vec::new();
        let largest = if self.is_software() { 16 << 20 } else { 512 << 20 };
        let mut bytes = SMALLEST_COPY;
        while bytes <= largest.min(2 * self.largest_binding()) {
            let copy = copy(self, bytes / 2);
            self.seconds_repeated(&copy).await?;
            copies.push((bytes, self.least_seconds(timing, &copy).await?));
            bytes *= 8;
        }
        let seconds = self.least_seconds(timing, &arithmetic).await?;
        Ok(DeviceLimits {
            timing,
            empty_seconds,
            copies,
            operations_per_second: operations as f64 / seconds,
        })
    }

    async fn least_seconds(&self, timing: Timing, dispatch: &Dispatch) -> Result<f64> {
        match timing {
            Timing::Timestamps => {
                let (runs, _) = stamped(self, dispatch, REPEATS).await?;
                Ok(runs.seconds().fold(f64::INFINITY, f64::min))
            }
            Timing::Repetition => {
                let mut seconds = f64::INFINITY;
                for _ in 0..REPEATS / 3 {
                    seconds = seconds.min(self.seconds_repeated(dispatch).await?);
                }
                Ok(seconds)
            }
        }
    }

    /// How to measure, and the seconds of an empty dispatch by it. Timestamps are trusted where they
    /// tell of arithmetic what the clock on the wall tells of the same submit, and the fastest of
    /// several empty dispatches takes some steps of the device's clock.
    async fn timing(&self, empty: &Dispatch, arithmetic: &Dispatch) -> Result<(Timing, f64)> {
        if self.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            let (runs, by_the_wall) = stamped(self, arithmetic, REPEATS).await?;
            let agrees = (0.5..1.1).contains(&(runs.seconds().sum::<f64>() / by_the_wall));
            let (runs, _) = stamped(self, empty, REPEATS).await?;
            let fastest = runs.seconds().fold(f64::INFINITY, f64::min);
            if agrees && fastest > 0.0 && FINE * runs.quantum <= fastest {
                return Ok((Timing::Timestamps, fastest));
            }
        }
        Ok((Timing::Repetition, self.least_seconds(Timing::Repetition, empty).await?))
    }
}

/// A copy that reads so many bytes, and writes as many.
pub(in crate::gpu) fn copy(gpu: &Gpu, bytes: u64) -> Dispatch {
    let (x, y) = (gpu.buffer("x", bytes), gpu.buffer("y", bytes));
    let params = CopyQuadsParams { quads: (bytes / 16) as u32 };
    let (x, y) = (x.as_entire_buffer_binding(), y.as_entire_buffer_binding());
    gpu.prepare(&CopyQuads { params, x, y })
}

/// One workgroup that finds nothing to do.
fn empty(gpu: &Gpu) -> Dispatch {
    let mut nothing = copy(gpu, 0);
    nothing.workgroups = [1, 1, 1];
    nothing
}

/// Milliseconds of multiplications and additions, and how many they are.
fn arithmetic(gpu: &Gpu) -> (Dispatch, u64) {
    let quads = if gpu.is_software() { 1 << 14 } else { 1 << 18 };
    let quads = quads.min((gpu.largest_binding() / 16) as u32);
    let params = ProbeMultiplyAddParams { quads, rounds: 1024, factor: 0.5, addend: 0.25 };
    let y = gpu.buffer("y", 16 * u64::from(quads));
    let kernel = ProbeMultiplyAdd { params, y: y.as_entire_buffer_binding() };
    (gpu.prepare(&kernel), params.operations())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_other_sizes_lie_between() {
        let limits = DeviceLimits {
            timing: Timing::Timestamps,
            empty_seconds: 1.0,
            copies: vec![(100, 2.0), (1100, 7.0)],
            operations_per_second: 1.0,
        };
        let found = [0, 50, 100, 600, 1100, 2200].map(|bytes| limits.copy_seconds(bytes));
        assert_eq!(found, [1.0, 1.5, 2.0, 4.5, 7.0, 14.0]);
        assert_eq!(limits.bytes_per_second(), 1100.0 / 7.0);
        // Where no copy fits in a binding.
        let limits = DeviceLimits { copies: Vec::new(), ..limits };
        assert_eq!((limits.copy_seconds(100), limits.bytes_per_second()), (1.0, 0.0));
    }
}
