//! Adafactor and its passes.

use evenkeel::Gpu;
use evenkeel::kernels::*;
use evenkeel::reference::optimizer::{self as reference, AdafactorSettings, Variance};
use evenkeel::reference::step::State;
use evenkeel::step::{APPLY, SKIP, StepState};
use evenkeel::train;

use super::runs::{self, Rule};
use super::support::{assert_close, pad, read, values, wide};
use super::{BETA, EXACT, PARTIAL, applied, applied_state, bind, tensor_at};

/// A matrix of 70 rows by 277 columns, 70 quads: two tiles each way.
const HEIGHT: usize = 70;
const WIDTH: usize = 277;

pub fn adafactor_scan(gpu: &Gpu) {
    let quads = WIDTH.div_ceil(4) as u32;
    let mut tiles = Vec::new();
    for (row, rows) in [(0, 64), (64, 6)] {
        for (col, width, row_sums) in [(0, 64, 0), (64, quads - 64, HEIGHT as u32)] {
            tiles.push(Tile {
                offset: row * quads + col,
                row_quads: quads,
                rows,
                quads: width,
                row_partials: row_sums + row,
                column_partials: 2 * HEIGHT as u32 + 4 * (row / 64 * quads + col),
                tensor: 0,
            });
        }
    }
    for scale in [1.0, 1e10, 1e35] {
        let gradient: Vec<_> = values(1, HEIGHT * WIDTH).iter().map(|x| x * scale).collect();
        let state = StepState { clip_value: 1e18, ..applied() };
        let partials = gpu.buffer("partials", 4 * (2 * HEIGHT as u64 + 8 * u64::from(quads)));
        gpu.run(&AdafactorScan {
            params: AdafactorScanParams { tile_count: 4 },
            state: bind(&gpu.upload("state", &[state])),
            tiles: bind(&gpu.upload("tiles", &tiles)),
            tensors: bind(&gpu.upload("tensors", &[tensor_at(1, BETA)])),
            gradient: bind(&gpu.upload("gradient", &pad(&gradient, WIDTH))),
            partials: bind(&partials),
        });
        let found = read(gpu, &partials);
        let state = State { clip_value: 1e18, ..applied_state(1, BETA) };
        let (of_rows, of_cols) = reference::adafactor_scan(&state, &wide(&gradient), WIDTH);
        let add = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>();
        let (rows, cols) = found.split_at(2 * HEIGHT);
        assert_close("rows", &add(&rows[..HEIGHT], &rows[HEIGHT..]), &of_rows, PARTIAL);
        let cols = add(&cols[..4 * quads as usize], &cols[4 * quads as usize..]);
        assert_close("columns", &cols[..WIDTH], &of_cols, PARTIAL);
        assert!(cols[WIDTH..].iter().all(|&x| x == 0.0), "padding");
    }
}

pub fn adafactor_factors(gpu: &Gpu) {
    let count = 11;
    for (verdict, steps) in [(APPLY, 1), (APPLY, 2), (APPLY, 1000), (APPLY, 10_000_019), (SKIP, 7)]
    {
        // Two blocks of 8 and 3 quads, each the sum over 11 tiles.
        let sums: Vec<f32> = values(1, count * 44).iter().map(|x| x.abs()).collect();
        let old: Vec<f32> = values(2, 44).iter().map(|x| x.abs() / 9.0).collect();
        let block = FactorBlock {
            first: 0,
            stride: 11,
            count: count as u32,
            quads: 8,
            target_quad: 1,
            elements: 13,
            tensor: 0,
        };
        let blocks = [block, FactorBlock { first: 8, quads: 3, target_quad: 9, ..block }];
        let kept = [vec![0.5; 4], old.clone(), vec![0.5; 4]].concat();
        let variance = gpu.upload("variance", &kept);
        gpu.run(&AdafactorFactors {
            params: AdafactorFactorsParams { block_count: 2, decay_power: 0.8 },
            state: bind(&gpu.upload("state", &[StepState { verdict, ..applied() }])),
            blocks: bind(&gpu.upload("blocks", &blocks)),
            tensors: bind(&gpu.upload("tensors", &[tensor_at(steps, BETA)])),
            partials: bind(&gpu.upload("sums", &sums)),
            variance: bind(&variance),
        });
        let found = read(gpu, &variance);
        let total = |i: usize| (0..count).map(|k| f64::from(sums[44 * k + i])).sum::<f64>();
        let totals: Vec<_> = (0..44).map(total).collect();
        let mut expected = if steps == 1 { vec![0.0; 44] } else { wide(&old) };
        let state = State { applied: verdict == APPLY, ..applied_state(steps, BETA) };
        reference::adafactor_factors(0.8, &state, &totals, 13, &mut expected);
        let tolerance = if verdict == APPLY { PARTIAL } else { EXACT };
        assert_close(&format!("step {steps}"), &found[4..48], &expected, tolerance);
        assert!(found[..4].iter().chain(&found[48..]).all(|&x| x == 0.5));
    }
}

