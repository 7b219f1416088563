// The unit of storage: four consecutive elements as IEEE binary16, two to a word. No device feature,
// the same bits everywhere, nothing flushed on the way.
alias Quad = vec2<u32>;

fn unpack(quad: Quad) -> vec4<f32> { return unpack_f16(quad); }

fn pack(values: vec4<f32>) -> Quad { return pack_f16(values); }
