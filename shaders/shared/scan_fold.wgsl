// FOLD * FOLD scan partials of a workgroup joined by `combine`, which another fragment gives: those
// that are FOLD apart, in order, and then the FOLD that come of it. The kernel or a fragment declares
// FOLD, and COLUMNS: all of them where each invocation has one, or FOLD where invocations have joined
// those that are FOLD apart.
var<workgroup> folded: array<ScanPartial, COLUMNS>;

// Every stride-th of FOLD parts, in order. No compiler knows how often the loop turns, or it would
// write `combine` out so many times.
fn fold_stride(first: u32, stride: u32) -> ScanPartial {
    var total = folded[first];
    let end = first + FOLD * stride;
    for (var at = first + stride; at < end; at += stride) { total = combine(total, folded[at]); }
    return total;
}

// What lies in `folded`, joined; invocation 0 gets the result. Every invocation must call it, once, in
// uniform control flow.
fn fold_columns(lane: u32) -> ScanPartial {
    workgroupBarrier();
    if COLUMNS > FOLD {
        if lane < FOLD { folded[lane] = fold_stride(lane, FOLD); }
        workgroupBarrier();
    }
    var total = ScanPartial();
    if lane == 0u { total = fold_stride(lane, 1u); }
    return total;
}

// The same for one part of each invocation.
fn fold(lane: u32, partial: ScanPartial) -> ScanPartial {
    folded[lane] = partial;
    return fold_columns(lane);
}
