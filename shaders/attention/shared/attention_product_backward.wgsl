// Output gradients in products of tiles, and gradients of the scores.

// Quad d of position t of a head's output gradient, which begins at `at`; zero where there is none.
fn gradient_quad(at: u32, t: u32, d: u32) -> vec4<f32> {
    let exists = t < params.time && d < head_quads();
    let pitch = params.heads * head_quads();
    let quad = min(t, params.time - 1u) * pitch + min(d, head_quads() - 1u);
    return select(vec4(0.0), unpack(output_gradient[at + quad]), exists);
}

// Of positions t, t + step, t + 2 step, t + 3 step.
fn gradient_quads(at: u32, t: u32, step: u32, d: u32) -> mat4x4<f32> {
    return mat4x4(
        gradient_quad(at, t, d),
        gradient_quad(at, t + step, d),
        gradient_quad(at, t + 2u * step, d),
        gradient_quad(at, t + 3u * step, d),
    );
}
