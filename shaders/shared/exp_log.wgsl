// Exponentials and logarithms that keep their relative accuracy near zero.

fn exp4_nonpositive(x: vec4<f32>) -> vec4<f32> {
    return vec4(
        exp_nonpositive(x.x), exp_nonpositive(x.y), exp_nonpositive(x.z), exp_nonpositive(x.w));
}

// log(1 + t) for t >= 0. WGSL's log has an absolute error of 2^-21 around 1; this one follows
// log(f) = 2 atanh((f - 1) / (f + 1)) with f in [sqrt(1/2), sqrt(2)], and loses nothing of a
// small t because f - 1 = t is never formed by subtraction.
fn log_one_plus(t: f32) -> f32 {
    var exponent = 0.0;
    var s = t / (2.0 + t);
    if t > 0.41421354 {
        let bits = bitcast<u32>(1.0 + t);
        exponent = f32(bits >> 23u) - 127.0;
        var f = bitcast<f32>((bits & 0x007fffffu) | 0x3f800000u);
        if f > 1.4142135 { f *= 0.5; exponent += 1.0; }
        s = (f - 1.0) / (f + 1.0);
    }
    let z = s * s;
    let series = 1.0 + z * (0.33333334 + z * (0.2 + z * (0.14285715 + z * 0.11111111)));
    return exponent * 0.6931472 + 2.0 * s * series;
}

// 1 - exp(-n) for n >= 0: by its Taylor series where the subtraction would cancel.
fn one_minus_exp(n: f32) -> f32 {
    var series = 1.0 - n * 0.125;
    series = 1.0 - n * 0.14285715 * series;
    series = 1.0 - n * 0.16666667 * series;
    series = 1.0 - n * 0.2 * series;
    series = 1.0 - n * 0.25 * series;
    series = 1.0 - n * 0.33333334 * series;
    series = n * (1.0 - n * 0.5 * series);
    return select(1.0 - exp_nonpositive(-n), series, n < 0.5);
}

// A NaN. The bits must come from memory: a constant expression may not be NaN.
fn nan_from(bits: u32) -> f32 { return bitcast<f32>(bits | 0x7fc00000u); }
