// adam_moments.wgsl over bf16: `m` and `v` are the kernel's buffers of vec2<u32>.
fn advance_moments(i: u32, g: vec4<f32>, tensor: TensorState) -> Moments {
    let old_m = remembered(load_moment(m[i]), tensor);
    let old_v = remembered(load_moment(v[i]), tensor);
    let mi = params.beta1 * old_m + params.one_minus_beta1 * g;
    let vi = params.beta2 * old_v + params.one_minus_beta2 * (g * g);
    let draws = moment_draws(i);
    m[i] = round_moment(mi, draws.m);
    v[i] = round_moment(vi, draws.v);
    return Moments(mi, vi);
}
