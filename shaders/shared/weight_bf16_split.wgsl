// Weights as f32 in two pieces: the nearest bf16, and in the second half of the buffer the lower 16
// bits of the f32. As integers, f32 = 2^16 bf16 + (lower bits with their sign), exactly.
alias Weight = vec2<u32>;

fn remainder_index(i: u32) -> u32 { return i + arrayLength(&weight) / 2u; }

// The shift of a signed number brings its sign along: bf16 was rounded up where it is negative.
fn load_weight(i: u32) -> vec4<f32> {
    let lower = bitcast<vec4<i32>>(unpack_bf16(weight[remainder_index(i)])) >> vec4(16u);
    return bitcast<vec4<f32>>(unpack_bf16(weight[i]) + bitcast<vec4<u32>>(lower));
}

fn store_weight(i: u32, old: vec4<f32>, change: vec4<f32>, step: StepState) {
    set_weight(i, old + change);
}

fn scale_weight(i: u32, factor: f32, step: StepState) {
    set_weight(i, weight_value(i) * factor);
}

fn weight_value(i: u32) -> vec4<f32> { return load_weight(i); }

// Ties are rounded away from zero: with ties to even the lower bits 2^15 could mean two numbers. The
// upper half of NaN is NaN, its lower bits are not kept.
fn set_weight(i: u32, value: vec4<f32>) {
    let given = bitcast<vec4<u32>>(value);
    let quiet = (given | vec4(0x400000u)) & vec4(0xffff0000u);
    let bits = select(given, quiet, nan_bits(given));
    weight[i] = pack_bf16(bits + vec4(0x8000u));
    weight[remainder_index(i)] = pack_bf16(bits << vec4(16u));
}
