// Parts of a gradient gathered into tensors, tensors into groups and the whole. The kernel binds
// `members` and has `indirect` in its uniform. src/kernels/norm.rs holds the Rust half.
struct Segment {
    first: u32,
    count: u32,
}

// The k-th part of a segment.
fn part_index(segment: Segment, k: u32) -> u32 {
    var i = segment.first + k;
    if params.indirect == 1u { i = members[i]; }
    return i;
}
