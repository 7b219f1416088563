//! Losses: vocabularies around the quad and the workgroup, padded with NaN to prove that padding
//! is never read, ignored rows, label smoothing, z-loss, confident rows, broken rows.

use evenkeel::kernels::*;
use evenkeel::reference::loss::CrossEntropyOptions;
use evenkeel::{Gpu, reference};

use super::support::{Tolerance, assert_close, block_on, pad, read, tokens, unpad, values, wide};

/// (rows, stored columns, classes)
const SHAPES: &[(usize, usize, usize)] = &[
    (1, 1, 1),
    (1, 4, 3),
    (3, 8, 4),
    (5, 255, 255),
    (2, 260, 256),
    (3, 257, 257),
    (7, 1012, 1009),
    (3, 32_000, 32_000),
    (2, 32_064, 31_999),
    MANY,
];
/// More than 65,535 workgroups; one variant is enough for them.
const MANY: (usize, usize, usize) = (65_600, 3, 3);
/// (label smoothing, z-loss)
const VARIANTS: &[(f32, f32)] = &[(0.0, 0.0), (0.1, 0.0), (0.0, 1e-4), (0.1, 1e-2)];
const IGNORE: u32 = u32::MAX;
const UPSTREAM: f32 = 3.7;

const EXPONENTIAL: Tolerance = Tolerance {
    absolute: 1.2e-6,
    relative: 1e-6,
    because: "log turns WGSL's 3 + 2|x| ULP of exp, |x| <= 8, into an absolute error",
};

rows! {
    cross_entropy,
    count_targets,
    cross_entropy_mean,
    cross_entropy_backward,
    count_correct,
    mean_squared_error,
    mean_squared_error_backward,
    loss_mean,
}

struct Case {
    rows: usize,
    columns: usize,
    classes: usize,
    logits: Vec<f32>,
    targets: Vec<u32>,
    label_smoothing: f32,
    z_loss: f32,
    /// Targets and microbatches of other parts of the step.
    others: [u32; 2],
}

/// What the three cross-entropy kernels wrote.
struct Output {
    loss: Vec<f32>,
    statistics: Vec<f32>,
    mean: Vec<f32>,
    dlogits: Vec<f32>,
}

impl Case {
    fn new(&(rows, columns, classes): &(usize, usize, usize)) -> Self {
        let mut logits: Vec<_> = values(1, rows * columns).iter().map(|x| x * 4.0).collect();
        for row in logits.chunks_mut(columns) {
            row[classes..].fill(f32::NAN);
        }
        let mut targets = tokens(2, rows, classes as u32);
        if rows > 1 {
            targets[rows / 2] = IGNORE;
        }
        let (label_smoothing, z_loss) = (0.0, 0.0);
        Self { rows, columns, classes, logits, targets, label_smoothing, z_loss, others: [0; 2] }
    }

    /// Targets and microbatches of the step.
    fn counts(&self) -> [u32; 2] {
        let targets = reference::loss::count_targets(&self.targets, IGNORE);
        [self.others[0] + targets, self.others[1] + 1]
    }

    fn all() -> impl Iterator<Item = Self> {
        SHAPES.iter().flat_map(|shape| {
            let variants = VARIANTS.iter().skip(if *shape == MANY { 3 } else { 0 });
            variants.map(|&(label_smoothing, z_loss)| Self {
                label_smoothing,
                z_loss,
                others: if label_smoothing == 0.0 { [0; 2] } else { [11, 2] },
                ..Self::new(shape)
            })
        })
    }

    fn options(&self) -> CrossEntropyOptions {
        CrossEntropyOptions {
            classes: self.classes,
            ignore_index: IGNORE,
            label_smoothing: self.label_smoothing.into(),
            z_loss: self.z_loss.into(),
        }
    }

