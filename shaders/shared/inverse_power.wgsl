// t^-p for t >= 1 and p >= 0 within a few ULP: WGSL's pow may be wrong by 16 + 2 |y log2 x| ULP.
// With t = 2^k f, f near 1: t^-p = 2^-(p k + p log2 f), whose integer part goes to the exponent.
fn inverse_power(t: f32, p: f32) -> f32 {
    let bits = bitcast<u32>(t);
    var k = f32(bits >> 23u) - 127.0;
    var f = bitcast<f32>((bits & 0x007fffffu) | 0x3f800000u);
    if f > 1.4142135 {
        f *= 0.5;
        k += 1.0;
    }
    // log2 f = 2 / ln 2 atanh((f - 1) / (f + 1))
    let s = (f - 1.0) / (f + 1.0);
    let z = s * s;
    let series = 1.0 + z * (0.33333334 + z * (0.2 + z * (0.14285715 + z * 0.11111111)));
    let exponent = -p * (k + 2.8853900 * s * series);
    let whole = round(exponent);
    // 2^x = e^(x ln 2) for |x| <= 1/2.
    let x = (exponent - whole) * 0.6931472;
    var e = 1.0 + x * 0.14285715;
    e = 1.0 + x * 0.16666667 * e;
    e = 1.0 + x * 0.2 * e;
    e = 1.0 + x * 0.25 * e;
    e = 1.0 + x * 0.33333334 * e;
    e = 1.0 + x * (1.0 + x * 0.5 * e);
    return e * bitcast<f32>(u32(clamp(whole, -126.0, 0.0) + 127.0) << 23u);
}
