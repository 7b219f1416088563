//! Accuracy of arithmetic in units in the last place (ULP) against f64, and what happens at the
//! ends of the range.

mod samples;

use samples::{COUNT, Expected, SAMPLES, Special, operands, specials};

use super::{Check, Gpu, Outcome, list, whole};
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

    /// `None` for operations that are judged elsewhere.
    fn check(&self) -> Option<Check> {
        use ProbeOperation as Operation;
        let (name, consequence) = match self.operation {
            Operation::Copy | Operation::ProductError => return None,
            Operation::Add => ("x + y", "sums are trees in fixed order"),
            Operation::Multiply => ("x y", "used as it is"),
            Operation::Divide => ("x / y", "used as it is; scaling is by powers of two"),
            Operation::Exp => {
                ("exp", "used as it is, for arguments from -87 to 0 where it matters")
            }
            Operation::Exp2 => ("exp2", "not used: powers of two are made of their bits"),
            Operation::Log => ("log", "near 1 the library's own log is used"),
            Operation::Log2 => ("log2", "not used"),
            Operation::LogOnePlus => ("log(1 + x), own", "used in losses"),
            Operation::Tanh => ("tanh", "not used: the library has its own"),
            Operation::TanhAccurate => ("tanh, own", "used in activations and soft caps"),
            Operation::Sqrt => ("sqrt", "used as it is, for normal numbers"),
            Operation::InverseSqrt => ("inverseSqrt", "used as it is; norms add epsilon before"),
        };
        let unused = matches!(self.operation, Operation::Exp2 | Operation::Log2 | Operation::Tanh);
        let outcome = match self.worst_share {
            share if share <= 1.0 => Outcome::Pass,
            share if share <= 64.0 || unused => Outcome::Degraded,
            _ => Outcome::Fail,
        };
        let [x, y] = self.at;
        let binary =
            matches!(self.operation, Operation::Add | Operation::Multiply | Operation::Divide);
        let place =
            if binary { format!("x = {x:.4e}, y = {y:.4e}") } else { format!("x = {x:.4e}") };
        let found = if self.worst_ulp.is_infinite() {
            format!("NaN or Inf at {place}")
        } else if self.worst_ulp == 0.0 {
            "exact".to_owned()
        } else {
            let (share, ulp) = (100.0 * self.worst_share, self.worst_ulp);
            let ulp = if ulp < 100.0 { format!("{ulp:.2}") } else { format!("{ulp:.0}") };
            format!("{share:.0} % of the allowed error at {place}; {ulp} ULP at worst")
        };
        let consequence = match outcome {
            Outcome::Pass => consequence.to_owned(),
            Outcome::Degraded => format!("{consequence}; less accurate than WGSL demands"),
            Outcome::Fail => "results would be wrong: do not train here".to_owned(),
        };
        Some(Check { name, outcome, found, consequence })
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

    pub(super) fn checks(&self) -> Vec<Check> {
        let mut checks = vec![self.check_nan(), self.check_overflow(), self.check_subnormals()];
        checks.push(self.check_values());
        checks.extend(self.accuracy.iter().filter_map(Accuracy::check));
        checks
    }

    fn check_nan(&self) -> Check {
        let own = self.hides_nan.contains(&ProbeOperation::TanhAccurate);
        let (outcome, found) = match self.hides_nan.as_slice() {
            [] => (Outcome::Pass, "NaN stays NaN or Inf in all operations".to_owned()),
            hide => {
                let names: Vec<_> = hide.iter().map(|operation| format!("{operation:?}")).collect();
                let outcome = if own { Outcome::Fail } else { Outcome::Degraded };
                (outcome, format!("made finite by {}", list(&names)))
            }
        };
        let consequence = match outcome {
            Outcome::Fail => "the library's own functions lose a NaN: do not train here",
            _ => "activations pass a NaN on by its bits, whatever arithmetic does",
        };
        Check { name: "NaN in arithmetic", outcome, found, consequence: consequence.to_owned() }
    }

    fn check_overflow(&self) -> Check {
        let (outcome, found) = match self.overflow {
            Overflow::Infinity => (Outcome::Pass, "gives Inf in sums, products and exp"),
            Overflow::Other => (Outcome::Degraded, "gives the largest number or NaN at times"),
        };
        let consequence = "with a loss scale the largest number counts as overflow too";
        let (found, consequence) = (found.to_owned(), consequence.to_owned());
        Check { name: "overflow", outcome, found, consequence }
    }

    fn check_subnormals(&self) -> Check {
        let Subnormals { copied, added, multiplied, divided } = self.subnormals;
        let places =
            [("copies", copied), ("sums", added), ("products", multiplied), ("quotients", divided)];
        let flushed: Vec<_> = places.iter().filter(|place| !place.1).map(|place| place.0).collect();
        let (outcome, found, consequence) = if flushed.is_empty() {
            let consequence = "f32 below 1.2e-38 and f16 below 6.1e-5 lose digits, not all";
            (Outcome::Pass, "kept".to_owned(), consequence)
        } else {
            let consequence = "norms and f16 are handled as integers; f32 gradients below 1.2e-38 \
                               are lost to the moments: scale the loss";
            (Outcome::Degraded, format!("flushed to zero in {}", list(&flushed)), consequence)
        };
        Check { name: "subnormals", outcome, found, consequence: consequence.to_owned() }
    }

    fn check_values(&self) -> Check {
        let wrong: Vec<_> = self.wrong_values.iter().map(SpecialValue::describe).collect();
        let own = [ProbeOperation::TanhAccurate, ProbeOperation::LogOnePlus];
        let outcome = if wrong.is_empty() {
            Outcome::Pass
        } else if self.wrong_values.iter().any(|value| own.contains(&value.operation)) {
            Outcome::Fail
        } else {
            Outcome::Degraded
        };
        let found =
            if wrong.is_empty() { "all as mathematics has them".to_owned() } else { list(&wrong) };
        let consequence = match outcome {
            Outcome::Fail => "the library's own functions are wrong: do not train here",
            _ => {
                "kernels clamp arguments of exp, keep those of roots and logs above 0, and have \
                  their own tanh"
            }
        };
        Check { name: "special values", outcome, found, consequence: consequence.to_owned() }
    }
}

impl SpecialValue {
    fn describe(&self) -> String {
        let [x, y] = self.operands;
        let result = self.result;
        match self.operation {
            ProbeOperation::Divide => format!("{x} / {y} = {result}"),
            operation => format!("{}({x}) = {result}", format!("{operation:?}").to_lowercase()),
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
