//! The elementwise family as plain f64 loops.

use std::f64::consts::PI;

use crate::kernel::Precision;
use crate::kernels::Activation;

/// y = a + b.
pub fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// y = f(x).
pub fn activate(kind: Activation, x: &[f64]) -> Vec<f64> {
    let f = |x: f64| match kind {
        Activation::None => x,
        Activation::Relu => x.max(0.0),
        Activation::GeluTanh => x * sigmoid(gelu_argument(x)),
        Activation::GeluErf => x * normal_cdf(x),
        Activation::Silu => x * sigmoid(x),
        Activation::Tanh => x.tanh(),
    };
    x.iter().map(|&x| f(x)).collect()
}

/// dx = dy f'(x).
pub fn activate_backward(kind: Activation, x: &[f64], dy: &[f64]) -> Vec<f64> {
    let derivative = |x: f64| match kind {
        Activation::None => 1.0,
        Activation::Relu => f64::from(x > 0.0),
        Activation::GeluTanh => {
            let s = sigmoid(gelu_argument(x));
            let slope = (8.0 / PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x);
            // Beyond |x| = 30 the product is below 1e-300; x² may overflow there.
            if x.abs() > 30.0 { s } else { s + x * slope * sigmoid_derivative(gelu_argument(x)) }
        }
        Activation::GeluErf => {
            let density = if x.abs() > 40.0 { 0.0 } else { (-0.5 * x * x).exp() };
            normal_cdf(x) + x * density / (2.0 * PI).sqrt()
        }
        Activation::Silu => sigmoid(x) + x * sigmoid_derivative(x),
        Activation::Tanh => 4.0 * sigmoid_derivative(2.0 * x),
    };
    x.iter().zip(dy).map(|(&x, dy)| dy * derivative(x)).collect()
}

/// y = x.
pub fn copy_quads(x: &[f64]) -> Vec<f64> {
    x.to_vec()
}

/// y = factor x.
pub fn scale(factor: f64, x: &[f64]) -> Vec<f64> {
    x.iter().map(|x| factor * x).collect()
}

/// x (.., cols) with columns from `first` on multiplied by numerator / divisor; by 1 where they are
/// the same.
pub fn scale_columns(
    x: &[f64],
    cols: usize,
    first: usize,
    numerator: &[f64],
    divisor: &[f64],
) -> Vec<f64> {
    let factor = |column: usize| {
        let Some(index) = column.checked_sub(first).filter(|&i| i < numerator.len()) else {
            return 1.0;
        };
        let (above, below) = (numerator[index], divisor[index]);
        if above == below { 1.0 } else { above / below }
    };
    x.iter().enumerate().map(|(i, x)| x * factor(i % cols)).collect()
}

/// x rounded to the storage precision: to nearest, ties to even, beyond its range to Inf.
pub fn cast_from_f32(precision: Precision, x: &[f64]) -> Vec<f64> {
    let (digits, lowest, largest) = match precision {
        Precision::F32 => (24, -126, f64::from(f32::MAX)),
        Precision::F16 => (11, -14, 65504.0),
        Precision::Bf16 => (8, -126, f64::from(f32::from_bits(0x7f7f_0000))),
    };
    let round = |x: f64| {
        if x == 0.0 || !x.is_finite() {
            return x;
        }
        let exponent = (x.abs().to_bits() >> 52) as i32 - 1023;
        let unit = 2f64.powi(exponent.max(lowest) - digits + 1);
        let rounded = (x / unit).round_ties_even() * unit;
        if rounded.abs() > largest { f64::INFINITY.copysign(x) } else { rounded }
    };
    x.iter().map(|&x| round(x)).collect()
}

/// x: every half is an f32.
pub fn cast_to_f32(x: &[f64]) -> Vec<f64> {
    x.to_vec()
}

/// y = a b, element by element.
pub fn multiply(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a * b).collect()
}

/// `y[r, c] = x[r, c] + b[r % period, c]`, where b is (period, cols).
pub fn broadcast_add(x: &[f64], b: &[f64]) -> Vec<f64> {
    x.iter().zip(b.iter().cycle()).map(|(x, b)| x + b).collect()
}

