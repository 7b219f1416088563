//! Is this adapter fit to train? [`Gpu::numerics`] asks it what WGSL leaves open, and judges.
//!
//! WGSL promises little about numbers: NaN and Inf may be assumed away, subnormals may be zero,
//! functions may be coarse, compensation may be optimised away. Each module here puts one of these
//! questions with the kernels of [`kernels::probe`](crate::kernels::probe), turns the answers into
//! facts, and the facts into [`Check`]s that say what the library does about them.

mod arithmetic;
mod bits;
mod conversion;
#[cfg(not(target_arch = "wasm32"))]
pub(super) mod cooperative;
mod device;
pub(super) mod halves;
mod products;
mod races;
#[cfg(not(target_arch = "wasm32"))]
mod speed;
mod sums;

use std::fmt;

pub use arithmetic::{Accuracy, Arithmetic, Overflow, SpecialValue, Subnormals};
pub use bits::NonFiniteTests;
pub use conversion::Conversions;
pub use products::Products;
pub use races::Races;
#[cfg(not(target_arch = "wasm32"))]
pub use speed::Speed;
#[cfg(not(target_arch = "wasm32"))]
pub(super) use speed::digits;
pub use sums::{Compensation, Reductions};

use super::Gpu;
use crate::error::{Error, Result};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// As good as can be.
    Pass,
    /// Less than could be wished for; the library works around it or does without.
    Degraded,
    /// Training on this adapter cannot be trusted.
    Fail,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "pass",
            Self::Degraded => "degraded",
            Self::Fail => "fail",
        })
    }
}

/// One question to an adapter, and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was asked; the same on every adapter.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found.
    pub found: String,
    /// What that means for training, and what the library does about it.
    pub consequence: String,
}

/// What an adapter does with numbers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Numerics {
    /// The adapter, driver and backend.
    pub adapter: wgpu::AdapterInfo,
    /// Which tests find NaN and Inf.
    pub non_finite: NonFiniteTests,
    /// Accuracy of functions, and their values where it is delicate.
    pub arithmetic: Arithmetic,
    /// Rounding of conversions.
    pub conversions: Conversions,
    /// Whether what rounding takes away can be kept.
    pub compensation: Compensation,
    /// Whether sums with an exact result are exact.
    pub reductions: Reductions,
    /// Whether the matrix products that training takes here are exact where the result is.
    pub products: Products,
    /// Whether repeated runs give the same bits.
    pub races: Races,
    /// True if shaders may compute in f16.
    pub f16: bool,
    /// True if the device was made with subgroup operations; never in a browser.
    pub subgroups: bool,
    /// All of this as questions and answers.
    pub checks: Vec<Check>,
}

impl Numerics {
    /// The worst outcome of all checks; below [`Outcome::Fail`] the adapter is fit to train.
    pub fn outcome(&self) -> Outcome {
        self.checks.iter().map(|check| check.outcome).max().unwrap_or(Outcome::Pass)
    }

    /// The check of this name.
    pub fn check(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }
}

/// Every probe with its buffers.
struct Probes {
    bits: bits::Probe,
    arithmetic: arithmetic::Probe,
    conversion: conversion::Probe,
    sums: sums::Probe,
    products: products::Probe,
    races: races::Probe,
}

impl Probes {
    fn prepare(gpu: &Gpu) -> Self {
        Self {
            bits: bits::Probe::prepare(gpu),
            arithmetic: arithmetic::Probe::prepare(gpu),
            conversion: conversion::Probe::prepare(gpu),
            sums: sums::Probe::prepare(gpu),
            products: products::Probe::prepare(gpu),
            races: races::Probe::prepare(gpu),
        }
    }
}

