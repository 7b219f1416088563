// Partial sums of one tensor, and where what they give belongs.
struct TensorRange {
    first: u32,
    count: u32,
    elements: u32,
    target_index: u32,
}
