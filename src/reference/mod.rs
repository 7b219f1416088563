//! The kernels again as plain f64 loops, under the same names: the oracle of every test.
//!
//! They follow the formula, not the kernel: dense tensors without padding, no tiles, no
//! workgroups, no f32. A kernel's test compares the GPU with the function of its name here, and
//! [`Op::evaluate`](crate::graph::Op::evaluate) calls them to run whole graphs on the CPU.

pub mod attention;
pub mod elementwise;
pub mod embedding;
pub mod generation;
pub mod logits;
pub mod loss;
pub mod matmul;
pub mod norm;
pub mod normalization;
pub mod optimizer;
pub mod policy;
pub mod probe;
pub mod random;
pub mod reduce;
pub mod softmax;
pub mod step;
pub mod weights;
