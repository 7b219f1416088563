// Joining what two parts of a gradient were found to hold, where sums are of p-th powers. A sum
// counts in units of unit^p: the unit is the part's largest magnitude, but for p = 1 and p = 2 the
// power of two at or below it, which makes scaling exact. The kernel's uniform has `power`.
fn power_is_whole() -> bool { return params.power == 1.0 || params.power == 2.0; }

// (unit / top unit)^p of two parts, of which the larger one's unit is the top one.
fn unit_powers(a: u32, b: u32) -> vec2<f32> {
    if power_is_whole() {
        let e = vec2<i32>(vec2(exponent_bits(a), exponent_bits(b)));
        let shift = i32(params.power) * (e - vec2(max(e.x, e.y)));
        return vec2(power_of_two(shift.x), power_of_two(shift.y));
    }
    return power_of_ratio(vec4(a, b, a, b), log2_bits(vec4(max(a, b))), params.power).xy;
}

fn combine(a: ScanPartial, b: ScanPartial) -> ScanPartial {
    let units = unit_powers(a.max_bits, b.max_bits);
    return ScanPartial(
        max(a.max_bits, b.max_bits),
        a.scaled_sum * units.x + b.scaled_sum * units.y,
        a.nonfinite_count + b.nonfinite_count,
        a.zero_count + b.zero_count,
    );
}
