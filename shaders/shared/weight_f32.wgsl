// How optimizers hold weights, here as f32: `weight` is the kernel's buffer of Weight.
alias Weight = vec4<f32>;

fn load_weight(i: u32) -> vec4<f32> { return weight[i]; }

// weight[i] = old + change, where `old` is what load_weight(i) gave.
fn store_weight(i: u32, old: vec4<f32>, change: vec4<f32>, step: StepState) {
    weight[i] = old + change;
}
