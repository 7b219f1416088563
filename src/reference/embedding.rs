//! The embedding family as plain f64 loops.
