//! Accuracy of arithmetic in units in the last place (ULP) against f64, and what happens at the
//! ends of the range.

mod checks;
mod samples;

use samples::{COUNT, Expected, SAMPLES, Special, operands, specials};

use super::{Gpu, whole};
use crate::error::Result;
use crate::gpu::Dispatch;
use crate::kernels::{ProbeArithmetic, ProbeArithmeticParams, ProbeOperation};
use crate::reference;

/// Accuracy of one operation over random operands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracy {
    /// The operation.
    pub operation: ProbeOperation,
    /// Largest error in units in the last place of the exact result; infinite where the result was
    /// NaN or Inf.
    pub worst_ulp: f64,
    /// Largest error as a share of what WGSL allows at those operands; above 1 is a fault.
    pub worst_share: f64,
    /// The operands of `worst_share`.
    pub at: [f32; 2],
}

/// What a result beyond the range becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// Inf, as IEEE 754 has it.
    Infinity,
    /// Something else somewhere: the largest finite number, or NaN.
    Other,
}

/// What becomes of subnormals. Each is true if they are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnormals {
    /// In copies.
    pub copied: bool,
    /// As terms and results of additions.
    pub added: bool,
    /// As factors and results of products.
    pub multiplied: bool,
    /// As dividends and quotients.
    pub divided: bool,
}

impl Subnormals {
    /// True if they are kept everywhere.
    pub fn kept(&self) -> bool {
        self.copied && self.added && self.multiplied && self.divided
    }
}

/// A result that is not what mathematics has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpecialValue {
    /// The operation.
    pub operation: ProbeOperation,
    /// Its operands.
    pub operands: [f32; 2],
    /// The right result.
    pub expected: f32,
    /// The result found.
    pub result: f32,
}

/// What the adapter's arithmetic does.
#[derive(Clone, Debug, PartialEq)]
pub struct Arithmetic {
    /// Accuracy of functions, of the basic operations first.
    pub accuracy: Vec<Accuracy>,
    /// Operations that make a finite number of NaN.
    pub hides_nan: Vec<ProbeOperation>,
    /// What a sum, a product and exp give beyond the range.
    pub overflow: Overflow,
    /// What becomes of subnormals.
    pub subnormals: Subnormals,
    /// Wrong results at delicate places: tanh(100), sqrt(0), ...
    pub wrong_values: Vec<SpecialValue>,
    /// True if fma rounds once.
    pub fma_is_fused: bool,
}

pub(super) struct Probe {
    results: wgpu::Buffer,
    dispatches: Vec<Dispatch>,
}

impl Probe {
    pub(super) fn prepare(gpu: &Gpu) -> Self {
        let bytes = (COUNT * size_of::<f32>()) as u64;
        let results = gpu.buffer("results", bytes * ProbeOperation::ALL.len() as u64);
        let prepare = |(place, operation): (u64, ProbeOperation)| {
            let (x, y) = operands(operation);
            let (x, y) = (gpu.upload("x", &x), gpu.upload("y", &y));
            gpu.prepare(&ProbeArithmetic {
                params: ProbeArithmeticParams { count: COUNT as u32, operation: operation as u32 },
                x: whole(&x),
                y: whole(&y),
                z: wgpu::BufferBinding {
                    buffer: &results,
                    offset: place * bytes,
                    size: std::num::NonZeroU64::new(bytes),
                },
            })
        };
        let dispatches = (0..).zip(ProbeOperation::ALL).map(prepare).collect();
        Self { results, dispatches }
    }

    pub(super) fn dispatches(&self) -> impl Iterator<Item = &Dispatch> {
        self.dispatches.iter()
    }

    pub(super) async fn read(&self, gpu: &Gpu) -> Result<Arithmetic> {
        let count = COUNT * ProbeOperation::ALL.len();
        Ok(Arithmetic::judge(&gpu.read(&self.results, 0, count).await?))
    }
}

/// Distance of neighbouring f32 at x.
fn ulp(x: f64) -> f64 {
    let exponent = if x == 0.0 { -126 } else { (x.abs().log2().floor() as i32).max(-126) };
    2f64.powi(exponent - 23)
}

