//! Every kernel of the crate, one struct per WGSL file, over your own `wgpu::Buffer`s.
//!
//! Tensors are rows of quads (four elements): a row of `cols` elements takes
//! `cols.div_ceil(4)` quads, and the elements between are zero. Row statistics are plain f32.
//! Gradients of parameters are f32 and either overwritten or added to; activations are
//! overwritten. [`all`] is what the contract test walks.

pub mod attention;
pub mod elementwise;
pub mod embedding;
pub mod generation;
pub mod logits;
pub mod loss;
pub mod matmul;
pub mod norm;
pub mod normalization;
pub mod optimizer;
pub mod policy;
pub mod probe;
pub mod random;
pub mod reduce;
pub mod softmax;
pub mod step;
pub mod weights;

pub use attention::*;
pub use elementwise::*;
pub use embedding::*;
pub use generation::*;
pub use logits::*;
pub use loss::*;
pub use matmul::*;
pub use norm::*;
pub use normalization::*;
pub use optimizer::*;
pub use policy::*;
pub use probe::*;
pub use random::*;
pub use reduce::*;
pub use softmax::*;
pub use step::*;
pub use weights::*;

use crate::kernel::Declaration;

/// Every kernel, by family.
pub const FAMILIES: &[(&str, &[Declaration])] = &[
    ("attention", attention::ALL),
    ("elementwise", elementwise::ALL),
    ("embedding", embedding::ALL),
    ("generation", generation::ALL),
    ("logits", logits::ALL),
    ("loss", loss::ALL),
    ("matmul", matmul::ALL),
    ("norm", norm::ALL),
    ("normalization", normalization::ALL),
    ("optimizer", optimizer::ALL),
    ("policy", policy::ALL),
    ("probe", probe::ALL),
    ("random", random::ALL),
    ("reduce", reduce::ALL),
    ("softmax", softmax::ALL),
    ("step", step::ALL),
    ("weights", weights::ALL),
];

/// Every kernel of the crate.
pub fn all() -> impl Iterator<Item = &'static Declaration> {
    FAMILIES.iter().flat_map(|(_, kernels)| kernels.iter())
}
