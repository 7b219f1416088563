//! The attention family.

use crate::kernel::Declaration;

/// Every kernel of this family.
pub const ALL: &[Declaration] = &[];