/// The error that WGSL allows (section "Accuracy of Built-in Expressions"); for functions of this
/// crate what they are built for.
fn allowed(operation: ProbeOperation, x: f64, exact: f64) -> f64 {
    use ProbeOperation as Operation;
    let ulps = match operation {
        Operation::Copy => 0.0,
        // Correctly rounded, in either direction.
        Operation::Add | Operation::Multiply | Operation::ProductError => 1.0,
        Operation::Divide => 2.5,
        Operation::Exp | Operation::Exp2 => 3.0 + 2.0 * x.abs(),
        Operation::Log | Operation::Log2 if (0.5..=2.0).contains(&x) => {
            return 2f64.powi(-21);
        }
        Operation::Log | Operation::Log2 => 3.0,
        Operation::Tanh => return 1e-5,
        // A quotient and an exp.
        Operation::LogOnePlus | Operation::TanhAccurate => 8.0,
        Operation::InverseSqrt => 2.0,
        // 1 / inverseSqrt(x): 2 ULP there can be 4 here.
        Operation::Sqrt => 6.5,
    };
    ulps * ulp(exact)
}

impl Accuracy {
    fn judge(operation: ProbeOperation, x: &[f32], y: &[f32], results: &[f32]) -> Self {
        let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let expected = reference::probe::probe_arithmetic(operation, &wide(x), &wide(y));
        let mut accuracy = Self { operation, worst_ulp: 0.0, worst_share: 0.0, at: [x[0], y[0]] };
        for (i, (&result, exact)) in results.iter().zip(expected).enumerate() {
            let error =
                if result.is_finite() { (f64::from(result) - exact).abs() } else { f64::INFINITY };
            let share =
                if error == 0.0 { 0.0 } else { error / allowed(operation, f64::from(x[i]), exact) };
            accuracy.worst_ulp = accuracy.worst_ulp.max(error / ulp(exact));
            if share > accuracy.worst_share {
                accuracy.worst_share = share;
                accuracy.at = [x[i], y[i]];
            }
        }
        accuracy
    }
}

impl Arithmetic {
    /// From the results of all operations, [`COUNT`] each.
    fn judge(results: &[f32]) -> Self {
        let of = |operation: ProbeOperation| &results[operation as usize * COUNT..][..COUNT];
        let random = ProbeOperation::ALL.map(|operation| {
            let (x, y) = operands(operation);
            let results = &of(operation)[..SAMPLES];
            Accuracy::judge(operation, &x[..SAMPLES], &y[..SAMPLES], results)
        });
        let fused = random[ProbeOperation::ProductError as usize].worst_ulp == 0.0;
        let mut taken = [0; ProbeOperation::ALL.len()];
        let specials: Vec<_> = specials()
            .into_iter()
            .map(|special| {
                let place = &mut taken[special.operation as usize];
                *place += 1;
                (special, of(special.operation)[SAMPLES + *place - 1])
            })
            .collect();
        Self {
            accuracy: random.into_iter().collect(),
            hides_nan: hides_nan(&specials),
            overflow: overflow(&specials),
            subnormals: subnormals(&specials),
            wrong_values: wrong_values(&specials),
            fma_is_fused: fused,
        }
    }
}

fn hides_nan(specials: &[(Special, f32)]) -> Vec<ProbeOperation> {
    let hides = |&&(special, result): &&(Special, f32)| match special.expected {
        Expected::NonFinite => result.is_finite(),
        Expected::Nan => !result.is_nan(),
        _ => false,
    };
    specials.iter().filter(hides).map(|(special, _)| special.operation).collect()
}

fn overflow(specials: &[(Special, f32)]) -> Overflow {
    let mut all = specials.iter().filter(|(special, _)| special.expected == Expected::Overflow);
    match all.all(|&(_, result)| result == f32::INFINITY) {
        true => Overflow::Infinity,
        false => Overflow::Other,
    }
}

fn subnormals(specials: &[(Special, f32)]) -> Subnormals {
    let kept = |operation: ProbeOperation| {
        let mut of = specials.iter().filter(|(special, _)| special.operation == operation);
        of.all(|&(special, result)| match special.expected {
            Expected::Kept(value) => result == value,
            _ => true,
        })
    };
    Subnormals {
        copied: kept(ProbeOperation::Copy),
        added: kept(ProbeOperation::Add),
        multiplied: kept(ProbeOperation::Multiply),
        divided: kept(ProbeOperation::Divide),
    }
}

fn wrong_values(specials: &[(Special, f32)]) -> Vec<SpecialValue> {
    let judge = |&(special, result): &(Special, f32)| {
        let Expected::Value(expected, within) = special.expected else { return None };
        // Written so that a NaN is wrong.
        let right = result == expected || (result - expected).abs() <= within;
        let operands = [special.x, special.y];
        (!right).then_some(SpecialValue {
            operation: special.operation,
            operands,
            expected,
            result,
        })
    };
    specials.iter().filter_map(judge).collect()
}

#[cfg(test)]
mod tests;
