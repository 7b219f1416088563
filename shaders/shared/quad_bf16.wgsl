// The unit of storage: four consecutive elements as bfloat16, two to a word. Rounded to nearest, ties
// to even.
alias Quad = vec2<u32>;

fn unpack(quad: Quad) -> vec4<f32> { return bitcast<vec4<f32>>(unpack_bf16(quad)); }

fn pack(values: vec4<f32>) -> Quad { return pack_bf16(round_bf16(bitcast<vec4<u32>>(values))); }
