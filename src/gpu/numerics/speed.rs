//! How fast memory is copied and matrices are multiplied, by the clock on the wall. Not in a
//! browser, whose clocks are coarse.

use std::time::{Duration, Instant};

use super::{Check, Gpu, Outcome, random_words, whole};
use crate::error::Result;
use crate::gpu::Dispatch;
use crate::gpu::timing::copy;
use crate::kernels::{Matmul, MatmulDirect, MatmulDirectParams, MatmulParams};

/// A submit of this length is long against its overhead and short against any watchdog.
const BATCH: Duration = Duration::from_millis(100);
/// Submits of which the fastest counts.
const BATCHES: usize = 3;

/// What [`Gpu::speed`] measures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Bytes read and written per second by a kernel that copies.
    pub copy_bytes_per_second: f64,
    /// Multiplications and additions per second in a matrix product of f32.
    pub product_operations_per_second: f64,
    /// Rows, columns and terms of the product.
    pub product_size: u32,
    /// True where shaders run on the CPU.
    pub software: bool,
}

impl Gpu {
    /// Measures copy and compute speed: about a second, in which nothing else should run.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub async fn speed(&self) -> Result<Speed> {
        let software = self.is_software();
        // More than caches hold, where the device is a GPU.
        let bytes = (if software { 16 } else { 256 } << 20).min(self.largest_binding());
        let size = if software { 256 } else { 2048 };
        let copy = self.seconds(&copy(self, bytes)).await?;
        let product = self.seconds(&self.product(size)).await?;
        Ok(Speed {
            copy_bytes_per_second: 2.0 * bytes as f64 / copy,
            product_operations_per_second: 2.0 * f64::from(size).powi(3) / product,
            product_size: size,
            software,
        })
    }

    /// The product that training uses on this adapter.
    fn product(&self, size: u32) -> Dispatch {
        let random = |seed| {
            let value = |i| random_words(seed, i)[0] as f32 * 2f32.powi(-31) - 1.0;
            self.upload(
                "operand",
                &(0..size as usize * size as usize).map(value).collect::<Vec<_>>(),
            )
        };
        let (a, b) = (random(105), random(106));
        let c = self.buffer("c", a.size());
        let (a, b, c) = (whole(&a), whole(&b), whole(&c));
        if self.is_software() {
            let params = MatmulDirectParams::dense(size, size, size);
            self.prepare(&MatmulDirect::plain(params, [a, b, c]))
        } else {
            let params = MatmulParams::dense(size, size, size);
            self.prepare(&Matmul::plain(params, [a, b, c]))
        }
    }

    /// Seconds per dispatch, compiled and warm.
    async fn seconds(&self, dispatch: &Dispatch) -> Result<f64> {
        self.batch(dispatch, 1).await?;
        let once = self.batch(dispatch, 1).await?;
        let repeats = (BATCH.as_secs_f64() / once).clamp(1.0, 1000.0) as usize;
        let mut best = f64::INFINITY;
        for _ in 0..BATCHES {
            best = best.min(self.batch(dispatch, repeats).await? / repeats as f64);
        }
        Ok(best)
    }

    async fn batch(&self, dispatch: &Dispatch, repeats: usize) -> Result<f64> {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        self.encode(&mut encoder, std::iter::repeat_n(dispatch, repeats));
        let start = Instant::now();
        let submission = self.submit(encoder);
        self.wait(submission).await?;
        Ok(start.elapsed().as_secs_f64())
    }
}

impl Speed {
    /// As rows beside those of [`Numerics::checks`](super::Numerics::checks).
    pub fn checks(&self) -> [Check; 2] {
        let (outcome, place) = match self.software {
            true => (Outcome::Degraded, ", in software on the CPU"),
            false => (Outcome::Pass, ""),
        };
        let (copy, product) = (self.copy_bytes_per_second, self.product_operations_per_second);
        let size = self.product_size;
        let check = |name, found, consequence| Check { name, outcome, found, consequence };
        [
            check(
                "copy speed",
                format!("{} GB/s{place}", digits(copy * 1e-9)),
                // 28 bytes for the update, 4 for the scan of the gradient.
                format!(
                    "AdamW moves 32 bytes per parameter: {} ms a step for 10 million",
                    digits(32e7 / copy * 1e3)
                ),
            ),
            check(
                "compute speed",
                format!("{} GFLOP/s in a product of {size}³{place}", digits(product * 1e-9)),
                format!(
                    "6 operations per parameter and token: {} ms for 1,000 tokens and 1 million",
                    digits(6e9 / product * 1e3)
                ),
            ),
        ]
    }
}

/// Three digits at least.
pub(in crate::gpu) fn digits(x: f64) -> String {
    match x {
        x if x >= 100.0 => format!("{x:.0}"),
        x if x >= 10.0 => format!("{x:.1}"),
        x => format!("{x:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_shown_with_units() {
        let speed = Speed {
            copy_bytes_per_second: 8.1e9,
            product_operations_per_second: 9.3e9,
            product_size: 256,
            software: true,
        };
        let [copy, product] = speed.checks();
        assert_eq!(copy.found, "8.10 GB/s, in software on the CPU");
        assert!(copy.consequence.contains("39.5 ms a step"), "{}", copy.consequence);
        assert_eq!(product.found, "9.30 GFLOP/s in a product of 256³, in software on the CPU");
        assert!(product.consequence.contains(": 645 ms for"), "{}", product.consequence);
        assert_eq!(copy.outcome, Outcome::Degraded);
        let hardware = Speed { software: false, ..speed };
        assert_eq!(hardware.checks().map(|check| check.outcome), [Outcome::Pass; 2]);
    }
}
