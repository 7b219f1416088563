// Output gradients in products of tiles, and gradients of the scores.

// Quad d of position t of a head's output gradient, which begins at `at`; zero where there is none.
fn gradient_quad(at: u32, t: u32, d: u32) -> vec4<f32> {
    let exists = t < params.time && d < head_quads();
    let pitch = params.heads * head_quads();
    let quad = min(t, params.time - 1u) * pitch + min(d, head_quads() - 1u);
    return select(vec4(0.0), unpack(output_gradient[at + quad]), exists);
}

// 64 positions from t on, 8 quads from d on.
fn left_of_gradient(lane: u32, at: u32, t: u32, d: u32) {
    let row = t + lane / 8u;
    let quad = d + lane % 8u;
    let a = gradient_quad(at, row, quad);
    let b = gradient_quad(at, row + 16u, quad);
    let c = gradient_quad(at, row + 32u, quad);
    let e = gradient_quad(at, row + 48u, quad);
    put_left(lane, 0u, a);
    put_left(lane, 1u, b);
    put_left(lane, 2u, c);
    put_left(lane, 3u, e);
}

// What a score's gradient is, given its probability and that of the probability. `score` is the one
// before the cap.
fn score_gradient(
    score: vec4<f32>, p: vec4<f32>, dp: vec4<f32>, row_delta: vec4<f32>,
) -> vec4<f32> {
    return p * (dp - row_delta) * capped_derivative(score);
}
