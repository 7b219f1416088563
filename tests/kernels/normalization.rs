//! Layer, RMS and batch normalization: row lengths around the quad and the workgroup, the shapes
//! of published tests, large common offsets, rows whose elements are all equal.

use evenkeel::kernels::*;
use evenkeel::{Gpu, reference};

use super::support::{Tolerance, assert_close, pad, read, unpad, values, wide};

/// (rows, cols)
const SHAPES: &[(usize, usize)] = &[
    (1, 1),
    (3, 3),
    (2, 4),
    (5, 255),
    (3, 256),
    (4, 257),
    (2, 1009),
    (71, 229),
    (29, 541),
    (2, 12_288),
    (65_600, 3),
];
/// (rows, features)
const BATCHES: &[(usize, usize)] = &[(1, 5), (2, 3), (64, 4), (257, 17), (1009, 6), (65, 257)];
const EPS: f32 = 1e-5;

rows! {
    layer_norm,
    residual_layer_norm,
    layer_norm_backward,
    layer_norm_parameter_partials,
    rms_norm,
    residual_rms_norm,
    rms_norm_backward,
    rms_norm_parameter_partials,
    row_norms,
    batch_norm_statistics,
    batch_norm,
    batch_norm_backward,
    batch_norm_running,
}

/// Rounding of x, of magnitude 1, that 1 / std magnifies.
fn output_rounding(rstd: &[f64]) -> Tolerance {
    Tolerance {
        absolute: 4e-7 * largest(rstd),
        relative: 2e-6,
        because: "rounding of centred elements, magnified by 1 / std",
    }
}

/// The same, magnified twice: in xhat and by the factor rstd.
fn gradient_rounding(rstd: &[f64]) -> Tolerance {
    let rstd = largest(rstd);
    Tolerance {
        absolute: 1e-6 * rstd + 2e-7 * rstd * rstd,
        relative: 2e-6,
        because: "rounding in xhat, magnified by 1 / std squared",
    }
}

const STATISTICS: Tolerance = Tolerance {
    absolute: 2e-7,
    relative: 2e-6,
    because: "rounding of two f32 sums; inverseSqrt has 2 ULP",
};

fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// Data of one row norm: x, residual, dy, further gradient (rows, cols), weight, bias (cols).
struct Case {
    rows: usize,
    cols: usize,
    x: Vec<f32>,
    residual: Vec<f32>,
    dy: Vec<f32>,
    further: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    /// What RMSNorm adds to the weights.
    weight_offset: f32,
}

/// What a forward kernel wrote; `statistics` has two or four numbers per row.
struct Output {
    sum: Vec<f32>,
    y: Vec<f32>,
    statistics: Vec<f32>,
}

impl Case {
    fn new(&(rows, cols): &(usize, usize)) -> Self {
        let mut seed = 0;
        let mut tensor = |count| {
            seed += 1;
            values(seed, count)
        };
        let count = rows * cols;
        Self {
            rows,
            cols,
            x: tensor(count),
            residual: tensor(count),
            dy: tensor(count),
            further: tensor(count),
            weight: tensor(cols),
            bias: tensor(cols),
            weight_offset: 0.0,
        }
    }

    /// Weights as they are applied.
    fn wide_weight(&self) -> Vec<f64> {
        wide(&self.weight).iter().map(|weight| f64::from(self.weight_offset) + weight).collect()
    }

    /// Rows that are all equal: of zeros, of large and of small elements.
    fn constant(cols: usize) -> Self {
        let constants = [0.0, 12_345.678, -1e-3];
        let x = constants.iter().flat_map(|&x| vec![x; cols]).collect();
        Self { x, residual: vec![0.0; 3 * cols], ..Self::new(&(3, cols)) }
    }

    fn upload(&self, gpu: &Gpu, dense: &[f32]) -> wgpu::Buffer {
        gpu.upload("tensor", &pad(dense, self.cols))
    }

