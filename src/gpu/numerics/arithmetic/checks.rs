//! From facts about arithmetic to questions and answers.

use super::super::{Check, Outcome, list};
use super::{Accuracy, Arithmetic, Overflow, SpecialValue, Subnormals};
use crate::kernels::ProbeOperation;

impl Accuracy {
    /// `None` for operations that are judged elsewhere.
    pub(super) fn check(&self) -> Option<Check> {
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
    pub(in super::super) fn checks(&self) -> Vec<Check> {
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

    pub(super) fn check_values(&self) -> Check {
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
