//! Muon and its passes.

use evenkeel::Gpu;
use evenkeel::kernels::*;
use evenkeel::reference::optimizer::{self as reference, MuonSettings};
use evenkeel::reference::step::VerdictSettings;
use evenkeel::step::{APPLY, SKIP, StepState};
use evenkeel::train::{self, MuonScale};

use super::frame::{flatten, plain};
use super::runs::{self, Rule};
use super::support::{
    Tolerance, assert_close, gpu_with_hardware_kernels, pad, read, unpad, values, wide,
};
use super::{ADAMW, BETA, PARTIAL, applied, applied_state, bind, tensor_at, tensors};

pub const MUON: train::Muon = train::Muon {
    learning_rate: 0.02,
    momentum: 0.95,
    nesterov: true,
    weight_decay: 0.1,
    scale: MuonScale::Original,
    iterations: 5,
    coefficients: [3.4445, -4.7750, 2.0315],
    eps: 1e-7,
    adamw: train::AdamW { learning_rate: 0.01, ..ADAMW },
    hidden: train::optimizers::is_hidden_matrix,
};

pub fn muon(gpu: &Gpu) {
    runs::check(gpu, Rule::Muon(MUON));
    runs::check_many_tensors(gpu, Rule::Muon(MUON), 300);
    let rule = train::Muon { scale: MuonScale::MatchRmsAdamW, ..MUON };
    runs::check_option(gpu, Rule::Muon(rule));
    // Products through workgroup memory.
    let hardware = gpu_with_hardware_kernels().expect("the same adapter");
    let rule = train::Muon { scale: MuonScale::Spectral, ..MUON };
    runs::check_option(&hardware, Rule::Muon(rule));
    check_orthogonal(gpu);
}

/// Singular values near 1, whatever they were: with enough iterations of coefficients that
/// converge, the update is the nearest orthogonal matrix.
fn check_orthogonal(gpu: &Gpu) {
    let rule = train::Muon {
        momentum: 0.0,
        weight_decay: 0.0,
        iterations: 40,
        coefficients: [1.5, -0.5, 0.0],
        ..MUON
    };
    for [rows, cols] in [[5usize, 9], [9, 5]] {
        let verdict = VerdictSettings { learning_rates: vec![1.0], ..plain() };
        let dims: [(&str, &[usize]); 1] = [("a.weight", &[rows, cols])];
        let zeros = vec![vec![0.0; rows * cols]];
        let mut run = runs::Run::new(gpu, Rule::Muon(rule), verdict, runs::specs(&dims), &zeros);
        run.step(&[values(3, rows * cols)]);
        let x: Vec<f64> = run.weights().iter().map(|&w| f64::from(w)).collect();
        let scale = MuonScale::Original.factor(rows, cols).powi(2);
        let (size, other) = (rows.min(cols), rows.max(cols));
        let at = |i: usize, k: usize| if rows <= cols { x[i * cols + k] } else { x[k * cols + i] };
        for (i, j) in (0..size).flat_map(|i| (0..size).map(move |j| (i, j))) {
            let product: f64 = (0..other).map(|k| at(i, k) * at(j, k)).sum();
            let expected = if i == j { scale } else { 0.0 };
            assert!((product - expected).abs() < 1e-5, "{rows} {cols}: {i} {j} {product}");
        }
    }
}

pub fn muon_momentum(gpu: &Gpu) {
    let rule = train::Muon { nesterov: false, ..MUON };
    runs::check_option(gpu, Rule::Muon(rule));
    // One matrix at its second step, packed behind another one.
    let (gradient, kept) = (values(1, 15), values(2, 15));
    let settings = MuonSettings {
        momentum: 0.75,
        nesterov: true,
        iterations: 5,
        coefficients: MUON.coefficients,
        eps: 0.0,
        scale: 1.0,
        weight_decay: 0.0,
        learning_rate_factor: 1.0,
    };
    for (verdict, nesterov) in [(APPLY, true), (APPLY, false), (SKIP, true)] {
        let momentum = gpu.upload("momentum", &[vec![7.0; 8], pad(&kept, 5)].concat());
        let x = gpu.upload("x", &[7.0f32; 24]);
        gpu.run(&MuonMomentum {
            params: MuonMomentumParams {
                chunk_count: 1,
                base: 2,
                momentum: 0.75,
                one_minus_momentum: 0.25,
                nesterov: nesterov.into(),
            },
            state: bind(&gpu.upload("state", &[StepState { verdict, ..applied() }])),
            chunks: bind(&gpu.upload("chunks", &chunks([(4, 24)]))),
            packed: bind(&gpu.upload("packed", &[2u32])),
            tensors: bind(&gpu.upload("tensors", &[tensor_at(2, BETA)])),
            gradient: bind(&gpu.upload("gradient", &[vec![9.0; 4], pad(&gradient, 5)].concat())),
            momentum_buffer: bind(&momentum),
            x: bind(&x),
        });
        let (found, found_x) = (read(gpu, &momentum), read(gpu, &x));
        assert!(found[..8].iter().all(|&b| b == 7.0));
        if verdict == SKIP {
            assert_eq!(found[8..], pad(&kept, 5));
            assert!(found_x.iter().all(|&x| x == 7.0));
            continue;
        }
        let mut expected = wide(&kept);
        let settings = MuonSettings { nesterov, ..settings };
        let state = applied_state(2, BETA);
        let expected_x =
            reference::muon_momentum(&settings, &state, &wide(&gradient), &mut expected);
        let tolerance = Tolerance { absolute: 2e-7, relative: 0.0, because: "three roundings" };
        assert_close("momentum", &unpad(&found[8..], 5), &expected, tolerance);
        assert_close("x", &unpad(&found_x, 5), &expected_x, tolerance);
    }
}

