//! Matrix products. Sizes below, at and above a tile of 64 x 64 and a partial sum of 256 terms; small
//! terms beside a large one;
//! tiles of all sizes, which give the same bits; heads inside wider rows; more than 65,535 tiles;
//! garbage where a matrix ends.

use evenkeel::kernel::{Kernel, ProductTile, Variant};
use evenkeel::kernels::*;
use evenkeel::reference::matmul::Product;
use evenkeel::{Gpu, Precision, reference};

use super::support::{Tolerance, assert_close, block_on, pad, read, unpad, values, wide};

tests! {
    products_of_halves, subgroups_change_no_bit,
}

/// (rows, cols, inner)
const SIZES: &[(usize, usize, usize)] = &[
    (1, 1, 1),
    (3, 4, 5),
    (4, 3, 257),
    (64, 64, 16),
    (65, 67, 17),
    (5, 255, 3),
    (256, 5, 4),
    (131, 130, 33),
    (33, 20, 256),
    (20, 33, 530),
];

rows! {
    matmul, matmul_transposed_b, matmul_transposed_a,
    matmul_transposed_b_few, matmul_direct, matmul_transposed_b_direct, matmul_transposed_a_direct,
    matmul_resumed, matmul_resumed_direct,
}

/// Terms are at most 1, partial sums a few: every addition may lose half a unit of 2^-22.
pub fn rounding(inner: usize) -> Tolerance {
    let absolute = 1.2e-7 * (inner as f64 + 4.0);
    Tolerance { absolute, relative: 3e-7, because: "one f32 rounding per term of the sum" }
}

/// Half a unit in the last place below one: added to one it is lost.
const SMALL: f32 = 1.0 / (1u32 << 25) as f32;

pub const PARTIAL: Tolerance = Tolerance {
    absolute: 256.0 * SMALL as f64 + 16.0 * 6e-8,
    relative: 0.0,
    because: "terms in the partial sum of the large one are lost, and each of 16 sums is rounded",
};

/// Padded rows, and after them a quad of NaN that no product may touch.
fn guarded(dense: &[f32], cols: usize) -> Vec<f32> {
    let mut padded = pad(dense, cols);
    padded.extend([f32::NAN; 16]);
    padded
}

fn heads(dense: &[f32], width: usize, col: usize, cols: usize) -> Vec<f64> {
    dense.chunks(width).flat_map(|row| wide(&row[col..col + cols])).collect()
}

fn chunk<'b>(buffer: &'b wgpu::Buffer, bytes: u64, index: u64) -> wgpu::BufferBinding<'b> {
    wgpu::BufferBinding { buffer, offset: bytes * index, size: std::num::NonZeroU64::new(bytes) }
}

/// The tiles that products are tested in. In a page nothing takes tiles of 128 unless it is measured
/// there, and what Tint makes of them takes lavapipe's compiler minutes; their texts are checked with it.
pub fn product_tiles() -> impl Iterator<Item = ProductTile> {
    let is_taken =
        |tile: &ProductTile| !cfg!(target_arch = "wasm32") || *tile != ProductTile::Of128;
    ProductTile::ALL.into_iter().filter(is_taken)
}

/// Those over f32 storage and no blocks: all tiles. Subgroups and the width of words are the device's choice.
fn tiles<K: Kernel>() -> Vec<Variant> {
    let mut variants = K::DECLARATION.variants();
    let is_device_choice = |v: &Variant| {
        v.subgroups_of_8 || v.words_of_64 || v.large_register_tiles || v.cooperative.is_some()
    };
    variants.retain(|v| v.precision == Precision::F32 && !is_device_choice(v));
    variants.retain(|v| v.blocks.is_none() && product_tiles().any(|tile| tile == v.product_tile));
    variants
}

