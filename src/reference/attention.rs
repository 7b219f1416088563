//! The attention family as plain f64 loops.
