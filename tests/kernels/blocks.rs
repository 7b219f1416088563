//! Kernels that read a weight in blocks: what they make of it has the bits that they make of the
//! de-quantized weight in f32, in every format, at every tile and in every precision.

use evenkeel::kernel::{BlockFormat, Kernel, ProductTile, Variant};
use evenkeel::kernels::*;
use evenkeel::reference::matmul::Product;
use evenkeel::{Gpu, Precision, reference};

use super::matmul::product_tiles;
use super::support::{self, Tolerance, assert_close, read, values, wide};

tests! {
    numbers_are_those_of_ggml, products_have_the_bits_of_the_weight_in_f32,
    sums_go_on_from_part_to_part, products_in_half_precision_read_the_same_numbers,
    norms_have_the_bits_of_the_weight_in_f32,
}

/// On the device's own kernels and on those for hardware.
fn on_all(test: impl Fn(&Gpu)) {
    let Some(gpu) = support::gpu() else { return };
    test(&gpu);
    if gpu.is_software() {
        test(&support::gpu_with_hardware_kernels().expect("the same adapter"));
    }
}

/// What the device has of blocks, and after it words that no kernel may touch.
fn upload(gpu: &Gpu, format: BlockFormat, blocks: &[u8]) -> wgpu::Buffer {
    let mut bytes = format.split(blocks).concat();
    bytes.extend([0xff; 64]);
    gpu.upload("blocks", &bytes)
}

/// A matrix about a number: its blocks, and what they hold.
fn matrix(format: BlockFormat, seed: u64, rows: usize, cols: usize) -> (Vec<u8>, Vec<f32>) {
    let drawn: Vec<_> = values(seed, rows * cols).iter().map(|x| 0.1 + 0.5 * x).collect();
    let blocks = format.encode(&drawn);
    let decoded = format.decode(&blocks);
    (blocks, decoded)
}

/// Blocks of every q beside each awkward f16: zeros, subnormals, the largest, of both signs.
fn awkward(format: BlockFormat) -> Vec<u8> {
    const HALVES: [u16; 10] =
        [0x3c00, 0x0000, 0x8000, 0x0001, 0x83ff, 0x0400, 0x7bff, 0xfbff, 0x2e66, 0xb555];
    let scales = format.bytes() - if format == BlockFormat::Q8_0 { 32 } else { 16 };
    let mut blocks = Vec::new();
    for (index, &d) in HALVES.iter().enumerate() {
        for m in if scales == 4 { &HALVES[..] } else { &HALVES[..1] } {
            blocks.extend(d.to_le_bytes());
            if scales == 4 {
                blocks.extend(m.to_le_bytes());
            }
            let q = (0..format.bytes() - scales).map(|i| (17 * (i + index) + 16 * (i / 16)) as u8);
            blocks.extend(q);
        }
    }
    blocks
}

/// Read by a table look-up, row by row and in two parts. The sign of a zero is lost: WGSL has none.
fn numbers_are_those_of_ggml() {
    on_all(|gpu| {
        for format in BlockFormat::ALL {
            let blocks = awkward(format);
            let cols = 5 * BlockFormat::ELEMENTS;
            let row_bytes = 5 * format.bytes();
            let expected = format.decode(&blocks);
            let count = expected.len() / cols;
            let ids: Vec<_> = (0..count as u32).rev().collect();
            let y = gpu.upload("y", &vec![7.0f32; expected.len()]);
            let tokens = gpu.upload("tokens", &ids);
            let whole = EmbeddingParams::whole(count as u32, cols as u32 / 4, count as u32);
            for first in [0, 1] {
                // From the odd row on where that is a part of the table.
                let table = upload(gpu, format, &blocks[first * row_bytes..]);
                let kernel = Embedding {
                    params: EmbeddingParams {
                        first: first as u32,
                        table_rows: (count - first) as u32,
                        ..whole
                    },
                    tokens: tokens.as_entire_buffer_binding(),
                    table: table.as_entire_buffer_binding(),
                    y: y.as_entire_buffer_binding(),
                };
                gpu.run_as(&kernel, Variant { blocks: Some(format), ..Variant::default() });
                let found = read(gpu, &y);
                for (row, &id) in ids.iter().enumerate() {
                    let expected = &expected[id as usize * cols..][..cols];
                    for (column, (x, e)) in
                        found[row * cols..][..cols].iter().zip(expected).enumerate()
                    {
                        let same = x.to_bits() == e.to_bits() || *x == 0.0 && *e == 0.0;
                        assert!(same, "{format}, row {id}, column {column}: {x:e}, not {e:e}");
                    }
                }
            }
        }
    });
}

