//! Operands: random ones over the range in which WGSL promises accuracy, and delicate ones.

use super::super::random_words;
use crate::kernels::ProbeOperation;

/// Random operands per operation.
pub(super) const SAMPLES: usize = 2016;
/// Operands per operation; a multiple of 64, so that parts of a buffer can be bound.
pub(super) const COUNT: usize = SAMPLES + 32;

/// What the result of delicate operands is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Expected {
    /// NaN or Inf.
    NonFinite,
    /// NaN, of a function of this crate.
    Nan,
    /// Whatever overflow gives.
    Overflow,
    /// A value that only a device without subnormals lacks.
    Kept(f32),
    /// This value, but for an absolute error.
    Value(f32, f32),
}

/// Operands at which something may go wrong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Special {
    pub operation: ProbeOperation,
    pub x: f32,
    pub y: f32,
    pub expected: Expected,
}

/// The delicate operands of all operations.
pub(super) fn specials() -> Vec<Special> {
    use Expected::{Kept, Nan, NonFinite, Overflow, Value};
    use ProbeOperation as Operation;
    let unary = |operation, x, expected| Special { operation, x, y: 1.0, expected };
    let binary = |operation, x, y, expected| Special { operation, x, y, expected };
    // Not by f32's powi, which divides by Inf here.
    let power = |exponent: i32| 2f64.powi(exponent) as f32;
    vec![
        unary(Operation::Copy, f32::NAN, NonFinite),
        binary(Operation::Add, f32::NAN, 1.0, NonFinite),
        binary(Operation::Multiply, f32::NAN, 0.0, NonFinite),
        binary(Operation::Divide, f32::NAN, 2.0, NonFinite),
        unary(Operation::Exp, f32::NAN, NonFinite),
        unary(Operation::Log, f32::NAN, NonFinite),
        unary(Operation::Tanh, f32::NAN, NonFinite),
        unary(Operation::TanhAccurate, f32::NAN, Nan),
        unary(Operation::Sqrt, f32::NAN, NonFinite),
        unary(Operation::InverseSqrt, f32::NAN, NonFinite),
        binary(Operation::Add, f32::MAX, f32::MAX, Overflow),
        binary(Operation::Multiply, f32::MAX, 2.0, Overflow),
        unary(Operation::Exp, 100.0, Overflow),
        unary(Operation::Copy, power(-130), Kept(power(-130))),
        binary(Operation::Add, power(-130), power(-131), Kept(1.5 * power(-130))),
        binary(Operation::Add, power(-125), -1.5 * power(-126), Kept(power(-127))),
        binary(Operation::Multiply, power(-100), power(-30), Kept(power(-130))),
        binary(Operation::Multiply, power(-130), power(20), Kept(power(-110))),
        binary(Operation::Divide, power(-125), 8.0, Kept(power(-128))),
        binary(Operation::Divide, power(-130), power(-20), Kept(power(-110))),
        unary(Operation::Exp, 0.0, Value(1.0, 3.6e-7)),
        unary(Operation::Exp, -200.0, Value(0.0, f32::MIN_POSITIVE)),
        unary(Operation::Log, 1.0, Value(0.0, 4.8e-7)),
        unary(Operation::Log, 0.0, Value(f32::NEG_INFINITY, 0.0)),
        unary(Operation::Tanh, 100.0, Value(1.0, 1e-5)),
        unary(Operation::Tanh, -100.0, Value(-1.0, 1e-5)),
        unary(Operation::TanhAccurate, 100.0, Value(1.0, 1.2e-7)),
        unary(Operation::TanhAccurate, -100.0, Value(-1.0, 1.2e-7)),
        unary(Operation::TanhAccurate, 0.0, Value(0.0, 0.0)),
        unary(Operation::Sqrt, 0.0, Value(0.0, 0.0)),
        unary(Operation::InverseSqrt, 0.0, Value(f32::INFINITY, 0.0)),
        binary(Operation::Divide, 0.0, 3.0, Value(0.0, 0.0)),
        binary(Operation::Divide, 1.0, 0.0, Value(f32::INFINITY, 0.0)),
        unary(Operation::LogOnePlus, 0.0, Value(0.0, 0.0)),
        unary(Operation::LogOnePlus, 1e-10, Value(1e-10, 1e-16)),
    ]
}

/// [`COUNT`] operands of one operation: random ones, its delicate ones, and ones.
pub(super) fn operands(operation: ProbeOperation) -> (Vec<f32>, Vec<f32>) {
    let random = (0..SAMPLES).map(|i| sample(operation, i));
    let special = specials().into_iter().filter(|special| special.operation == operation);
    let (mut x, mut y): (Vec<_>, Vec<_>) = random.chain(special.map(|s| (s.x, s.y))).unzip();
    assert!(x.len() <= COUNT, "room for the delicate operands of {operation:?}");
    x.resize(COUNT, 1.0);
    y.resize(COUNT, 1.0);
    (x, y)
}

fn sample(operation: ProbeOperation, index: usize) -> (f32, f32) {
    use ProbeOperation as Operation;
    let words = random_words(operation as u32, index);
    let half = index.is_multiple_of(2);
    let pair = |low, high| (signed(words[0], low, high), signed(words[1], low, high));
    match operation {
        Operation::Copy => (signed(words[0], -126, 127), 1.0),
        // Exponents so near that f64 holds the sum exactly.
        Operation::Add => pair(-12, 12),
        Operation::Multiply | Operation::Divide => pair(-60, 60),
        Operation::ProductError => pair(-30, 30),
        Operation::Exp if half => (between(words[0], -87.0, 88.0), 1.0),
        Operation::Exp2 if half => (between(words[0], -125.5, 127.5), 1.0),
        Operation::Exp | Operation::Exp2 => (signed(words[0], -20, 5), 1.0),
        Operation::Log | Operation::Log2 if half => (between(words[0], 0.5, 2.0), 1.0),
        Operation::Log | Operation::Log2 => (magnitude(words[0], -126, 127), 1.0),
        Operation::LogOnePlus => (magnitude(words[0], -30, 30), 1.0),
        Operation::Tanh | Operation::TanhAccurate if half => (between(words[0], -10.0, 10.0), 1.0),
        Operation::Tanh | Operation::TanhAccurate => (signed(words[0], -20, 4), 1.0),
        Operation::Sqrt | Operation::InverseSqrt => (magnitude(words[0], -126, 127), 1.0),
    }
}

/// Uniform in [low, high].
fn between(word: u32, low: f32, high: f32) -> f32 {
    (f64::from(low) + f64::from(high - low) * f64::from(word) / f64::from(u32::MAX)) as f32
}

/// A random significand and an exponent in [low, high].
fn magnitude(word: u32, low: i32, high: i32) -> f32 {
    // 23 bits of significand, the other bits choose the exponent.
    let choice = (word >> 23).wrapping_mul(0x9e37_79b9) >> 16;
    let exponent = low + (choice % (high - low + 1) as u32) as i32;
    f32::from_bits((((exponent + 127) as u32) << 23) | (word & 0x7f_ffff))
}

fn signed(word: u32, low: i32, high: i32) -> f32 {
    let x = magnitude(word, low, high);
    if word.count_ones().is_multiple_of(2) { x } else { -x }
}
