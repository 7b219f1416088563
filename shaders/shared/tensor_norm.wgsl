// Parts of a gradient gathered into tensors, tensors into groups and the whole. The kernel binds
// `members` and has `indirect` in its uniform. src/kernels/norm.rs holds the Rust halves.
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

// The k-th part of a segment.
fn part_index(segment: Segment, k: u32) -> u32 {
    var i = segment.first + k;
    if params.indirect == 1u { i = members[i]; }
    return i;
}
