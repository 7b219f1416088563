//! Which tests find NaN and Inf. Integer tests must; float tests are often folded away.

use super::{Check, Gpu, Outcome, list, whole};
use crate::error::Result;
use crate::gpu::Dispatch;
use crate::kernels::{ProbeBits, ProbeBitsParams};
use crate::reference;

/// What is put before the tests.
const PATTERNS: [(&str, u32); 16] = [
    ("qNaN", 0x7fc0_0000),
    ("-qNaN", 0xffc0_0000),
    ("sNaN", 0x7f80_0001),
    ("-sNaN", 0xffa0_0000),
    ("Inf", 0x7f80_0000),
    ("-Inf", 0xff80_0000),
    ("MAX", 0x7f7f_ffff),
    ("-MAX", 0xff7f_ffff),
    ("smallest normal", 0x0080_0000),
    ("largest subnormal", 0x007f_ffff),
    ("smallest subnormal", 1),
    ("-smallest subnormal", 0x8000_0001),
    ("0", 0),
    ("-0", 0x8000_0000),
    ("1", 0x3f80_0000),
    ("-1", 0xbf80_0000),
];

/// Which tests are right for NaN (quiet and signalling), Inf, the largest finite numbers,
/// subnormals, zeros and ordinary numbers, of both signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NonFiniteTests {
    /// Integer tests on the stored word, for NaN and for not finite.
    pub bits: bool,
    /// Integer tests on the bits of a number that was loaded as f32.
    pub loaded_bits: bool,
    /// `x != x`
    pub comparison: bool,
    /// `abs(x) > MAX`
    pub magnitude: bool,
    /// `min(max(x, -MAX), MAX) != x`
    pub clamp: bool,
    /// `x - x != 0`
    pub difference: bool,
}

pub(super) struct Probe {
    tests: wgpu::Buffer,
    dispatch: Dispatch,
}

impl Probe {
    pub(super) fn prepare(gpu: &Gpu) -> Self {
        let words = gpu.upload("patterns", &PATTERNS.map(|(_, word)| word));
        let tests = gpu.buffer("tests", words.size());
        let params = ProbeBitsParams { count: PATTERNS.len() as u32 };
        let (words, tests_bound) = (whole(&words), whole(&tests));
        let kernel = ProbeBits { params, words: words.clone(), values: words, tests: tests_bound };
        let dispatch = gpu.prepare(&kernel);
        Self { tests, dispatch }
    }

    pub(super) fn dispatches(&self) -> impl Iterator<Item = &Dispatch> {
        [&self.dispatch].into_iter()
    }

    pub(super) async fn read(&self, gpu: &Gpu) -> Result<NonFiniteTests> {
        Ok(NonFiniteTests::judge(&gpu.read(&self.tests, 0, PATTERNS.len()).await?))
    }
}

impl NonFiniteTests {
    fn judge(tests: &[u32]) -> Self {
        let expected = reference::probe::probe_bits(&PATTERNS.map(|(_, word)| word));
        let right = |mask: u32| tests.iter().zip(&expected).all(|(a, b)| (a ^ b) & mask == 0);
        Self {
            bits: right(0b11),
            loaded_bits: right(0b1100),
            comparison: right(1 << 4),
            magnitude: right(1 << 5),
            clamp: right(1 << 6),
            difference: right(1 << 7),
        }
    }

    pub(super) fn checks(&self) -> Vec<Check> {
        vec![self.check_bits(), self.check_floats()]
    }

    fn check_bits(&self) -> Check {
        let (outcome, found, consequence) = match (self.bits, self.loaded_bits) {
            (true, true) => (
                Outcome::Pass,
                "NaN, Inf, MAX, subnormals and zeros told apart",
                "gradients are scanned as words: a step that overflows is skipped",
            ),
            (true, false) => (
                Outcome::Degraded,
                "right on stored words, wrong on loaded numbers",
                "gradients are scanned as words; activations may hide a NaN from the loss",
            ),
            (false, _) => (
                Outcome::Fail,
                "NaN or Inf not found, or numbers taken for them",
                "overflow would go unseen: do not train here, try another driver",
            ),
        };
        Check {
            name: "NaN and Inf in bits",
            outcome,
            found: found.to_owned(),
            consequence: consequence.to_owned(),
        }
    }

    fn check_floats(&self) -> Check {
        let tests = [
            ("x != x", self.comparison),
            ("abs(x) > MAX", self.magnitude),
            ("clamp(x) != x", self.clamp),
            ("x - x != 0", self.difference),
        ];
        let wrong: Vec<_> = tests.iter().filter(|test| !test.1).map(|test| test.0).collect();
        let (outcome, found) = if wrong.is_empty() {
            (Outcome::Pass, "all float tests are right".to_owned())
        } else {
            (Outcome::Degraded, format!("folded away: {}", list(&wrong)))
        };
        let consequence = "no kernel compares floats to find NaN: all tests are on bits";
        Check { name: "NaN and Inf as floats", outcome, found, consequence: consequence.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Vec<u32> {
        reference::probe::probe_bits(&PATTERNS.map(|(_, word)| word))
    }

    #[test]
    fn right_answers_pass() {
        let tests = NonFiniteTests::judge(&expected());
        let outcomes: Vec<_> = tests.checks().iter().map(|check| check.outcome).collect();
        assert_eq!(outcomes, [Outcome::Pass; 2]);
    }

    /// Each wrong bit of each pattern is seen, and only integer tests are needed.
    #[test]
    fn any_wrong_answer_is_seen() {
        for pattern in 0..PATTERNS.len() {
            for bit in 0..8 {
                let mut answers = expected();
                answers[pattern] ^= 1 << bit;
                let outcomes: Vec<_> =
                    NonFiniteTests::judge(&answers).checks().iter().map(|c| c.outcome).collect();
                let wanted = match bit {
                    0 | 1 => [Outcome::Fail, Outcome::Pass],
                    2 | 3 => [Outcome::Degraded, Outcome::Pass],
                    _ => [Outcome::Pass, Outcome::Degraded],
                };
                assert_eq!(outcomes, wanted, "{} bit {bit}", PATTERNS[pattern].0);
            }
        }
    }

    #[test]
    fn folded_tests_are_named() {
        let answers: Vec<_> = expected().iter().map(|tests| tests & !(1 << 4)).collect();
        let check = NonFiniteTests::judge(&answers).check_floats();
        assert_eq!(check.found, "folded away: x != x");
    }
}