pub fn muon_norm(gpu: &Gpu) {
    let lengths = [1usize, 2047, 8192, 200_000];
    for (scale, eps) in
        [(1.0f32, 1e-7f32), (3e18, 0.0), (1e37, 1e-7), (1e-30, 0.0), (1e-30, 1e-7), (0.0, 1e-7)]
    {
        let matrices: Vec<Vec<f32>> = tensors(1, &lengths)
            .iter()
            .map(|x| x.iter().map(|x| (x + 0.01) * scale).collect())
            .collect();
        let flat = flatten(&matrices);
        let mut ranges = [TensorRange::default(); 4];
        for (i, chunk) in flat.chunks.iter().enumerate() {
            let range = &mut ranges[chunk.tensor as usize];
            range.first = if range.count == 0 { i as u32 } else { range.first };
            range.count += 1;
        }
        let chunk_count = flat.chunks.len() as u32;
        let partials = gpu.buffer("partials", 16 * u64::from(chunk_count));
        gpu.run(&GradientScan {
            params: GradientScanParams { chunk_count, overflow_bits: OVERFLOW_NONFINITE },
            chunks: bind(&gpu.upload("chunks", &flat.chunks)),
            gradient: bind(&gpu.upload("x", &flat.elements)),
            partials: bind(&partials),
        });
        let inverse = gpu.buffer("inverse", 32);
        gpu.run(&MuonNorm {
            params: MuonNormParams { matrix_count: 4, eps },
            ranges: bind(&gpu.upload("ranges", &ranges)),
            partials: bind(&partials),
            inverse: bind(&inverse),
        });
        let found = read(gpu, &inverse);
        for (matrix, pair) in matrices.iter().zip(found.chunks(2)) {
            let expected = reference::muon_norm(&wide(matrix), eps.into());
            let product = f64::from(pair[0]) * f64::from(pair[1]);
            let what = format!("{} elements of {scale:e}, eps {eps:e}", matrix.len());
            assert!(pair.iter().all(|x| x.is_normal()), "{what}: {pair:?}");
            assert_close(&what, &[(product / expected) as f32], &[1.0], PARTIAL);
        }
    }
}

pub fn muon_normalize(gpu: &Gpu) {
    let matrices = tensors(1, &[5, 3000]);
    let flat = flatten(&matrices);
    let x = gpu.upload("x", &flat.elements.iter().map(|x| x * 1e30).collect::<Vec<_>>());
    gpu.run(&MuonNormalize {
        params: MuonNormalizeParams { chunk_count: flat.chunks.len() as u32 },
        chunks: bind(&gpu.upload("chunks", &flat.chunks)),
        inverse: bind(&gpu.upload("inverse", &[1e-10f32, 1e-20, 1e-15, 2e-16])),
        x: bind(&x),
    });
    let found = read(gpu, &x);
    let tolerance = Tolerance { absolute: 0.0, relative: 4e-7, because: "three roundings" };
    for ((matrix, &(offset, n)), inverse) in matrices.iter().zip(&flat.table).zip([1.0, 2e-1]) {
        let expected = reference::muon_normalize(&wide(matrix), inverse);
        let share = &found[offset as usize..(offset + n) as usize];
        assert_close("normalised", share, &expected, tolerance);
    }
}

pub fn muon_polynomial(gpu: &Gpu) {
    for size in [1usize, 4, 6, 37] {
        let (gram, square) = (values(1, 3 * size * size), values(2, 3 * size * size));
        let y = gpu.upload("y", &pad(&square, size));
        let [a, b, c] = MUON.coefficients;
        gpu.run(&MuonPolynomial {
            params: MuonPolynomialParams {
                quads: (3 * size * size.div_ceil(4)) as u32,
                size: size as u32,
                a: a as f32,
                b: b as f32,
                c: c as f32,
            },
            gram: bind(&gpu.upload("gram", &pad(&gram, size))),
            y: bind(&y),
        });
        let expected =
            reference::muon_polynomial(&wide(&gram), &wide(&square), size, MUON.coefficients);
        let tolerance = Tolerance { absolute: 2e-6, relative: 0.0, because: "sums near 10" };
        assert_close("polynomial", &unpad(&read(gpu, &y), size), &expected, tolerance);
    }
}