    fn run(&self, gpu: &Gpu) -> Output {
        let Self { label_smoothing, z_loss, .. } = *self;
        let mut padded = pad(&self.logits, self.columns);
        for row in padded.chunks_mut(self.columns.next_multiple_of(4)) {
            row[self.columns..].fill(f32::NAN);
        }
        let (rows, classes) = (self.rows as u32, self.classes as u32);
        let row_quads = self.columns.div_ceil(4) as u32;
        let (logits, targets) =
            (gpu.upload("logits", &padded), gpu.upload("targets", &self.targets));
        let loss = gpu.buffer("loss", self.rows as u64 * 4);
        let statistics = gpu.buffer("statistics", self.rows as u64 * 8);
        let (mean, upstream) = (gpu.buffer("mean", 8), gpu.upload("upstream", &[UPSTREAM]));
        let dlogits = gpu.upload("dlogits", &vec![9.0f32; padded.len()]);
        gpu.run(&CrossEntropy {
            params: CrossEntropyParams {
                rows,
                row_quads,
                classes,
                ignore_index: IGNORE,
                label_smoothing,
                z_loss,
            },
            logits: logits.as_entire_buffer_binding(),
            targets: targets.as_entire_buffer_binding(),
            loss: loss.as_entire_buffer_binding(),
            statistics: statistics.as_entire_buffer_binding(),
        });
        gpu.run(&CrossEntropyMean {
            params: CrossEntropyMeanParams { rows },
            loss: loss.as_entire_buffer_binding(),
            counts: gpu.upload("counts", &self.counts()).as_entire_buffer_binding(),
            mean: mean.as_entire_buffer_binding(),
        });
        gpu.run(&CrossEntropyBackward {
            params: CrossEntropyBackwardParams {
                rows,
                row_quads,
                classes,
                ignore_index: IGNORE,
                label_smoothing,
                z_loss,
            },
            logits: logits.as_entire_buffer_binding(),
            targets: targets.as_entire_buffer_binding(),
            statistics: statistics.as_entire_buffer_binding(),
            mean: mean.as_entire_buffer_binding(),
            upstream: upstream.as_entire_buffer_binding(),
            dlogits: dlogits.as_entire_buffer_binding(),
        });
        Output {
            loss: read(gpu, &loss)[..self.rows].to_vec(),
            statistics: read(gpu, &statistics)[..2 * self.rows].to_vec(),
            mean: read(gpu, &mean)[..2].to_vec(),
            dlogits: unpad(&read(gpu, &dlogits)[..padded.len()], self.columns),
        }
    }
}

/// One row of four logits, the first `lead` above the others, which are 0.
fn confident(lead: f32, target: u32) -> Case {
    Case { logits: vec![lead, 0.0, 0.0, 0.0], targets: vec![target], ..Case::new(&(1, 4, 4)) }
}

const CONFIDENT: Tolerance =
    Tolerance { absolute: 0.0, relative: 1e-5, because: "3 + 2|x| ULP of exp(x), |x| <= 30" };

