// The k-th part of a segment. The kernel binds `members` and has `indirect` in its uniform.
fn part_index(segment: Segment, k: u32) -> u32 {
    var i = segment.first + k;
    if params.indirect == 1u { i = members[i]; }
    return i;
}
