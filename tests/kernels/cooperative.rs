//! Matrix products by cooperative matrices, beside f64 and beside the same kernels without them.
//! Skipped where the adapter has none that a kernel is for; `EVENKEEL_REQUIRE_COOPERATIVE_MATRICES`
//! makes that a failure.

use evenkeel::kernel::{BlockFormat, CooperativeMatrix, Variant};
use evenkeel::kernels::*;
use evenkeel::nn::{Gpt, GptConfig, LanguageModel};
use evenkeel::reference::matmul::Product;
use evenkeel::train::{AdamW, Batch, Trainer};
use evenkeel::{Gpu, Precision, reference};

use super::matmul::{PARTIAL, over_halves, rounding};
use super::support::{
    adapter, assert_close, block_on, gpu_with_hardware_kernels, pad, tokens, unpad, values, wide,
};

/// A device of the adapter of the environment with the kernels of hardware, made as
/// `Gpu::from_adapter_with` makes it, and without cooperative matrices yet.
fn device_with_the_feature() -> Option<(Gpu, wgpu::Adapter)> {
    let adapter = adapter()?;
    let wanted = Gpu::requirements(&adapter).with_cooperative_matrices(&adapter);
    let (device, queue) = block_on(adapter.request_device(&wanted.descriptor())).expect("a device");
    let info = adapter.get_info();
    let info = wgpu::AdapterInfo { device_type: wgpu::DeviceType::DiscreteGpu, ..info };
    Some((Gpu::from_device(device, queue, info), adapter))
}

/// That device with those that pass the self-test, if there are any.
fn gpu() -> Option<Gpu> {
    let (gpu, adapter) = device_with_the_feature()?;
    let found = block_on(gpu.admit_cooperative_matrices(&adapter)).expect("an answer");
    let is_required = std::env::var_os("EVENKEEL_REQUIRE_COOPERATIVE_MATRICES").is_some();
    if found.admitted.is_empty() {
        assert!(!is_required, "{:?}", found.refused);
        eprintln!("skipped: {:?}", found.refused);
        return None;
    }
    Some(gpu)
}

/// The variants by cooperative matrices over f16 that passed.
fn over_f16(gpu: &Gpu) -> impl Iterator<Item = Variant> {
    let admitted = gpu.cooperative_matrices().admitted.clone();
    let of_f16 = admitted.into_iter().filter(|matrix| matrix.precision() == Precision::F16);
    of_f16.map(variant)
}

fn variant(matrix: CooperativeMatrix) -> Variant {
    Variant { cooperative: Some(matrix), ..matrix.precision().into() }
}

fn bind(buffer: &wgpu::Buffer) -> wgpu::BufferBinding<'_> {
    buffer.as_entire_buffer_binding()
}

fn a_b<'b>(params: MatmulParams, [a, b, c]: [&'b wgpu::Buffer; 3]) -> Matmul<'b> {
    Matmul::plain(params, [a, b, c].map(bind))
}

fn resumed<'b>(
    params: MatmulResumedParams,
    [a, b, sums, c]: [wgpu::BufferBinding<'b>; 4],
) -> MatmulResumed<'b> {
    let (activation, gated, pre_activation) = (0, 0, a.clone());
    MatmulResumed { params, activation, gated, a, b, pre_activation, sums, c }
}

/// Halves in padded rows, behind them NaN that no product may touch, and what they hold.
fn halves(gpu: &Gpu, dense: &[f32], cols: usize) -> (wgpu::Buffer, Vec<f32>) {
    let mut bytes = Precision::F16.encode(&pad(dense, cols));
    let held = unpad(&Precision::F16.decode(&bytes), cols);
    bytes.extend(Precision::F16.encode(&[f32::NAN; 16]));
    (gpu.upload("halves", &bytes), held)
}

fn read_halves(gpu: &Gpu, buffer: &wgpu::Buffer, rows: usize, cols: usize) -> Vec<f32> {
    let bytes = rows * cols.div_ceil(4) * 8;
    let bytes: Vec<u8> = block_on(gpu.read(buffer, 0, bytes)).expect("readable");
    unpad(&Precision::F16.decode(&bytes), cols)
}

fn read_f32(gpu: &Gpu, buffer: &wgpu::Buffer, rows: usize, cols: usize) -> Vec<f32> {
    let count = rows * cols.next_multiple_of(4);
    unpad(&block_on(gpu.read(buffer, 0, count)).expect("readable"), cols)
}

