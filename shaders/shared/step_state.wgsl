// The step's steering blocks; src/step.rs holds the Rust halves and says what each field means.
const APPLY = 1u;
const SKIP = 0u;
const REASON_NONE = 0u;
const REASON_NONFINITE_GRADIENT = 1u;

struct StepInput {
    seed: u32,
    step: u32,
    microbatch: u32,
    learning_rate_factor: f32,
}

struct StepState {
    loss_scale: f32,
    growth_count: u32,
    applied_total: u32,
    skipped_total: u32,
    bias_correction1: f32,
    bias_correction2: f32,
    gradient_norm: f32,
    clip_coefficient: f32,
    gradient_scale: f32,
    clip_value: f32,
    learning_rate: f32,
    verdict: u32,
    reason: u32,
    nonfinite_count: u32,
    zero_count: u32,
    skipped_in_row: u32,
    gradient_prescale: f32,
}

struct TelemetryRecord {
    step: u32,
    loss: f32,
    gradient_norm: f32,
    clip_coefficient: f32,
    loss_scale: f32,
    applied: u32,
    skipped_total: u32,
    learning_rate: f32,
    reason: u32,
    nonfinite_count: u32,
    zero_count: u32,
    applied_total: u32,
}

struct ScanPartial {
    max_bits: u32,
    scaled_sum: f32,
    nonfinite_count: u32,
    zero_count: u32,
}

struct Chunk {
    offset: u32,
    quads: u32,
    tensor: u32,
    elements: u32,
}

struct TensorSettings {
    weight_decay: f32,
    learning_rate: f32,
}
