//! The step family as plain f64 loops.
