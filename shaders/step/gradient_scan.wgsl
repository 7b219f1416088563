// Of each chunk: max |g| as bits, sum (|g| / 2^e)^2 with 2^e at or below max |g|, and how many g
// overflow or are zero. One workgroup per chunk, 8 quads per invocation; g is read once, as bits.
struct GradientScanParams { chunk_count: u32, overflow_bits: u32 }

@group(0) @binding(0) var<uniform> params: GradientScanParams;
@group(0) @binding(1) var<storage, read> chunks: array<Chunk>;
@group(0) @binding(2) var<storage, read> gradient: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> partials: array<ScanPartial>;

const PARTS = FOLD * FOLD;
const NONFINITE = vec4<u32>(0x7f800000u);

// |g| as bits; zeros past the chunk's end.
fn magnitude(chunk: Chunk, i: u32) -> vec4<u32> {
    var bits = vec4<u32>();
    if i < chunk.quads { bits = gradient[chunk.offset + i] & vec4(0x7fffffffu); }
    return bits;
}

// 1 for each element that is not zero.
fn nonzero(bits: vec4<u32>) -> vec4<u32> { return min(bits, vec4(1u)); }

// 1 for each element that counts as overflow.
fn nonfinite(bits: vec4<u32>) -> vec4<u32> {
    return (bits + vec4(0x80000000u - params.overflow_bits)) >> vec4(31u);
}

// (|g| / 2^e)^2 with 2^e = 2^(top - 127). Elements too small for their square to count give 0.
fn squares(bits: vec4<u32>, top: u32) -> vec4<f32> {
    let implicit = select(vec4(0u), vec4(0x800000u), (bits & NONFINITE) != vec4(0u));
    let significand = vec4<f32>(vec4<i32>((bits & vec4(0x7fffffu)) | implicit));
    let exponent = vec4<i32>(max(bits >> vec4(23u), vec4(1u))) + vec4(104 - i32(top));
    let scale = bitcast<vec4<f32>>(vec4<u32>(max(exponent, vec4(0))) << vec4(23u));
    let scaled = significand * scale;
    return scaled * scaled;
}

// One part of the chunk; zero_count counts the elements that are not zero.
fn scan(chunk: Chunk, part: u32) -> ScanPartial {
    let q0 = magnitude(chunk, part);
    let q1 = magnitude(chunk, part + 64u);
    let q2 = magnitude(chunk, part + 128u);
    let q3 = magnitude(chunk, part + 192u);
    let q4 = magnitude(chunk, part + 256u);
    let q5 = magnitude(chunk, part + 320u);
    let q6 = magnitude(chunk, part + 384u);
    let q7 = magnitude(chunk, part + 448u);

    let largest = max(max(max(q0, q1), max(q2, q3)), max(max(q4, q5), max(q6, q7)));
    let max_bits = max(max(largest.x, largest.y), max(largest.z, largest.w));
    let filled = nonzero(q0) + nonzero(q1) + nonzero(q2) + nonzero(q3)
        + nonzero(q4) + nonzero(q5) + nonzero(q6) + nonzero(q7);
    let bad = nonfinite(q0) + nonfinite(q1) + nonfinite(q2) + nonfinite(q3)
        + nonfinite(q4) + nonfinite(q5) + nonfinite(q6) + nonfinite(q7);
    let top = exponent_bits(max_bits);
    let sum = ((squares(q0, top) + squares(q1, top)) + (squares(q2, top) + squares(q3, top)))
        + ((squares(q4, top) + squares(q5, top)) + (squares(q6, top) + squares(q7, top)));
    return ScanPartial(
        max_bits,
        (sum.x + sum.y) + (sum.z + sum.w),
        bad.x + bad.y + bad.z + bad.w,
        filled.x + filled.y + filled.z + filled.w,
    );
}

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let c = flat_group(group, groups);
    if c < params.chunk_count {
        let chunk = chunks[c];
        for (var column = lane; column < COLUMNS; column += INVOCATIONS) {
            var sum = ScanPartial();
            for (var part = column; part < PARTS; part += COLUMNS) {
                sum = combine(sum, scan(chunk, part));
            }
            folded[column] = sum;
        }
        var partial = fold_columns(lane);
        if lane == 0u {
            partial.zero_count = chunk.elements - partial.zero_count;
            partials[c] = partial;
        }
    }
}
