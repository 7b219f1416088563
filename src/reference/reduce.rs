//! The reduce family as plain f64 loops.

/// Sums of the columns of x (rows, cols) over blocks of rows: (blocks, cols).
pub fn column_partials(x: &[f64], cols: usize, rows_per_block: usize) -> Vec<f64> {
    x.chunks(rows_per_block * cols).flat_map(|block| column_sum(block, cols)).collect()
}

/// `y[c] = sum_b partials[b, c]`.
pub fn column_sum(partials: &[f64], cols: usize) -> Vec<f64> {
    (0..cols).map(|c| partials.iter().skip(c).step_by(cols).sum()).collect()
}

/// [`column_sum`] of each of these partials, which have as many columns as stands beside them.
pub fn column_sums(partials: &[(&[f64], usize)]) -> Vec<Vec<f64>> {
    partials.iter().map(|&(partials, cols)| column_sum(partials, cols)).collect()
}

/// `y[c] = sum_b partials[b, first + c] / divisor[c]`, and 0 where the divisor is.
pub fn divided_column_sum(
    partials: &[f64],
    cols: usize,
    first: usize,
    divisor: &[f64],
) -> Vec<f64> {
    let sums = column_sum(partials, cols).into_iter().skip(first);
    sums.zip(divisor).map(|(sum, &d)| if d == 0.0 { 0.0 } else { sum / d }).collect()
}

/// Mean of all values; 0 where there are none.
pub fn row_mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// What a tensor holds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ValueRange {
    /// Largest magnitude of the finite elements.
    pub largest: f64,
    /// Sum of the squares of the finite elements.
    pub sum_of_squares: f64,
    /// Elements that are NaN or Inf.
    pub nonfinite_count: usize,
    /// Elements that are zero.
    pub zero_count: usize,
    /// Elements that are not zero and below `smallest_normal`.
    pub subnormal_count: usize,
    /// Index of the first element that is NaN or Inf.
    pub first_nonfinite: Option<usize>,
}

/// Range, squares and counts of x.
pub fn value_scan(x: &[f64], smallest_normal: f64) -> ValueRange {
    let finite = || x.iter().filter(|x| x.is_finite());
    ValueRange {
        largest: finite().fold(0.0, |largest, x| x.abs().max(largest)),
        sum_of_squares: finite().map(|x| x * x).sum(),
        nonfinite_count: x.len() - finite().count(),
        zero_count: finite().filter(|&&x| x == 0.0).count(),
        subnormal_count: finite().filter(|&&x| x != 0.0 && x.abs() < smallest_normal).count(),
        first_nonfinite: x.iter().position(|x| !x.is_finite()),
    }
}

/// Sum, modulo 2^32, of the bits of x, each mixed with its index.
pub fn checksum(x: &[f32]) -> u32 {
    let mixed = |(index, x): (usize, &f32)| {
        let place = (index as u32).wrapping_mul(0x9e37_79b9);
        let product = (x.to_bits() ^ place).wrapping_mul(0x85eb_ca6b);
        product ^ (product >> 15)
    };
    x.iter().enumerate().map(mixed).fold(0, u32::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partials_add_up_to_the_sum() {
        let x: Vec<_> = (0..21).map(f64::from).collect();
        assert_eq!(column_sum(&x, 3), [63.0, 70.0, 77.0]);
        let partials = column_partials(&x, 3, 3);
        assert_eq!(partials, [9.0, 12.0, 15.0, 36.0, 39.0, 42.0, 18.0, 19.0, 20.0]);
        assert_eq!(column_sum(&partials, 3), column_sum(&x, 3));
        assert_eq!(row_mean(&x), 10.0);
        assert_eq!(row_mean(&[]), 0.0);
    }
}
