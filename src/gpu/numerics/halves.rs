//! The device's own conversions of f16, before they are used: whether they give the bits of the
//! integer ones. Every half is read. What is written are numbers that decide how it rounds, whatever
//! it does, as long as larger numbers do not become smaller halves: each half, each midpoint between
//! two, and the neighbours of both.

use half::f16;

use super::conversion::samples::{HALVES, halves};
#[cfg(not(target_arch = "wasm32"))]
use super::prepared;
use super::{Gpu, whole};
use crate::error::Result;
use crate::gpu::{AdmittedConversions, Dispatch};
use crate::kernel::{HalfConversions, Precision, Variant};
use crate::kernels::{CastFromF32, CastFromF32Params, CastToF32, CastToF32Params};

/// Bytes of all halves as f32, behind which are the samples as halves.
const WIDE_BYTES: usize = 4 * HALVES;

/// The kernels that convert, and what they write.
struct Test {
    casts: [Dispatch; 2],
    converted: wgpu::Buffer,
}

/// What the device may do.
///
/// # Errors
/// [`Error::DeviceLost`](crate::Error::DeviceLost).
pub(in crate::gpu) async fn tested(gpu: &Gpu) -> Result<AdmittedConversions> {
    let samples = samples();
    #[cfg(not(target_arch = "wasm32"))]
    let test = {
        let (test, refusal) = prepared(gpu, || Test::prepare(gpu, &samples));
        if let Some(reason) = refusal.await {
            return Ok(AdmittedConversions::refused(reason));
        }
        test
    };
    // A kernel that a browser refuses writes nothing, and zeros are wrong.
    #[cfg(target_arch = "wasm32")]
    let test = Test::prepare(gpu, &samples);
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    gpu.encode(&mut encoder, &test.casts);
    gpu.submit(encoder);
    let converted: Vec<u8> = gpu.read(&test.converted, 0, converted_bytes(&samples)).await?;
    Ok(judge(&samples, &converted))
}

fn converted_bytes(samples: &[u32]) -> usize {
    WIDE_BYTES + 2 * samples.len()
}

impl Test {
    /// Of the variant that plans take where both are admitted.
    fn prepare(gpu: &Gpu, samples: &[u32]) -> Self {
        let half_conversions = HalfConversions::BOTH;
        let variant = Variant { half_conversions, ..Precision::F16.into() };
        let (halves, samples_f32) =
            (gpu.upload("halves", &halves()), gpu.upload("samples", samples));
        let converted = gpu.buffer("converted", converted_bytes(samples) as u64);
        let wide = std::num::NonZeroU64::new(WIDE_BYTES as u64);
        let loads = CastToF32 {
            params: CastToF32Params { quads: HALVES as u32 / 4 },
            x: whole(&halves),
            y: wgpu::BufferBinding { buffer: &converted, offset: 0, size: wide },
        };
        let offset = WIDE_BYTES as u64;
        let stores = CastFromF32 {
            params: CastFromF32Params { quads: samples.len() as u32 / 4 },
            x: whole(&samples_f32),
            y: wgpu::BufferBinding { buffer: &converted, offset, size: None },
        };
        let casts = [gpu.prepare_exactly(&loads, variant), gpu.prepare_exactly(&stores, variant)];
        Self { casts, converted }
    }
}

/// About half of the least half, beyond the largest, at the ends of f32, and what is no number.
const SPECIAL: [u32; 18] = [
    0x32ff_ffff,
    0x3300_0000,
    0x3300_0001,
    0x477f_efff, // right below 65,520, which is the first to round to Inf
    0x477f_f000,
    0x3f80_0000,
    0x477f_e001, // right above the largest half
    0x4780_0000,
    0x5015_02f9,
    0x7f7f_ffff,
    0x3f80_1000,
    0x7f80_0000,
    0x7fc0_0000,
    0x7f80_0001,
    0x7fa1_2345,
    0x0080_0000,
    0x007f_ffff,
    0x3880_1000,
];

/// Bits of numbers of both signs; a multiple of four.
fn samples() -> Vec<u32> {
    let bits = |half: u16| f16::from_bits(half).to_f32().to_bits();
    let mut samples = Vec::new();
    let mut add = |magnitude: u32| samples.extend([magnitude, magnitude | 1 << 31]);
    for half in 0..0x7c00 {
        // Behind the largest half there is another number in f32. Bits are counted evenly from a half
        // to the next, but from zero to the least, whose middle is among the special ones.
        let next = if half == 0x7bff { 0x4780_0000 } else { bits(half + 1) };
        let (half, middle) = (bits(half), bits(half).midpoint(next));
        for magnitude in [half, half + 1, middle - 1, middle, middle + 1, next - 1] {
            add(magnitude);
        }
    }
    for magnitude in SPECIAL {
        add(magnitude);
    }
    samples
}

