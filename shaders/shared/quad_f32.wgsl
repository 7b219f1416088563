// The unit of storage: four consecutive elements, here as f32.
alias Quad = vec4<f32>;

fn unpack(quad: Quad) -> vec4<f32> { return quad; }

fn pack(values: vec4<f32>) -> Quad { return values; }
