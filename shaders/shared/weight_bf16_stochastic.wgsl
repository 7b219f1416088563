// Weights as bf16 alone. An update is rounded up or down at random, with the odds that make it right
// on average.
alias Weight = vec2<u32>;

const DOMAIN_ROUNDING = 5u;

fn load_weight(i: u32) -> vec4<f32> { return bitcast<vec4<f32>>(unpack_bf16(weight[i])); }

// A random number below 2^16 is added to the lower half, which then is dropped: the carry comes with
// probability (lower half) / 2^16, and never where the value is one of bf16. A finite value stays
// finite, Inf stays Inf, NaN stays NaN. Each use within a step has numbers of its own.
fn round_weight(i: u32, value: vec4<f32>, step: StepState, use_index: u32) {
    let bits = bitcast<vec4<u32>>(value);
    let key = vec4(step.seed, 0u, 0u, DOMAIN_ROUNDING);
    let words = threefry4x32(vec4(i, step.applied_total, use_index, 0u), key);
    let draw = unpack_bf16(words.xy) >> vec4(16u);
    let magnitude = bits & vec4(0x7fffffffu);
    let rounded = min(magnitude + draw, vec4(0x7f7fffffu));
    let kept = select(magnitude, magnitude | vec4(0x400000u), nan_bits(bits));
    let chosen = select(kept, rounded, magnitude < vec4(0x7f800000u));
    weight[i] = pack_bf16((bits & vec4(0x80000000u)) | chosen);
}

fn store_weight(i: u32, old: vec4<f32>, change: vec4<f32>, step: StepState) {
    round_weight(i, old + change, step, 0u);
}

fn scale_weight(i: u32, factor: f32, step: StepState) {
    round_weight(i, load_weight(i) * factor, step, 1u);
}

fn weight_value(i: u32) -> vec4<f32> { return load_weight(i); }

fn set_weight(i: u32, value: vec4<f32>) {
    weight[i] = pack_bf16(round_bf16(bitcast<vec4<u32>>(value)));
}