fn cross_entropy(gpu: &Gpu) {
    for case in Case::all() {
        let Output { loss, statistics, .. } = case.run(gpu);
        let (expected, lse) =
            reference::loss::cross_entropy(&wide(&case.logits), &case.targets, &case.options());
        assert_close("loss", &loss, &expected, EXPONENTIAL);
        for (r, pair) in statistics.chunks(2).enumerate() {
            if case.targets[r] == IGNORE {
                assert_eq!((loss[r].to_bits(), pair), (0, &[0.0, 0.0][..]));
            } else {
                assert_close("lse", &[pair[0] + pair[1]], &lse[r..=r], EXPONENTIAL);
            }
        }
    }
    // The loss of a right and confident row is log(1 + t), t far below f32's resolution of 1.
    for lead in [12.0, 20.0, 30.0] {
        let t = 3.0 * f64::from(-lead).exp();
        let loss = confident(lead, 0).run(gpu).loss;
        assert_close("confident loss", &loss, &[t.ln_1p()], CONFIDENT);
        let wrong = confident(lead, 2).run(gpu).loss;
        assert_close("wrong loss", &wrong, &[f64::from(lead) + t.ln_1p()], CONFIDENT);
    }
    // A common offset costs nothing that the logits' own rounding has not taken.
    let mut case = Case { label_smoothing: 0.1, ..Case::new(&(3, 257, 257)) };
    case.logits.iter_mut().for_each(|x| *x += 1e4);
    let (expected, _) =
        reference::loss::cross_entropy(&wide(&case.logits), &case.targets, &case.options());
    assert_close("offset loss", &case.run(gpu).loss, &expected, EXPONENTIAL);

    for (bad, broken) in [(f32::NAN, None), (f32::INFINITY, None), (0.0, Some(257))] {
        let mut case = Case::new(&(3, 257, 257));
        case.targets = vec![1, 2, 3];
        case.logits[257 + 100] = bad;
        case.targets[1] = broken.unwrap_or(2);
        let Output { loss, mean, dlogits, .. } = case.run(gpu);
        assert!(loss[1].is_nan() && mean[0].is_nan(), "{bad} {broken:?}: {loss:?} {mean:?}");
        assert!(loss[0].is_finite() && loss[2].is_finite(), "{loss:?}");
        assert!(dlogits[257..514].iter().all(|d| d.is_nan()), "{bad} {broken:?} is hidden");
        assert!(dlogits[..257].iter().chain(&dlogits[514..]).all(|d| d.is_finite()));
    }
}

/// Counts are exact where f32 is not, and add up over microbatches.
fn count_targets(gpu: &Gpu) {
    let count = |targets: &[u32], accumulate: u32, counts: &wgpu::Buffer| -> [u32; 2] {
        gpu.run(&CountTargets {
            params: CountTargetsParams {
                rows: targets.len() as u32,
                ignore_index: IGNORE,
                accumulate,
            },
            targets: gpu.upload("targets", targets).as_entire_buffer_binding(),
            counts: counts.as_entire_buffer_binding(),
        });
        let found: Vec<u32> = block_on(gpu.read(counts, 0, 2)).expect("readable");
        [found[0], found[1]]
    };
    for rows in [1, 3, 63, 64, 65, 1009, 65_537] {
        let mut targets = tokens(5, rows, 3);
        targets.iter_mut().skip(1).step_by(3).for_each(|target| *target = IGNORE);
        let expected = reference::loss::count_targets(&targets, IGNORE);
        let counts = gpu.upload("counts", &[7u32, 9]);
        assert_eq!(count(&targets, 0, &counts), [expected, 1], "{rows} rows");
        assert_eq!(count(&targets, 1, &counts), [2 * expected, 2], "{rows} rows");
        assert_eq!(count(&vec![IGNORE; rows], 1, &counts), [2 * expected, 3], "nothing counts");
    }
    for before in [(1 << 24) + 1, u32::MAX - 3, u32::MAX - 2, u32::MAX] {
        let counts = gpu.upload("counts", &[before, 4]);
        assert_eq!(count(&[0, 1, 2], 1, &counts), [before.saturating_add(3), 5]);
    }
}

fn cross_entropy_mean(gpu: &Gpu) {
    for case in Case::all() {
        let Output { loss, mean, .. } = case.run(gpu);
        let expected = reference::loss::cross_entropy_mean(&wide(&loss), case.counts());
        let rounding = Tolerance {
            absolute: 0.0,
            relative: 2e-6,
            because: "an f32 sum of positive terms in 64 chains, and a division of 2.5 ULP",
        };
        assert_close("mean", &mean, &expected, rounding);
    }
    let mut case = Case::new(&(5, 257, 257));
    case.targets.fill(IGNORE);
    let Output { loss, mean, dlogits, .. } = case.run(gpu);
    assert_eq!(mean, [0.0, 0.0]);
    assert!(loss.iter().chain(&dlogits).all(|x| x.to_bits() == 0), "all rows are ignored");
}

