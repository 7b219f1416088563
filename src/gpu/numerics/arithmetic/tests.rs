//! Faults planted in the answers of a perfect adapter.

use super::super::Outcome;
use super::*;

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// What an adapter with IEEE 754 and exact functions answers.
fn perfect() -> Vec<f32> {
    let each = |operation| {
        let (x, y) = operands(operation);
        reference::probe::probe_arithmetic(operation, &wide(&x), &wide(&y))
    };
    ProbeOperation::ALL.into_iter().flat_map(each).map(|z| z as f32).collect()
}

fn place(operation: ProbeOperation, x: f32, y: f32) -> usize {
    let (all_x, all_y) = operands(operation);
    let same = |i: &usize| all_x[*i].to_bits() == x.to_bits() && all_y[*i].to_bits() == y.to_bits();
    let tail = (SAMPLES..COUNT).find(same).expect("a delicate operand");
    operation as usize * COUNT + tail
}

fn outcome(arithmetic: &Arithmetic, name: &str) -> Outcome {
    let checks = arithmetic.checks();
    checks.iter().find(|check| check.name == name).expect("a check").outcome
}

#[test]
fn a_perfect_adapter_passes() {
    let arithmetic = Arithmetic::judge(&perfect());
    for check in arithmetic.checks() {
        assert_eq!(check.outcome, Outcome::Pass, "{check:?}");
    }
    assert!(arithmetic.fma_is_fused && arithmetic.subnormals.kept());
    for accuracy in &arithmetic.accuracy {
        assert!(accuracy.worst_ulp <= 0.5, "{accuracy:?}");
    }
}

#[test]
fn errors_are_measured_in_ulp() {
    for operation in [
        ProbeOperation::Divide,
        ProbeOperation::Sqrt,
        ProbeOperation::InverseSqrt,
        ProbeOperation::TanhAccurate,
        ProbeOperation::LogOnePlus,
    ] {
        let (x, y) = operands(operation);
        let (x, y) = (&x[..SAMPLES], &y[..SAMPLES]);
        let exact = reference::probe::probe_arithmetic(operation, &wide(x), &wide(y));
        let exact: Vec<_> = exact.iter().map(|&z| z as f32).collect();
        for (steps, expected) in
            [(1, Outcome::Pass), (40, Outcome::Degraded), (2000, Outcome::Fail)]
        {
            let mut results = exact.clone();
            results[77] = f32::from_bits(results[77].to_bits() + steps);
            let found = Accuracy::judge(operation, x, y, &results);
            assert!((found.worst_ulp - f64::from(steps)).abs() <= 0.51, "{found:?}");
            let check = found.check().expect("a check");
            assert_eq!(check.outcome, expected, "{operation:?} off by {steps}");
        }
    }
}

#[test]
fn nan_in_range_fails_but_where_unused() {
    for (operation, name, expected) in [
        (ProbeOperation::Exp, "exp", Outcome::Fail),
        (ProbeOperation::Log, "log", Outcome::Fail),
        (ProbeOperation::Tanh, "tanh", Outcome::Degraded),
    ] {
        let mut results = perfect();
        results[operation as usize * COUNT] = f32::NAN;
        let arithmetic = Arithmetic::judge(&results);
        assert_eq!(outcome(&arithmetic, name), expected);
        let check = arithmetic.checks().into_iter().find(|check| check.name == name).unwrap();
        assert!(check.found.starts_with("NaN or Inf at x ="), "{}", check.found);
    }
}

#[test]
fn special_values_are_named() {
    let mut results = perfect();
    results[place(ProbeOperation::Tanh, 100.0, 1.0)] = f32::NAN;
    results[place(ProbeOperation::Log, 0.0, 1.0)] = -88.0;
    let check = Arithmetic::judge(&results).check_values();
    assert_eq!(check.outcome, Outcome::Degraded);
    assert_eq!(check.found, "log(0) = -88 and tanh(100) = NaN");
    results[place(ProbeOperation::TanhAccurate, 100.0, 1.0)] = f32::NAN;
    assert_eq!(Arithmetic::judge(&results).check_values().outcome, Outcome::Fail);
}

#[test]
fn the_ends_of_the_range_are_seen() {
    let tiny = 2f64.powi(-130) as f32;
    let mut results = perfect();
    results[place(ProbeOperation::Add, tiny, tiny / 2.0)] = 0.0;
    results[place(ProbeOperation::Add, f32::MAX, f32::MAX)] = f32::MAX;
    results[place(ProbeOperation::Multiply, f32::NAN, 0.0)] = 0.0;
    let arithmetic = Arithmetic::judge(&results);
    let kept = Subnormals { copied: true, added: false, multiplied: true, divided: true };
    assert_eq!(arithmetic.subnormals, kept);
    assert_eq!(arithmetic.overflow, Overflow::Other);
    assert_eq!(arithmetic.hides_nan, [ProbeOperation::Multiply]);
    for name in ["subnormals", "overflow", "NaN in arithmetic"] {
        assert_eq!(outcome(&arithmetic, name), Outcome::Degraded, "{name}");
    }
    results[place(ProbeOperation::TanhAccurate, f32::NAN, 1.0)] = 1.0;
    assert_eq!(outcome(&Arithmetic::judge(&results), "NaN in arithmetic"), Outcome::Fail);
}

#[test]
fn an_fma_that_rounds_twice_is_seen() {
    let mut results = perfect();
    results[ProbeOperation::ProductError as usize * COUNT..][..COUNT].fill(0.0);
    assert!(!Arithmetic::judge(&results).fma_is_fused);
}
