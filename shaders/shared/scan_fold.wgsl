// The scan partials of a workgroup joined by `combine`, which another fragment gives. The kernel or
// a fragment declares FOLD, the square root of the workgroup's size.
var<workgroup> folded: array<ScanPartial, FOLD * FOLD>;

// Every stride-th of FOLD parts, in order. No compiler knows how often the loop turns, or it would
// write `combine` out so many times.
fn fold_stride(first: u32, stride: u32) -> ScanPartial {
    var total = folded[first];
    let end = first + FOLD * stride;
    for (var at = first + stride; at < end; at += stride) { total = combine(total, folded[at]); }
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
    if lane == 0u { total = fold_stride(lane, 1u); }
    return total;
}
