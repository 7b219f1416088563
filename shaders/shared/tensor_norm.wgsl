// The norm of a part of the gradient; src/kernels/norm.rs holds the Rust half.
struct TensorNorm {
    significand: f32,
    exponent: i32,
    max_bits: u32,
    nonfinite_count: u32,
    zero_count: u32,
}

// Above every norm of finite elements.
const NONFINITE_EXPONENT = 1048576;