/// One test per kernel. `a` and `b` give the stored shape (rows, cols) of an operand.
macro_rules! product_test {
    (
        $name:ident, $Kernel:ident, $Params:ident, a $a:expr, b $b:expr, $extra:ident
        $(, spare $spare_read:ident, $spare_write:ident)? $(, argument $argument:ident)?
        $(, sums $sums:ident)?
    ) => {
        fn $name(gpu: &Gpu) {
            let shape_a: fn(Product) -> (usize, usize) = $a;
            let shape_b: fn(Product) -> (usize, usize) = $b;
            let launch = |variant: Variant, params, [a, b, c]: [&wgpu::Buffer; 3]| {
                $(let $spare_write = gpu.buffer("spare", 16);)?
                $(let $sums = gpu.buffer("sums", 16);)?
                let kernel = $Kernel {
                    params,
                    a: a.as_entire_buffer_binding(),
                    b: b.as_entire_buffer_binding(),
                    $($spare_read: b.as_entire_buffer_binding(),
                    $spare_write: $spare_write.as_entire_buffer_binding(), activation: 0,)?
                    $(activation: 0, gated: 0, $argument: a.as_entire_buffer_binding(),)?
                    $($sums: $sums.as_entire_buffer_binding(),)?
                    c: c.as_entire_buffer_binding(),
                };
                gpu.run_as(&kernel, variant);
            };

            for &(rows, cols, inner) in SIZES {
                let size = Product { rows, cols, inner };
                let (a, b) = (values(1, rows * inner), values(2, inner * cols));
                let ga = gpu.upload("a", &guarded(&a, shape_a(size).1));
                let gb = gpu.upload("b", &guarded(&b, shape_b(size).1));
                let before = values(3, rows * cols);
                let product = reference::matmul::$name(&wide(&a), &wide(&b), size);
                let mut first = None;
                for variant in tiles::<$Kernel<'_>>() {
                    let c = gpu.upload("c", &pad(&before, cols));
                    let mut params = $Params::dense(rows as u32, cols as u32, inner as u32);
                    let what = format!("{rows} x {cols} x {inner}, {variant:?}");
                    launch(variant, params, [&ga, &gb, &c]);
                    let found = read(gpu, &c);
                    assert_close(&what, &unpad(&found, cols), &product, rounding(inner));
                    assert!(first.get_or_insert_with(|| found.clone()) == &found, "bits, {what}");

                    gpu.write(&c, 0, bytemuck::cast_slice(&pad(&before, cols)));
                    (params.accumulate, params.alpha) = (1, -0.5);
                    launch(variant, params, [&ga, &gb, &c]);
                    let added = before.iter().zip(&product);
                    let added: Vec<_> =
                        added.map(|(before, p)| f64::from(*before) - 0.5 * p).collect();
                    assert_close(&what, &unpad(&read(gpu, &c), cols), &added, rounding(inner));
                }
            }

            // One large term, and many that are nothing beside it alone: 4,095 of 2^-25.
            let size = Product { rows: 3, cols: 5, inner: 4096 };
            let ones = |(rows, cols)| pad(&vec![1.0; rows * cols], cols);
            let (rows, cols) = shape_b(size);
            let is_first = |i: usize| (if rows == size.inner { i / cols } else { i % cols }) == 0;
            let terms = (0..rows * cols).map(|i| if is_first(i) { 1.0 } else { SMALL });
            let ga = gpu.upload("a", &ones(shape_a(size)));
            let gb = gpu.upload("b", &pad(&terms.collect::<Vec<_>>(), cols));
            for variant in tiles::<$Kernel<'_>>() {
                let c = gpu.buffer("c", 3 * 8 * 4);
                launch(variant, $Params::dense(3, 5, 4096), [&ga, &gb, &c]);
                let expected = [1.0 + 4095.0 * f64::from(SMALL); 15];
                let what = format!("small terms, {variant:?}");
                assert_close(&what, &unpad(&read(gpu, &c), 5), &expected, PARTIAL);
            }

            // Two sequences, four heads side by side in the columns, two heads per matrix of B.
            let size = Product { rows: 12, cols: 20, inner: 8 };
            let ((ar, ac), (br, bc)) = (shape_a(size), shape_b(size));
            let (a, b) = (values(4, 2 * ar * 4 * ac), values(5, 2 * br * (4 + 2 * bc)));
            let ga = gpu.upload("a", &a);
            let gb = gpu.upload("b", &b);
            let c = gpu.buffer("c", 2 * 12 * 4 * 20 * 4);
            let params = $Params {
                batch: 8,
                inner_count: 4,
                a_row_stride: ac as u32,
                a_outer_stride: (ar * ac) as u32,
                a_inner_stride: ac as u32 / 4,
                b_offset: 1,
                b_row_stride: 1 + bc as u32 / 2,
                b_outer_stride: br as u32 * (1 + bc as u32 / 2),
                b_inner_stride: bc as u32 / 4,
                b_inner_group: 2,
                c_row_stride: 20,
                c_outer_stride: 12 * 20,
                c_inner_stride: 5,
                ..$Params::dense(12, 20, 8)
            };
            for variant in tiles::<$Kernel<'_>>() {
                launch(variant, params, [&ga, &gb, &c]);
                let c = read(gpu, &c);
                for (outer, head) in (0..8).map(|z| (z / 4, z % 4)) {
                    let a = &a[outer * ar * 4 * ac..][..ar * 4 * ac];
                    let b = &b[outer * br * (4 + 2 * bc)..][..br * (4 + 2 * bc)];
                    let expected = reference::matmul::$name(
                        &heads(a, 4 * ac, head * ac, ac),
                        &heads(b, 4 + 2 * bc, 4 + head / 2 * bc, bc),
                        size,
                    );
                    let actual: Vec<_> = (0..12)
                        .flat_map(|t| &c[(outer * 12 + t) * 80 + head * 20..][..20])
                        .copied()
                        .collect();
                    let what = format!("sequence {outer}, head {head}, {variant:?}");
                    assert_close(&what, &actual, &expected, rounding(8));
                }
            }

            $extra!(gpu, $Kernel, $Params);
        }
    };
}

