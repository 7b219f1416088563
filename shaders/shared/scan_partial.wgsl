// Joining what two parts of a gradient were found to hold. A sum counts in units of 4^e, where 2^e
// is the power of two at or below the part's largest magnitude, so joining aligns exponents.
fn combine(a: ScanPartial, b: ScanPartial) -> ScanPartial {
    let e = vec2<i32>(vec2(exponent_bits(a.max_bits), exponent_bits(b.max_bits)));
    let top = max(e.x, e.y);
    let sum = a.scaled_sum * power_of_two(2 * (e.x - top))
        + b.scaled_sum * power_of_two(2 * (e.y - top));
    return ScanPartial(
        max(a.max_bits, b.max_bits),
        sum,
        a.nonfinite_count + b.nonfinite_count,
        a.zero_count + b.zero_count,
    );
}
