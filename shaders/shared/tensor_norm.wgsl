// Parts of a gradient gathered into tensors, tensors into groups and the whole. src/kernels/norm.rs
// holds the Rust halves.
struct Segment {
    first: u32,
    count: u32,
}

struct TensorNorm {
    significand: f32,
    exponent: i32,
    max_bits: u32,
    nonfinite_count: u32,
    zero_count: u32,
}

// Above every norm of finite elements.
const NONFINITE_EXPONENT = 1048576;
