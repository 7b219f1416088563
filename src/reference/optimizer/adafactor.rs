//! Adafactor (Shazeer and Stern, 2018): second moments of matrices by row and column.

use super::{clipped, tensor_factors, update, weight_squares};
use crate::reference::step::State;

/// Settings of [`adafactor`], those of the tensor already multiplied in.
#[derive(Clone, Copy, Debug)]
pub struct AdafactorSettings {
    /// p in the share t^-p of step t in what is kept.
    pub decay_power: f64,
    /// Bound on what updates are divided by.
    pub eps1: f64,
    /// Bound on the RMS of the weights.
    pub eps2: f64,
    /// Bound on the RMS of the update.
    pub clip_threshold: f64,
    /// Weight decay of the tensor.
    pub weight_decay: f64,
    /// The tensor's factor on the learning rate.
    pub learning_rate_factor: f64,
}

/// What [`adafactor`] keeps of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Variance {
    /// Of matrices of one size: mean squares of all rows, then of the columns of each matrix.
    Factored {
        /// Rows of each matrix.
        rows: usize,
        /// Columns.
        cols: usize,
        /// (matrices, rows)
        of_rows: Vec<f64>,
        /// (matrices, cols)
        of_cols: Vec<f64>,
    },
    /// Of a vector: the mean square of each element.
    Full(Vec<f64>),
}

/// The gradient as Adafactor sees it, bounded so that f32 can add up squares.
fn adafactor_gradient(gradient: f64, state: &State) -> f64 {
    clipped(gradient, state).clamp(-1e15, 1e15)
}

/// Sums of g² over the columns of each row and over the rows of each column of a matrix.
pub fn adafactor_scan(state: &State, gradient: &[f64], cols: usize) -> (Vec<f64>, Vec<f64>) {
    let rows = gradient.len() / cols;
    let (mut of_rows, mut of_cols) = (vec![0.0; rows], vec![0.0; cols]);
    for (i, &gradient) in gradient.iter().enumerate() {
        let square = adafactor_gradient(gradient, state).powi(2);
        of_rows[i / cols] += square;
        of_cols[i % cols] += square;
    }
    (of_rows, of_cols)
}

/// Mean squares, advanced by sums over so many elements.
pub fn adafactor_factors(
    decay_power: f64,
    state: &State,
    sums: &[f64],
    elements: usize,
    variance: &mut [f64],
) {
    if !state.applied {
        return;
    }
    let share = f64::from(state.applied_total).powf(-decay_power);
    for (variance, sum) in variance.iter_mut().zip(sums) {
        *variance += share * (sum / elements as f64 - *variance);
    }
}

/// u = g / sqrt(variance), from variances already advanced.
fn adafactor_update(
    settings: &AdafactorSettings,
    state: &State,
    gradient: &[f64],
    variance: &Variance,
) -> Vec<f64> {
    let estimate = |i: usize| match variance {
        Variance::Full(all) => all[i],
        Variance::Factored { rows, cols, of_rows, of_cols } => {
            let (row, matrix) = (i / cols, i / cols / rows);
            let mean = of_rows[matrix * rows..][..*rows].iter().sum::<f64>() / *rows as f64;
            of_rows[row] / mean.max(settings.eps1) * of_cols[matrix * cols + i % cols]
        }
    };
    let elements = gradient.iter().enumerate();
    let update = elements.map(|(i, &gradient)| {
        adafactor_gradient(gradient, state) / estimate(i).max(settings.eps1.powi(2)).sqrt()
    });
    update.collect()
}

/// Sum of squares of Adafactor's update before it is bounded, from variances already advanced.
pub fn adafactor_squares(
    settings: &AdafactorSettings,
    state: &State,
    gradient: &[f64],
    variance: &Variance,
) -> f64 {
    adafactor_update(settings, state, gradient, variance).iter().map(|u| u * u).sum()
}

/// Adafactor (Shazeer and Stern, 2018), as torch.optim.Adafactor: the whole rule.
pub fn adafactor(
    settings: &AdafactorSettings,
    state: &State,
    gradient: &[f64],
    weight: &mut [f64],
    variance: &mut Variance,
) {
    if !state.applied || gradient.is_empty() {
        return;
    }
    match variance {
        Variance::Full(all) => {
            let squares = gradient.iter().map(|&g| adafactor_gradient(g, state).powi(2));
            let squares: Vec<_> = squares.collect();
            adafactor_factors(settings.decay_power, state, &squares, 1, all);
        }
        Variance::Factored { rows, cols, of_rows, of_cols } => {
            for (matrix, gradient) in gradient.chunks(*rows * *cols).enumerate() {
                let sums = adafactor_scan(state, gradient, *cols);
                let of_rows = &mut of_rows[matrix * *rows..][..*rows];
                let of_cols = &mut of_cols[matrix * *cols..][..*cols];
                adafactor_factors(settings.decay_power, state, &sums.0, *cols, of_rows);
                adafactor_factors(settings.decay_power, state, &sums.1, *rows, of_cols);
            }
        }
    }
    let count = weight.len();
    let weight_rms = tensor_factors(1, 0.0, &[weight_squares(weight)], count);
    let squares = adafactor_squares(settings, state, gradient, variance);
    let factor = tensor_factors(3, settings.clip_threshold, &[squares], count);
    let size = settings.eps2.max(weight_rms);
    let updates = adafactor_update(settings, state, gradient, variance);
    update(settings.learning_rate_factor, state, gradient, weight, updates, |at, u| {
        let rho = at.learning_rate.min(f64::from(state.applied_total).sqrt().recip());
        let decay = at.learning_rate * settings.weight_decay * at.w;
        -(decay + size * rho * factor * u)
    });
}
