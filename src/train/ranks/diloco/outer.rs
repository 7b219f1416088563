//! The outer optimizer: what all ranks agree about, and how a round moves it.

use std::borrow::Cow;
use std::ops::Range;

use super::DiLoCoSettings;
use crate::graph::Shape;
use crate::kernel::WeightStorage;
use crate::plan::parameters;

/// Elements that are read, exchanged and written at once.
const PIECE: usize = 1 << 22;

/// Some rows of tensors that lie one behind the other in a flat list of all trained elements.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    /// Index of a tensor, and entries of its first dimension.
    pub rows: Vec<(usize, Range<usize>)>,
    /// Place in the flat list.
    pub elements: Range<usize>,
}

/// The pieces of tensors of these shapes: small ones together, large ones some rows at a time.
pub(super) fn pieces<'a>(shapes: impl IntoIterator<Item = &'a Shape>) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut start = 0;
    for (index, shape) in shapes.into_iter().enumerate() {
        let entry = shape.count() / shape.dims[0];
        for rows in parameters::pieces(shape, 0..shape.dims[0]) {
            let end = start + rows.len() * entry;
            let room = pieces.last_mut().filter(|piece| end - piece.elements.start <= PIECE);
            match room {
                Some(piece) => {
                    piece.rows.push((index, rows));
                    piece.elements.end = end;
                }
                None => pieces.push(Piece { rows: vec![(index, rows)], elements: start..end }),
            }
            start = end;
        }
    }
    pieces
}

/// Equal on all ranks, but for the feedback.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outer {
    /// The trained weights that the last round came to, dense, tensor by tensor.
    pub anchor: Vec<f32>,
    /// The outer optimizer's, of each of them.
    pub momentum: Vec<f32>,
    /// What encoding took from this rank's differences; empty where it takes nothing.
    pub feedback: Vec<f32>,
    /// The running statistics that the last round came to.
    pub states: Vec<f32>,
}

impl Outer {
    /// Before the first round.
    pub fn new(anchor: Vec<f32>, states: Vec<f32>, settings: &DiLoCoSettings) -> Self {
        let zeros = vec![0.0; anchor.len()];
        let feedback = if settings.encoding.has_feedback() { zeros.clone() } else { Vec::new() };
        Self { momentum: zeros, feedback, anchor, states }
    }

    /// What this rank tells of some weights: themselves, or how far they came from where they began,
    /// with what is left of the rounds before.
    pub fn message(
        &self,
        elements: Range<usize>,
        storage: WeightStorage,
        weights: Vec<f32>,
    ) -> Vec<f32> {
        if self.feedback.is_empty() {
            return weights;
        }
        let began = stored(storage, &self.anchor[elements.clone()]);
        let moved = began.iter().zip(weights).map(|(b, w)| f64::from(*b) - f64::from(w));
        let feedback = &self.feedback[elements];
        moved.zip(feedback).map(|(moved, &kept)| (moved + f64::from(kept)) as f32).collect()
    }

    /// Keeps what encoding took from a message.
    pub fn keep(&mut self, elements: Range<usize>, message: &[f32], decoded: &[f32]) {
        if self.feedback.is_empty() {
            return;
        }
        let places = self.feedback[elements].iter_mut();
        places.zip(message.iter().zip(decoded)).for_each(|(kept, (x, y))| *kept = x - y);
    }

