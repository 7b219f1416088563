// How optimizers hold weights, here as f32: `weight` is the kernel's buffer of Weight, to read and
// to write.
alias Weight = vec4<f32>;

// What an update starts from.
fn load_weight(i: u32) -> vec4<f32> { return weight[i]; }

// weight[i] = old + change, where `old` is what load_weight(i) gave.
fn store_weight(i: u32, old: vec4<f32>, change: vec4<f32>, step: StepState) {
    weight[i] = old + change;
}

// weight[i] = weight[i] * factor, for what happens to weights in a step after the optimizer.
fn scale_weight(i: u32, factor: f32, step: StepState) { weight[i] *= factor; }

// All that is known of a weight.
fn weight_value(i: u32) -> vec4<f32> { return weight[i]; }

// weight[i] = value, without a step.
fn set_weight(i: u32, value: vec4<f32>) { weight[i] = value; }
