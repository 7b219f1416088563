// y[0] = loss_scale * factor: the gradient of the scaled loss with respect to the loss.
struct SeedGradientParams { factor: f32 }

@group(0) @binding(0) var<uniform> params: SeedGradientParams;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(1)
fn main() {
    y[0] = state.loss_scale * params.factor;
}
