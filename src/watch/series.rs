//! A series of any length in bounded memory.

/// Values of neighbouring steps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bucket {
    /// Finite values.
    pub count: u64,
    /// Values that are NaN or Inf.
    pub nonfinite: u64,
    /// Smallest finite value.
    pub min: f64,
    /// Largest finite value.
    pub max: f64,
    /// Sum of the finite values.
    pub sum: f64,
}

impl Bucket {
    fn of(value: f64) -> Self {
        if value.is_finite() {
            Self { count: 1, nonfinite: 0, min: value, max: value, sum: value }
        } else {
            Self { nonfinite: 1, ..Self::default() }
        }
    }

    fn add(&mut self, other: &Self) {
        self.nonfinite += other.nonfinite;
        if other.count == 0 {
            return;
        }
        let first = self.count == 0;
        self.min = if first { other.min } else { self.min.min(other.min) };
        self.max = if first { other.max } else { self.max.max(other.max) };
        self.sum += other.sum;
        self.count += other.count;
    }

    /// Mean of the finite values.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// Buckets of `width` steps each, a power of two that doubles whenever there would be too many.
/// Smallest and largest values are kept, so however long a run is its spikes stay visible.
#[derive(Clone, Debug)]
pub struct Series {
    capacity: usize,
    origin: Option<u64>,
    width: u64,
    buckets: Vec<Bucket>,
}

impl Series {
    /// At most `capacity` buckets; once that many were needed, at least half as many.
    pub const fn new(capacity: usize) -> Self {
        Self { capacity, origin: None, width: 1, buckets: Vec::new() }
    }

    pub fn push(&mut self, step: u64, value: f64) {
        let origin = *self.origin.get_or_insert(step);
        // A step before the first one, as after a restart, counts with the first.
        let offset = step.saturating_sub(origin);
        while offset / self.width >= self.capacity as u64 {
            self.coarsen();
        }
        let at = (offset / self.width) as usize;
        if at >= self.buckets.len() {
            self.buckets.resize(at + 1, Bucket::default());
        }
        self.buckets[at].add(&Bucket::of(value));
    }

    fn coarsen(&mut self) {
        self.width *= 2;
        let merge = |pair: &[Bucket]| {
            let mut merged = pair[0];
            pair[1..].iter().for_each(|other| merged.add(other));
            merged
        };
        self.buckets = self.buckets.chunks(2).map(merge).collect();
    }

    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Steps in a bucket.
    pub fn width(&self) -> u64 {
        self.width
    }

    /// Buckets that hold something, each with the middle of its steps.
    pub fn buckets(&self) -> impl DoubleEndedIterator<Item = (f64, &Bucket)> + Clone {
        let origin = self.origin.unwrap_or(0) as f64;
        let middle = (self.width - 1) as f64 / 2.0;
        let step = move |at: usize| origin + at as f64 * self.width as f64 + middle;
        self.buckets
            .iter()
            .enumerate()
            .filter(|(_, bucket)| bucket.count + bucket.nonfinite > 0)
            .map(move |(at, bucket)| (step(at), bucket))
    }

    /// Smallest and largest finite value.
    pub fn range(&self) -> Option<(f64, f64)> {
        let finite = self.buckets.iter().filter(|bucket| bucket.count > 0);
        finite.map(|bucket| (bucket.min, bucket.max)).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }

    /// Mean of the last `count` finite values, of a whole bucket where they end in one.
    pub fn recent_mean(&self, count: u64) -> Option<f64> {
        let mut tail = Bucket::default();
        for bucket in self.buckets.iter().rev() {
            if tail.count >= count.max(1) {
                break;
            }
            tail.add(bucket);
        }
        tail.mean()
    }
}

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn buckets_equal_a_fold_over_all_values() {
        for steps in [1_u64, 5, 8, 9, 1000, 4097] {
            let value = |step: u64| match step % 97 {
                13 => f64::NAN,
                14 => f64::INFINITY,
                rest => rest as f64 - if step == 700 { 1e6 } else { 0.0 },
            };
            let mut series = Series::new(8);
            (0..steps).for_each(|step| series.push(100 + step, value(step)));
            let width = series.width();
            let count = steps.div_ceil(width);
            assert!(count <= 8 && (steps < 5 || count >= 4), "{steps}: {count} of {width}");
            assert_eq!(series.buckets().count() as u64, count);
            for (at, (step, bucket)) in series.buckets().enumerate() {
                let first = at as u64 * width;
                let values: Vec<_> = (first..steps.min(first + width)).map(value).collect();
                let finite: Vec<_> = values.iter().copied().filter(|x| x.is_finite()).collect();
                assert_eq!(step, 100.0 + first as f64 + (width - 1) as f64 / 2.0);
                assert_eq!(bucket.count, finite.len() as u64);
                assert_eq!(bucket.nonfinite, (values.len() - finite.len()) as u64);
                assert_eq!(bucket.sum, finite.iter().sum::<f64>());
                if bucket.count > 0 {
                    assert_eq!(bucket.min, finite.iter().copied().fold(f64::MAX, f64::min));
                    assert_eq!(bucket.max, finite.iter().copied().fold(f64::MIN, f64::max));
                }
            }
        }
    }

    #[test]
    fn gaps_and_earlier_steps_are_taken() {
        let mut series = Series::new(4);
        series.push(10, 1.0);
        series.push(1_000_000, 2.0);
        series.push(3, 5.0);
        let buckets: Vec<_> =
            series.buckets().map(|(_, bucket)| (bucket.count, bucket.max)).collect();
        assert_eq!(buckets, [(2, 5.0), (1, 2.0)]);
        assert_eq!(series.range(), Some((1.0, 5.0)));
        assert_eq!(series.recent_mean(1), Some(2.0));
        assert_eq!(series.recent_mean(2), Some(8.0 / 3.0));
    }
}
