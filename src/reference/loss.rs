//! The loss family as plain f64 loops.