/// (rows, outputs, inputs) of x Wᵀ and of dy W.
const SIZES: &[(usize, usize, usize)] =
    &[(1, 1, 32), (3, 5, 96), (65, 67, 64), (5, 130, 160), (70, 33, 32)];

fn rounding(inner: usize) -> Tolerance {
    let absolute = 1.2e-7 * (inner as f64 + 4.0);
    Tolerance { absolute, relative: 3e-7, because: "one f32 rounding per term of the sum" }
}

/// The usual tile over f32 in every format, and the others in one: no text is of both.
fn variants<K: Kernel>(format: BlockFormat) -> Vec<Variant> {
    let mut variants = K::DECLARATION.variants();
    let is_device_choice = |v: &Variant| {
        v.subgroups_of_8
            || v.words_of_64
            || v.large_register_tiles
            || v.cooperative.is_some()
            || v.half_conversions.loads
    };
    variants.retain(|v| v.precision == Precision::F32 && !is_device_choice(v));
    variants.retain(|v| v.blocks == Some(format));
    let is_taken = |v: &Variant| product_tiles().any(|tile| tile == v.product_tile);
    variants.retain(is_taken);
    variants.retain(|v| v.product_tile == ProductTile::Of64 || format == BlockFormat::Q4_0);
    variants
}

/// The product of a matrix with W in blocks, with W in f32, and in f64, for all sizes and formats.
macro_rules! products {
    (
        $gpu:ident, $Kernel:ident, $Params:ident, $reference:ident,
        |$rows:ident, $outputs:ident, $inputs:ident| $size:expr
        $(, read $read:ident)? $(, write $write:ident)? $(, constants $($constant:ident)+)?
    ) => {
        for format in BlockFormat::ALL {
            for &($rows, $outputs, $inputs) in SIZES {
                let size: Product = $size;
                let (blocks, w) = matrix(format, 2, $outputs, $inputs);
                let a = values(1, size.rows * size.inner);
                let ga = $gpu.upload("a", &support::pad(&a, size.inner));
                let in_f32 = $gpu.upload("w", &w);
                let in_blocks = upload($gpu, format, &blocks);
                let params =
                    $Params::dense(size.rows as u32, size.cols as u32, size.inner as u32);
                let run = |b: &wgpu::Buffer, variant: Variant| {
                    let before = support::pad(&values(3, size.rows * size.cols), size.cols);
                    let c = $gpu.upload("c", &before);
                    let spare = $gpu.buffer("spare", 16);
                    let kernel = $Kernel {
                        params: $Params { accumulate: 1, alpha: 0.5, ..params },
                        $($($constant: 0,)+)?
                        a: ga.as_entire_buffer_binding(),
                        b: b.as_entire_buffer_binding(),
                        $($read: b.as_entire_buffer_binding(),)?
                        $($write: spare.as_entire_buffer_binding(),)?
                        c: c.as_entire_buffer_binding(),
                    };
                    let _ = &spare;
                    $gpu.run_as(&kernel, variant);
                    read($gpu, &c)
                };
                let before = values(3, size.rows * size.cols);
                let product = reference::matmul::$reference(&wide(&a), &wide(&w), size);
                let added = before.iter().zip(&product).map(|(b, p)| f64::from(*b) + 0.5 * p);
                let added: Vec<_> = added.collect();
                for variant in variants::<$Kernel<'_>>(format) {
                    let what = format!("{:?}, {variant:?}", ($rows, $outputs, $inputs));
                    let found = run(&in_blocks, variant);
                    let expected = run(&in_f32, Variant { blocks: None, ..variant });
                    assert!(found == expected, "bits, {what}");
                    let found = support::unpad(&found, size.cols);
                    assert_close(&what, &found, &added, rounding(size.inner));
                }
            }
        }
    };
}

