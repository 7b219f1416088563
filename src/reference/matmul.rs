//! The matmul family as plain f64 loops: one dense product. Batches call it once per matrix.

/// Sizes of a product: C is (rows, cols), each element a sum of `inner` terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Rows of C.
    pub rows: usize,
    /// Columns of C.
    pub cols: usize,
    /// Terms of each sum.
    pub inner: usize,
}

impl Product {
    fn sums(self, term: impl Fn(usize, usize, usize) -> f64) -> Vec<f64> {
        let mut c = Vec::with_capacity(self.rows * self.cols);
        for i in 0..self.rows {
            for j in 0..self.cols {
                c.push((0..self.inner).map(|k| term(i, j, k)).sum());
            }
        }
        c
    }
}

/// A·B with A (rows, inner) and B (inner, cols).
pub fn matmul(a: &[f64], b: &[f64], size: Product) -> Vec<f64> {
    size.sums(|i, j, k| a[i * size.inner + k] * b[k * size.cols + j])
}

/// A·Bᵀ with A (rows, inner) and B (cols, inner).
pub fn matmul_transposed_b(a: &[f64], b: &[f64], size: Product) -> Vec<f64> {
    size.sums(|i, j, k| a[i * size.inner + k] * b[j * size.inner + k])
}

/// Aᵀ·B with A (inner, rows) and B (inner, cols).
pub fn matmul_transposed_a(a: &[f64], b: &[f64], size: Product) -> Vec<f64> {
    size.sums(|i, j, k| a[k * size.rows + i] * b[k * size.cols + j])
}

/// See [`matmul`].
pub fn matmul_direct(a: &[f64], b: &[f64], size: Product) -> Vec<f64> {
    matmul(a, b, size)
}

/// See [`matmul`].
pub fn matmul_resumed(a: &[f64], b: &[f64], size: Product) -> Vec<f64> {
    matmul(a, b, size)
}

/// See [`matmul`].
pub fn matmul_resumed_direct(a: &[f64], b: &[f64], size: Product) -> Vec<f64> {
    matmul(a, b, size)
}

/// See [`matmul_transposed_b`].
pub fn matmul_transposed_b_few(a: &[f64], b: &[f64], size: Product) -> Vec<f64> {
    matmul_transposed_b(a, b, size)
}

/// See [`matmul_transposed_b`].
pub fn matmul_transposed_b_direct(a: &[f64], b: &[f64], size: Product) -> Vec<f64> {
    matmul_transposed_b(a, b, size)
}

/// See [`matmul_transposed_a`].
pub fn matmul_transposed_a_direct(a: &[f64], b: &[f64], size: Product) -> Vec<f64> {
    matmul_transposed_a(a, b, size)
}
