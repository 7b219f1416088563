// Four numbers as IEEE binary16, two to a word, by integers.
fn pack_f16(values: vec4<f32>) -> vec2<u32> { return round_f16(values); }