/// Bias and activation at the end of a product, and the argument kept for the backward pass.
macro_rules! activation_test {
    ($gpu:ident, $Kernel:ident, $Params:ident) => {
        let size = Product { rows: 70, cols: 37, inner: 19 };
        let (a, b, bias) = (values(8, 70 * 19), values(9, 37 * 19), values(10, 37));
        let ga = $gpu.upload("a", &pad(&a, 19));
        let gb = $gpu.upload("b", &pad(&b, 19));
        let g_bias = $gpu.upload("bias", &pad(&bias, 37));
        let mut expected = reference::matmul::matmul_transposed_b(&wide(&a), &wide(&b), size);
        for (i, e) in expected.iter_mut().enumerate() {
            *e += f64::from(bias[i % 37]);
        }
        // One buffer of two parts: the output and what the activation was given.
        let bytes = (70 * 40 * 4u64).next_multiple_of(256);
        for (kind, f) in (0..).zip(ACTIVATIONS) {
            for accumulate in [0, 1] {
                let c = $gpu.buffer("c", 2 * bytes);
                let residual = vec![0.75f32; 70 * 37];
                $gpu.write(&c, 0, bytemuck::cast_slice(&pad(&residual, 37)));
                $gpu.run(&$Kernel {
                    params: $Params { has_bias: 1, accumulate, ..$Params::dense(70, 37, 19) },
                    activation: kind,
                    a: ga.as_entire_buffer_binding(),
                    b: gb.as_entire_buffer_binding(),
                    bias: g_bias.as_entire_buffer_binding(),
                    c: chunk(&c, bytes, 0),
                    pre_activation: chunk(&c, bytes, 1),
                });
                let data = read($gpu, &c);
                let (c, pre) = data.split_at(bytes as usize / 4);
                let added = 0.75 * f64::from(accumulate);
                let activated: Vec<_> = expected.iter().map(|&x| added + f(x)).collect();
                let what = format!("activation {kind}");
                assert_close(&what, &unpad(&c[..70 * 40], 37), &activated, rounding(19));
                let pre = unpad(&pre[..70 * 40], 37);
                if kind == 0 {
                    assert!(pre.iter().all(|x| *x == 0.0), "written without an activation");
                } else {
                    assert_close("argument", &pre, &expected, rounding(19));
                }
            }
        }
    };
}

