// Weights as bf16, and in the second half of the buffer, as bf16 too, what rounding has kept from
// them so far: the compensation, which every update gives another chance.
alias Weight = vec2<u32>;

fn compensation_index(i: u32) -> u32 { return i + arrayLength(&weight) / 2u; }

fn load_weight(i: u32) -> vec4<f32> { return bitcast<vec4<f32>>(unpack_bf16(weight[i])); }

fn load_compensation(i: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(unpack_bf16(weight[compensation_index(i)]));
}

// new = round(old + (compensation + change)), and what that lost is kept. `rounded` comes out of
// integer operations, so no compiler can cancel it against the sum it was rounded from.
fn store_weight(i: u32, old: vec4<f32>, change: vec4<f32>, step: StepState) {
    let wanted = load_compensation(i) + change;
    let rounded = round_bf16(bitcast<vec4<u32>>(old + wanted));
    let lost = wanted + (old - bitcast<vec4<f32>>(rounded));
    weight[i] = pack_bf16(rounded);
    weight[compensation_index(i)] = pack_bf16(round_bf16(bitcast<vec4<u32>>(lost)));
}

fn scale_weight(i: u32, factor: f32, step: StepState) {
    set_weight(i, weight_value(i) * factor);
}

fn weight_value(i: u32) -> vec4<f32> { return load_weight(i) + load_compensation(i); }

fn set_weight(i: u32, value: vec4<f32>) {
    let rounded = round_bf16(bitcast<vec4<u32>>(value));
    let lost = value - bitcast<vec4<f32>>(rounded);
    weight[i] = pack_bf16(rounded);
    weight[compensation_index(i)] = pack_bf16(round_bf16(bitcast<vec4<u32>>(lost)));
}
