//! Probes against IEEE 754, where WGSL leaves a device no choice. What it leaves open, tests/numerics.rs
//! compares with what is known of each driver.

use evenkeel::kernels::*;
use evenkeel::{Gpu, reference};
use half::f16;

use super::support::{Tolerance, assert_close, block_on, read, tokens, values, wide};

rows! {
    probe_arithmetic, probe_bits, probe_compensation, probe_conversion, probe_multiply_add, probe_race,
    probe_reduction,
}

/// Elements: around a workgroup of 64 and of 256, a prime.
const SIZES: &[usize] = &[1, 3, 63, 64, 65, 255, 256, 257, 1009];

fn read_as<T: bytemuck::Pod>(gpu: &Gpu, buffer: &wgpu::Buffer, count: usize) -> Vec<T> {
    block_on(gpu.read(buffer, 0, count)).expect("readable")
}

/// Any bits, with NaN, Inf and subnormals among them.
fn words(seed: u64, count: usize) -> Vec<u32> {
    let (high, low) = (tokens(seed, count, 1 << 16), tokens(seed + 1, count, 1 << 16));
    let special = [0x7fc0_0000, 0xff80_0001, 0x7f80_0000, 0xff80_0000, 0x7f7f_ffff, 1, 1 << 31, 0];
    let word = |i: usize| match i % 4 {
        0 => special[i / 4 % 8],
        // The exponent of NaN and Inf.
        1 => high[i] << 16 | low[i] | 0x7f80_0000,
        _ => high[i] << 16 | low[i],
    };
    (0..count).map(word).collect()
}

fn run_bits(gpu: &Gpu, words: &[u32]) -> wgpu::Buffer {
    let x = gpu.upload("words", words);
    let tests = gpu.upload("tests", &vec![u32::MAX; words.len()]);
    gpu.run(&ProbeBits {
        params: ProbeBitsParams { count: words.len() as u32 },
        words: x.as_entire_buffer_binding(),
        values: x.as_entire_buffer_binding(),
        tests: tests.as_entire_buffer_binding(),
    });
    tests
}

fn probe_bits(gpu: &Gpu) {
    for &size in SIZES {
        let words = words(1, size);
        let tests: Vec<u32> = read_as(gpu, &run_bits(gpu, &words), size);
        let expected = reference::probe::probe_bits(&words);
        for ((word, found), expected) in words.iter().zip(tests).zip(expected) {
            // Float tests may be folded to false, but never true of a number.
            let mask = if expected == 0 { 0xffff_ffff } else { 0b1111 };
            assert_eq!(found & mask, expected & mask, "{word:08x}");
        }
    }
    // More than 65,535 workgroups.
    let mut words = vec![0x3f80_0000; 65_535 * 64 + 5];
    *words.last_mut().expect("not empty") = 0x7fc0_0000;
    let tests = run_bits(gpu, &words);
    let offset = (words.len() as u64 - 2) * 4;
    let found: Vec<u32> = block_on(gpu.read(&tests, offset, 2)).expect("readable");
    assert_eq!((found[0], found[1] & 0b1111), (0, 0b1111));
}

/// Operands in the domain of the operation, from values in [-1, 1).
fn domain(operation: ProbeOperation, x: f32) -> f32 {
    use ProbeOperation as Operation;
    match operation {
        Operation::Log | Operation::Log2 => 1.5 + x,
        Operation::LogOnePlus | Operation::Sqrt | Operation::InverseSqrt => 2.0 + 1.5 * x,
        Operation::Tanh | Operation::TanhAccurate => 8.0 * x,
        _ => x,
    }
}