/// y = cap tanh(x / cap).
pub fn soft_cap(cap: f64, x: &[f64]) -> Vec<f64> {
    x.iter().map(|x| cap * (x / cap).tanh()).collect()
}

/// dx = dy (1 - tanh²(x / cap)).
pub fn soft_cap_backward(cap: f64, x: &[f64], dy: &[f64]) -> Vec<f64> {
    x.iter().zip(dy).map(|(x, dy)| dy * 4.0 * sigmoid_derivative(2.0 * x / cap)).collect()
}

/// y = f(gate) up, where each row of x is gate | up; x is (rows, 2 hidden).
pub fn gated(kind: Activation, hidden: usize, x: &[f64]) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len() / 2);
    for row in x.chunks(2 * hidden) {
        let (gate, up) = row.split_at(hidden);
        y.extend(multiply(&activate(kind, gate), up));
    }
    y
}

/// dgate | dup of each row: dy up f'(gate) | dy f(gate).
pub fn gated_backward(kind: Activation, hidden: usize, x: &[f64], dy: &[f64]) -> Vec<f64> {
    let mut dx = Vec::with_capacity(x.len());
    for (row, dy) in x.chunks(2 * hidden).zip(dy.chunks(hidden)) {
        let (gate, up) = row.split_at(hidden);
        dx.extend(multiply(&activate_backward(kind, gate, dy), up));
        dx.extend(multiply(&activate(kind, gate), dy));
    }
    dx
}

/// 1 / (1 + exp(-x)).
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// exp(-|x|) / (1 + exp(-|x|))².
fn sigmoid_derivative(x: f64) -> f64 {
    let e = (-x.abs()).exp();
    e / (1.0 + e).powi(2)
}

/// 2 √(2/π) (x + 0.044715 x³): (1 + tanh(u / 2)) / 2 is the sigmoid of u.
fn gelu_argument(x: f64) -> f64 {
    (8.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))
}

/// Distribution function of the standard normal.
pub fn normal_cdf(x: f64) -> f64 {
    0.5 * erfc(-x / 2f64.sqrt())
}

/// erf(x) to f64 accuracy: below 2 the series exp(-x²) Σ 2ⁿ x²ⁿ⁺¹ / (2n+1)!! of positive terms
/// (Abramowitz and Stegun 7.1.6), beyond it 1 - erfc.
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a >= 2.0 {
        return x.signum() * (1.0 - erfc(a));
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > 1e-18 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    2.0 / PI.sqrt() * (-x * x).exp() * sum
}

/// 1 - erf(x); beyond 2 by the continued fraction exp(-x²) / √π / (x + 1/2 / (x + 1 / (x + 3/2 /
/// (x + ...)))) (Abramowitz and Stegun 7.1.14), which keeps its digits.
pub fn erfc(x: f64) -> f64 {
    if x < 2.0 {
        return if x <= -2.0 { 2.0 - erfc(-x) } else { 1.0 - erf(x) };
    }
    let denominator = (1..200).rev().fold(x, |tail, k| x + 0.5 * f64::from(k) / tail);
    (-x * x).exp() / PI.sqrt() / denominator
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Digits from Abramowitz and Stegun table 7.1 and from mpmath at 30 digits.
    #[test]
    fn erf_has_known_values() {
        for (x, expected) in [
            (0.1, 0.112_462_916_018_284_9),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (1.5, 0.966_105_146_475_310_7),
            (2.0, 0.995_322_265_018_952_7),
            (3.0, 0.999_977_909_503_001_4),
        ] {
            assert!((erf(x) - expected).abs() < 2e-15, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        for (x, expected) in [
            (2.0, 4.677_734_981_047_266e-3),
            (3.0, 2.209_049_699_858_544e-5),
            (5.0, 1.537_459_794_428_035e-12),
            (10.0, 2.088_487_583_762_545e-45),
        ] {
            assert!((erfc(x) / expected - 1.0).abs() < 2e-14, "erfc({x}) = {:e}", erfc(x));
        }
        assert!((erfc(2.0 - 1e-12) - erfc(2.0)).abs() < 1e-13, "both formulas meet");
    }
}
