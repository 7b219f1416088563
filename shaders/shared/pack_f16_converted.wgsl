// Four numbers as IEEE binary16, two to a word, rounded by the device. WGSL leaves the rounding open,
// so it is asked for before this is used, and for what is beyond the largest half, 65,504, it promises
// nothing at all: four numbers of which one is, or is Inf or NaN, are found by their bits and rounded
// by integers, so that no device can lose an overflow.
fn pack_f16(values: vec4<f32>) -> vec2<u32> {
    let magnitude = bitcast<vec4<u32>>(values) & vec4(0x7fffffffu);
    let larger = max(magnitude.xy, magnitude.zw);
    var half: vec2<u32>;
    if max(larger.x, larger.y) <= 0x477fe000u {
        half = vec2(pack2x16float(values.xy), pack2x16float(values.zw));
    } else {
        half = round_f16(values);
    }
    return half;
}