    fn dense(&self, gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<f32> {
        unpad(&read(gpu, buffer)[..self.rows * self.cols.next_multiple_of(4)], self.cols)
    }

    fn output(&self, gpu: &Gpu, forward: Forward) -> Output {
        let [x, residual] = [&self.x, &self.residual].map(|t| self.upload(gpu, t));
        let [weight, bias] = [&self.weight, &self.bias].map(|t| self.upload(gpu, t));
        let [sum, y] = [(); 2].map(|()| self.upload(gpu, &vec![9.0; self.x.len()]));
        let numbers = self.rows * if forward.rms { 2 } else { 4 };
        let statistics = gpu.buffer("statistics", numbers as u64 * 4);
        let (rows, cols, eps) = (self.rows as u32, self.cols as u32, EPS);
        let [x, residual, weight, bias, gsum, gy, gstatistics] =
            [&x, &residual, &weight, &bias, &sum, &y, &statistics]
                .map(wgpu::Buffer::as_entire_buffer_binding);
        match forward {
            Forward { rms: false, residual: false } => gpu.run(&LayerNorm {
                params: LayerNormParams { rows, cols, eps },
                x,
                weight,
                bias,
                y: gy,
                statistics: gstatistics,
            }),
            Forward { rms: false, residual: true } => gpu.run(&ResidualLayerNorm {
                params: ResidualLayerNormParams { rows, cols, eps },
                x,
                residual,
                weight,
                bias,
                sum: gsum,
                y: gy,
                statistics: gstatistics,
            }),
            Forward { rms: true, residual: false } => gpu.run(&RmsNorm {
                params: RmsNormParams { rows, cols, eps, weight_offset: self.weight_offset },
                x,
                weight,
                y: gy,
                statistics: gstatistics,
            }),
            Forward { rms: true, residual: true } => gpu.run(&ResidualRmsNorm {
                params: ResidualRmsNormParams {
                    rows,
                    cols,
                    eps,
                    weight_offset: self.weight_offset,
                },
                x,
                residual,
                weight,
                sum: gsum,
                y: gy,
                statistics: gstatistics,
            }),
        }
        Output {
            sum: self.dense(gpu, &sum),
            y: self.dense(gpu, &y),
            statistics: read(gpu, &statistics)[..numbers].to_vec(),
        }
    }

    fn check(&self, gpu: &Gpu, forward: Forward) {
        let Output { sum, y, statistics } = self.output(gpu, forward);
        let (weight, bias) = (self.wide_weight(), wide(&self.bias));
        let eps = f64::from(EPS);
        let mut x = wide(&self.x);
        if forward.residual {
            let exact: Vec<_> =
                self.x.iter().zip(&self.residual).map(|(a, b)| f64::from(*a + *b)).collect();
            assert_close("sum", &sum, &exact, STATISTICS);
            // The norm is of the sum as stored.
            x = wide(&sum);
        }
        if forward.rms {
            let expected = reference::normalization::rms_norm(&x, &weight, eps);
            let rstd: Vec<_> = statistics.iter().step_by(2).copied().collect();
            assert_close("rstd", &rstd, &expected.rstd, STATISTICS);
            assert!(statistics.iter().skip(1).step_by(2).all(|&scale| scale == 1.0));
            assert_close("y", &y, &expected.y, output_rounding(&[1.0]));
        } else {
            let expected = reference::normalization::layer_norm(&x, &weight, &bias, eps);
            let means: Vec<_> = statistics.chunks(4).map(|row| row[0] + row[1]).collect();
            let rstd: Vec<_> = statistics.chunks(4).map(|row| row[2]).collect();
            assert!(statistics.chunks(4).all(|row| row[3] == 1.0));
            assert_close("mean", &means, &expected.mean, STATISTICS);
            let cancelling = Tolerance {
                relative: 2e-6 + 4e-7 * largest(&expected.rstd),
                because: "the deviations that make the variance are rounded",
                ..STATISTICS
            };
            assert_close("rstd", &rstd, &expected.rstd, cancelling);
            assert_close("y", &y, &expected.y, output_rounding(&expected.rstd));
        }
    }

    /// Statistics as the forward kernel stores them, from the reference.
    fn statistics(&self, rms: bool) -> (Vec<f32>, Vec<f64>) {
        let (x, ones, eps) = (wide(&self.x), vec![1.0; self.cols], f64::from(EPS));
        if rms {
            let rstd = reference::normalization::rms_norm(&x, &ones, eps).rstd;
            return (rstd.iter().flat_map(|&r| [r as f32, 1.0]).collect(), rstd);
        }
        let norm = reference::normalization::layer_norm(&x, &ones, &ones, eps);
        let rows = x.chunks(self.cols).zip(norm.mean.iter().zip(&norm.rstd));
        let stored =
            rows.flat_map(|(x, (m, &r))| [x[0] as f32, (m - x[0]) as f32, r as f32, 1.0]).collect();
        (stored, norm.rstd)
    }

    fn check_backward(&self, gpu: &Gpu, rms: bool) {
        let (stored, rstd) = self.statistics(rms);
        let [x, dy, further] = [&self.x, &self.dy, &self.further].map(|t| self.upload(gpu, t));
        let (weight, statistics) =
            (self.upload(gpu, &self.weight), gpu.upload("statistics", &stored));
        for add_residual in [0, 1] {
            let dx = self.upload(gpu, &vec![9.0; self.x.len()]);
            let (rows, cols) = (self.rows as u32, self.cols as u32);
            let [x, weight, dy, statistics, residual_gradient, gdx] =
                [&x, &weight, &dy, &statistics, &further, &dx]
                    .map(wgpu::Buffer::as_entire_buffer_binding);
            let further = wide(&self.further);
            let further = (add_residual == 1).then_some(further.as_slice());
            let (wx, ww, wdy) = (wide(&self.x), self.wide_weight(), wide(&self.dy));
            let eps = f64::from(EPS);
            let expected = if rms {
                gpu.run(&RmsNormBackward {
                    params: RmsNormBackwardParams {
                        rows,
                        cols,
                        add_residual,
                        weight_offset: self.weight_offset,
                    },
                    x,
                    weight,
                    dy,
                    statistics,
                    residual_gradient,
                    x_gradient: gdx,
                });
                reference::normalization::rms_norm_backward(&wx, &ww, &wdy, eps, further)
            } else {
                gpu.run(&LayerNormBackward {
                    params: LayerNormBackwardParams { rows, cols, add_residual },
                    x,
                    weight,
                    dy,
                    statistics,
                    residual_gradient,
                    x_gradient: gdx,
                });
                reference::normalization::layer_norm_backward(&wx, &ww, &wdy, eps, further)
            };
            assert_close("dx", &self.dense(gpu, &dx), &expected, gradient_rounding(&rstd));
        }
    }

    fn check_partials(&self, gpu: &Gpu, rms: bool, rows_per_block: usize) {
        let (stored, rstd) = self.statistics(rms);
        let blocks = self.rows.div_ceil(rows_per_block);
        let [x, dy] = [&self.x, &self.dy].map(|t| self.upload(gpu, t));
        let statistics = gpu.upload("statistics", &stored);
        let padded = blocks * self.cols.next_multiple_of(4);
        let [dweight, dbias] = [(); 2].map(|()| gpu.buffer("partials", padded as u64 * 4));
        let (rows, cols, per_block, blocks) =
            (self.rows as u32, self.cols as u32, rows_per_block as u32, blocks as u32);
        let [x, dy, statistics, weight_partials, bias_partials] =
            [&x, &dy, &statistics, &dweight, &dbias].map(wgpu::Buffer::as_entire_buffer_binding);
        let (wx, wdy, eps) = (wide(&self.x), wide(&self.dy), f64::from(EPS));
        let terms = rows_per_block.min(self.rows) as f64;
        let rounding = Tolerance {
            absolute: terms * (3e-7 + 4e-7 * if rms { 1.0 } else { largest(&rstd) }),
            relative: 2e-6,
            because: "an f32 sum of dy xhat, whose rounding 1 / std magnifies",
        };
        let dense = |buffer| unpad(&read(gpu, buffer)[..padded], self.cols);
        if rms {
            gpu.run(&RmsNormParameterPartials {
                params: RmsNormParameterPartialsParams {
                    rows,
                    cols,
                    rows_per_block: per_block,
                    blocks,
                },
                x,
                dy,
                statistics,
                weight_partials,
            });
            let expected = reference::normalization::rms_norm_parameter_partials(
                &wx,
                &wdy,
                self.cols,
                eps,
                rows_per_block,
            );
            assert_close("dweight", &dense(&dweight), &expected, rounding);
        } else {
            gpu.run(&LayerNormParameterPartials {
                params: LayerNormParameterPartialsParams {
                    rows,
                    cols,
                    rows_per_block: per_block,
                    blocks,
                },
                x,
                dy,
                statistics,
                weight_partials,
                bias_partials,
            });
            let (expected_weight, expected_bias) =
                reference::normalization::layer_norm_parameter_partials(
                    &wx,
                    &wdy,
                    self.cols,
                    eps,
                    rows_per_block,
                );
            assert_close("dweight", &dense(&dweight), &expected_weight, rounding);
            assert_close("dbias", &dense(&dbias), &expected_bias, rounding);
        }
    }
}

#[derive(Clone, Copy)]
struct Forward {
    rms: bool,
    residual: bool,
}

/// About normal with variance 1 around 1e4.
fn offset_values(seed: u64, count: usize) -> Vec<f32> {
    let uniform = values(seed, 3 * count);
    uniform.chunks(3).map(|u| 1e4 + u[0] + u[1] + u[2]).collect()
}

fn check_forward(gpu: &Gpu, forward: Forward) {
    for shape in SHAPES {
        Case::new(shape).check(gpu, forward);
    }
    for cols in [1, 3, 257] {
        Case::constant(cols).check(gpu, forward);
    }
}

fn check_offset(gpu: &Gpu, residual: bool) {
    let (rows, cols) = (4, 769);
    let case = Case {
        x: offset_values(11, rows * cols),
        residual: vec![0.0; rows * cols],
        ..Case::new(&(rows, cols))
    };
    case.check(gpu, Forward { rms: false, residual });
    let norm = reference::normalization::layer_norm(
        &wide(&case.x),
        &wide(&case.weight),
        &wide(&case.bias),
        0.0,
    );
    let statistics = case.output(gpu, Forward { rms: false, residual }).statistics;
    for (r, row) in statistics.chunks(4).enumerate() {
        let variance = f64::from(row[2]).powi(-2) - f64::from(EPS);
        let expected = norm.rstd[r].powi(-2);
        assert!((variance / expected - 1.0).abs() < 1e-5, "variance {variance}, not {expected}");
    }
    // Equal elements are centred exactly, whatever their size.
    let case = Case::constant(257);
    let y = case.output(gpu, Forward { rms: false, residual }).y;
    assert!(y.chunks(257).all(|row| row == case.bias), "a constant row is not its bias");
}

fn layer_norm(gpu: &Gpu) {
    check_forward(gpu, Forward { rms: false, residual: false });
    check_offset(gpu, false);
}

fn residual_layer_norm(gpu: &Gpu) {
    check_forward(gpu, Forward { rms: false, residual: true });
    check_offset(gpu, true);
}

/// Weights that are stored as what they differ from 1 by.
fn around_one() -> impl Iterator<Item = Case> {
    let shapes = [(1, 1), (3, 13), (5, 260)].into_iter();
    shapes.map(|shape| Case { weight_offset: 1.0, ..Case::new(&shape) })
}

fn rms_norm(gpu: &Gpu) {
    check_forward(gpu, Forward { rms: true, residual: false });
    for case in around_one() {
        case.check(gpu, Forward { rms: true, residual: false });
    }
}

fn residual_rms_norm(gpu: &Gpu) {
    check_forward(gpu, Forward { rms: true, residual: true });
    for case in around_one() {
        case.check(gpu, Forward { rms: true, residual: true });
    }
}

fn layer_norm_backward(gpu: &Gpu) {
    for shape in SHAPES {
        Case::new(shape).check_backward(gpu, false);
    }
    Case::constant(257).check_backward(gpu, false);
    // A gradient that is much the same throughout: what it has in common does not count.
    let (rows, cols) = (3, 257);
    let dy = offset_values(13, rows * cols);
    let case = Case { dy, weight: vec![1.0; cols], ..Case::new(&(rows, cols)) };
    case.check_backward(gpu, false);
}

fn rms_norm_backward(gpu: &Gpu) {
    for shape in SHAPES {
        Case::new(shape).check_backward(gpu, true);
    }
    Case::constant(257).check_backward(gpu, true);
    for case in around_one() {
        case.check_backward(gpu, true);
    }
}

fn layer_norm_parameter_partials(gpu: &Gpu) {
    for shape in SHAPES {
        Case::new(shape).check_partials(gpu, false, if shape.0 > 65_535 { 1 } else { 16 });
    }
}

fn rms_norm_parameter_partials(gpu: &Gpu) {
    for shape in SHAPES {
        Case::new(shape).check_partials(gpu, true, if shape.0 > 65_535 { 1 } else { 16 });
    }
}

/// Means and variances of x (rows, features), dense, of what the kernel gives.
fn mean_variance(gpu: &Gpu, x: &[f32], features: usize) -> Vec<f32> {
    let moments = wide(&statistics(gpu, x, features));
    let narrow = reference::normalization::batch_norm_mean_variance(&moments);
    narrow.into_iter().map(|value| value as f32).collect()
}

/// Statistics of x (rows, features) as the kernel gives them, dense.
fn statistics(gpu: &Gpu, x: &[f32], features: usize) -> Vec<f32> {
    let gx = gpu.upload("x", &pad(x, features));
    let out = gpu.buffer("statistics", features.next_multiple_of(4) as u64 * 16);
    gpu.run(&BatchNormStatistics {
        params: BatchNormStatisticsParams {
            rows: (x.len() / features) as u32,
            features: features as u32,
        },
        x: gx.as_entire_buffer_binding(),
        statistics: out.as_entire_buffer_binding(),
    });
    unpad(&read(gpu, &out), features)
}

fn batch_norm_statistics(gpu: &Gpu) {
    for &(rows, features) in BATCHES.iter().chain(&[(2, 262_150)]) {
        let x = values(1, rows * features);
        let expected = reference::normalization::batch_norm_statistics(&wide(&x), features);
        assert_close("statistics", &mean_variance(gpu, &x, features), &expected, STATISTICS);
    }
    let x = offset_values(12, 1009 * 6);
    let expected = reference::normalization::batch_norm_statistics(&wide(&x), 6);
    assert_close("offset statistics", &mean_variance(gpu, &x, 6), &expected, STATISTICS);
    // Equal elements have exactly their mean, and no variance.
    let row = [0.1, 12_345.678, -7e5 / 3.0];
    for rows in [3, 257, 1009] {
        let constant = mean_variance(gpu, &row.repeat(rows), 3);
        assert_eq!(constant, [row, [0.0; 3]].concat(), "{rows} rows");
    }
}

fn batch_norm(gpu: &Gpu) {
    for &(rows, features) in BATCHES.iter().chain(&[(262_150, 13)]) {
        let x = values(2, rows * features);
        let [weight, bias] = [3, 4].map(|seed| values(seed, features));
        let means = values(5, features);
        let variances: Vec<_> = values(6, features).iter().map(|v| 1.5 + v).collect();
        let given = [means, variances].concat();
        let [gx, gweight, gbias, gstatistics] =
            [&x, &weight, &bias, &given].map(|t| gpu.upload("tensor", &pad(t, features)));
        let y = gpu.upload("y", &vec![9.0f32; gx.size() as usize / 4]);
        gpu.run(&BatchNorm {
            params: BatchNormParams {
                rows: rows as u32,
                features: features as u32,
                eps: EPS,
                given: 1,
            },
            x: gx.as_entire_buffer_binding(),
            statistics: gstatistics.as_entire_buffer_binding(),
            weight: gweight.as_entire_buffer_binding(),
            bias: gbias.as_entire_buffer_binding(),
            y: y.as_entire_buffer_binding(),
        });
        let expected = reference::normalization::batch_norm(
            &wide(&x),
            &wide(&given),
            &wide(&weight),
            &wide(&bias),
            EPS.into(),
        );
        let actual = unpad(&read(gpu, &y)[..rows * features.next_multiple_of(4)], features);
        assert_close("y", &actual, &expected, output_rounding(&[1.5]));
    }
}

fn batch_norm_backward(gpu: &Gpu) {
    for (&(rows, features), offset) in BATCHES.iter().flat_map(|b| [(b, 0.0), (b, 1e4)]) {
        let x = values(7, rows * features);
        // With an offset, a gradient that is much the same throughout.
        let dy: Vec<_> = values(8, rows * features).iter().map(|dy| dy + offset).collect();
        let weight = values(9, features);
        let before = values(10, features);
        let (wx, wdy, ww) = (wide(&x), wide(&dy), wide(&weight));
        let expected = reference::normalization::batch_norm_backward(&wx, &ww, &wdy, EPS.into());
        let exact = reference::normalization::batch_norm_statistics(&wx, features);
        let rstd: Vec<_> =
            exact[features..].iter().map(|v| (v + f64::from(EPS)).powf(-0.5)).collect();
        let stored = reference::normalization::batch_norm_moments(&wx, &exact);
        let stored: Vec<_> = stored.into_iter().map(|s| s as f32).collect();
        let [gx, gdy, gweight, gstatistics] =
            [&x, &dy, &weight, &stored].map(|t| gpu.upload("tensor", &pad(t, features)));
        for accumulate in [0, 1] {
            let dx = gpu.upload("dx", &vec![9.0f32; gx.size() as usize / 4]);
            let [dweight, dbias] =
                [(); 2].map(|()| gpu.upload("gradient", &pad(&before, features)));
            gpu.run(&BatchNormBackward {
                params: BatchNormBackwardParams {
                    rows: rows as u32,
                    features: features as u32,
                    eps: EPS,
                    accumulate,
                },
                x: gx.as_entire_buffer_binding(),
                dy: gdy.as_entire_buffer_binding(),
                statistics: gstatistics.as_entire_buffer_binding(),
                weight: gweight.as_entire_buffer_binding(),
                x_gradient: dx.as_entire_buffer_binding(),
                dweight: dweight.as_entire_buffer_binding(),
                dbias: dbias.as_entire_buffer_binding(),
            });
            let actual = unpad(&read(gpu, &dx)[..rows * features.next_multiple_of(4)], features);
            assert_close("dx", &actual, &expected.dx, gradient_rounding(&rstd));
            let sum_rounding = Tolerance {
                absolute: rows as f64 * (1e-7 + 1e-7 * largest(&rstd)),
                relative: 2e-6,
                because: "an f32 sum of dy xhat, whose rounding 1 / std magnifies",
            };
            for (buffer, sum) in [(&dweight, &expected.dweight), (&dbias, &expected.dbias)] {
                let kept = before.iter().map(|&b| f64::from(b) * f64::from(accumulate));
                let expected: Vec<_> = sum.iter().zip(kept).map(|(s, b)| s + b).collect();
                let actual = unpad(&read(gpu, buffer), features);
                assert_close("parameter gradient", &actual, &expected, sum_rounding);
            }
        }
    }
}

fn batch_norm_running(gpu: &Gpu) {
    for (rows, features) in [(1, 5), (2, 3), (257, 17), (64, 1009)] {
        let base = [values(1, features), vec![1.0; features]].concat();
        let batches = [2, 3].map(|seed| statistics(gpu, &values(seed, rows * features), features));
        let gbase = gpu.upload("base", &pad(&base, features));
        let staged = gpu.upload("staged", &vec![9.0f32; gbase.size() as usize / 4]);
        let mut expected = wide(&base);
        for (from_staged, batch) in (0..).zip(&batches) {
            let gbatch = gpu.upload("batch", &pad(batch, features));
            gpu.run(&BatchNormRunning {
                params: BatchNormRunningParams {
                    features: features as u32,
                    rows: rows as u32,
                    momentum: 0.1,
                    from_staged,
                },
                batch: gbatch.as_entire_buffer_binding(),
                base: gbase.as_entire_buffer_binding(),
                staged: staged.as_entire_buffer_binding(),
            });
            expected = reference::normalization::batch_norm_running(
                &expected,
                &reference::normalization::batch_norm_mean_variance(&wide(batch)),
                rows,
                f64::from(0.1f32),
            );
            let actual = unpad(&read(gpu, &staged)[..2 * features.next_multiple_of(4)], features);
            assert_close("staged", &actual, &expected, STATISTICS);
        }
        assert_eq!(unpad(&read(gpu, &gbase)[..2 * features.next_multiple_of(4)], features), base);
    }
}

/// Norms of some rows of a matrix, alone and with another added to them.
fn row_norms(gpu: &Gpu) {
    for &(rows, cols) in SHAPES {
        let [w_first, first] = [rows / 3, 2];
        let count = rows - w_first;
        let check = |w: &[f32], delta: &[f32], has_delta: u32, relative: f64| {
            let (gw, gdelta) = (gpu.upload("w", &pad(w, cols)), gpu.upload("d", &pad(delta, cols)));
            let norms = gpu.upload("norms", &vec![7.0f32; (first + count).next_multiple_of(4)]);
            gpu.run(&RowNorms {
                params: RowNormsParams {
                    rows: count as u32,
                    cols: cols as u32,
                    first: first as u32,
                    w_rows: rows as u32,
                    w_first_row: w_first as u32,
                    has_delta,
                },
                w: gw.as_entire_buffer_binding(),
                delta: gdelta.as_entire_buffer_binding(),
                norms: norms.as_entire_buffer_binding(),
            });
            let own = wide(&w[w_first * cols..]);
            let added = wide(delta).into_iter().map(|d| d * f64::from(has_delta));
            let sums: Vec<_> = own.iter().zip(added).map(|(w, d)| w + d).collect();
            let expected = reference::normalization::row_norms(&sums, cols);
            let actual = read(gpu, &norms);
            let because = "rounding of a sum of squares and of a root";
            let rounding = Tolerance { absolute: 0.0, relative, because };
            assert_close("row_norms", &actual[first..first + count], &expected, rounding);
            assert_eq!(actual[..first], [7.0; 2]);
        };
        let (w, delta) = (values(1, rows * cols), values(2, count * cols));
        let relative = 1e-6 + 1e-7 * (cols as f64).sqrt();
        check(&w, &delta, 0, relative);
        // Sums of two numbers that cancel keep their rounding.
        check(&w.iter().map(|w| 2.0 + w).collect::<Vec<_>>(), &delta, 1, relative);
        // Squares beyond f32.
        check(&w.iter().map(|w| 1e30 * (2.0 + w)).collect::<Vec<_>>(), &delta, 1, relative);
        check(&vec![0.0; rows * cols], &delta, 0, relative);
    }
}
