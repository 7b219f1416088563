// Adam (adam.wgsl) with moments in codes of 8 bits: the scales of all blocks, then a word a quad.
@group(0) @binding(6) var<storage, read_write> m: array<u32>;
@group(0) @binding(7) var<storage, read_write> v: array<u32>;
