//! f16 by the device's own conversions: what is admitted has the bits of the integer operations, in
//! single kernels and in whole runs.

use evenkeel::gpu::GpuOptions;
use evenkeel::kernel::HalfConversions;
#[cfg(not(target_arch = "wasm32"))]
use evenkeel::kernel::{BlockFormat, Variant};
use evenkeel::kernels::*;
use evenkeel::train::{Checkpoint, Trainer};
use evenkeel::{Gpu, Precision};

#[cfg(not(target_arch = "wasm32"))]
use super::attention::size;
#[cfg(not(target_arch = "wasm32"))]
use super::attention_subgroups::run as run_attention;
use super::support::models::{small_gpt, small_gpt_batch};
#[cfg(not(target_arch = "wasm32"))]
use super::support::values;
use super::support::{self, block_on, tokens};

tests! {
    known_drivers_are_found_as_they_are, all_halves_are_read_and_written_alike,
    arithmetic_on_halves_changes_no_bit, a_run_has_the_same_bits_either_way,
    nobody_pays_who_has_no_halves,
}

/// The device of the other tests as another `Gpu`, which nothing was asked of yet.
fn unasked() -> Option<Gpu> {
    let Gpu { device, queue, info, .. } = support::gpu()?;
    Some(Gpu::from_device(device, queue, info))
}

/// Both kinds of kernels that the device may get, each by integers and with what is admitted.
fn pairs() -> Vec<[Gpu; 2]> {
    let Some(gpu) = support::gpu() else { return Vec::new() };
    let Gpu { device, queue, info, .. } = gpu;
    let hardware = wgpu::AdapterInfo { device_type: wgpu::DeviceType::DiscreteGpu, ..info.clone() };
    let of = |info: &wgpu::AdapterInfo| {
        let pair = [(); 2].map(|()| Gpu::from_device(device.clone(), queue.clone(), info.clone()));
        block_on(pair[1].admit_half_conversions()).expect("an answer");
        pair
    };
    [info, hardware].iter().map(of).collect()
}

fn bind(buffer: &wgpu::Buffer) -> wgpu::BufferBinding<'_> {
    buffer.as_entire_buffer_binding()
}

