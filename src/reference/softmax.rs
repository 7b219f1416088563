//! The softmax family as plain f64 loops.
