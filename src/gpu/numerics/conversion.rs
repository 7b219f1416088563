//! Rounding of conversions: the library's own must be exact, WGSL's are only watched.

use half::f16;

use super::{Check, Gpu, Outcome, list, random_words, whole};
use crate::error::Result;
use crate::gpu::Dispatch;
use crate::kernels::{
    CastFromF32, CastFromF32Params, CastToF32, CastToF32Params, ProbeConversion,
    ProbeConversionParams,
};
use crate::precision::Precision;
use crate::reference;

/// Pairs, words and numbers that are converted; a multiple of 4.
const COUNT: usize = 2048;
/// Every half there is.
const HALVES: usize = 1 << 16;

/// What conversions do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversions {
    /// The library's conversions to f16 and bf16 are to nearest, ties to even, with Inf beyond the
    /// range, subnormals and NaN kept; its conversions to f32 are exact.
    pub own_exact: bool,
    /// `pack2x16float` rounds to nearest, ties to even, within f16's normal range.
    pub pack_nearest: bool,
    /// `pack2x16float` keeps f16's subnormals.
    pub pack_keeps_subnormals: bool,
    /// `pack2x16float` makes Inf of 70,000 and of Inf.
    pub pack_overflows_to_infinity: bool,
    /// `unpack2x16float` is exact for f16's normal numbers and zeros.
    pub unpack_exact: bool,
    /// `unpack2x16float` keeps f16's subnormals.
    pub unpack_keeps_subnormals: bool,
    /// `f32` of a u32 rounds to nearest, ties to even.
    pub integers_nearest: bool,
}

/// Everything read back.
struct Answers {
    packed: Vec<u32>,
    unpacked: Vec<[f32; 2]>,
    numbers: Vec<f32>,
    /// Per precision: bytes of the pairs as halves, and every half as f32.
    own: Vec<(Precision, Vec<u8>, Vec<f32>)>,
}

pub(super) struct Probe {
    packed: wgpu::Buffer,
    unpacked: wgpu::Buffer,
    numbers: wgpu::Buffer,
    own: Vec<(Precision, wgpu::Buffer, wgpu::Buffer)>,
    dispatches: Vec<Dispatch>,
}

impl Probe {
    pub(super) fn prepare(gpu: &Gpu) -> Self {
        let (pairs, words) = (gpu.upload("pairs", &pairs()), gpu.upload("words", &words()));
        let packed = gpu.buffer("packed", words.size());
        let unpacked = gpu.buffer("unpacked", pairs.size());
        let numbers = gpu.buffer("numbers", words.size());
        let mut dispatches = vec![gpu.prepare(&ProbeConversion {
            params: ProbeConversionParams { count: COUNT as u32 },
            pairs: whole(&pairs),
            words: whole(&words),
            packed: whole(&packed),
            unpacked: whole(&unpacked),
            numbers: whole(&numbers),
        })];
        let halves = gpu.upload("halves", &halves());
        let mut own = Vec::new();
        for precision in [Precision::F16, Precision::Bf16] {
            let narrow = gpu.buffer("narrow", pairs.size() / 2);
            let wide = gpu.buffer("wide", halves.size() * 2);
            let quads = COUNT as u32 / 2;
            let params = CastFromF32Params { quads };
            let kernel = CastFromF32 { params, x: whole(&pairs), y: whole(&narrow) };
            dispatches.push(gpu.prepare_as(&kernel, precision));
            let params = CastToF32Params { quads: HALVES as u32 / 4 };
            let kernel = CastToF32 { params, x: whole(&halves), y: whole(&wide) };
            dispatches.push(gpu.prepare_as(&kernel, precision));
            own.push((precision, narrow, wide));
        }
        Self { packed, unpacked, numbers, own, dispatches }
    }

    pub(super) fn dispatches(&self) -> impl Iterator<Item = &Dispatch> {
        self.dispatches.iter()
    }

    pub(super) async fn read(&self, gpu: &Gpu) -> Result<Conversions> {
        let mut own = Vec::new();
        for (precision, narrow, wide) in &self.own {
            let narrow = gpu.read(narrow, 0, COUNT * 4).await?;
            own.push((*precision, narrow, gpu.read(wide, 0, HALVES).await?));
        }
        let answers = Answers {
            packed: gpu.read(&self.packed, 0, COUNT).await?,
            unpacked: gpu.read(&self.unpacked, 0, COUNT).await?,
            numbers: gpu.read(&self.numbers, 0, COUNT).await?,
            own,
        };
        Ok(Conversions::judge(&answers))
    }
}

