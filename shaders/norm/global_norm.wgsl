// Opens the step with the norm of the whole gradient, which a fold has found. One workgroup; its
// invocation 0 writes the state.
struct GlobalNormParams { tensor_count: u32, max_norm: f32 }

@group(0) @binding(0) var<uniform> params: GlobalNormParams;
@group(0) @binding(1) var<storage, read> norm: array<TensorNorm>; // (1)
@group(0) @binding(2) var<storage, read_write> tensors: array<TensorState>;
@group(0) @binding(3) var<storage, read_write> state: StepState;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    for (var t = lane; t < params.tensor_count; t += 64u) { tensors[t].clip_coefficient = 1.0; }
    if lane == 0u {
        let found = norm[0];
        let wide = Wide(found.significand, found.exponent);
        open_step(wide, found.nonfinite_count, found.zero_count);
    }
}
