// adam_moments.wgsl over codes: `m` and `v` are the kernel's buffers of u32.
var<workgroup> largest_m: atomic<u32>;
var<workgroup> largest_v: atomic<u32>;

var<private> fresh: Moments;

fn open_block() {
    atomicStore(&largest_m, 0u);
    atomicStore(&largest_v, 0u);
}

fn advance_moments(at: Place, g: vec4<f32>) -> Moments {
    let code = codes_at(at.index);
    let old_m = remembered(load_signed(m[code], m[block]), at.tensor);
    let old_v = remembered(load_square(v[code], v[block]), at.tensor);
    fresh.m = params.beta1 * old_m + params.one_minus_beta1 * g;
    fresh.v = params.beta2 * old_v + params.one_minus_beta2 * (g * g);
    atomicMax(&largest_m, largest_bits(fresh.m));
    atomicMax(&largest_v, largest_bits(fresh.v));
    return fresh;
}

fn close_block(i: u32, kept: u32, is_first: bool) {
    let m_scale = scale_of(atomicLoad(&largest_m));
    let v_scale = scale_of(atomicLoad(&largest_v));
    let draws = moment_draws(i);
    m[codes_at(kept)] = store_signed(fresh.m, m_scale, draws.m);
    v[codes_at(kept)] = store_square(fresh.v, v_scale, draws.v);
    if is_first {
        m[block] = bitcast<u32>(m_scale);
        v[block] = bitcast<u32>(v_scale);
    }
}