/// More tiles than a dispatch has workgroups in one dimension. The grid and its inverse are the
/// same text in every product; two of them stand for both kinds of tile.
macro_rules! many_tiles_test {
    ($gpu:ident, $Kernel:ident, $Params:ident) => {
        derivative_test!($gpu, $Kernel, $Params, [(0, 19)]);
        // In pages SwiftShader takes minutes for the barriers of so many tiles in workgroup memory.
        if cfg!(target_arch = "wasm32") && !stringify!($Kernel).ends_with("Direct") {
            return;
        }
        let count = 65_541;
        let (a, b) = (values(6, count), values(7, count));
        let (ga, gb) = ($gpu.upload("a", &pad(&a, 1)), $gpu.upload("b", &pad(&b, 1)));
        let c = $gpu.buffer("c", ga.size());
        let params = $Params {
            batch: count as u32,
            a_outer_stride: 1,
            b_outer_stride: 1,
            c_outer_stride: 1,
            ..$Params::dense(1, 1, 1)
        };
        let bound = [&ga, &gb, &c].map(wgpu::Buffer::as_entire_buffer_binding);
        $gpu.run(&$Kernel::plain(params, bound));
        let expected: Vec<_> =
            a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).collect();
        assert_close("batch", &unpad(&read($gpu, &c), 1), &expected, rounding(1));
    };
}

/// In three dispatches, each with whole partial sums: the bits of one, and nothing is stored before
/// the last.
macro_rules! resumed_test {
    ($gpu:ident, $Kernel:ident, $Params:ident) => {
        derivative_test!($gpu, $Kernel, $Params, [(0, 256), (256, 300)], resume, unfinished, sums);
        let (rows, cols, inner) = (70, 37, 700);
        let (a, b) = (values(8, rows * inner), values(9, inner * cols));
        let ga = $gpu.upload("a", &guarded(&a, inner));
        let gb = $gpu.upload("b", &guarded(&b, cols));
        let before = pad(&values(10, rows * cols), cols);
        let (c, sums) = ($gpu.upload("c", &before), $gpu.upload("sums", &before));
        let bind = wgpu::Buffer::as_entire_buffer_binding;
        let run = |params| {
            $gpu.run(&$Kernel {
                params,
                activation: 0,
                gated: 0,
                a: bind(&ga),
                b: bind(&gb),
                pre_activation: bind(&ga),
                sums: bind(&sums),
                c: bind(&c),
            });
        };
        for accumulate in [0, 1] {
            let whole = $Params { accumulate, ..$Params::dense(70, 37, 700) };
            $gpu.write(&c, 0, bytemuck::cast_slice(&before));
            run(whole);
            let expected = read($gpu, &c);
            $gpu.write(&c, 0, bytemuck::cast_slice(&before));
            for (first, end) in [(0, 256), (256, 512), (512, 700)] {
                assert_eq!(read($gpu, &c), before, "written before the last dispatch");
                run($Params {
                    inner: end - first,
                    a_offset: first / 4,
                    b_offset: first * 10,
                    resume: u32::from(first > 0),
                    unfinished: u32::from(end < 700),
                    ..whole
                });
            }
            assert_eq!(read($gpu, &c), expected, "in three dispatches");
        }
    };
}

