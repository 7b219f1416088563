// Adafactor's view of a tensor. A matrix keeps the mean squares of its rows and columns, a vector
// (rows is 0) that of each element; `variance` is the kernel's buffer of them.
struct FactoredTensor {
    offset: u32, // first quad in the flat buffers
    row_quads: u32,
    rows: u32, // of one matrix
    variance_rows: u32, // quads
    variance_cols: u32, // quads
    mean: u32, // in `factors`: means of the row variances, one per matrix
    update_factor: u32, // in `factors`
    weight_rms: u32, // in `factors`
}

// Squares of larger gradients would not add up in f32.
const LARGEST = 1e15;
const SMALLEST_NORMAL = 1.17549435e-38;

fn bounded(g: vec4<f32>) -> vec4<f32> { return clamp(g, vec4(-LARGEST), vec4(LARGEST)); }

// Share of step t in what is kept, t^-p: 1 at the first.
fn step_share(tensor: TensorState) -> f32 {
    let log = log2_bits(vec4(bitcast<u32>(f32(max(tensor.steps, 1u)))));
    let exponent = -params.decay_power * (vec4<f32>(log.whole) + log.fraction);
    return exp2_nonpositive(min(exponent, vec4(0.0))).x;
}

fn advanced(kept: vec4<f32>, square: vec4<f32>, tensor: TensorState) -> vec4<f32> {
    let old = remembered(kept, tensor);
    return old + step_share(tensor) * (square - old);
}
