//! What a kernel is: text, declaration, variants.
//!
//! A kernel is WGSL, joined from [`Fragment`]s, with a [`Declaration`] of its bindings, its uniform,
//! its workgroup and its grid. [`kernel!`](crate::kernel!) declares it once; everything else walks
//! the declaration: pipelines are built from it, plans record it, and `contract` (feature
//! `contract`) compares it with the parsed WGSL in both directions. It is compiled for a
//! [`Variant`]: storage of tensors and weights, lanes, heads. Read on in
//! [`kernels`](crate::kernels) for the kernels themselves and in [`plan`](crate::plan) for how they
//! are replayed.

mod blocks;
#[cfg(feature = "contract")]
pub mod contract;
mod cooperative;
mod declaration;
#[doc(hidden)]
pub mod embed;
mod fragment;
mod half_conversions;
mod moments;
pub mod precision;
pub mod shared;
mod variant;
mod work;

pub use blocks::BlockFormat;
pub(crate) use blocks::{half_at, nibbles};
pub use cooperative::CooperativeMatrix;
pub(crate) use declaration::AnyKernel;
pub use declaration::{Access, Declaration, Field, Kernel, MAX_GROUPS, grid};
pub use fragment::Fragment;
pub use half_conversions::HalfConversions;
pub use moments::MomentStorage;
pub use precision::{Precision, WeightStorage};
pub use variant::{HeadQuads, ProductTile, Variant};
pub use work::Work;