/// (rows, cols, inner)
const SIZES: &[(usize, usize, usize)] = &[
    (1, 1, 1),
    (3, 4, 5),
    (64, 64, 16),
    (65, 67, 257),
    (33, 20, 530),
    (131, 130, 33),
    (5, 255, 3),
];

#[test]
fn nobody_gets_them_who_does_not_ask() {
    let Some(plain) = gpu_with_hardware_kernels() else { return };
    let found = plain.cooperative_matrices();
    assert!(found.admitted.is_empty() && found.refused.is_empty(), "{found:?}");
    let experimental = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
    assert!(!plain.device.features().contains(experimental));
    // A device without the feature is told so, whatever its adapter has.
    let adapter = adapter().expect("that of the device");
    let info = adapter.get_info();
    let (device, queue) =
        block_on(adapter.request_device(&Gpu::requirements(&adapter).descriptor()))
            .expect("a device");
    let gpu = Gpu::from_device(device, queue, info);
    let found = block_on(gpu.admit_cooperative_matrices(&adapter)).expect("an answer");
    assert!(found.admitted.is_empty(), "{found:?}");
    let [refused] = found.refused.as_slice() else { panic!("one reason: {found:?}") };
    let reasons = ["no cooperative matrices", "made without", "no kernel is for"];
    assert!(reasons.iter().any(|reason| refused.contains(reason)), "{refused}");
}

#[test]
fn products_of_halves_are_those_of_f64() {
    let Some(gpu) = gpu() else { return };
    for variant in over_f16(&gpu) {
        for &(rows, cols, inner) in SIZES {
            over_halves(&gpu, variant, Product { rows, cols, inner });
        }
    }
}

#[test]
fn products_in_f32_are_those_of_f64() {
    let Some(gpu) = gpu() else { return };
    if gpu.cooperative_matrices().of(Precision::F32).is_none() {
        println!("skipped: {} has no cooperative matrices in f32", gpu.info.name);
        return;
    }
    super::matmul::through_workgroup_memory(&gpu);
}

/// One large term, and 4,095 that are nothing beside it alone.
#[test]
fn small_terms_count_beside_a_large_one() {
    let Some(gpu) = gpu() else { return };
    let (rows, cols, inner) = (3, 5, 4096);
    // 2^-12 times 2^-13, which both are halves.
    let a = (0..inner * rows).map(|i| if i < rows { 1.0 } else { 1.0 / 4096.0 });
    let b = (0..inner * cols).map(|i| if i < cols { 1.0 } else { 1.0 / 8192.0 });
    let (a, _) = halves(&gpu, &a.collect::<Vec<_>>(), rows);
    let (b, _) = halves(&gpu, &b.collect::<Vec<_>>(), cols);
    for variant in over_f16(&gpu) {
        let c = gpu.buffer("c", 3 * 8 * 4);
        let params = MatmulTransposedAParams::dense(rows as u32, cols as u32, inner as u32);
        let kernel = MatmulTransposedA { params, a: bind(&a), b: bind(&b), c: bind(&c) };
        gpu.run_as(&kernel, variant);
        let expected = [1.0 + 4095.0 / 33_554_432.0; 15];
        assert_close("small terms", &read_f32(&gpu, &c, rows, cols), &expected, PARTIAL);
    }
}

