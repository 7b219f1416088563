// w -= lr (scale x + decay w), x being the orthogonalised momentum, packed: a chunk's share of it
// starts at packed[c] - base. Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon).
struct Params {
    chunk_count: u32, weight_decay: f32,
    base: u32, scale: f32,
}

@group(0) @binding(6) var<storage, read> packed: array<u32>;
@group(0) @binding(7) var<storage, read> x: array<vec4<f32>>;

fn advance(at: Place, w: vec4<f32>, _gradient: vec4<f32>) -> vec4<f32> {
    let update = params.scale * x[packed[at.chunk] - params.base + at.quad];
    return -at.learning_rate * (update + at.weight_decay * w);
}