impl Gpu {
    /// Asks the adapter what it does with numbers: some small dispatches, whose kernels take longer
    /// to compile than to run.
    ///
    /// ```no_run
    /// # async fn ask(gpu: &evenkeel::Gpu) -> evenkeel::Result<()> {
    /// for check in gpu.numerics().await?.checks {
    ///     println!("{}: {}, {}", check.name, check.outcome, check.found);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Limit`] or [`Error::Unsupported`] where the adapter cannot run the kernels at all,
    /// [`Error::DeviceLost`] where it dies of them.
    pub async fn numerics(&self) -> Result<Numerics> {
        device::can_probe(self)?;
        let halves = self.admit_half_conversions().await?;
        let (probes, errors) = {
            let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
            let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
            let probes = Probes::prepare(self);
            (probes, [internal.pop(), validation.pop()])
        };
        for error in errors {
            refuse(self, error.await)?;
        }

        let mut encoder = self.device.create_command_encoder(&Default::default());
        let small = probes.bits.dispatches().chain(probes.arithmetic.dispatches());
        let small = small.chain(probes.conversion.dispatches()).chain(probes.sums.dispatches());
        let small = small.chain(probes.products.dispatches());
        self.encode(&mut encoder, small);
        probes.races.encode(self, &mut encoder);
        self.submit(encoder);

        let non_finite = probes.bits.read(self).await?;
        let arithmetic = probes.arithmetic.read(self).await?;
        let conversions = probes.conversion.read(self).await?;
        let (compensation, reductions) = probes.sums.read(self, arithmetic.fma_is_fused).await?;
        let products = probes.products.read(self).await?;
        let races = probes.races.read(self).await?;
        let (f16, subgroups) = (device::has_f16(self), device::has_subgroups(self));
        let mut checks = non_finite.checks();
        checks.extend(arithmetic.checks());
        checks.extend(conversions.checks(halves));
        checks.extend([compensation.check(), reductions.check(), products.check(), races.check()]);
        checks.extend([device::check_f16(f16), device::check_subgroups(subgroups, &self.info)]);
        #[cfg(not(target_arch = "wasm32"))]
        checks.extend(cooperative::check(self));
        checks.push(device::check_limits(&self.device.limits()));
        Ok(Numerics {
            adapter: self.info.clone(),
            non_finite,
            arithmetic,
            conversions,
            compensation,
            reductions,
            products,
            races,
            f16,
            subgroups,
            checks,
        })
    }
}

/// Compilers that reject what they should take are found here, and not in a panic.
fn refuse(gpu: &Gpu, error: Option<wgpu::Error>) -> Result<()> {
    match error {
        None => Ok(()),
        Some(error) => Err(Error::Unsupported {
            what: format!("running compute kernels on {:?}", gpu.info.name),
            instead: format!("use another adapter or driver ({error})"),
        }),
    }
}

/// What `prepare` makes, and what the driver says of the kernels of it, if it refuses them.
#[cfg(not(target_arch = "wasm32"))]
fn prepared<T, P: FnOnce() -> T>(
    gpu: &Gpu,
    prepare: P,
) -> (T, impl Future<Output = Option<String>> + use<T, P>) {
    let validation = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
    let internal = gpu.device.push_error_scope(wgpu::ErrorFilter::Internal);
    let made = prepare();
    let errors = [internal.pop(), validation.pop()];
    let refusal = async move {
        for error in errors {
            if let Some(error) = error.await {
                let words = error.to_string();
                let words: Vec<_> = words.split_whitespace().collect();
                return Some(format!("the driver refuses the kernels ({})", words.join(" ")));
            }
        }
        None
    };
    (made, refusal)
}

/// A buffer as one binding.
fn whole(buffer: &wgpu::Buffer) -> wgpu::BufferBinding<'_> {
    buffer.as_entire_buffer_binding()
}

/// `a, b and c`, or `none`.
fn list<T: fmt::Display>(items: &[T]) -> String {
    match items {
        [] => "none".to_owned(),
        [one] => one.to_string(),
        [first @ .., last] => {
            let first: Vec<_> = first.iter().map(T::to_string).collect();
            format!("{} and {last}", first.join(", "))
        }
    }
}

/// The generator of samples: two words that depend on the seed and the index.
fn random_words(seed: u32, index: usize) -> [u32; 4] {
    crate::reference::random::threefry4x32([index as u32, 0, 0, 0], [seed, 0, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_well() {
        assert_eq!(list::<&str>(&[]), "none");
        assert_eq!(list(&["a"]), "a");
        assert_eq!(list(&["a", "b", "c"]), "a, b and c");
    }

    #[test]
    fn outcomes_are_ordered() {
        assert!(Outcome::Pass < Outcome::Degraded && Outcome::Degraded < Outcome::Fail);
    }
}
