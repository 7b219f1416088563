//! Layer, RMS and batch normalization. Statistics are f32 and two-pass: the mean, then the sum of
//! centred squares; the mean of x² less mean² would lose a small variance beside a large mean. The
//! mean is kept as (shift + rest) / scale, so that the backward pass keeps the digits of x - mean
//! too. scale is 1, or a power of two where squares would leave f32; std is that of x scale.
//! A row or feature with a NaN or Inf is all NaN. Parameter gradients of the row norms come as
//! partial sums per block of rows, which [`ColumnSum`](super::ColumnSum) folds.

mod batch;
mod rows;

pub use batch::*;
pub use rows::*;

use crate::kernel::{Declaration, Kernel};

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] = &[
    LayerNorm::DECLARATION,
    ResidualLayerNorm::DECLARATION,
    LayerNormBackward::DECLARATION,
    LayerNormParameterPartials::DECLARATION,
    RmsNorm::DECLARATION,
    ResidualRmsNorm::DECLARATION,
    RmsNormBackward::DECLARATION,
    RmsNormParameterPartials::DECLARATION,
    RowNorms::DECLARATION,
    BatchNormStatistics::DECLARATION,
    BatchNorm::DECLARATION,
    BatchNormBackward::DECLARATION,
    BatchNormRunning::DECLARATION,
];
