//! Rounding of conversions: the library's own must be exact, WGSL's are watched, and used where
//! [`halves`](super::halves) found them to be exact too.

pub(super) mod samples;

use half::f16;
use samples::{COUNT, HALVES, halves, pairs, words};

use super::{Check, Gpu, Outcome, list, whole};
use crate::error::Result;
use crate::gpu::{AdmittedConversions, Dispatch};
use crate::kernel::{Precision, Variant};
use crate::kernels::{
    CastFromF32, CastFromF32Params, CastToF32, CastToF32Params, ProbeConversion,
    ProbeConversionParams,
};
use crate::reference;

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
            let variant = Variant::from(precision);
            dispatches.push(gpu.prepare_exactly(&kernel, variant));
            let params = CastToF32Params { quads: HALVES as u32 / 4 };
            let kernel = CastToF32 { params, x: whole(&halves), y: whole(&wide) };
            dispatches.push(gpu.prepare_exactly(&kernel, variant));
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

    /// With what kernels were found to be allowed of WGSL's.
    pub(super) fn checks(&self, halves: &AdmittedConversions) -> Vec<Check> {
        vec![self.check_own(), self.check_builtin(halves), self.check_integers()]
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

    fn check_builtin(&self, halves: &AdmittedConversions) -> Check {
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
        let consequence = halves.consequence();
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
mod tests;
