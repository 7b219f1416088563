//! Optimizers: one dispatch advances every tensor of a flat parameter buffer.
//!
//! Each is a rule in the frame that all share, declared by [`update_rule!`](crate::update_rule!):
//! the frame reads what [`Verdict`](super::Verdict) left in the state, unscales and clips on the
//! fly, and writes nothing that is kept if the step is skipped. Padding stays zero.
//!
//! What a rule needs to know of a whole tensor before it moves a weight comes from passes in front:
//! one partial sum per chunk ([`Agreement`], [`SquaredRatio`], [`WeightSquares`],
//! [`AdafactorSquares`]), then [`TensorFactors`] makes one number per tensor of them. Those passes
//! are in `passes`; rules with passes of their own have a file each.

mod adafactor;
mod adam;
mod compact;
mod momentum;
mod muon;
mod passes;
mod rule;

pub use adafactor::*;
pub use adam::*;
pub use compact::*;
pub use momentum::*;
pub use muon::*;
pub use passes::*;
pub use rule::UpdateParams;

use crate::kernel::{Declaration, Kernel};

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] = &[
    Adamw::DECLARATION,
    Adam::DECLARATION,
    Sgd::DECLARATION,
    Amsgrad::DECLARATION,
    AdamwScaled::DECLARATION,
    AdamAtan2::DECLARATION,
    Lion::DECLARATION,
    Agreement::DECLARATION,
    SquaredRatio::DECLARATION,
    MomentStatistics::DECLARATION,
    TensorFactors::DECLARATION,
    WeightSquares::DECLARATION,
    AdafactorScan::DECLARATION,
    AdafactorFactors::DECLARATION,
    AdafactorSquares::DECLARATION,
    Adafactor::DECLARATION,
    MuonMomentum::DECLARATION,
    MuonNorm::DECLARATION,
    MuonNormalize::DECLARATION,
    MuonPolynomial::DECLARATION,
    Muon::DECLARATION,
    AdamwPacked::DECLARATION,
    AdamwBf16::DECLARATION,
    AdamBf16::DECLARATION,
    LionBf16::DECLARATION,
    AdamwBlocks::DECLARATION,
    AdamBlocks::DECLARATION,
    LionBlocks::DECLARATION,
];
