// What normalizes a quad of features: x scale has the mean shift + rest and the standard deviation
// 1 / rstd. In the kernel's `statistics`, (4, features), as batch_norm_statistics leaves them.
struct FeatureMoments {
    shift: vec4<f32>,
    rest: vec4<f32>,
    rstd: vec4<f32>,
    scale: vec4<f32>,
}

fn batch_moments(quad: u32, quads: u32, eps: f32) -> FeatureMoments {
    let variance = statistics[2u * quads + quad];
    let scale = statistics[3u * quads + quad];
    let rstd = inverseSqrt(variance + eps * scale * scale);
    return FeatureMoments(statistics[quad], statistics[quads + quad], rstd, scale);
}

fn deviations(x: vec4<f32>, moments: FeatureMoments, zero: u32) -> vec4<f32> {
    return centred(x * moments.scale, moments.shift, moments.rest, zero);
}