fn bytes_of(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<u8> {
    block_on(gpu.read(buffer, 0, buffer.size() as usize)).expect("readable")
}

/// Halves as bits, every NaN as one.
fn halves_of(bytes: &[u8]) -> Vec<u16> {
    let halves = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    halves.map(|half| if half & 0x7fff > 0x7c00 { 0x7e00 } else { half }).collect()
}

/// Halves with any bits.
fn any_halves(seed: u64) -> Vec<u8> {
    let halves = tokens(seed, 1 << 15, 1 << 16);
    halves.into_iter().flat_map(|half| (half as u16).to_le_bytes()).collect()
}

fn known_drivers_are_found_as_they_are() {
    let Some(gpu) = unasked() else { return };
    assert_eq!(gpu.half_conversions().admitted, HalfConversions::NONE);
    let found = block_on(gpu.admit_half_conversions()).expect("an answer").clone();
    let HalfConversions { loads, stores } = found.admitted;
    let refused = usize::from(!loads) + usize::from(!stores);
    assert_eq!(found.refused.len(), refused, "a reason for each: {found:?}");
    if gpu.info.name.contains("llvmpipe") {
        assert_eq!(found.admitted, HalfConversions::BOTH, "{found:?}");
    }
    // It flushes subnormal halves where it writes them.
    if gpu.info.name.contains("SwiftShader") {
        assert_eq!([loads, stores], [true, false], "{found:?}");
    }
    // The same device gives the same answer.
    let again = unasked().expect("the same");
    assert_eq!(block_on(again.admit_half_conversions()).expect("an answer"), &found);
}

/// All halves into f32 and back, and f32 of every exponent, whose least halves and overflows are among
/// numbers that are none.
fn all_halves_are_read_and_written_alike() {
    for pair in pairs() {
        let halves: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let (high, low) = (tokens(21, 1 << 14, 1 << 16), tokens(22, 1 << 14, 1 << 16));
        let near_halves = |i: usize| {
            let sign = u32::from(i.is_multiple_of(2)) << 31;
            sign | (100 + i as u32 % 46) << 23 | (high[i] << 16 | low[i]) & 0x7f_ffff
        };
        let any =
            |i: usize| if i.is_multiple_of(5) { high[i] << 16 | low[i] } else { near_halves(i) };
        let words: Vec<u32> = (0..1 << 14).map(any).collect();
        let [expected, found] = pair.each_ref().map(|gpu| {
            let (x, y) = (gpu.upload("halves", &halves), gpu.buffer("wide", 4 << 16));
            let params = CastToF32Params { quads: 1 << 14 };
            gpu.run_as(&CastToF32 { params, x: bind(&x), y: bind(&y) }, Precision::F16);
            let wide: Vec<f32> = block_on(gpu.read(&y, 0, 1 << 16)).expect("readable");
            let (x, y) = (gpu.upload("words", &words), gpu.buffer("narrow", 2 << 14));
            let params = CastFromF32Params { quads: 1 << 12 };
            gpu.run_as(&CastFromF32 { params, x: bind(&x), y: bind(&y) }, Precision::F16);
            (wide, bytes_of(gpu, &y))
        });
        for (half, (a, b)) in expected.0.iter().zip(&found.0).enumerate() {
            assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{half:#06x}");
        }
        assert!(expected.1 == found.1, "f32 as f16");
        let infinite = expected.1.chunks(2).filter(|half| [half[0], half[1] & 0x7f] == [0, 0x7c]);
        assert!(infinite.count() > 100, "overflows");
    }
}

/// Any two halves, with sums and products that are subnormal or overflow.
fn arithmetic_on_halves_changes_no_bit() {
    for pair in pairs() {
        let (a, b) = (any_halves(31), any_halves(32));
        let [expected, found] = pair.each_ref().map(|gpu| {
            let [a, b] = [&a, &b].map(|halves| gpu.upload("halves", halves));
            let quads = 1 << 13;
            let run = |run: &dyn Fn(&wgpu::Buffer)| {
                let y = gpu.buffer("y", 2 << 15);
                run(&y);
                halves_of(&bytes_of(gpu, &y))
            };
            let add = |y: &wgpu::Buffer| {
                let params = AddParams { quads };
                gpu.run_as(&Add { params, a: bind(&a), b: bind(&b), y: bind(y) }, Precision::F16);
            };
            let multiply = |y: &wgpu::Buffer| {
                let params = MultiplyParams { quads };
                let kernel = Multiply { params, a: bind(&a), b: bind(&b), y: bind(y) };
                gpu.run_as(&kernel, Precision::F16);
            };
            let scale = |y: &wgpu::Buffer| {
                let params = ScaleParams { quads, factor: 0.3 };
                gpu.run_as(&Scale { params, x: bind(&a), y: bind(y) }, Precision::F16);
            };
            [run(&add), run(&multiply), run(&scale)]
        });
        let is_subnormal = |half: &&u16| (1..0x400).contains(&(**half & 0x7fff));
        for ((name, a), b) in ["sums", "products", "scaled"].iter().zip(&expected).zip(&found) {
            let wrong = a.iter().zip(b).position(|(a, b)| a != b);
            assert_eq!(wrong, None, "{name}");
            assert!(a.iter().filter(is_subnormal).count() > 10, "{name}: subnormal halves");
        }
        let infinite = expected[1].iter().filter(|half| **half & 0x7fff == 0x7c00);
        assert!(infinite.count() > 1000, "products that overflow");
    }
}

#[cfg(not(target_arch = "wasm32"))]
#[test]
fn products_of_halves_change_no_bit() {
    let (rows, cols, inner) = (37, 44, 72);
    let encode = |seed, count| Precision::F16.encode(&values(seed, count));
    let (a, b) = (encode(41, rows * inner), encode(42, inner * cols));
    for pair in pairs() {
        let [expected, found] = pair.each_ref().map(|gpu| {
            let [a, b] = [&a, &b].map(|halves| gpu.upload("halves", halves));
            let c = gpu.buffer("c", (2 * rows * cols) as u64);
            let [r, n, k] = [rows, cols, inner].map(|n| n as u32);
            // Some overflow.
            let alpha = 3e4;
            if gpu.is_software() {
                let params = MatmulDirectParams { alpha, ..MatmulDirectParams::dense(r, n, k) };
                let kernel = MatmulDirect::plain(params, [&a, &b, &c].map(bind));
                gpu.run_as(&kernel, Precision::F16);
            } else {
                let params = MatmulParams { alpha, ..MatmulParams::dense(r, n, k) };
                let kernel = Matmul::plain(params, [&a, &b, &c].map(bind));
                gpu.run_as(&kernel, Precision::F16);
            }
            bytes_of(gpu, &c)
        });
        assert!(expected == found, "{}", pair[0].is_software());
        assert!(halves_of(&found).contains(&0x7c00), "no overflow");
    }
}

#[cfg(not(target_arch = "wasm32"))]
#[test]
fn attention_over_halves_changes_no_bit() {
    // That in tiles takes software drivers long to compile.
    let Some(pair) = pairs().into_iter().next() else { return };
    let size = size(1, 19, 2, 1, 12);
    let qkv = values(43, size.qkv_len());
    let [expected, found] =
        pair.each_ref().map(|gpu| run_attention(gpu, &size, Precision::F16, &qkv));
    assert!(expected == found);
}

/// Beside values in f32, where the scales alone are f16, and in f16.
#[cfg(not(target_arch = "wasm32"))]
#[test]
fn scales_of_blocks_change_no_bit() {
    let Some(pair) = pairs().into_iter().next() else { return };
    let (rows, outputs, inputs) = (5usize, 12usize, 96usize);
    let w: Vec<_> = values(44, outputs * inputs).iter().map(|x| x * 1e-3).collect();
    for format in BlockFormat::ALL {
        let w = format.split(&format.encode(&w)).concat();
        for precision in [Precision::F32, Precision::F16] {
            let variant = Variant { blocks: Some(format), ..precision.into() };
            let [expected, found] = pair.each_ref().map(|gpu| {
                let x = gpu.upload("x", &precision.encode(&values(45, rows * inputs)));
                let w = gpu.upload("w", &w);
                let [c, spare] = [4 * (rows * outputs), 16].map(|n| gpu.buffer("c", n as u64));
                let params = MatmulTransposedBDirectParams::dense(
                    rows as u32,
                    outputs as u32,
                    inputs as u32,
                );
                let kernel = MatmulTransposedBDirect {
                    params,
                    activation: 0,
                    a: bind(&x),
                    b: bind(&w),
                    bias: bind(&w),
                    c: bind(&c),
                    pre_activation: bind(&spare),
                };
                gpu.run_as(&kernel, variant);
                bytes_of(gpu, &c)
            });
            assert!(expected == found, "{format} beside {precision}");
            assert!(found.iter().any(|byte| *byte != 0), "{format}");
        }
    }
}

/// Losses of some steps, of which the first overflow by their loss scale, and all that is left of them.
fn run(gpu: &Gpu) -> (Vec<u32>, Checkpoint) {
    let builder = Trainer::builder(small_gpt(0.1, 2)).precision(Precision::F16).seed(6);
    let mut trainer = block_on(builder.build(gpu)).expect("a trainer");
    for step in 0..6 {
        block_on(trainer.step(&small_gpt_batch(step % 2, 2))).expect("a step");
    }
    let records = block_on(trainer.telemetry()).expect("telemetry");
    let losses = records.iter().map(|record| record.loss.to_bits()).collect();
    (losses, block_on(trainer.checkpoint()).expect("a checkpoint"))
}

fn a_run_has_the_same_bits_either_way() {
    let Some(gpu) = unasked() else { return };
    let options = GpuOptions { integer_halves: true, ..GpuOptions::default() };
    let integers = block_on(Gpu::with(options)).expect("the same adapter");
    let (expected, found) = (run(&integers), run(&gpu));
    assert_eq!(expected.0, found.0, "losses");
    assert!(expected.1 == found.1, "checkpoints");
    assert_eq!(expected.0.len(), 6);
    let told = integers.half_conversions();
    assert_eq!(told.admitted, HalfConversions::NONE);
    assert!(told.refused[0].contains("integer_halves"), "{told:?}");
    let HalfConversions { loads, stores } = gpu.half_conversions().admitted;
    assert_eq!(gpu.half_conversions().refused.is_empty(), loads && stores);
}

fn nobody_pays_who_has_no_halves() {
    let Some(gpu) = unasked() else { return };
    let builder = Trainer::builder(small_gpt(0.1, 1)).precision(Precision::Bf16);
    block_on(builder.build(&gpu)).expect("a trainer");
    assert_eq!(gpu.half_conversions(), unasked().expect("the same").half_conversions());
    assert!(gpu.half_conversions().refused.is_empty(), "it was asked");
}
