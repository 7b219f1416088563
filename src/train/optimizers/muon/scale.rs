//! How far Muon moves a matrix: factors by shape.

/// How the size of an update follows from the shape of its matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MuonScale {
    /// √max(1, rows / cols), with weights stored as (out, in): Jordan's.
    #[default]
    Original,
    /// 0.2 √max(rows, cols): updates have the RMS that AdamW's usually have, so its learning rate
    /// and weight decay can be taken over (Liu et al. 2025, <https://arxiv.org/abs/2502.16982>).
    MatchRmsAdamW,
    /// √(rows / cols), which bounds the change of outputs whatever the width (Bernstein 2025,
    /// <https://jeremybernste.in/writing/deriving-muon>).
    Spectral,
}

impl MuonScale {
    /// The factor for a matrix of this shape.
    pub fn factor(self, rows: usize, cols: usize) -> f64 {
        let ratio = rows as f64 / cols as f64;
        match self {
            Self::Original => ratio.max(1.0).sqrt(),
            Self::MatchRmsAdamW => 0.2 * (rows.max(cols) as f64).sqrt(),
            Self::Spectral => ratio.sqrt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_follow_from_shapes() {
        use MuonScale::*;
        assert_eq!(Original.factor(4, 16), 1.0);
        assert_eq!(Original.factor(16, 4), 2.0);
        assert_eq!(MatchRmsAdamW.factor(4, 16), 0.8);
        assert_eq!(Spectral.factor(4, 16), 0.5);
    }
}