fn cross_entropy_backward(gpu: &Gpu) {
    for case in Case::all() {
        let Output { dlogits, .. } = case.run(gpu);
        let (logits, targets) = (wide(&case.logits), &case.targets);
        let [counted, microbatches] = case.counts();
        let largest = f64::from(UPSTREAM) * f64::from(microbatches) / f64::from(counted);
        let expected =
            reference::loss::cross_entropy_backward(&logits, targets, &case.options(), largest);
        let smooth = case.label_smoothing != 0.0;
        let exponential = Tolerance {
            absolute: if smooth { 2.5e-6 * largest } else { 1e-15 },
            relative: 4e-6,
            because: "3 + 2|x| ULP of exp(x), |x| <= 8; p - e / classes cancels",
        };
        assert_close("dlogits", &dlogits, &expected, exponential);
        for (r, row) in dlogits.chunks(case.columns).enumerate() {
            let zeros = if targets[r] == IGNORE { row } else { &row[case.classes..] };
            assert!(zeros.iter().all(|d| d.to_bits() == 0), "row {r} has a gradient in padding");
        }
    }
    for lead in [12.0, 20.0, 30.0] {
        let other = f64::from(-lead).exp();
        let p = other / (1.0 + 3.0 * other);
        let dlogits = confident(lead, 0).run(gpu).dlogits;
        let expected = [-3.0 * p, p, p, p].map(|d| d * f64::from(UPSTREAM));
        assert_close("confident dlogits", &dlogits, &expected, CONFIDENT);
    }
    // Cross-entropy of equal logits has a gradient that sums to zero in every row.
    let mut case = Case::new(&(1, 256, 256));
    case.logits.fill(1e4);
    let sum: f64 = wide(&case.run(gpu).dlogits).iter().sum();
    assert!(sum.abs() < 1e-5, "the gradient of a row sums to {sum}");
}

fn count_correct(gpu: &Gpu) {
    for shape in SHAPES {
        let mut case = Case::new(shape);
        let logits = wide(&case.logits);
        for r in (0..case.rows).step_by(2) {
            if case.targets[r] == IGNORE {
                continue;
            }
            let row = &logits[r * case.columns..][..case.classes];
            let best = row.iter().copied().fold(f64::MIN, f64::max);
            case.targets[r] = row.iter().position(|&x| x == best).unwrap() as u32;
        }
        check_count(gpu, &case);
    }
    // Among equals the first counts.
    let mut case = Case::new(&(3, 260, 259));
    case.logits.fill(-5.0);
    case.logits[260 + 3] = 7.0;
    case.logits[260 + 256] = 7.0;
    case.targets = vec![0, 3, 258];
    check_count(gpu, &case);
}

fn check_count(gpu: &Gpu, case: &Case) {
    let logits = gpu.upload("logits", &pad(&case.logits, case.columns));
    let targets = gpu.upload("targets", &case.targets);
    let correct = gpu.buffer("correct", case.rows as u64 * 4);
    gpu.run(&CountCorrect {
        params: CountCorrectParams {
            rows: case.rows as u32,
            row_quads: case.columns.div_ceil(4) as u32,
            classes: case.classes as u32,
            ignore_index: IGNORE,
        },
        logits: logits.as_entire_buffer_binding(),
        targets: targets.as_entire_buffer_binding(),
        correct: correct.as_entire_buffer_binding(),
    });
    let expected =
        reference::loss::count_correct(&wide(&case.logits), &case.targets, case.classes, IGNORE);
    assert!(expected.contains(&1.0), "nothing is correct");
    assert_eq!(wide(&read(gpu, &correct)[..case.rows]), expected);
}

const REGRESSION: &[(usize, usize)] =
    &[(1, 1), (3, 3), (4, 4), (5, 255), (2, 256), (3, 257), (7, 1009), (65_600, 3)];

