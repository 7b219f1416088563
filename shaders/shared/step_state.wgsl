// The step's steering blocks; src/step holds the Rust halves and says what each field means.
const APPLY = 1u;
const SKIP = 0u;
const REASON_NONE = 0u;
const REASON_NONFINITE_GRADIENT = 1u;
const REASON_GAVE_UP = 2u;
const REASON_NONFINITE_LOSS = 6u;
const REASON_NONFINITE_STATE = 7u;

struct StepInput {
    seed: u32,
    step: u32,
    microbatch: u32,
    learning_rate_factor: f32,
    first_microbatch: u32,
}

struct StepState {
    loss_scale: f32,
    growth_count: u32,
    hysteresis_left: u32,
    applied_total: u32,
    skipped_total: u32,
    skipped_in_row: u32,
    gave_up: u32,
    seed: u32,
    verdict: u32,
    reason: u32,
    veto: u32,
    nonfinite_count: u32,
    zero_count: u32,
    gradient_norm: f32,
    norm_significand: f32,
    norm_exponent: i32,
    max_norm: f32,
    clip_coefficient: f32,
    gradient_scale: f32,
    gradient_prescale: f32,
    clip_value: f32,
    learning_rate_factor: f32,
    learning_rate: f32,
    step_loss_scale: f32,
    events: u32,
    event_value: f32,
    event_tensor: u32,
}

struct TelemetryRecord {
    step: u32,
    loss: f32,
    gradient_norm: f32,
    max_norm: f32,
    clip_coefficient: f32,
    loss_scale: f32,
    applied: u32,
    skipped_total: u32,
    skipped_in_row: u32,
    learning_rate: f32,
    reason: u32,
    nonfinite_count: u32,
    zero_count: u32,
    applied_total: u32,
    gave_up: u32,
    events: u32,
    event_value: f32,
    event_tensor: u32,
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
    kept: u32,
}

struct TensorState {
    weight_decay: f32,
    learning_rate: f32,
    clip_coefficient: f32,
    bias_correction1: f32,
    bias_correction2: f32,
    steps: u32,
    reset: u32,
}

struct ValuePartial {
    max_bits: u32,
    scaled_sum: f32,
    nonfinite_count: u32,
    zero_count: u32,
    subnormal_count: u32,
    first_nonfinite: u32,
    checksum: u32,
}

struct UpdatePartial {
    gradient_max_bits: u32,
    gradient_sum: f32,
    weight_max_bits: u32,
    weight_sum: f32,
    update_max_bits: u32,
    update_sum: f32,
    nonfinite_count: u32,
    zero_count: u32,
    frozen_count: u32,
    cut_count: u32,
}

struct TensorRecord {
    step: u32,
    loss_scale: f32,
    gradient_max_bits: u32,
    gradient_sum: f32,
    weight_max_bits: u32,
    weight_sum: f32,
    update_max_bits: u32,
    update_sum: f32,
    nonfinite_count: u32,
    zero_count: u32,
    frozen_count: u32,
    cut_count: u32,
    eps_share: f32,
}