/// The derivative of an activation at the end of a product, in one dispatch or in several: the bits
/// of the product and a pass of its own, for activations by themselves and for those of gates.
macro_rules! derivative_test {
    (
        $gpu:ident, $Kernel:ident, $Params:ident, $parts:expr
        $(, $resume:ident, $unfinished:ident, $sums:ident)?
    ) => {
        let parts: &[(u32, u32)] = &$parts;
        let inner = parts[parts.len() - 1].1;
        let (rows, cols) = (70, 40);
        let (a, b) = (values(21, rows * inner as usize), values(22, inner as usize * cols));
        let [ga, gb] = [pad(&a, inner as usize), b].map(|x| $gpu.upload("operand", &x));
        // Beyond where functions are cut, on both sides of zero.
        let argument: Vec<_> = values(23, rows * 2 * cols).iter().map(|x| 12.0 * x).collect();
        let argument = $gpu.upload("argument", &argument);
        let bind = wgpu::Buffer::as_entire_buffer_binding;
        let product = |variant: Variant, activation, gated| {
            let c_cols = (1 + gated as usize) * cols;
            let c = $gpu.buffer("c", (4 * rows * c_cols) as u64);
            let _c_quads = (4 * rows * c_cols) as u64;
            $(let $sums = $gpu.buffer("sums", _c_quads);)?
            for &(first, end) in parts {
                let params = $Params {
                    inner: end - first,
                    a_offset: first / 4,
                    a_row_stride: inner.div_ceil(4),
                    b_offset: first * 10,
                    c_row_stride: c_cols as u32 / 4,
                    $($resume: u32::from(first > 0),
                    $unfinished: u32::from(end < inner),)?
                    ..$Params::dense(70, 40, inner)
                };
                let kernel = $Kernel {
                    params,
                    activation,
                    gated,
                    a: bind(&ga),
                    b: bind(&gb),
                    pre_activation: bind(&argument),
                    $($sums: bind(&$sums),)?
                    c: bind(&c),
                };
                $gpu.run_as(&kernel, variant);
            }
            c
        };
        let bits = |buffer: &wgpu::Buffer| -> Vec<_> {
            read($gpu, buffer).into_iter().map(f32::to_bits).collect()
        };
        let tiles = tiles::<$Kernel<'_>>();
        for (index, variant) in tiles.iter().copied().enumerate() {
            let plain = product(variant, 0, 0);
            let expected = $gpu.buffer("expected", 2 * plain.size());
            let kind = Activation::Silu as u32;
            $gpu.run(&GatedBackward {
                params: GatedBackwardParams { quads: 70 * 10, hidden_quads: 10, kind },
                x: bind(&argument),
                dy: bind(&plain),
                x_gradient: bind(&expected),
            });
            let fused = product(variant, kind, 1);
            assert!(bits(&fused) == bits(&expected), "gated, {variant:?}");

            // Each is a kernel to compile, so all of them in the smallest tile of one kernel, and in
            // others one.
            let kinds = match parts {
                _ if index + 1 < tiles.len() => 0..0,
                [_] => 1..ACTIVATIONS.len() as u32,
                _ => kind..kind + 1,
            };
            for kind in kinds {
                let expected = $gpu.buffer("expected", plain.size());
                $gpu.run(&ActivateBackward {
                    params: ActivateBackwardParams { quads: 70 * 10, kind },
                    x: bind(&argument),
                    dy: bind(&plain),
                    x_gradient: bind(&expected),
                });
                let fused = product(variant, kind, 0);
                assert!(bits(&fused) == bits(&expected), "activation {kind}, {variant:?}");
            }
        }
    };
}

/// Nothing beyond what every product is tested for.
macro_rules! no_more {
    ($gpu:ident, $Kernel:ident, $Params:ident) => {};
}

/// By the numbers of `shared/activation.wgsl`.
const ACTIVATIONS: [fn(f64) -> f64; 6] = [
    |x| x,
    |x| x.max(0.0),
    |x| {
        let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        0.5 * x * (1.0 + u.tanh())
    },
    |x| 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
    |x| x / (1.0 + (-x).exp()),
    f64::tanh,
];

/// The Maclaurin series, which is exact to f64 rounding for the few units that occur here.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

