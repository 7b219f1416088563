//! The operations, by family. Each is one `impl Op` and one method of [`Graph`](super::Graph).

mod adapter;
mod attention;
mod batch_norm;
mod cast;
mod dora;
mod elementwise;
mod embedding;
mod generation;
mod gradient_products;
mod linear;
mod linear_cross_entropy;
mod logits;
mod loss;
mod matmul;
mod product_kernels;
mod random;
mod reduce;
mod row_norm;
mod softmax;
mod step;

pub use adapter::{AdaptedColumns, LowRank};
pub use attention::{Attention, AttentionLayout, AttentionSettings};
pub use cast::Cast;
pub use elementwise::{ActivationBackward, Add, Gated, Multiply, Scale, SoftCap};
pub use generation::{AttentionCached, RotaryByRow, Sample};
pub use linear::Linear;
pub use linear_cross_entropy::LinearCrossEntropy;
pub use logits::{AttentionLogits, HeadNorm, LossLogits, QkNorm};
pub use loss::{CountTargets, CrossEntropy, MeanSquaredError};
pub use matmul::{Product, Transposed};
pub use step::SeedGradient;

pub(super) use elementwise::GatedBackward;
pub(super) use gradient_products::{ActivationGradient, GradientProducts};
pub(super) use reduce::{ColumnSum, ColumnSums};

use super::{Shape, Value};

/// The gradient of an operation's only differentiable output.
fn first(upstream: &[Option<Value>]) -> Value {
    upstream[0].expect("the walk visits nodes whose output has a gradient")
}

#[track_caller]
fn assert_same_shape(what: &str, a: &Shape, b: &Shape) {
    assert_eq!(a.dims, b.dims, "{what}: the operands have shapes {a} and {b}");
}