pub fn adafactor_squares(gpu: &Gpu) {
    // A vector of 7 and a matrix, and what is kept of both behind one quad of something else.
    let gradients = [values(1, 7), values(2, HEIGHT * WIDTH)];
    let flat = [pad(&gradients[0], 7), pad(&gradients[1], WIDTH)].concat();
    let table = chunks([(0, 8), (8, (flat.len() - 8) as u64)]);
    let positive =
        |seed, count| -> Vec<f32> { values(seed, count).iter().map(|x| x * x + 1e-3).collect() };
    let (own, of_rows, of_cols) = (positive(3, 7), positive(4, HEIGHT), positive(5, WIDTH));
    let variance =
        [vec![0.0; 4], pad(&own, 7), pad(&of_rows, HEIGHT), pad(&of_cols, WIDTH)].concat();
    let quads = WIDTH.div_ceil(4) as u32;
    let shapes = [
        FactoredTensor { row_quads: 2, variance_cols: 1, ..FactoredTensor::default() },
        FactoredTensor {
            offset: 2,
            row_quads: quads,
            rows: HEIGHT as u32,
            variance_rows: 3,
            variance_cols: 3 + HEIGHT.div_ceil(4) as u32,
            mean: 2,
            ..FactoredTensor::default()
        },
    ];
    let mean = wide(&of_rows).iter().sum::<f64>() / HEIGHT as f64;
    let partials = gpu.buffer("partials", 4 * table.len() as u64);
    let steps = 5;
    gpu.run(&AdafactorSquares {
        params: AdafactorSquaresParams {
            chunk_count: table.len() as u32,
            decay_power: 0.8,
            eps1: 0.125,
        },
        state: bind(&gpu.upload("state", &[applied()])),
        chunks: bind(&gpu.upload("chunks", &table)),
        tensors: bind(&gpu.upload("tensors", &[tensor_at(steps, BETA); 2])),
        shapes: bind(&gpu.upload("shapes", &shapes)),
        gradient: bind(&gpu.upload("gradient", &flat)),
        variance: bind(&gpu.upload("variance", &variance)),
        factors: bind(&gpu.upload("factors", &[0.0, 0.0, mean as f32])),
        partials: bind(&partials),
    });
    let settings = AdafactorSettings {
        decay_power: 0.8,
        eps1: 0.125,
        eps2: 1e-3,
        clip_threshold: 1.0,
        weight_decay: 0.0,
        learning_rate_factor: 1.0,
    };
    let state = applied_state(steps, BETA);
    let mut own = wide(&own);
    let squares: Vec<_> = gradients[0].iter().map(|&g| (0.25 * f64::from(g)).powi(2)).collect();
    reference::adafactor_factors(0.8, &state, &squares, 1, &mut own);
    let factored = Variance::Factored {
        rows: HEIGHT,
        cols: WIDTH,
        of_rows: wide(&of_rows),
        of_cols: wide(&of_cols),
    };
    let expected = [(0, Variance::Full(own)), (1, factored)].map(|(i, variance)| {
        reference::adafactor_squares(&settings, &state, &wide(&gradients[i]), &variance)
    });
    let found = read(gpu, &partials);
    let matrix = found[1..table.len()].iter().sum();
    assert_close("sums of u²", &[found[0], matrix], &expected, PARTIAL);
}

pub fn adafactor(gpu: &Gpu) {
    let rule = train::Adafactor { weight_decay: 0.1, ..train::Adafactor::default() };
    runs::check(gpu, Rule::Adafactor(rule));
    // A relative step of 1, which 1 / sqrt(t) bounds from the second on.
    runs::check_constant_rate(gpu, Rule::Adafactor(rule), 1.0);
    runs::check_many_tensors(gpu, Rule::Adafactor(rule), 1000);
    let rule = train::Adafactor {
        beta2_decay: -0.5,
        eps: [1e-3, 0.3],
        clip_threshold: 0.5,
        weight_decay: 0.0,
        ..rule
    };
    runs::check_option(gpu, Rule::Adafactor(rule));
}