/// Ties, the ends of f16's range, and random numbers within and about it.
fn pairs() -> Vec<[f32; 2]> {
    let largest = f32::from(f16::MAX);
    let delicate = [
        [1.0 + 2f32.powi(-11), 1.0 + 3.0 * 2f32.powi(-11)],
        [-1.0 - 2f32.powi(-11), 2049.0],
        [largest, -largest],
        [65_519.996, -65_519.996],
        [65_520.0, -65_520.0],
        [70_000.0, -1e30],
        [f32::INFINITY, f32::NEG_INFINITY],
        [f32::NAN, f32::MAX],
        [2f32.powi(-24), -2f32.powi(-24)],
        [2f32.powi(-25), 1.0001 * 2f32.powi(-25)],
        [3.0 * 2f32.powi(-25), 5.0 * 2f32.powi(-25)],
        [2f32.powi(-14), 2f32.powi(-14) - 2f32.powi(-24)],
        [2f32.powi(-14) - 2f32.powi(-26), 1e-30],
        [f32::MIN_POSITIVE / 16.0, -f32::from_bits(1)],
        [0.0, -0.0],
    ];
    let random = |i| {
        let [a, b, ..] = random_words(100, i);
        [about_f16(a), about_f16(b)]
    };
    delicate.into_iter().chain((delicate.len()..COUNT).map(random)).collect()
}

/// Exponents from -27 to 16, any significand.
fn about_f16(word: u32) -> f32 {
    let exponent = (word >> 23 & 0xff) % 44 + 100;
    f32::from_bits(word & 0x807f_ffff | exponent << 23)
}

/// Halves of every kind, and integers about the 24 bits of f32.
fn words() -> Vec<u32> {
    let delicate = [
        0x3c00_0000,
        0x7bff_fbff,
        0x7c00_fc00,
        0x7e00_7c01,
        0x0001_8001,
        0x03ff_0400,
        0x0200_83ff,
        16_777_216,
        16_777_217,
        16_777_219,
        33_554_434,
        33_554_438,
        u32::MAX,
        u32::MAX - 128,
        u32::MAX - 127,
    ];
    let random = |i| random_words(101, i)[0];
    delicate.into_iter().chain((delicate.len()..COUNT).map(random)).collect()
}

/// All halves in order, two to a word.
fn halves() -> Vec<u32> {
    (0..HALVES as u32 / 2).map(|i| (2 * i) | (2 * i + 1) << 16).collect()
}

fn halves_of(word: u32) -> [f16; 2] {
    [f16::from_bits(word as u16), f16::from_bits((word >> 16) as u16)]
}

fn is_subnormal(half: f16) -> bool {
    half.classify() == std::num::FpCategory::Subnormal
}

/// The same bits, or NaN both.
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

impl Conversions {
    fn judge(answers: &Answers) -> Self {
        let (pairs, words) = (pairs(), words());
        let expected = reference::probe::probe_conversion(&pairs, &words);
        let flat: Vec<_> = pairs.iter().flatten().copied().collect();
        let own_exact = answers.own.iter().all(|(precision, narrow, wide)| {
            let decoded = precision.decode(bytemuck::cast_slice(&halves()));
            *narrow == precision.encode(&flat)
                && wide.iter().zip(&decoded).all(|(&a, &b)| same(a, b))
        });

        let packed = answers.packed.iter().copied().flat_map(halves_of);
        let wanted = expected.packed.iter().copied().flat_map(halves_of);
        let packed: Vec<_> =
            flat.iter().zip(packed.zip(wanted)).map(|(&x, (a, b))| (x, a, b)).collect();
        let equal = |a: f16, b: f16| a.to_bits() == b.to_bits();
        let pack_right = |kind: &dyn Fn(f32, f16) -> bool| {
            packed.iter().filter(|(x, _, b)| kind(*x, *b)).all(|&(_, a, b)| equal(a, b))
        };

        let unpacked = answers.unpacked.iter().flatten().zip(expected.unpacked.iter().flatten());
        let halves = words.iter().copied().flat_map(halves_of);
        let unpacked: Vec<_> = halves.zip(unpacked).collect();
        let unpack_right = |kind: &dyn Fn(f16) -> bool| {
            let of_kind = unpacked.iter().filter(|(half, _)| kind(*half));
            of_kind.into_iter().all(|(_, (a, b))| same(**a, **b))
        };
        Self {
            own_exact,
            pack_nearest: pack_right(&|x, b| {
                x.abs() >= 2f32.powi(-14) && b.is_finite() && x.is_finite()
            }),
            pack_keeps_subnormals: pack_right(&|_, b| is_subnormal(b)),
            pack_overflows_to_infinity: pack_right(&|_, b| b.is_infinite()),
            unpack_exact: unpack_right(&|half| half.is_finite() && !is_subnormal(half)),
            unpack_keeps_subnormals: unpack_right(&is_subnormal),
            integers_nearest: answers.numbers == expected.numbers,
        }
    }

