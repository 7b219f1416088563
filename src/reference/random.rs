//! The random family as plain f64 loops.
