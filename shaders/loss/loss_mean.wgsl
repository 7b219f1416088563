// mean[0] = factor * loss[0], or mean[0] += factor * loss[0]: over the microbatches of a step, its
// loss. As bits, so that a NaN or Inf of any of them stays to be seen. One invocation.
struct LossMeanParams { factor: f32, accumulate: u32 }

@group(0) @binding(0) var<uniform> params: LossMeanParams;
@group(0) @binding(1) var<storage, read> loss: array<u32>; // f32 (1)
@group(0) @binding(2) var<storage, read_write> mean: array<u32>; // f32 (1)

@compute @workgroup_size(1)
fn main() {
    let own = loss[0];
    var bits = own;
    if is_finite_bits(own) { bits = bitcast<u32>(params.factor * bitcast<f32>(own)); }
    if params.accumulate != 0u {
        let before = mean[0];
        if !is_finite_bits(before) {
            bits = before;
        } else if is_finite_bits(own) {
            bits = bitcast<u32>(bitcast<f32>(before) + bitcast<f32>(bits));
        }
    }
    mean[0] = bits;
}
