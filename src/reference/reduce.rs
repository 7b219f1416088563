//! The reduce family as plain f64 loops.

/// Sums of the columns of x (rows, cols) over blocks of rows: (blocks, cols).
pub fn column_partials(x: &[f64], cols: usize, rows_per_block: usize) -> Vec<f64> {
    x.chunks(rows_per_block * cols).flat_map(|block| column_sum(block, cols)).collect()
}

/// `y[c] = sum_b partials[b, c]`.
pub fn column_sum(partials: &[f64], cols: usize) -> Vec<f64> {
    (0..cols).map(|c| partials.iter().skip(c).step_by(cols).sum()).collect()
}

/// Mean of all values; 0 where there are none.
pub fn row_mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
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
