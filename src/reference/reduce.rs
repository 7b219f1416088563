//! The reduce family as plain f64 loops.
