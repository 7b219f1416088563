//! The normalization family as plain f64 loops.