fn probe_arithmetic(gpu: &Gpu) {
    for operation in ProbeOperation::ALL {
        for &size in SIZES {
            let x: Vec<_> = values(1, size).iter().map(|&x| domain(operation, x)).collect();
            let y: Vec<_> = values(2, size).iter().map(|y| 1.5 + y).collect();
            let (gx, gy) = (gpu.upload("x", &x), gpu.upload("y", &y));
            let z = gpu.upload("z", &vec![7.0f32; size]);
            gpu.run(&ProbeArithmetic {
                params: ProbeArithmeticParams { count: size as u32, operation: operation as u32 },
                x: gx.as_entire_buffer_binding(),
                y: gy.as_entire_buffer_binding(),
                z: z.as_entire_buffer_binding(),
            });
            let found: Vec<f32> = read_as(gpu, &z, size);
            let expected = reference::probe::probe_arithmetic(operation, &wide(&x), &wide(&y));
            let tolerance = match operation {
                ProbeOperation::Copy => Tolerance { absolute: 0.0, relative: 0.0, because: "none" },
                ProbeOperation::Tanh => {
                    Tolerance { absolute: 1e-5, relative: 0.0, because: "WGSL's tanh" }
                }
                ProbeOperation::ProductError => {
                    let because = "an unfused fma gives 0 for half an ULP of a product below 2.5";
                    Tolerance { absolute: 1.2e-7, relative: 0.0, because }
                }
                _ => {
                    let because = "5 ULP of exp, 2^-21 of log near 1";
                    Tolerance { absolute: 4.8e-7, relative: 6e-7, because }
                }
            };
            assert_close(&format!("{operation:?}"), &found, &expected, tolerance);
        }
    }
}

fn probe_compensation(gpu: &Gpu) {
    for (rows, cols) in [(1, 1), (3, 5), (64, 7), (65, 257)] {
        let x = values(1, rows * cols);
        let gx = gpu.upload("x", &x);
        let sums = gpu.upload("sums", &vec![7.0f32; rows * 4]);
        gpu.run(&ProbeCompensation {
            params: ProbeCompensationParams { rows: rows as u32, cols: cols as u32, zero: 0 },
            x: gx.as_entire_buffer_binding(),
            sums: sums.as_entire_buffer_binding(),
        });
        let exact = reference::probe::probe_compensation(cols, &wide(&x));
        let expected: Vec<_> = exact.iter().flat_map(|&sum| [sum; 4]).collect();
        let because = "one rounding per term, as compensation may be optimised away";
        let absolute = cols as f64 * 20.0 * 6e-8;
        let tolerance = Tolerance { absolute, relative: 0.0, because };
        assert_close("sums", &read(gpu, &sums), &expected, tolerance);
    }
}

fn probe_conversion(gpu: &Gpu) {
    for &size in SIZES {
        // Within f16's normal range, where no device may do otherwise.
        let magnitude = |x: f32| x.signum() * (1.0 + x.abs() * 1000.0);
        let flat: Vec<_> = values(1, 2 * size).into_iter().map(magnitude).collect();
        let pairs: Vec<[f32; 2]> = bytemuck::cast_slice(&flat).to_vec();
        let half = |x: u32| u32::from(f16::from_f32(x as f32 - 1000.0).to_bits());
        let (low, high) = (tokens(2, size, 2000), tokens(3, size, 2000));
        let words: Vec<_> = low.iter().zip(&high).map(|(&a, &b)| half(a) | half(b) << 16).collect();
        let (gp, gw) = (gpu.upload("pairs", &pairs), gpu.upload("words", &words));
        let packed = gpu.upload("packed", &vec![7u32; size]);
        let unpacked = gpu.upload("unpacked", &vec![7.0f32; 2 * size]);
        let numbers = gpu.upload("numbers", &vec![7.0f32; size]);
        gpu.run(&ProbeConversion {
            params: ProbeConversionParams { count: size as u32 },
            pairs: gp.as_entire_buffer_binding(),
            words: gw.as_entire_buffer_binding(),
            packed: packed.as_entire_buffer_binding(),
            unpacked: unpacked.as_entire_buffer_binding(),
            numbers: numbers.as_entire_buffer_binding(),
        });
        let expected = reference::probe::probe_conversion(&pairs, &words);
        let found: Vec<[f32; 2]> = read_as(gpu, &unpacked, size);
        assert_eq!(found, expected.unpacked);

        let halves = |words: &[u32]| -> Vec<f32> {
            let halves = words.iter().flat_map(|&word| [word as u16, (word >> 16) as u16]);
            halves.map(|half| f16::from_bits(half).to_f32()).collect()
        };
        let found: Vec<u32> = read_as(gpu, &packed, size);
        let because = "f16 may be rounded in either direction";
        let tolerance = Tolerance { absolute: 0.0, relative: 9.8e-4, because };
        assert_close("packed", &halves(&found), &wide(&flat), tolerance);
        let found: Vec<f32> = read_as(gpu, &numbers, size);
        let exact: Vec<_> = words.iter().map(|&word| f64::from(word)).collect();
        let because = "f32 may be rounded in either direction";
        let tolerance = Tolerance { absolute: 0.0, relative: 1.2e-7, because };
        assert_close("numbers", &found, &exact, tolerance);
    }
}