fn judge(samples: &[u32], converted: &[u8]) -> AdmittedConversions {
    let (wide, narrow) = converted.split_at(WIDE_BYTES);
    let load = (0..=u16::MAX).zip(wide.chunks_exact(4)).find_map(|(half, found)| {
        let found = f32::from_le_bytes([found[0], found[1], found[2], found[3]]);
        let right = f16::from_bits(half).to_f32();
        let is_right = found.to_bits() == right.to_bits() || found.is_nan() && right.is_nan();
        (!is_right).then(|| wrong("the half", half.into(), found.to_bits(), right.to_bits()))
    });
    let store = samples.iter().zip(narrow.chunks_exact(2)).find_map(|(&sample, found)| {
        let found = u16::from_le_bytes([found[0], found[1]]);
        let right = f16::from_f32(f32::from_bits(sample)).to_bits();
        (found != right).then(|| wrong("the f32", sample, found.into(), right.into()))
    });
    AdmittedConversions {
        admitted: HalfConversions { loads: load.is_none(), stores: store.is_none() },
        refused: load.into_iter().chain(store).collect(),
    }
}

fn wrong(what: &str, from: u32, found: u32, right: u32) -> String {
    format!("{what} {from:#x} becomes {found:#x}, not {right:#x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right_loads() -> Vec<f32> {
        (0..=u16::MAX).map(|half| f16::from_bits(half).to_f32()).collect()
    }

    /// What is said of a device that reads so and rounds so.
    fn judged(loads: &[f32], round: impl Fn(f32) -> u16) -> AdmittedConversions {
        let samples = samples();
        let stores = samples.iter().flat_map(|&x| round(f32::from_bits(x)).to_le_bytes());
        let loads = loads.iter().flat_map(|x| x.to_le_bytes());
        judge(&samples, &loads.chain(stores).collect::<Vec<_>>())
    }

    fn wrong_load(loads: &[f32]) -> Option<String> {
        let AdmittedConversions { admitted, refused } = judged(loads, nearest);
        assert!(admitted.stores && admitted.loads == refused.is_empty());
        refused.first().cloned()
    }

    fn wrong_store(round: impl Fn(f32) -> u16) -> Option<String> {
        let AdmittedConversions { admitted, refused } = judged(&right_loads(), round);
        assert!(admitted.loads && admitted.stores == refused.is_empty());
        refused.first().cloned()
    }

    fn nearest(x: f32) -> u16 {
        f16::from_f32(x).to_bits()
    }

    #[test]
    fn samples_are_whole_quads_with_each_half_and_each_midpoint() {
        let samples: Vec<_> = samples().into_iter().map(f32::from_bits).collect();
        assert_eq!((samples.len(), samples.len() % 4), (380_964, 0));
        let exact = samples.iter().filter(|x| f16::from_f32(**x).to_f32() == **x).count();
        assert!(exact >= 2 * 0x7c00, "{exact} halves");
        assert!(samples.contains(&65_520.0) && samples.iter().any(|x| x.is_nan()));
        let all: std::collections::HashSet<_> = samples.iter().map(|x| x.to_bits()).collect();
        let value = |half| f64::from(f16::from_bits(half).to_f32());
        for half in 0..0x7bff {
            let middle = ((value(half) + value(half + 1)) / 2.0) as f32;
            for x in [middle, middle.next_down(), middle.next_up()] {
                assert!(all.contains(&x.to_bits()) && all.contains(&(-x).to_bits()), "{x:e}");
            }
        }
    }

    #[test]
    fn each_fault_of_a_load_is_seen() {
        assert_eq!(wrong_load(&right_loads()), None);
        let with = |half: usize, value: f32| {
            let mut found = right_loads();
            found[half] = value;
            wrong_load(&found)
        };
        let flushed = with(1, 0.0).expect("a subnormal half");
        assert_eq!(flushed, "the half 0x1 becomes 0x0, not 0x33800000");
        assert!(with(0x8000, 0.0).is_some(), "the sign of zero");
        assert!(with(0x7c00, 65_536.0).is_some(), "Inf");
        assert!(with(0xfe00, f32::NEG_INFINITY).is_some(), "NaN");
        assert_eq!(with(0x7e00, f32::from_bits(0xffc0_1234)), None, "another NaN");
    }

    #[test]
    fn each_rounding_but_one_is_seen() {
        assert_eq!(wrong_store(nearest), None);
        let truncated = |x: f32| {
            let half = nearest(x);
            let is_larger = f16::from_bits(half).to_f32().abs() > x.abs();
            if is_larger { half - 1 } else { half }
        };
        assert!(wrong_store(truncated).is_some(), "to zero");
        // A tie is as far from one neighbour as from the other.
        let tie_away = |x: f32| {
            let half = nearest(x);
            let [own, next] = [half, half.wrapping_add(1)].map(|h| f16::from_bits(h).to_f32());
            let is_tie = own.abs() < x.abs() && (x - own) == (next - x);
            if is_tie { half + 1 } else { half }
        };
        assert!(wrong_store(tie_away).is_some(), "ties away from zero");
        let flushed = |x: f32| if x.abs() < 6.1e-5 { nearest(x) & 0x8000 } else { nearest(x) };
        assert!(wrong_store(flushed).is_some(), "subnormal halves");
        let saturated =
            |x: f32| if nearest(x) & 0x7fff == 0x7c00 { nearest(x) - 1 } else { nearest(x) };
        assert!(wrong_store(saturated).is_some(), "Inf");
        let unsigned = |x: f32| if x == 0.0 { 0 } else { nearest(x) };
        assert!(wrong_store(unsigned).is_some(), "the sign of zero");
        let numbers = |x: f32| if x.is_nan() { 0x7c00 } else { nearest(x) };
        assert!(wrong_store(numbers).is_some(), "NaN");
    }
}