product_test!(
    matmul,
    Matmul,
    MatmulParams,
    a | s | (s.rows, s.inner),
    b | s | (s.inner, s.cols),
    many_tiles_test,
    argument pre_activation
);
product_test!(
    matmul_direct,
    MatmulDirect,
    MatmulDirectParams,
    a | s | (s.rows, s.inner),
    b | s | (s.inner, s.cols),
    many_tiles_test,
    argument pre_activation
);
product_test!(
    matmul_resumed, MatmulResumed, MatmulResumedParams,
    a |s| (s.rows, s.inner), b |s| (s.inner, s.cols), resumed_test, argument pre_activation,
    sums sums
);
product_test!(
    matmul_resumed_direct, MatmulResumedDirect, MatmulResumedDirectParams,
    a |s| (s.rows, s.inner), b |s| (s.inner, s.cols), resumed_test, argument pre_activation,
    sums sums
);
product_test!(
    matmul_transposed_a,
    MatmulTransposedA,
    MatmulTransposedAParams,
    a | s | (s.inner, s.rows),
    b | s | (s.inner, s.cols),
    no_more
);
product_test!(
    matmul_transposed_a_direct,
    MatmulTransposedADirect,
    MatmulTransposedADirectParams,
    a | s | (s.inner, s.rows),
    b | s | (s.inner, s.cols),
    no_more
);
product_test!(
    matmul_transposed_b, MatmulTransposedB, MatmulTransposedBParams,
    a |s| (s.rows, s.inner), b |s| (s.cols, s.inner), activation_test, spare bias, pre_activation
);
product_test!(
    matmul_transposed_b_few, MatmulTransposedBFew, MatmulTransposedBFewParams,
    a |s| (s.rows, s.inner), b |s| (s.cols, s.inner), activation_test, spare bias, pre_activation
);
product_test!(
    matmul_transposed_b_direct, MatmulTransposedBDirect, MatmulTransposedBDirectParams,
    a |s| (s.rows, s.inner), b |s| (s.cols, s.inner), activation_test, spare bias, pre_activation
);

/// Products over halves, and those that multiply in f16 where the device can: sums of many steps
/// of 16 products, tiles that are not full.
pub fn over_halves(gpu: &Gpu, variant: Variant, size: Product) {
    let precision = variant.precision;
    let Product { rows, cols, inner } = size;
    let stored = |seed, count, cols| {
        // Sums of 16 products stay below 1.
        let scaled: Vec<_> = values(seed, count).iter().map(|x| x / 4.0).collect();
        let bytes = precision.encode(&pad(&scaled, cols));
        let dense = unpad(&precision.decode(&bytes), cols);
        (gpu.upload("operand", &bytes), wide(&dense))
    };
    let digits = if precision == Precision::F16 { 11 } else { 8 };
    let unit = 2f64.powi(-digits);
    let steps = inner.div_ceil(16) as f64;
    // Half a unit below 1 for each of 16 sums in a step.
    let native = if variant.native_f16 { steps * 16.0 * unit / 2.0 } else { 0.0 };
    let tolerance = Tolerance {
        absolute: rounding(inner).absolute + native,
        relative: unit,
        because: "one rounding of the result, and in f16 one for each product",
    };
    let c = gpu.buffer("c", (rows * cols.next_multiple_of(4) * 4) as u64);
    let spare = gpu.buffer("spare", 16);
    let bind = wgpu::Buffer::as_entire_buffer_binding;
    let read_as = |precision: Precision| {
        let bytes = rows * cols.div_ceil(4) * precision.quad_bytes() as usize;
        let bytes: Vec<u8> = block_on(gpu.read(&c, 0, bytes)).expect("readable");
        unpad(&precision.decode(&bytes), cols)
    };
    let what = |name: &str| format!("{name} {rows} x {cols} x {inner}, {variant:?}");
    let [r, n, k] = [rows, cols, inner].map(|x| x as u32);

    let ((a, a_values), (b, b_values)) =
        (stored(1, rows * inner, inner), stored(2, inner * cols, cols));
    let params = MatmulParams::dense(r, n, k);
    gpu.run_as(&Matmul::plain(params, [&a, &b, &c].map(bind)), variant);
    let expected = reference::matmul::matmul(&a_values, &b_values, size);
    assert_close(&what("a b"), &read_as(precision), &expected, tolerance);

    let (b, b_values) = stored(3, cols * inner, inner);
    let kernel = MatmulTransposedB {
        params: MatmulTransposedBParams::dense(r, n, k),
        activation: 0,
        a: bind(&a),
        b: bind(&b),
        bias: bind(&b),
        c: bind(&c),
        pre_activation: bind(&spare),
    };
    gpu.run_as(&kernel, variant);
    let expected = reference::matmul::matmul_transposed_b(&a_values, &b_values, size);
    assert_close(&what("a bᵀ"), &read_as(precision), &expected, tolerance);

    let ((a, a_values), (b, b_values)) =
        (stored(4, inner * rows, rows), stored(5, inner * cols, cols));
    let params = MatmulTransposedAParams::dense(r, n, k);
    gpu.run_as(&MatmulTransposedA { params, a: bind(&a), b: bind(&b), c: bind(&c) }, variant);
    let expected = reference::matmul::matmul_transposed_a(&a_values, &b_values, size);
    // Gradients of parameters are f32.
    let tolerance = Tolerance { relative: 3e-7, ..tolerance };
    assert_close(&what("aᵀ b"), &read_as(Precision::F32), &expected, tolerance);
}

