// Powers of magnitudes. WGSL's pow, log2 and exp2 may be off by 2^-21 and more; these lose about
// one unit of 2^-24 each, and exponents stay integers, so subnormals are no exception.

// log2 |x| = whole + fraction, fraction in [0, 1]. Absolute error 2^-24, the quotient's aside.
struct Log2 { whole: vec4<i32>, fraction: vec4<f32> }

// 2 atanh((s - 1) / (s + 1)) / ln 2 = log2 s, with s in [sqrt(1/2), sqrt(2)].
fn log2_significand(significand: vec4<f32>) -> vec4<f32> {
    let high = significand > vec4(1.4142135);
    let s = significand * select(vec4(1.0), vec4(0.5), high);
    let a = (s - 1.0) / (s + 1.0);
    let z = a * a;
    let series = 2.88539 + z * (0.9617967 + z * (0.5770836 + z * (0.41167375 + z * 0.34071204)));
    return select(vec4(0.0), vec4(1.0), high) + a * series;
}

// Of magnitudes as bits; a zero counts as 2^-150.
fn log2_bits(bits: vec4<u32>) -> Log2 {
    let implicit = select(vec4(0u), vec4(0x800000u), bits >= vec4(0x800000u));
    let significand = (bits & vec4(0x7fffffu)) | implicit;
    let shift = countLeadingZeros(significand) - vec4(8u);
    let fraction = (significand << shift) & vec4(0x7fffffu);
    let whole = vec4<i32>(max(bits >> vec4(23u), vec4(1u))) - vec4<i32>(shift) - vec4(127);
    return Log2(whole, log2_significand(bitcast<vec4<f32>>(fraction | vec4(0x3f800000u))));
}

// 2^r for |r| <= 1/2, to 2^-24; 1 for 0.
fn exp2_fraction(r: vec4<f32>) -> vec4<f32> {
    let tail = 0.0555035695 + r * (0.0096180830 + r * (0.0013390863 + r * 0.00015453163));
    return 1.0 + r * (0.69314718 + r * (0.24022651 + r * tail));
}

// 2^y for y <= 0; 0 where that is below the normal range.
fn exp2_nonpositive(y: vec4<f32>) -> vec4<f32> {
    let bounded = max(y, vec4(-127.0));
    let whole = round(bounded);
    let scale = bitcast<vec4<f32>>(vec4<u32>(vec4<i32>(whole) + vec4(127)) << vec4(23u));
    return exp2_fraction(bounded - whole) * scale;
}

// (|x| / |top|)^p where |x| <= |top|; 0 for zeros.
fn power_of_ratio(bits: vec4<u32>, top: Log2, p: f32) -> vec4<f32> {
    let x = log2_bits(bits);
    let log = vec4<f32>(x.whole - top.whole) + (x.fraction - top.fraction);
    return select(vec4(0.0), exp2_nonpositive(min(p * log, vec4(0.0))), bits != vec4(0u));
}