fn probe_reduction(gpu: &Gpu) {
    for &size in &[1, 3, 255, 256, 257, 1009, 40_000] {
        let words: Vec<_> = tokens(1, size, 1 << 20).iter().map(|word| word << 12).collect();
        let values: Vec<_> = tokens(2, size, 1 << 14).iter().map(|&x| x as f32 / 4.0).collect();
        let (gw, gv) = (gpu.upload("words", &words), gpu.upload("values", &values));
        let blocks = size.div_ceil(256);
        let word_results = gpu.upload("word results", &vec![[7u32; 2]; blocks]);
        let value_results = gpu.upload("value results", &vec![[7.0f32; 2]; blocks]);
        let before = [u32::MAX - 5, 3 << 12];
        let totals = gpu.upload("totals", &before);
        gpu.run(&ProbeReduction {
            params: ProbeReductionParams { count: size as u32 },
            words: gw.as_entire_buffer_binding(),
            values: gv.as_entire_buffer_binding(),
            word_results: word_results.as_entire_buffer_binding(),
            value_results: value_results.as_entire_buffer_binding(),
            totals: totals.as_entire_buffer_binding(),
        });
        let expected = reference::probe::probe_reduction(&words, &wide(&values));
        assert_eq!(read_as::<[u32; 2]>(gpu, &word_results, blocks), expected.words, "{size}");
        let found = read_as::<[f32; 2]>(gpu, &value_results, blocks);
        let found: Vec<_> = found.into_iter().map(|pair| pair.map(f64::from)).collect();
        assert_eq!(found, expected.values, "{size}: all partial sums are exact");
        let [sum, largest] = expected.totals;
        let joined = [before[0].wrapping_add(sum), before[1].max(largest)];
        assert_eq!(read_as::<u32>(gpu, &totals, 2), joined, "{size}");
    }
}

fn probe_multiply_add(gpu: &Gpu) {
    for (quads, rounds) in [(1, 4), (63, 8), (65, 0), (129, 40), (65_536 * 64 + 1, 4)] {
        let y = gpu.upload("y", &vec![7.0f32; 4 * quads + 4]);
        let (factor, addend) = (0.8125, -0.625);
        let params = ProbeMultiplyAddParams { quads: quads as u32, rounds, factor, addend };
        gpu.run(&ProbeMultiplyAdd { params, y: y.as_entire_buffer_binding() });
        // The last quads of many.
        let skipped = quads.saturating_sub(129);
        let found = block_on(gpu.read(&y, 16 * skipped as u64, 4 * (quads - skipped) + 4));
        let mut found: Vec<f32> = found.expect("readable");
        assert_eq!(found.split_off(4 * (quads - skipped)), [7.0; 4], "behind the end");
        let (factor, addend) = (f64::from(factor), f64::from(addend));
        let expected = reference::probe::probe_multiply_add(quads, rounds, factor, addend);
        // A rounding per operation, of which each step forgets three sixteenths.
        let tolerance = Tolerance { absolute: 4e-6, relative: 0.0, because: "f32 rounding" };
        assert_close("chains", &found, &expected[4 * skipped..], tolerance);
    }
}

fn probe_race(gpu: &Gpu) {
    for (size, rounds, stride) in [(256, 1, 1), (256, 5, 77), (1024, 3, 4099), (1 << 15, 2, 4099)] {
        let words = words(1, size);
        let gx = gpu.upload("words", &words);
        let y = gpu.upload("y", &vec![7u32; size]);
        let before = [u32::MAX - 5, 12_345, 3];
        let totals = gpu.upload("totals", &before);
        gpu.run(&ProbeRace {
            params: ProbeRaceParams { count: size as u32, rounds, stride },
            x: gx.as_entire_buffer_binding(),
            y: y.as_entire_buffer_binding(),
            totals: totals.as_entire_buffer_binding(),
        });
        let (expected, [sum, xor, largest]) = reference::probe::probe_race(rounds, stride, &words);
        assert_eq!(read_as::<u32>(gpu, &y, size), expected, "{size} {rounds} {stride}");
        let joined = [before[0].wrapping_add(sum), before[1] ^ xor, before[2].max(largest)];
        assert_eq!(read_as::<u32>(gpu, &totals, 3), joined);
    }
}