/// Two sequences, four heads side by side in the columns, two heads per matrix of B, added to what is
/// there: the bits of sixteen-bit storage, one rounding of the result.
#[test]
fn heads_are_multiplied_where_they_lie() {
    let Some(gpu) = gpu() else { return };
    let size = Product { rows: 12, cols: 20, inner: 8 };
    let (a, a_held) = halves(&gpu, &values(4, 2 * 12 * 32), 32);
    let (b, b_held) = halves(&gpu, &values(5, 2 * 8 * 44), 44);
    let (before, before_held) = halves(&gpu, &values(6, 2 * 12 * 80), 80);
    let params = MatmulParams {
        batch: 8,
        inner_count: 4,
        accumulate: 1,
        alpha: -0.5,
        a_row_stride: 8,
        a_outer_stride: 12 * 8,
        a_inner_stride: 2,
        b_offset: 1,
        b_row_stride: 11,
        b_outer_stride: 8 * 11,
        b_inner_stride: 5,
        b_inner_group: 2,
        c_row_stride: 20,
        c_outer_stride: 12 * 20,
        c_inner_stride: 5,
        ..MatmulParams::dense(12, 20, 8)
    };
    let columns = |held: &[f32], width: usize, col: usize, cols: usize| -> Vec<f64> {
        held.chunks(width).flat_map(|row| wide(&row[col..col + cols])).collect()
    };
    for variant in over_f16(&gpu) {
        let c = gpu.upload("c", &block_on(gpu.read::<u8>(&before, 0, 2 * 12 * 80 * 2)).unwrap());
        gpu.run_as(&a_b(params, [&a, &b, &c]), variant);
        let found = read_halves(&gpu, &c, 24, 80);
        for (outer, head) in (0..8).map(|z| (z / 4, z % 4)) {
            let product = reference::matmul::matmul(
                &columns(&a_held[outer * 12 * 32..][..12 * 32], 32, head * 8, 8),
                &columns(&b_held[outer * 8 * 44..][..8 * 44], 44, 4 + head / 2 * 20, 20),
                size,
            );
            let of_head =
                |held: &[f32]| columns(&held[outer * 12 * 80..][..12 * 80], 80, head * 20, 20);
            let expected: Vec<_> =
                of_head(&before_held).iter().zip(&product).map(|(x, p)| x - 0.5 * p).collect();
            let found: Vec<_> = of_head(&found).iter().map(|&x| x as f32).collect();
            let what = format!("sequence {outer}, head {head}");
            assert_close(&what, &found, &expected, rounded_once(8));
        }
    }
}

fn rounded_once(inner: usize) -> super::support::Tolerance {
    super::support::Tolerance {
        absolute: rounding(inner).absolute,
        relative: 2f64.powi(-11),
        because: "the order of f32 sums, and one rounding of the result to f16",
    }
}

/// Beside the same kernel without cooperative matrices, whose sums have another order: an element may
/// fall on the other side of a rounding, of the activation's argument and of the result.
#[test]
fn bias_activation_and_accumulation_are_those_of_the_plain_kernel() {
    let (Some(gpu), Some(plain)) = (gpu(), gpu_with_hardware_kernels()) else { return };
    let (rows, cols, inner) = (70, 37, 19);
    let drawn = [(8, rows * inner, inner), (9, cols * inner, inner), (10, cols, cols)];
    let before = values(11, rows * cols);
    let run = |gpu: &Gpu, variant: Variant, activation, accumulate| {
        let [a, b, bias] =
            drawn.map(|(seed, count, cols)| halves(gpu, &values(seed, count), cols).0);
        let (c, _) = halves(gpu, &before, cols);
        let (pre_activation, _) = halves(gpu, &vec![7.0; rows * cols], cols);
        let params = MatmulTransposedBParams {
            has_bias: 1,
            accumulate,
            ..MatmulTransposedBParams::dense(rows as u32, cols as u32, inner as u32)
        };
        let kernel = MatmulTransposedB {
            params,
            activation,
            a: bind(&a),
            b: bind(&b),
            bias: bind(&bias),
            c: bind(&c),
            pre_activation: bind(&pre_activation),
        };
        gpu.run_as(&kernel, variant);
        [&c, &pre_activation].map(|buffer| read_halves(gpu, buffer, rows, cols))
    };
    let unit = super::support::Tolerance {
        absolute: 2f64.powi(-10),
        relative: 2f64.powi(-10),
        because: "a rounding to f16 that went the other way, below 2 and beyond",
    };
    for variant in over_f16(&gpu) {
        for (activation, accumulate) in [(0, 0), (1, 0), (2, 1), (3, 0), (4, 1), (5, 0)] {
            let expected = run(&plain, Precision::F16.into(), activation, accumulate);
            let found = run(&gpu, variant, activation, accumulate);
            for (name, found, expected) in
                [("result", &found[0], &expected[0]), ("argument", &found[1], &expected[1])]
            {
                let what = format!("{name} of activation {activation}");
                assert_close(&what, found, &wide(expected), unit);
            }
        }
    }
}

