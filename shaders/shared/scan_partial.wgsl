// Joining what two parts of a gradient were found to hold. A sum counts in units of 4^e, where 2^e
// is the power of two at or below the part's largest magnitude, so joining aligns exponents.
// The kernel declares FOLD, the square root of its workgroup size.
var<workgroup> folded: array<ScanPartial, FOLD * FOLD>;

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

// Every stride-th of FOLD parts, in order.
fn fold_stride(first: u32, stride: u32) -> ScanPartial {
    var total = folded[first];
    for (var k = 1u; k < FOLD; k++) { total = combine(total, folded[first + k * stride]); }
    return total;
}

// The workgroup's parts joined in fixed order in two steps; invocation 0 gets the result. Every
// invocation must call it, once, in uniform control flow.
fn fold(lane: u32, partial: ScanPartial) -> ScanPartial {
    folded[lane] = partial;
    workgroupBarrier();
    if lane < FOLD { folded[lane] = fold_stride(lane, FOLD); }
    workgroupBarrier();
    var total = partial;
    if lane == 0u { total = fold_stride(0u, 1u); }
    return total;
}
