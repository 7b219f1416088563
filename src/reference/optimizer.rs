//! The optimizer family as plain f64 loops.