/// Numbers of a weight in blocks are rounded to halves, and nothing else is.
#[test]
fn weights_in_blocks_are_read() {
    let Some(gpu) = gpu() else { return };
    let (rows, outputs, inputs) = (65, 70, 96);
    for variant in over_f16(&gpu) {
        for format in BlockFormat::ALL {
            let drawn: Vec<_> = values(7, outputs * inputs).iter().map(|x| 0.1 + 0.5 * x).collect();
            let blocks = format.encode(&drawn);
            let (_, weight) = halves(&gpu, &format.decode(&blocks), inputs);
            let mut words = format.split(&blocks).concat();
            words.extend([0xff; 64]);
            let b = gpu.upload("blocks", &words);
            let variant = Variant { blocks: Some(format), ..variant };

            let (x, held) = halves(&gpu, &values(8, rows * inputs), inputs);
            let c = gpu.buffer("c", (rows * 72 * 2) as u64);
            let spare = [gpu.buffer("bias", 16), gpu.buffer("pre_activation", 16)];
            let kernel = MatmulTransposedB {
                params: MatmulTransposedBParams::dense(65, 70, 96),
                activation: 0,
                a: bind(&x),
                b: bind(&b),
                bias: bind(&spare[0]),
                c: bind(&c),
                pre_activation: bind(&spare[1]),
            };
            gpu.run_as(&kernel, variant);
            let size = Product { rows, cols: outputs, inner: inputs };
            let expected =
                reference::matmul::matmul_transposed_b(&wide(&held), &wide(&weight), size);
            let found = read_halves(&gpu, &c, rows, outputs);
            assert_close(&format!("x Wᵀ, {format}"), &found, &expected, rounded_once(inputs));

            let (dy, held) = halves(&gpu, &values(9, rows * outputs), outputs);
            let c = gpu.buffer("c", (rows * 96 * 2) as u64);
            let params = MatmulParams::dense(65, 96, 70);
            gpu.run_as(&a_b(params, [&dy, &b, &c]), variant);
            let size = Product { rows, cols: inputs, inner: outputs };
            let expected = reference::matmul::matmul(&wide(&held), &wide(&weight), size);
            let found = read_halves(&gpu, &c, rows, inputs);
            assert_close(&format!("dy W, {format}"), &found, &expected, rounded_once(outputs));
        }
    }
}

/// Sums beyond the largest half are finite in f32 and Inf in f16; what is not finite spoils its row and
/// its column and nothing beside them.
#[test]
fn extremes_are_those_of_f32_sums() {
    let Some(gpu) = gpu() else { return };
    let (rows, cols, inner) = (40, 36, 300);
    let product = |variant: Variant, a: &[f32], b: &[f32]| {
        let [(a, _), (b, _)] = [halves(&gpu, a, rows), halves(&gpu, b, cols)];
        let c = gpu.buffer("c", (rows * cols * 4) as u64);
        let params = MatmulTransposedAParams::dense(rows as u32, cols as u32, inner as u32);
        let kernel = MatmulTransposedA { params, a: bind(&a), b: bind(&b), c: bind(&c) };
        gpu.run_as(&kernel, variant);
        read_f32(&gpu, &c, rows, cols)
    };
    for variant in over_f16(&gpu) {
        let largest = 65_504.0;
        let (a, b) = (vec![largest; inner * rows], vec![largest; inner * cols]);
        let expected = vec![inner as f64 * 65_504f64.powi(2); rows * cols];
        assert_close("largest halves", &product(variant, &a, &b), &expected, rounding(inner));
        for (x, at) in [(f32::NAN, 0), (f32::INFINITY, 290), (f32::NEG_INFINITY, 255)] {
            let (mut a, mut b) = (values(12, inner * rows), values(13, inner * cols));
            (a[at * rows + 17], b[at * cols + 33]) = (x, x);
            let found = product(variant, &a, &b);
            for (i, value) in found.iter().enumerate() {
                let is_spoilt = i / cols == 17 || i % cols == 33;
                let bits = value.to_bits() & 0x7f80_0000;
                assert_eq!(bits == 0x7f80_0000, is_spoilt, "{x} at {at}: {value} at {i}");
            }
        }

        let [(a, _), (b, _)] = [halves(&gpu, &[300.0; 4 * 4], 4), halves(&gpu, &[300.0; 4 * 4], 4)];
        let c = gpu.buffer("c", 4 * 8);
        let params = MatmulParams::dense(4, 4, 4);
        gpu.run_as(&a_b(params, [&a, &b, &c]), variant);
        assert_eq!(read_halves(&gpu, &c, 4, 4), [f32::INFINITY; 16], "360,000 in f16");
    }
}