    pub(super) fn checks(&self) -> Vec<Check> {
        vec![self.check_own(), self.check_builtin(), self.check_integers()]
    }

    fn check_own(&self) -> Check {
        let (outcome, found, consequence) = match self.own_exact {
            true => (
                Outcome::Pass,
                "to nearest even, every half exact, as on a CPU",
                "half-precision storage gives the same bits on every adapter",
            ),
            false => (
                Outcome::Fail,
                "bits differ from those of a CPU",
                "integer arithmetic is wrong: train in f32 only, if at all",
            ),
        };
        let (found, consequence) = (found.to_owned(), consequence.to_owned());
        Check { name: "f16 and bf16, own", outcome, found, consequence }
    }

    fn check_builtin(&self) -> Check {
        let faults = [
            (self.pack_nearest, "pack not to nearest even"),
            (self.pack_keeps_subnormals, "pack loses subnormals"),
            (self.pack_overflows_to_infinity, "pack of 70000 or Inf is not Inf"),
            (self.unpack_exact, "unpack not exact"),
            (self.unpack_keeps_subnormals, "unpack loses subnormals"),
        ];
        let faults: Vec<_> = faults.iter().filter(|fault| !fault.0).map(|fault| fault.1).collect();
        let (outcome, found) = match faults.as_slice() {
            [] => (Outcome::Pass, "to nearest even, subnormals kept, overflow to Inf".to_owned()),
            faults => (Outcome::Degraded, list(faults)),
        };
        let consequence = "not used: halves are converted by integer operations".to_owned();
        Check { name: "f16 by pack2x16float", outcome, found, consequence }
    }

    fn check_integers(&self) -> Check {
        let (outcome, found) = match self.integers_nearest {
            true => (Outcome::Pass, "to nearest even"),
            false => (Outcome::Degraded, "not to nearest even"),
        };
        let consequence = "sizes and random bits are converted: exact below 2^24".to_owned();
        Check { name: "u32 to f32", outcome, found: found.to_owned(), consequence }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn perfect() -> Answers {
        let expected = reference::probe::probe_conversion(&pairs(), &words());
        let flat: Vec<_> = pairs().into_iter().flatten().collect();
        let own = [Precision::F16, Precision::Bf16].map(|precision| {
            let wide = precision.decode(bytemuck::cast_slice(&halves()));
            (precision, precision.encode(&flat), wide)
        });
        Answers {
            packed: expected.packed,
            unpacked: expected.unpacked,
            numbers: expected.numbers,
            own: own.into(),
        }
    }

    fn outcomes(answers: &Answers) -> [Outcome; 3] {
        let checks = Conversions::judge(answers).checks();
        [checks[0].outcome, checks[1].outcome, checks[2].outcome]
    }

    #[test]
    fn a_perfect_adapter_passes() {
        assert_eq!(outcomes(&perfect()), [Outcome::Pass; 3]);
    }

    #[test]
    fn a_wrong_bit_of_the_own_conversion_fails() {
        for precision in 0..2 {
            let mut answers = perfect();
            answers.own[precision].1[4] ^= 1;
            assert_eq!(outcomes(&answers)[0], Outcome::Fail);
            let mut answers = perfect();
            answers.own[precision].2[1] = 0.0;
            assert_eq!(outcomes(&answers)[0], Outcome::Fail, "a subnormal flushed");
        }
    }

    #[test]
    fn faults_of_the_builtins_are_named() {
        let find = |low: f32| pairs().iter().position(|pair| pair[0] == low).expect("a pair");
        let faults: [(f32, u32, &str); 3] = [
            (1.0 + 2f32.powi(-11), 1, "pack not to nearest even"),
            (2f32.powi(-24), 1, "pack loses subnormals"),
            (70_000.0, 0x200, "pack of 70000 or Inf is not Inf"),
        ];
        for (low, flipped, found) in faults {
            let mut answers = perfect();
            answers.packed[find(low)] ^= flipped;
            let check = Conversions::judge(&answers).check_builtin();
            assert_eq!((check.outcome, &*check.found), (Outcome::Degraded, found));
        }
        let mut answers = perfect();
        for (word, values) in words().into_iter().zip(&mut answers.unpacked) {
            for (half, value) in halves_of(word).into_iter().zip(values) {
                *value = if is_subnormal(half) { 0.0 } else { *value };
            }
        }
        let check = Conversions::judge(&answers).check_builtin();
        assert_eq!(check.found, "unpack loses subnormals");
    }

    #[test]
    fn integers_rounded_down_are_seen() {
        let mut answers = perfect();
        let place = words().iter().position(|&word| word == 16_777_219).expect("a word");
        answers.numbers[place] = 16_777_218.0;
        assert_eq!(outcomes(&answers), [Outcome::Pass, Outcome::Pass, Outcome::Degraded]);
    }
}
