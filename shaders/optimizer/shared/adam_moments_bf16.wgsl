// adam_moments.wgsl over bf16: `m` and `v` are the kernel's buffers of vec2<u32>.
fn advance_moments(at: Place, g: vec4<f32>) -> Moments {
    let i = at.index;
    let old_m = remembered(load_moment(m[i]), at.tensor);
    let old_v = remembered(load_moment(v[i]), at.tensor);
    let mi = params.beta1 * old_m + params.one_minus_beta1 * g;
    let vi = params.beta2 * old_v + params.one_minus_beta2 * (g * g);
    let draws = moment_draws(at.weight_index);
    m[i] = round_moment(mi, draws.m);
    v[i] = round_moment(vi, draws.v);
    return Moments(mi, vi);
}