/// Those through workgroup memory are the same on every device.
fn products_have_the_bits_of_the_weight_in_f32() {
    let Some(gpu) = &support::gpu() else { return };
    products!(
        gpu, MatmulTransposedB, MatmulTransposedBParams, matmul_transposed_b,
        |rows, outputs, inputs| Product { rows, cols: outputs, inner: inputs },
        read bias, write pre_activation, constants activation
    );
    products!(
        gpu, Matmul, MatmulParams, matmul,
        |rows, outputs, inputs| Product { rows, cols: inputs, inner: outputs },
        read pre_activation, constants activation gated
    );
    on_all(|gpu| {
        products!(
            gpu, MatmulTransposedBDirect, MatmulTransposedBDirectParams, matmul_transposed_b,
            |rows, outputs, inputs| Product { rows, cols: outputs, inner: inputs },
            read bias, write pre_activation, constants activation
        );
        products!(
            gpu, MatmulTransposedBFew, MatmulTransposedBFewParams, matmul_transposed_b,
            |rows, outputs, inputs| Product { rows, cols: outputs, inner: inputs },
            read bias, write pre_activation, constants activation
        );
        products!(
            gpu, MatmulDirect, MatmulDirectParams, matmul,
            |rows, outputs, inputs| Product { rows, cols: inputs, inner: outputs },
            read pre_activation, constants activation gated
        );
    });
}

/// A weight in two parts, each with words and scales of its own: the bits of one.
macro_rules! resumed {
    ($gpu:ident, $Kernel:ident, $Params:ident, $formats:expr) => {
        for format in $formats {
            let (rows, outputs, inputs) = (9usize, 300usize, 96usize);
            let (blocks, _) = matrix(format, 2, outputs, inputs);
            let a = $gpu.upload("a", &support::pad(&values(1, rows * outputs), outputs));
            let variant = Variant { blocks: Some(format), ..Variant::default() };
            let run = |parts: &[(usize, usize)]| {
                let c = $gpu.buffer("c", (4 * rows * inputs) as u64);
                let sums = $gpu.buffer("sums", (4 * rows * inputs) as u64);
                for &(first, end) in parts {
                    let row_bytes = inputs / 32 * format.bytes();
                    let b = upload($gpu, format, &blocks[first * row_bytes..end * row_bytes]);
                    let params = $Params {
                        inner: (end - first) as u32,
                        a_offset: first as u32 / 4,
                        resume: u32::from(first > 0),
                        unfinished: u32::from(end < outputs),
                        ..$Params::dense(rows as u32, inputs as u32, outputs as u32)
                    };
                    let kernel = $Kernel {
                        params,
                        activation: 0,
                        gated: 0,
                        a: a.as_entire_buffer_binding(),
                        b: b.as_entire_buffer_binding(),
                        pre_activation: a.as_entire_buffer_binding(),
                        sums: sums.as_entire_buffer_binding(),
                        c: c.as_entire_buffer_binding(),
                    };
                    $gpu.run_as(&kernel, variant);
                }
                read($gpu, &c)
            };
            assert_eq!(run(&[(0, 256), (256, 300)]), run(&[(0, 300)]), "{format}");
        }
    };
}

fn sums_go_on_from_part_to_part() {
    let Some(gpu) = &support::gpu() else { return };
    resumed!(gpu, MatmulResumed, MatmulResumedParams, [BlockFormat::Q8_0]);
    resumed!(gpu, MatmulResumedDirect, MatmulResumedDirectParams, BlockFormat::ALL);
}

