//! Softmax and log-sum-exp: row lengths around the quad and the workgroup, masked and empty rows,
//! large offsets, values that are not finite.

use evenkeel::kernels::*;
use evenkeel::{Gpu, reference};

use super::support::{self, Tolerance, assert_close, pad, read, tokens, unpad, values, wide};

/// (rows, cols)
const SHAPES: &[(usize, usize)] =
    &[(1, 1), (2, 3), (3, 4), (5, 255), (4, 256), (3, 257), (3, 1009), (2, 32_000), MANY];
/// More than 65,535 workgroups; one variant of masking is enough for them.
const MANY: (usize, usize) = (65_600, 3);

const EXPONENTIAL: Tolerance = Tolerance {
    absolute: 2e-38,
    relative: 5e-6,
    because: "WGSL's exp(x) has 3 + 2|x| ULP and |x| <= 16; results below exp(-87) are 0",
};
const LOGARITHM: Tolerance = Tolerance {
    absolute: 1.5e-6,
    relative: 1.2e-7,
    because: "log turns the relative error of the exponentials into an absolute one",
};

tests! {
    scores_at_the_ends_of_f32,
}

rows! { softmax, softmax_backward, log_sum_exp, log_sum_exp_backward }

/// Rows within 16 of each other, each with an offset of its own, and their valid lengths.
struct Case {
    rows: usize,
    cols: usize,
    x: Vec<f32>,
    lengths: Vec<u32>,
    valid_cols: usize,
    use_lengths: bool,
}

impl Case {
    fn new(rows: usize, cols: usize, valid_cols: usize, use_lengths: bool) -> Self {
        let mut x = values(1, rows * cols);
        for (r, row) in x.chunks_mut(cols).enumerate() {
            let offset = [0.0, 1e4, -300.0][r % 3];
            row.iter_mut().for_each(|x| *x = *x * 8.0 + offset);
        }
        let mut lengths = tokens(2, rows, cols as u32 + 1);
        lengths[rows / 2] = 0;
        Self { rows, cols, x, lengths, valid_cols, use_lengths }
    }

    /// Every shape: unmasked, masked by a column, by lengths (one of them 0), by both.
    fn all() -> impl Iterator<Item = Self> {
        SHAPES.iter().flat_map(|&(rows, cols)| {
            let partly = cols.div_ceil(2);
            [(cols, false), (partly, false), (cols, true), (partly, true)]
                .into_iter()
                .skip(if (rows, cols) == MANY { 3 } else { 0 })
                .map(move |(valid_cols, use_lengths)| {
                    Self::new(rows, cols, valid_cols, use_lengths)
                })
        })
    }

    fn valid(&self) -> Vec<usize> {
        let length = |r: usize| if self.use_lengths { self.lengths[r] as usize } else { self.cols };
        (0..self.rows).map(|r| length(r).min(self.valid_cols)).collect()
    }

    fn padded(&self, gpu: &Gpu) -> wgpu::Buffer {
        gpu.upload("x", &pad(&self.x, self.cols))
    }

    fn softmax(&self, gpu: &Gpu) -> Vec<f32> {
        let (x, lengths) = (self.padded(gpu), gpu.upload("lengths", &self.lengths));
        let y = gpu.upload("y", &vec![9.0f32; x.size() as usize / 4]);
        gpu.run(&Softmax {
            params: SoftmaxParams {
                rows: self.rows as u32,
                cols: self.cols as u32,
                valid_cols: self.valid_cols as u32,
                use_lengths: self.use_lengths.into(),
            },
            x: x.as_entire_buffer_binding(),
            lengths: lengths.as_entire_buffer_binding(),
            y: y.as_entire_buffer_binding(),
        });
        let quads = self.rows * self.cols.div_ceil(4);
        unpad(&read(gpu, &y)[..quads * 4], self.cols)
    }