    /// Moves the anchor by the mean of the messages that count:
    ///
    /// ```text
    /// g = began - mean weights        (or the mean difference)
    /// momentum = mu momentum + g      anchor = anchor - lr (g + mu momentum)
    /// ```
    ///
    /// as `torch.optim.SGD(nesterov=True)` does, in f64, rounded once to what is kept. An element whose
    /// new weight the storage does not hold stays as it is.
    pub fn advance(
        &mut self,
        elements: Range<usize>,
        storage: WeightStorage,
        means: &[f32],
        settings: &DiLoCoSettings,
        holds: impl Fn(f32) -> bool,
    ) {
        let sends_weights = !settings.encoding.has_feedback();
        let began = stored(storage, &self.anchor[elements.clone()]).into_owned();
        let (mu, rate) = (settings.momentum, settings.learning_rate);
        let kept = self.anchor[elements.clone()].iter_mut().zip(&mut self.momentum[elements]);
        for ((anchor, momentum), (began, &mean)) in kept.zip(began.into_iter().zip(means)) {
            let mean = f64::from(mean);
            let gradient = if sends_weights { f64::from(began) - mean } else { mean };
            let next_momentum = mu * f64::from(*momentum) + gradient;
            let next = (f64::from(*anchor) - rate * (gradient + mu * next_momentum)) as f32;
            if holds(next) && (next_momentum as f32).is_finite() {
                (*anchor, *momentum) = (next, next_momentum as f32);
            }
        }
    }
}

