//! The matmul family as plain f64 loops.
