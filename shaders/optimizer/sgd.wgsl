// g += decay w, b = momentum b + (1 - dampening) g, w -= lr b, with nesterov lr (g + momentum b);
// b = g on the first step, and without momentum, where the buffer is neither read nor written: as
// PyTorch's SGD (momentum after Sutskever et al. 2013).
struct Params {
    chunk_count: u32, weight_decay: f32,
    momentum: f32, dampening: f32, nesterov: u32,
}

@group(0) @binding(6) var<storage, read_write> momentum_buffer: array<vec4<f32>>;

fn advance(at: Place, w: vec4<f32>, g: vec4<f32>) -> vec4<f32> {
    var update = g + at.weight_decay * w;
    if params.momentum != 0.0 {
        var b = update;
        if at.tensor.steps > 1u {
            b = params.momentum * momentum_buffer[at.index] + (1.0 - params.dampening) * update;
        }
        momentum_buffer[at.index] = b;
        update = select(b, update + params.momentum * b, params.nesterov != 0u);
    }
    return -at.learning_rate * update;
}
