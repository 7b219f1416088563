// Lion with a momentum in codes of 8 bits: the scales of all blocks, then a word a quad.
@group(0) @binding(6) var<storage, read_write> m: array<u32>;

var<workgroup> largest: atomic<u32>;

var<private> fresh: vec4<f32>;

fn open_block() { atomicStore(&largest, 0u); }

fn load_momentum(i: u32) -> vec4<f32> { return load_signed(m[codes_at(i)], m[block]); }
fn keep_momentum(at: Place, value: vec4<f32>) {
    fresh = value;
    atomicMax(&largest, largest_bits(value));
}

fn close_block(i: u32, kept: u32, is_first: bool) {
    let scale = scale_of(atomicLoad(&largest));
    m[codes_at(kept)] = store_signed(fresh, scale, moment_draws(i).m);
    if is_first { m[block] = bitcast<u32>(scale); }
}
