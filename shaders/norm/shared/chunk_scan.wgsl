// What every scan of a gradient finds first: magnitudes, and how many are zero or overflow.
// The kernel binds `gradient` as bits, because a device may flush subnormals and assume that NaN
// and Inf do not exist. 8 quads for each of 64 invocations are the most a chunk holds.
const NONFINITE = vec4<u32>(0x7f800000u);

// |g| as bits; zeros past the chunk's end.
fn magnitude(chunk: Chunk, i: u32) -> vec4<u32> {
    var bits = vec4<u32>();
    if i < chunk.quads { bits = gradient[chunk.offset + i] & vec4(0x7fffffffu); }
    return bits;
}

// 1 for each element that is not zero.
fn nonzero(bits: vec4<u32>) -> vec4<u32> { return min(bits, vec4(1u)); }

// 1 for each element that counts as overflow; `params` is the kernel's uniform.
fn nonfinite(bits: vec4<u32>) -> vec4<u32> {
    return (bits + vec4(0x80000000u - params.overflow_bits)) >> vec4(31u);
}

// What one invocation holds of the chunk, but for the sum; zero_count counts the elements that
// are not zero.
fn survey(chunk: Chunk, lane: u32) -> ScanPartial {
    let q0 = magnitude(chunk, lane);
    let q1 = magnitude(chunk, lane + 64u);
    let q2 = magnitude(chunk, lane + 128u);
    let q3 = magnitude(chunk, lane + 192u);
    let q4 = magnitude(chunk, lane + 256u);
    let q5 = magnitude(chunk, lane + 320u);
    let q6 = magnitude(chunk, lane + 384u);
    let q7 = magnitude(chunk, lane + 448u);

    let largest = max(max(max(q0, q1), max(q2, q3)), max(max(q4, q5), max(q6, q7)));
    let filled = nonzero(q0) + nonzero(q1) + nonzero(q2) + nonzero(q3)
        + nonzero(q4) + nonzero(q5) + nonzero(q6) + nonzero(q7);
    let bad = nonfinite(q0) + nonfinite(q1) + nonfinite(q2) + nonfinite(q3)
        + nonfinite(q4) + nonfinite(q5) + nonfinite(q6) + nonfinite(q7);
    return ScanPartial(
        max(max(largest.x, largest.y), max(largest.z, largest.w)),
        0.0,
        bad.x + bad.y + bad.z + bad.w,
        filled.x + filled.y + filled.z + filled.w,
    );
}
