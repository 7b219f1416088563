//! The embedding family as plain f64 loops.

/// `y[r] = table[tokens[r]]`; zero where the token is outside the table of (vocabulary, cols).
pub fn embedding(cols: usize, tokens: &[u32], table: &[f64]) -> Vec<f64> {
    let mut y = Vec::with_capacity(tokens.len() * cols);
    for &token in tokens {
        match table.chunks(cols).nth(token as usize) {
            Some(row) => y.extend_from_slice(row),
            None => y.resize(y.len() + cols, 0.0),
        }
    }
    y
}

/// Row v is the sum of the rows of dy whose token is v, in their order; (vocabulary, cols).
pub fn embedding_backward(vocabulary: usize, cols: usize, tokens: &[u32], dy: &[f64]) -> Vec<f64> {
    let mut gradient = vec![0.0; vocabulary * cols];
    for (&token, dy) in tokens.iter().zip(dy.chunks(cols)) {
        if let Some(row) = gradient.chunks_mut(cols).nth(token as usize) {
            row.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
        }
    }
    gradient
}

/// Row t is the sum of the rows b time + t of dy; dy is (batch, time cols).
pub fn position_backward(time_cols: usize, dy: &[f64]) -> Vec<f64> {
    let mut gradient = vec![0.0; time_cols];
    for sequence in dy.chunks(time_cols) {
        gradient.iter_mut().zip(sequence).for_each(|(sum, dy)| *sum += dy);
    }
    gradient
}

/// Where and by what angles [`rotary`] turns.
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'a> {
    /// Elements of a row.
    pub cols: usize,
    /// Row r has position r % time.
    pub time: usize,
    /// Heads that turn, from column 0 on.
    pub rotated_heads: usize,
    /// Pair j of position t turns by t times frequency j; a head has twice as many elements.
    pub frequencies: &'a [f64],
    /// Whether it turns backwards.
    pub inverse: bool,
}

/// Elements a = j and b = j + head_dim / 2 of each head turn: (a cos - b sin, b cos + a sin) (Su et
/// al., "RoFormer", 2021, in the pairing of Llama).
pub fn rotary(rotation: Rotation<'_>, x: &[f64]) -> Vec<f64> {
    let Rotation { cols, time, rotated_heads, frequencies, inverse } = rotation;
    let head_dim = 2 * frequencies.len();
    let mut y = x.to_vec();
    for (r, row) in y.chunks_mut(cols).enumerate() {
        for head in row.chunks_mut(head_dim).take(rotated_heads) {
            let (low, high) = head.split_at_mut(head_dim / 2);
            for (j, (a, b)) in low.iter_mut().zip(high).enumerate() {
                let angle = (r % time) as f64 * frequencies[j];
                let (sin, cos) = if inverse { -angle } else { angle }.sin_cos();
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
    y
}