/// Over f32 storage, the products that hardware takes.
#[cfg(not(target_arch = "wasm32"))]
pub fn through_workgroup_memory(gpu: &Gpu) {
    for product in [matmul, matmul_transposed_a, matmul_transposed_b, matmul_resumed] {
        product(gpu);
    }
}

/// In registers: each invocation for itself, and in subgroups of 8 where a software driver has them.
fn subgroups_change_no_bit() {
    let Some(gpu) = super::support::gpu() else { return };
    let alone = super::support::gpu_with_hardware_kernels().expect("the same adapter");
    for &(rows, cols, inner) in SIZES {
        let (a, b) = (values(11, rows * inner), values(12, inner * cols));
        let [ga, gb] = [pad(&a, inner), pad(&b, cols)].map(|x| gpu.upload("operand", &x));
        let product = |gpu: &Gpu, in_registers: bool| {
            let c = gpu.buffer("c", (rows * cols.next_multiple_of(4) * 4) as u64);
            let params = MatmulDirectParams::dense(rows as u32, cols as u32, inner as u32);
            let [a, b, bound] = [&ga, &gb, &c].map(wgpu::Buffer::as_entire_buffer_binding);
            if in_registers {
                gpu.run(&MatmulDirect::plain(params, [a, b, bound]));
            } else {
                gpu.run(&Matmul::plain(bytemuck::cast(params), [a, b, bound]));
            }
            read(gpu, &c).into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let bits = product(&gpu, true);
        assert!(bits == product(&alone, true), "{rows} x {cols} x {inner}");
        // A GPU may round a product before it is added in one text and not in the other.
        let is_same = bits == product(&gpu, false) || !gpu.is_software();
        assert!(is_same, "through workgroup memory, {rows} x {cols} x {inner}");
    }
}

fn products_of_halves() {
    let Some(gpu) = super::support::gpu() else { return };
    let features = gpu.device.features();
    let mut variants: Vec<Variant> = vec![Precision::F16.into(), Precision::Bf16.into()];
    let native = Variant { native_f16: true, ..Precision::F16.into() };
    if features.contains(native.features()) {
        variants.push(native);
    } else {
        println!("skipped native f16: {} has no shader-f16", gpu.info.name);
    }
    for variant in variants {
        for product_tile in product_tiles() {
            for (rows, cols, inner) in [(65, 67, 257), (3, 5, 33), (64, 64, 16)] {
                let variant = Variant { product_tile, ..variant };
                over_halves(&gpu, variant, Product { rows, cols, inner });
            }
        }
    }
}