/// Weights that 16 bits hold exactly, since their scales are powers of two: the same bits as with
/// the weight in 16 bits.
fn products_in_half_precision_read_the_same_numbers() {
    on_all(|gpu| {
        for format in BlockFormat::ALL {
            let (rows, outputs, inputs) = (6usize, 37usize, 64usize);
            let most = if format == BlockFormat::Q8_0 { 127 } else { 15 };
            // Each block has the largest, and for Q4_0 the one of largest magnitude is negative.
            let low = if format == BlockFormat::Q4_1 { 0 } else { most / -2 - 1 };
            let whole = |i: usize| low + (i * 7 % (most as usize / 2 + 1)) as i32;
            let mut w: Vec<_> = (0..outputs * inputs).map(|i| whole(i) as f32 / 64.0).collect();
            for block in w.chunks_mut(32) {
                block[0] = match format {
                    BlockFormat::Q8_0 => 127.0 / 64.0,
                    BlockFormat::Q4_0 => -8.0 / 64.0,
                    BlockFormat::Q4_1 => 15.0 / 64.0,
                };
                block[1] = 0.0;
            }
            let blocks = format.encode(&w);
            assert_eq!(format.decode(&blocks), w, "{format}: exact");
            let in_blocks = upload(gpu, format, &blocks);
            let x = values(1, rows * inputs);
            for precision in [Precision::F16, Precision::Bf16] {
                let half = |values: &[f32]| gpu.upload("halves", &precision.encode(values));
                let (gx, gw) = (half(&x), half(&w));
                let run = |b: &wgpu::Buffer, blocks| {
                    let c = gpu.buffer("c", (2 * rows * 40) as u64);
                    let spare = gpu.buffer("spare", 16);
                    let params = MatmulTransposedBDirectParams::dense(6, 37, 64);
                    let kernel = MatmulTransposedBDirect {
                        params,
                        activation: 0,
                        a: gx.as_entire_buffer_binding(),
                        b: b.as_entire_buffer_binding(),
                        bias: b.as_entire_buffer_binding(),
                        c: c.as_entire_buffer_binding(),
                        pre_activation: spare.as_entire_buffer_binding(),
                    };
                    gpu.run_as(&kernel, Variant { blocks, ..precision.into() });
                    read(gpu, &c)
                };
                let [found, expected] =
                    [(&in_blocks, Some(format)), (&gw, None)].map(|(b, blocks)| run(b, blocks));
                let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect::<Vec<_>>();
                assert_eq!(bits(found), bits(expected), "{format}, {precision}");
            }
        }
    });
}

fn norms_have_the_bits_of_the_weight_in_f32() {
    on_all(|gpu| {
        for format in BlockFormat::ALL {
            let (rows, cols, first) = (7usize, 160usize, 2usize);
            let (blocks, w) = matrix(format, 4, rows, cols);
            let delta = gpu.upload("delta", &values(5, (rows - first) * cols));
            let run = |w: &wgpu::Buffer, blocks, has_delta| {
                let norms = gpu.buffer("norms", 32);
                let kernel = RowNorms {
                    params: RowNormsParams {
                        rows: (rows - first) as u32,
                        cols: cols as u32,
                        first: 1,
                        w_rows: rows as u32,
                        w_first_row: first as u32,
                        has_delta,
                    },
                    w: w.as_entire_buffer_binding(),
                    delta: delta.as_entire_buffer_binding(),
                    norms: norms.as_entire_buffer_binding(),
                };
                gpu.run_as(&kernel, Variant { blocks, ..Variant::default() });
                read(gpu, &norms)
            };
            let (in_blocks, in_f32) = (upload(gpu, format, &blocks), gpu.upload("w", &w));
            for has_delta in [0, 1] {
                let found = run(&in_blocks, Some(format), has_delta);
                assert_eq!(found, run(&in_f32, None, has_delta), "{format}, {has_delta}");
                assert!(found[1..6].iter().all(|&norm| norm > 0.5), "{found:?}");
            }
        }
    });
}