    /// The results, and what the backward pass wants of each row.
    fn log_sum_exp(&self, gpu: &Gpu) -> (Vec<f32>, Vec<f32>) {
        let (x, lengths) = (self.padded(gpu), gpu.upload("lengths", &self.lengths));
        let y = gpu.buffer("y", self.rows as u64 * 4);
        let statistics = gpu.buffer("statistics", self.rows as u64 * 8);
        gpu.run(&LogSumExp {
            params: LogSumExpParams {
                rows: self.rows as u32,
                cols: self.cols as u32,
                valid_cols: self.valid_cols as u32,
                use_lengths: self.use_lengths.into(),
            },
            x: x.as_entire_buffer_binding(),
            lengths: lengths.as_entire_buffer_binding(),
            y: y.as_entire_buffer_binding(),
            statistics: statistics.as_entire_buffer_binding(),
        });
        let both = [(&y, self.rows), (&statistics, 2 * self.rows)];
        let [y, statistics] = both.map(|(buffer, count)| read(gpu, buffer)[..count].to_vec());
        (y, statistics)
    }
}

fn softmax(gpu: &Gpu) {
    for case in Case::all() {
        let expected = reference::softmax::softmax(&wide(&case.x), case.cols, &case.valid());
        assert_close("softmax", &case.softmax(gpu), &expected, EXPONENTIAL);
    }
    // Differences beyond the range of exp, the lowest f32 as a mask, a row of nothing else, -Inf,
    // a row of nothing else.
    let mut case = Case::new(5, 3, 3, false);
    case.x = vec![1e30, -1e30, 0.0, 5.0, f32::MIN, 5.0, f32::MIN, f32::MIN, f32::MIN];
    case.x.extend([1.0, f32::NEG_INFINITY, 1.0]);
    case.x.extend([f32::NEG_INFINITY; 3]);
    let third = 1.0 / 3.0;
    let expected =
        [1.0, 0.0, 0.0, 0.5, 0.0, 0.5, third, third, third, 0.5, 0.0, 0.5, 0.0, 0.0, 0.0];
    assert_close("softmax", &case.softmax(gpu), &expected, EXPONENTIAL);

    // Neither NaN nor +Inf may hide; the rows beside stay as they are.
    for (bad, position) in [(f32::NAN, 70), (-f32::NAN, 0), (f32::INFINITY, 256)] {
        let mut case = Case::new(3, 257, 257, false);
        case.x[257 + position] = bad;
        let y = case.softmax(gpu);
        assert!(y[257..514].iter().all(|y| !y.is_finite()), "{bad} at {position} is hidden");
        assert!(y[..257].iter().chain(&y[514..]).all(|y| y.is_finite()), "{bad} leaks");
        case.use_lengths = true;
        case.lengths = vec![257, position as u32, 257];
        assert!(case.softmax(gpu).iter().all(|y| y.is_finite()), "a masked {bad} counts");
    }
}

fn softmax_backward(gpu: &Gpu) {
    for &(rows, cols) in SHAPES {
        let (x, dy) = (wide(&values(3, rows * cols)), values(4, rows * cols));
        let y = reference::softmax::softmax(&x, cols, &vec![cols; rows]);
        let y: Vec<_> = y.into_iter().map(|y| y as f32).collect();
        let (gy, gdy) = (gpu.upload("y", &pad(&y, cols)), gpu.upload("dy", &pad(&dy, cols)));
        let dx = gpu.buffer("dx", gy.size());
        gpu.run(&SoftmaxBackward {
            params: SoftmaxBackwardParams { rows: rows as u32, cols: cols as u32 },
            y: gy.as_entire_buffer_binding(),
            dy: gdy.as_entire_buffer_binding(),
            x_gradient: dx.as_entire_buffer_binding(),
        });
        let expected = reference::softmax::softmax_backward(&wide(&y), &wide(&dy), cols);
        let largest = y.iter().copied().fold(0.0, f32::max);
        let rounding = Tolerance {
            absolute: 5e-7 * f64::from(largest),
            relative: 5e-7,
            because: "dy and the projection are near 1 and rounded, then multiplied with y",
        };
        let actual = unpad(&read(gpu, &dx)[..rows * cols.next_multiple_of(4)], cols);
        assert_close("softmax_backward", &actual, &expected, rounding);
    }
}

