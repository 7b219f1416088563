// What a tensor holds: max |x| as bits, sum (|x| / 2^e)^2 over finite x with 2^e at or below
// max |x|, counts, the first element that is not finite, and a checksum of all bits. Each workgroup
// strides over the quads and owns one partial.
struct ValueScanParams {
    quads: u32,
    row_quads: u32,
    cols: u32,
    groups: u32,
    first_partial: u32,
    smallest_normal_bits: u32,
}

@group(0) @binding(0) var<uniform> params: ValueScanParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>; // (rows, cols)
@group(0) @binding(2) var<storage, read_write> partials: array<ValuePartial>;

const NONE = 0xffffffffu;

// Bits of x; zeros past the end.
fn bits_of(i: u32) -> vec4<u32> {
    var bits = vec4<u32>();
    if i < params.quads { bits = bitcast<vec4<u32>>(unpack(x[i])); }
    return bits;
}

// Bits of |x|.
fn magnitude(i: u32) -> vec4<u32> {
    return bits_of(i) & vec4(0x7fffffffu);
}

// Bits mixed with their place, so that no two changes are likely to cancel out.
fn mixed(bits: vec4<u32>, index: vec4<u32>) -> vec4<u32> {
    let product = (bits ^ (index * 0x9e3779b9u)) * 0x85ebca6bu;
    return product ^ (product >> vec4(15u));
}

fn sum_of(x: vec4<u32>) -> u32 {
    return x.x + x.y + x.z + x.w;
}

fn sum_counts(flags: vec4<bool>) -> u32 {
    return sum_of(select(vec4(0u), vec4(1u), flags));
}

// (|x| / 2^e)^2, 0 for what is not finite or flushed.
fn square(bits: vec4<u32>, exponent: i32) -> f32 {
    let finite = select(vec4(0u), bits, bits < vec4(0x7f800000u));
    let scaled = bitcast<vec4<f32>>(finite) * power_of_two(-exponent);
    let squares = scaled * scaled;
    return (squares.x + squares.y) + (squares.z + squares.w);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let stride = params.groups * 64u;
    var largest = 0u;
    var found = ValuePartial(0u, 0.0, 0u, 0u, 0u, NONE, 0u);
    for (var start = group.x * 64u; start < params.quads; start += stride) {
        let i = start + lane;
        let all = bits_of(i);
        let bits = all & vec4(0x7fffffffu);
        let col = 4u * (i % params.row_quads) + vec4(0u, 1u, 2u, 3u);
        let exists = (col < vec4(params.cols)) & vec4(i < params.quads);
        let bad = bits >= vec4(0x7f800000u);
        let finite = select(bits, vec4(0u), bad);
        largest = max(largest, max(max(finite.x, finite.y), max(finite.z, finite.w)));
        found.nonfinite_count += sum_counts(bad);
        found.zero_count += sum_counts((bits == vec4(0u)) & exists);
        let subnormal = (bits > vec4(0u)) & (bits < vec4(params.smallest_normal_bits));
        found.subnormal_count += sum_counts(subnormal);
        let index = i / params.row_quads * params.cols + col;
        found.checksum += sum_of(select(vec4(0u), mixed(all, index), exists));
        let first = select(vec4(NONE), index, bad);
        let earliest = min(min(first.x, first.y), min(first.z, first.w));
        found.first_nonfinite = min(found.first_nonfinite, earliest);
    }
    largest = workgroup_max_u32(lane, largest);
    let exponent = min(i32(exponent_bits(largest)) - 127, 126);
    var sum = 0.0;
    for (var start = group.x * 64u; start < params.quads; start += stride) {
        sum += square(magnitude(start + lane), exponent);
    }
    sum = workgroup_sum(lane, sum);
    let nonfinite_count = workgroup_sum_u32(lane, found.nonfinite_count);
    let zero_count = workgroup_sum_u32(lane, found.zero_count);
    let subnormal_count = workgroup_sum_u32(lane, found.subnormal_count);
    let checksum = workgroup_sum_u32(lane, found.checksum);
    let first = NONE - workgroup_max_u32(lane, NONE - found.first_nonfinite);
    if lane == 0u {
        partials[params.first_partial + group.x] = ValuePartial(
            largest, sum, nonfinite_count, zero_count, subnormal_count, first, checksum,
        );
    }
}
