// The root of an exact sum, correctly rounded by integers alone.
var<workgroup> limbs: array<u32, LIMBS>;

// sqrt(sum_i limbs[i] * 2^(32 i - 298)) to 24 bits, ties to even, whose nonzero limbs are known.
// The root of the top 49 or 50 bits has 25, one by one, each from a pair of bits and the rest.
fn root(nonzero: u32) -> Wide {
    if nonzero == 0u { return widen(0u); }
    let top = firstLeadingBit(nonzero);
    let length = i32(32u * top + firstLeadingBit(limbs[top])) + 1;
    // Pairs of bits below the top ones.
    let dropped = (length - 49) >> 1u;
    var bits = 0u;
    var rest = 0u;
    for (var k = 24; k >= 0; k--) {
        let place = 2 * (dropped + k);
        var pair = 0u;
        if place >= 0 { pair = (limbs[u32(place) >> 5u] >> (u32(place) & 31u)) & 3u; }
        rest = (rest << 2u) | pair;
        let trial = (bits << 2u) | 1u;
        bits <<= 1u;
        if rest >= trial { rest -= trial; bits |= 1u; }
    }
    if dropped > 0 {
        let end = 2u * u32(dropped);
        rest |= nonzero & ((1u << (end >> 5u)) - 1u);
        rest |= limbs[end >> 5u] & ((1u << (end & 31u)) - 1u);
    }
    var significand = bits >> 1u;
    if (bits & 1u) == 1u && (rest != 0u || (significand & 1u) == 1u) { significand += 1u; }
    let carry = significand >> 24u;
    let fraction = (significand >> carry) & 0x7fffffu;
    return Wide(bitcast<f32>(0x3f800000u | fraction), dropped + i32(carry) - 125);
}