fn log_sum_exp(gpu: &Gpu) {
    for case in Case::all() {
        let expected = reference::softmax::log_sum_exp(&wide(&case.x), case.cols, &case.valid());
        assert_close("log_sum_exp", &case.log_sum_exp(gpu).0, &expected, LOGARITHM);
    }
    let mut case = Case::new(3, 257, 257, true);
    case.lengths = vec![257, 0, 257];
    assert_eq!(case.log_sum_exp(gpu).0[1], EMPTY_LOG_SUM_EXP);
    case.x[200] = f32::NAN;
    let (y, _) = case.log_sum_exp(gpu);
    assert!(y[0].is_nan() && y[2].is_finite(), "{y:?}");
}

/// The gradient of the kernel's own log-sum-exps.
fn log_sum_exp_gradient(gpu: &Gpu, case: &Case, upstream: &[f32]) -> Vec<f32> {
    let x = case.padded(gpu);
    let [lengths, statistics, up] = [
        gpu.upload("lengths", &case.lengths),
        gpu.upload("statistics", &case.log_sum_exp(gpu).1),
        gpu.upload("upstream", upstream),
    ];
    let dx = gpu.upload("dx", &vec![9.0f32; x.size() as usize / 4]);
    gpu.run(&LogSumExpBackward {
        params: LogSumExpBackwardParams {
            rows: case.rows as u32,
            cols: case.cols as u32,
            valid_cols: case.valid_cols as u32,
            use_lengths: case.use_lengths.into(),
        },
        x: x.as_entire_buffer_binding(),
        lengths: lengths.as_entire_buffer_binding(),
        statistics: statistics.as_entire_buffer_binding(),
        upstream: up.as_entire_buffer_binding(),
        x_gradient: dx.as_entire_buffer_binding(),
    });
    unpad(&read(gpu, &dx)[..case.rows * case.cols.next_multiple_of(4)], case.cols)
}

fn log_sum_exp_backward(gpu: &Gpu) {
    for case in Case::all() {
        let upstream = values(5, case.rows);
        let (wide_x, wide_up) = (wide(&case.x), wide(&upstream));
        let expected =
            reference::softmax::log_sum_exp_backward(&wide_x, &wide_up, case.cols, &case.valid());
        let because = "exp of two differences, each rounded, of at most 16 and 11";
        let tolerance = Tolerance { relative: 7e-6, because, ..EXPONENTIAL };
        let actual = log_sum_exp_gradient(gpu, &case, &upstream);
        assert_close("log_sum_exp_backward", &actual, &expected, tolerance);
    }
    // NaN reaches the gradient of the whole row, and of no other.
    let mut case = Case::new(3, 257, 257, false);
    case.x[300] = f32::NAN;
    let gradient = log_sum_exp_gradient(gpu, &case, &[1.0; 3]);
    assert!((0..3 * 257).all(|i| gradient[i].is_finite() == (i / 257 != 1)));
}

/// Finite extremes: scores at and beside the lowest f32, huge ones that tie, differences beyond f32.
fn extremes(gpu: &Gpu) {
    let rows = [
        [f32::MIN; 3],
        [-2e31; 3],
        [3e38, 3e38, -3e38],
        [-3.0e38, -3.1e38, -3.0e38],
        [f32::MIN, f32::MIN, 1.0],
        [f32::MAX, f32::MAX, f32::MAX],
        [-1e30, -2e30, -1e30],
    ];
    let half = [0.5, 0.0, 0.5];
    let third = [1.0 / 3.0; 3];
    let probabilities =
        [third, third, [0.5, 0.5, 0.0], half, [0.0, 0.0, 1.0], third, half].concat();
    let mut case = Case::new(rows.len(), 3, 3, false);
    case.x = rows.concat();
    assert_close("softmax", &case.softmax(gpu), &probabilities, EXPONENTIAL);
    let gradient = log_sum_exp_gradient(gpu, &case, &[2.0; 7]);
    let twice: Vec<_> = probabilities.iter().map(|p| 2.0 * p).collect();
    assert_close("log_sum_exp_backward", &gradient, &twice, EXPONENTIAL);
    // The logarithm of 2 or 3 is far below one unit in the last place.
    let largest = [f32::MIN, -2e31, 3e38, -3.0e38, 1.0, f32::MAX, -1e30];
    assert_eq!(case.log_sum_exp(gpu).0, largest);
}

fn scores_at_the_ends_of_f32() {
    let devices = [support::gpu(), support::gpu_with_hardware_kernels()];
    devices.iter().flatten().for_each(extremes);
}