/// Again and again, and in three dispatches that go on where the one before left.
#[test]
fn bits_repeat_and_sums_go_on() {
    let Some(gpu) = gpu() else { return };
    let (rows, cols, inner) = (70, 37, 700);
    let (a, _) = halves(&gpu, &values(8, rows * inner), inner);
    let (b, _) = halves(&gpu, &values(9, inner * cols), cols);
    for variant in over_f16(&gpu) {
        let c = gpu.buffer("c", (rows * 40 * 2) as u64);
        let sums = gpu.buffer("sums", (rows * 40 * 4) as u64);
        let run = |params| {
            let (a, b, sums, c) = (bind(&a), bind(&b), bind(&sums), bind(&c));
            gpu.run_as(&resumed(params, [a, b, sums, c]), variant);
        };
        let whole = MatmulResumedParams::dense(70, 37, 700);
        run(whole);
        let once = read_halves(&gpu, &c, rows, cols);
        assert!(once.iter().any(|x| *x != 0.0));
        for _ in 0..3 {
            run(whole);
            assert_eq!(read_halves(&gpu, &c, rows, cols), once, "again");
        }
        for (first, end) in [(0, 256), (256, 512), (512, 700)] {
            run(MatmulResumedParams {
                inner: end - first,
                a_offset: first / 4,
                b_offset: first * 10,
                resume: u32::from(first > 0),
                unfinished: u32::from(end < 700),
                ..whole
            });
        }
        assert_eq!(read_halves(&gpu, &c, rows, cols), once, "in three dispatches");
    }
}

/// More tiles than a dispatch has workgroups in one dimension.
#[test]
fn grids_are_those_of_the_tile() {
    let Some(gpu) = gpu() else { return };
    for variant in over_f16(&gpu) {
        let count = 65_541;
        let [(a, a_held), (b, b_held)] = [6, 7].map(|seed| halves(&gpu, &values(seed, count), 1));
        let c = gpu.buffer("c", 8 * count as u64);
        let params = MatmulParams {
            batch: count as u32,
            a_outer_stride: 1,
            b_outer_stride: 1,
            c_outer_stride: 1,
            ..MatmulParams::dense(1, 1, 1)
        };
        gpu.run_as(&a_b(params, [&a, &b, &c]), variant);
        let expected: Vec<_> =
            a_held.iter().zip(&b_held).map(|(a, b)| f64::from(*a) * f64::from(*b)).collect();
        let found = read_halves(&gpu, &c, count, 1);
        assert_close("batch", &found, &expected, rounded_once(1));
    }
}

/// A model in f16 learns a text as it does without them: by kernels that are compiled for them, and
/// whose sums are no worse.
#[test]
fn a_model_in_f16_trains_with_them() {
    let (Some(gpu), Some(plain)) = (gpu(), gpu_with_hardware_kernels()) else { return };
    if gpu.cooperative_matrices().of(Precision::F16).is_none() {
        println!("skipped: {} has no cooperative matrices in f16", gpu.info.name);
        return;
    }
    let losses = |gpu: &Gpu| {
        let gpt = Gpt::new(GptConfig::gpt2(19, 16, 1, 2, 32)).expect("valid");
        let builder = Trainer::builder(LanguageModel { gpt, batch: 4, time: 16 })
            .optimizer(AdamW { learning_rate: 1e-2, ..AdamW::default() })
            .precision(Precision::F16)
            .seed(1);
        let mut trainer = block_on(builder.build(gpu)).expect("a trainer");
        let text = tokens(1, 65, 19);
        let batch =
            Batch::new().with("tokens", text[..64].to_vec()).with("targets", text[1..].to_vec());
        for _ in 0..30 {
            block_on(trainer.step(&batch)).expect("a step");
        }
        let telemetry = block_on(trainer.telemetry()).expect("telemetry");
        telemetry.iter().map(|step| step.loss).collect::<Vec<_>>()
    };
    let (found, expected) = (losses(&gpu), losses(&plain));
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().all(|loss| loss.is_finite()), "{found:?}");
    let (first, last) = (found[0], found[found.len() - 1]);
    assert!(last < first / 2.0, "{first} to {last}");
    // The same starting point, but for roundings to f16 that go the other way.
    assert!((first - expected[0]).abs() < 2e-3 * expected[0], "{first}, not {}", expected[0]);
    let plain_last = expected[expected.len() - 1];
    assert!((last - plain_last).abs() < 0.1 * plain_last + 0.05, "{last}, not {plain_last}");
    assert_ne!(found, expected, "the same bits: nothing went by cooperative matrices");
    // The same again.
    assert_eq!(losses(&gpu), found);
}
