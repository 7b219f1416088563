// Flat indices in a grid that was folded to stay within 65,535 workgroups per dimension. Such a
// grid may hold a few workgroups too many, so every user compares the index with its count.
fn flat_group(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}
