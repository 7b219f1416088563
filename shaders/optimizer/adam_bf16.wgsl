// Adam (adam.wgsl) with moments in bf16, two words a quad.
@group(0) @binding(6) var<storage, read_write> m: array<vec2<u32>>;
@group(0) @binding(7) var<storage, read_write> v: array<vec2<u32>>;