fn mean_squared_error(gpu: &Gpu) {
    for &(rows, cols) in REGRESSION {
        let (p, e) = (values(3, rows * cols), values(4, rows * cols));
        let (gp, ge) = (gpu.upload("p", &pad(&p, cols)), gpu.upload("e", &pad(&e, cols)));
        let loss = gpu.buffer("loss", rows as u64 * 4);
        gpu.run(&MeanSquaredError {
            params: MeanSquaredErrorParams { rows: rows as u32, cols: cols as u32 },
            prediction: gp.as_entire_buffer_binding(),
            expected: ge.as_entire_buffer_binding(),
            loss: loss.as_entire_buffer_binding(),
        });
        let expected = reference::loss::mean_squared_error(&wide(&p), &wide(&e), cols);
        let rounding = Tolerance {
            absolute: 1e-12,
            relative: 2e-6,
            because: "rounding of an f32 sum of squares and of the differences",
        };
        assert_close("mean_squared_error", &read(gpu, &loss)[..rows], &expected, rounding);
    }
}

fn mean_squared_error_backward(gpu: &Gpu) {
    for &(rows, cols) in REGRESSION {
        let (p, e) = (values(5, rows * cols), values(6, rows * cols));
        let (gp, ge) = (gpu.upload("p", &pad(&p, cols)), gpu.upload("e", &pad(&e, cols)));
        let upstream = gpu.upload("upstream", &[UPSTREAM]);
        let dprediction = gpu.buffer("dprediction", gp.size());
        gpu.run(&MeanSquaredErrorBackward {
            params: MeanSquaredErrorBackwardParams { rows: rows as u32, cols: cols as u32 },
            prediction: gp.as_entire_buffer_binding(),
            expected: ge.as_entire_buffer_binding(),
            upstream: upstream.as_entire_buffer_binding(),
            dprediction: dprediction.as_entire_buffer_binding(),
        });
        let expected =
            reference::loss::mean_squared_error_backward(&wide(&p), &wide(&e), UPSTREAM.into());
        let rounding = Tolerance {
            absolute: 0.0,
            relative: 8e-7,
            because: "four f32 roundings and a division of 2.5 ULP",
        };
        let actual = unpad(&read(gpu, &dprediction)[..rows * cols.next_multiple_of(4)], cols);
        assert_close("mean_squared_error_backward", &actual, &expected, rounding);
    }
}

/// Whatever is not finite stays, bit by bit, where sums of floats would give NaN or lose it.
fn loss_mean(gpu: &Gpu) {
    let run = |factor: f32, bits: &[u32]| -> f32 {
        let mean = gpu.upload("mean", &[9.0f32]);
        for (accumulate, &bits) in bits.iter().enumerate() {
            gpu.run(&LossMean {
                params: LossMeanParams { factor, accumulate: u32::from(accumulate > 0) },
                loss: gpu.upload("loss", &[bits]).as_entire_buffer_binding(),
                mean: mean.as_entire_buffer_binding(),
            });
        }
        read(gpu, &mean)[0]
    };
    let losses = [3.5f32, 0.0, -1.25, 1e-30, 7e30];
    for count in 1..=losses.len() {
        let factor = 1.0 / count as f32;
        let expected = losses[..count].iter().fold(None, |before, &loss| {
            Some(reference::loss::loss_mean(factor.into(), loss.into(), before))
        });
        let mean = run(factor, &losses.map(f32::to_bits)[..count]);
        let rounding = Tolerance { absolute: 0.0, relative: 6e-7, because: "five f32 additions" };
        assert_close("loss_mean", &[mean], &[expected.unwrap()], rounding);
    }
    for bits in super::step::NONFINITE {
        for place in 0..3 {
            let mut losses = [1.0f32.to_bits(), 0, 2.0f32.to_bits()];
            losses[place] = bits;
            assert_eq!(run(0.25, &losses).to_bits(), bits, "{bits:#x} at {place}");
        }
        let [inf, opposite] = [f32::INFINITY, f32::NEG_INFINITY].map(f32::to_bits);
        assert_eq!(run(0.5, &[inf, opposite, bits]).to_bits(), inf);
    }
}