/// What the device has of weights once they are written.
pub(super) fn stored(storage: WeightStorage, weights: &[f32]) -> Cow<'_, [f32]> {
    if matches!(storage, WeightStorage::F32 | WeightStorage::Bf16Split) {
        return Cow::Borrowed(weights);
    }
    let mut quads = weights.to_vec();
    quads.resize(weights.len().next_multiple_of(4), 0.0);
    let [kernels, beside] = storage.encode(&quads);
    let mut stored = storage.decode(&kernels, &beside);
    stored.truncate(weights.len());
    Cow::Owned(stored)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::ranks::DifferenceEncoding;

    fn settings(learning_rate: f64, momentum: f64) -> DiLoCoSettings {
        let encoding = DifferenceEncoding::F32;
        DiLoCoSettings { learning_rate, momentum, encoding, ..DiLoCoSettings::default() }
    }

    #[test]
    fn pieces_cover_all_tensors_and_join_small_ones() {
        let shapes = [
            Shape::real([7]),
            Shape::real([5, PIECE / 2]),
            Shape::real([3, 4]),
            Shape::real([2, 2, 3]),
        ];
        let pieces = pieces(&shapes);
        let rows: Vec<_> = pieces.iter().map(|piece| piece.rows.clone()).collect();
        let wide = [(1, 0..2), (1, 2..4)].map(|rows| vec![rows]);
        assert_eq!(rows[0], [(0, 0..7)]);
        assert_eq!(rows[1..3], wide);
        assert_eq!(rows[3], [(1, 4..5), (2, 0..3), (3, 0..2)]);
        let mut end = 0;
        for piece in &pieces {
            assert_eq!(piece.elements.start, end);
            end = piece.elements.end;
            let entry = |index: usize| shapes[index].count() / shapes[index].dims[0];
            let count = piece.rows.iter().map(|(index, rows)| rows.len() * entry(*index));
            assert_eq!(count.sum::<usize>(), piece.elements.len());
        }
        assert_eq!(end, shapes.iter().map(Shape::count).sum::<usize>());
    }

    /// Numbers whose sums, products and quotients by powers of two are exact, against the rule
    /// in fractions of integers.
    #[test]
    fn a_step_is_that_of_nesterov_in_exact_numbers() {
        // The anchor begins at 3 units, with mu 1/2 and lr 1/4.
        let unit = 2f32.powi(-22);
        let mut outer = Outer::new(vec![3.0 * unit; 5], Vec::new(), &settings(0.25, 0.5));
        // Whole numbers of 2^-12 units.
        let (mut anchor, mut momentum) = (3i64 << 12, 0i64);
        for weight in [2i64, 4, -8] {
            let weights = vec![weight as f32 * unit; 5];
            let gradient = anchor - weight * 4096;
            assert!(momentum % 2 == 0 && gradient % 2 == 0, "no whole numbers");
            momentum = momentum / 2 + gradient;
            let step = gradient + momentum / 2;
            assert!(momentum % 2 == 0 && step % 4 == 0, "no whole numbers");
            anchor -= step / 4;
            outer.advance(0..5, WeightStorage::F32, &weights, &settings(0.25, 0.5), f32::is_finite);
            let exact = |x: i64| (x as f64 / 4096.0 * f64::from(unit)) as f32;
            assert_eq!(outer.momentum, [exact(momentum); 5]);
            assert_eq!(outer.anchor, [exact(anchor); 5]);
        }
    }

    #[test]
    fn a_whole_step_without_momentum_is_the_mean_itself() {
        let settings = settings(1.0, 0.0);
        let weights = [0.1, -0.3, 1e-6, 7e8, -1.5];
        let mut outer = Outer::new(vec![0.3, 0.1, 1.0, -3.0, -1.5], Vec::new(), &settings);
        outer.advance(0..5, WeightStorage::F32, &weights, &settings, f32::is_finite);
        assert_eq!(outer.anchor, weights);
    }

    #[test]
    fn what_would_leave_f32_stays() {
        let settings = settings(0.7, 0.9);
        let mut outer = Outer::new(vec![f32::MAX, 1.0], Vec::new(), &settings);
        outer.advance(0..2, WeightStorage::F32, &[-f32::MAX, 0.0], &settings, f32::is_finite);
        assert_eq!((outer.anchor[0], outer.momentum[0]), (f32::MAX, 0.0));
        assert!(outer.anchor[1] < 1.0 && outer.momentum[1] == 1.0);
    }

    /// Over bf16 a rank begins beside the anchor: what it comes to counts from there, and the part of
    /// the anchor that bf16 does not hold stays.
    #[test]
    fn a_difference_begins_where_the_device_does() {
        let anchor = 1.0 + 2f32.powi(-12);
        let of = DiLoCoSettings { encoding: DifferenceEncoding::F16, ..settings(1.0, 0.0) };
        let mut outer = Outer::new(vec![anchor; 3], Vec::new(), &of);
        let storage = WeightStorage::Bf16Stochastic;
        assert_eq!(*stored(storage, &outer.anchor), [1.0; 3]);
        assert_eq!(outer.message(0..3, storage, vec![1.0, 0.75, 1.0]), [0.0, 0.25, 0.0]);
        outer.advance(0..3, storage, &[0.0, 0.25, 0.0], &of, f32::is_finite);
        assert_eq!(outer.anchor, [anchor, anchor - 0.25, anchor]);
    }

    /// What each round sends, and what is kept, add up to all that there was.
    #[test]
    fn feedback_brings_back_what_rounding_took() {
        for encoding in [DifferenceEncoding::F16, DifferenceEncoding::Int8] {
            let of = DiLoCoSettings { encoding, ..settings(1.0, 0.0) };
            let anchor: Vec<f32> = (0..300).map(|i| (i as f32 * 0.37).sin()).collect();
            let mut outer = Outer::new(anchor.clone(), Vec::new(), &of);
            let weights: Vec<f32> = anchor.iter().map(|a| a - 0.01 * (a * 9.0).cos()).collect();
            let mut sent = vec![0f64; 300];
            let rounds = 200;
            let mut step = 0f64;
            for _ in 0..rounds {
                let message = outer.message(0..300, WeightStorage::F32, weights.clone());
                let decoded = encoding.decode(&encoding.encode(&message), 300);
                outer.keep(0..300, &message, &decoded);
                sent.iter_mut().zip(&decoded).for_each(|(sum, x)| *sum += f64::from(*x));
                let largest = message.iter().fold(0f32, |all, x| all.max(x.abs()));
                step = step.max(f64::from(largest) / 127.0);
            }
            for ((sent, a), w) in sent.iter().zip(&anchor).zip(&weights) {
                let moved = f64::from(*a) - f64::from(*w);
                // Half a step of the last round's rounding, over all rounds; and that of the messages
                // to f32, in each.
                let bound = 0.5 * step / f64::from(rounds) + (moved.abs() + step) * 2f64.powi(-23);
                let mean = sent / f64::from(rounds);
                assert!((mean - moved).abs() <= bound, "{encoding}: {mean} {moved}");
            }
        }
    }
}
