// Joining what two parts of a gradient were found to hold. A sum counts in units of 4^e, where 2^e
// is the power of two at or below the part's largest magnitude, so joining aligns exponents.
// The kernel declares FOLD_LANES, its workgroup size.
var<workgroup> folded: array<ScanPartial, FOLD_LANES>;

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

// The workgroup's parts joined as a tree in fixed order; invocation 0 gets the result. Every
// invocation must call it, once, in uniform control flow.
fn fold(lane: u32, partial: ScanPartial) -> ScanPartial {
    folded[lane] = partial;
    for (var stride = FOLD_LANES / 2u; stride > 0u; stride >>= 1u) {
        workgroupBarrier();
        if lane < stride { folded[lane] = combine(folded[lane], folded[lane + stride]); }
    }
    return folded[0];
}
