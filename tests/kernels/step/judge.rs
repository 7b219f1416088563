//! Tensors of a step, and the buffers of scan, norm and verdict over them, beside f64.

use evenkeel::Gpu;
use evenkeel::kernels::*;
use evenkeel::reference::step::{self as reference, Norm, Scaling, Scan, State, VerdictSettings};
use evenkeel::step::{APPLY, Chunk, Reason, SKIP, ScanPartial, StepInput, StepState, TensorState};

use super::super::support::{assert_close, block_on, values, wide};
use super::{NORM, ROUNDING, Tolerance};

const SUM: Tolerance = Tolerance {
    absolute: 0.0,
    relative: 1.3e-6,
    because: "a square and 19 additions, half an ULP each, of terms of one sign",
};

/// Tensors laid out one behind the other, each padded to whole quads.
pub struct Flat {
    pub elements: Vec<f32>,
    pub table: Vec<(u64, u64)>,
    pub chunks: Vec<Chunk>,
}

pub fn flatten(tensors: &[Vec<f32>]) -> Flat {
    let (mut elements, mut table) = (Vec::new(), Vec::new());
    for tensor in tensors {
        table.push((elements.len() as u64, tensor.len() as u64));
        elements.extend_from_slice(tensor);
        elements.resize(elements.len().next_multiple_of(4), 0.0);
    }
    let chunks = chunks(table.iter().copied());
    Flat { elements, table, chunks }
}

impl Flat {
    /// The elements of a chunk, without padding.
    pub fn share(&self, chunk: &Chunk) -> &[f32] {
        let start = chunk.offset as usize * 4;
        &self.elements[start..start + chunk.elements as usize]
    }
}

/// Settings that touch nothing: no clip, a constant learning rate.
pub fn plain() -> VerdictSettings {
    VerdictSettings {
        norm: Norm::L2,
        max_norm: f32::MAX.into(),
        clip_value: 1e18,
        beta1: 0.9,
        beta2: 0.999,
        learning_rates: vec![1.0],
        scaling: None,
        give_up_after: 0,
    }
}

pub fn clip(norm: Norm, max_norm: f64) -> VerdictSettings {
    VerdictSettings { norm, max_norm, ..plain() }
}

/// A state before the first step.
pub fn fresh(loss_scale: f32) -> StepState {
    StepState::new(loss_scale, 1)
}

/// The buffers of scan and verdict for one layout.
pub struct Judge {
    pub chunks: wgpu::Buffer,
    pub gradient: wgpu::Buffer,
    pub partials: wgpu::Buffer,
    pub tensors: wgpu::Buffer,
    pub state: wgpu::Buffer,
    pub chunk_count: u32,
    pub loss: wgpu::Buffer,
    pub staged: wgpu::Buffer,
    tensor_count: usize,
    pub dispatches: [evenkeel::gpu::Dispatch; 3],
}

impl Judge {
    pub fn new(gpu: &Gpu, flat: &Flat, settings: &VerdictSettings, state: StepState) -> Self {
        Self::with_factor(gpu, flat, settings, state, 1.0)
    }

    pub fn with_factor(
        gpu: &Gpu,
        flat: &Flat,
        settings: &VerdictSettings,
        state: StepState,
        learning_rate_factor: f32,
    ) -> Self {
        let chunk_count = flat.chunks.len() as u32;
        let chunks = gpu.upload("chunks", &flat.chunks);
        let gradient = gpu.upload("gradient", &flat.elements);
        let partials = gpu.buffer("partials", 16 * u64::from(chunk_count));
        let input =
            gpu.upload("input", &[StepInput { learning_rate_factor, ..Default::default() }]);
        let rates: Vec<f32> = settings.learning_rates.iter().map(|&rate| rate as f32).collect();
        let rates = gpu.upload("learning rates", &rates);
        let state = gpu.upload("state", &[state]);
        let tensor_count = flat.table.len();
        let tensors = gpu.upload("tensors", &vec![TensorState::default(); tensor_count.max(1)]);
        let (loss, staged) = (gpu.upload("loss", &[2.5f32]), gpu.upload("staged", &STAGED));
        let scaled = settings.scaling.is_some();
        let scan = gpu.prepare(&GradientScan {
            params: GradientScanParams {
                chunk_count,
                overflow_bits: if scaled { OVERFLOW_LARGEST } else { OVERFLOW_NONFINITE },
            },
            chunks: chunks.as_entire_buffer_binding(),
            gradient: gradient.as_entire_buffer_binding(),
            partials: partials.as_entire_buffer_binding(),
        });
        let norm = gpu.prepare(&GradientNorm {
            params: GradientNormParams {
                partial_count: chunk_count,
                tensor_count: tensor_count as u32,
                norm: if settings.norm == Norm::L2 { NORM_L2 } else { NORM_MAX },
                max_norm: settings.max_norm as f32,
            },
            partials: partials.as_entire_buffer_binding(),
            tensors: tensors.as_entire_buffer_binding(),
            state: state.as_entire_buffer_binding(),
        });
        let verdict = gpu.prepare(&Verdict {
            params: verdict_params(settings, tensor_count as u32),
            input: input.as_entire_buffer_binding(),
            learning_rates: rates.as_entire_buffer_binding(),
            loss: loss.as_entire_buffer_binding(),
            staged: staged.as_entire_buffer_binding(),
            tensors: tensors.as_entire_buffer_binding(),
            state: state.as_entire_buffer_binding(),
        });
        let dispatches = [scan, norm, verdict];
        Self {
            chunks,
            gradient,
            partials,
            tensors,
            state,
            chunk_count,
            loss,
            staged,
            tensor_count,
            dispatches,
        }
    }

    /// Replaces the gradient by one of the same layout.
    pub fn set_gradient(&self, gpu: &Gpu, elements: &[f32]) {
        gpu.write(&self.gradient, 0, bytemuck::cast_slice(elements));
    }

    pub fn run(&self, gpu: &Gpu) {
        self.run_first(gpu, self.dispatches.len());
    }

    /// Runs the first `count` of scan, norm and verdict.
    pub fn run_first(&self, gpu: &Gpu, count: usize) {
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        gpu.encode(&mut encoder, &self.dispatches[..count]);
        gpu.submit(encoder);
    }

    pub fn state(&self, gpu: &Gpu) -> StepState {
        block_on(gpu.read(&self.state, 0, 1)).expect("readable")[0]
    }

    pub fn tensors(&self, gpu: &Gpu) -> Vec<TensorState> {
        block_on(gpu.read(&self.tensors, 0, self.tensor_count)).expect("readable")
    }

    pub fn partials(&self, gpu: &Gpu) -> Vec<ScanPartial> {
        let count = self.chunk_count as usize;
        block_on(gpu.read(&self.partials, 0, count)).expect("readable")
    }
}

fn verdict_params(settings: &VerdictSettings, tensor_count: u32) -> VerdictParams {
    let scaling = settings.scaling.unwrap_or(Scaling { interval: 0, ..SCALING });
    VerdictParams {
        tensor_count,
        clip_value: settings.clip_value as f32,
        beta1: settings.beta1 as f32,
        one_minus_beta1: (1.0 - settings.beta1) as f32,
        beta2: settings.beta2 as f32,
        one_minus_beta2: (1.0 - settings.beta2) as f32,
        rising_steps: settings.learning_rates.len() as u32 - 1,
        middle_end: 0,
        middle_start: 0,
        middle_first: 0,
        decay_end: 0,
        decay_first: settings.learning_rates.len() as u32 - 1,
        knot_bits: 31,
        growth_factor: scaling.growth as f32,
        backoff_factor: scaling.backoff as f32,
        growth_interval: scaling.interval,
        min_scale: scaling.min as f32,
        max_scale: scaling.max as f32,
        hysteresis: scaling.hysteresis,
        refill_every_step: scaling.refill_every_step.into(),
        give_up_after: settings.give_up_after,
        give_up_at_min_scale: scaling.give_up_at_min.into(),
        staged_quads: STAGED.len() as u32 / 4,
    }
}

/// Staged states, more than one quad for some invocations.
pub const STAGED: [f32; 1200] = [-f32::MAX; 1200];

/// As PyTorch, without a bound.
pub const SCALING: Scaling = Scaling {
    growth: 2.0,
    backoff: 0.5,
    interval: 2000,
    min: 1.0,
    max: f32::MAX as f64,
    hysteresis: 1,
    refill_every_step: false,
    give_up_at_min: false,
};

/// A state in f64, for the reference.
pub fn wide_state(state: &StepState) -> State {
    State {
        loss_scale: state.loss_scale.into(),
        applied_total: state.applied_total,
        skipped_total: state.skipped_total,
        skipped_in_row: state.skipped_in_row,
        growth_count: state.growth_count,
        hysteresis_left: state.hysteresis_left,
        gave_up: state.gave_up != 0,
        bias_correction1: 0.0,
        bias_correction2: 0.0,
        gradient_norm: state.gradient_norm.into(),
        clip_coefficient: state.clip_coefficient.into(),
        gradient_scale: f64::from(state.gradient_scale) * f64::from(state.gradient_prescale),
        clip_value: state.clip_value.into(),
        learning_rate: state.learning_rate.into(),
        applied: state.verdict == APPLY,
    }
}

/// Runs scan and verdict once and compares both with f64. Returns the state.
#[track_caller]
pub fn check(
    gpu: &Gpu,
    what: &str,
    tensors: &[Vec<f32>],
    settings: &VerdictSettings,
    loss_scale: f32,
) -> StepState {
    let flat = flatten(tensors);
    let judge = Judge::new(gpu, &flat, settings, fresh(loss_scale));
    judge.run(gpu);
    check_partials(what, &flat, &judge.partials(gpu));
    let (state, scan) = (judge.state(gpu), scan_of(tensors));
    let expected = reference::verdict(settings, &scan, 1.0, &wide_state(&fresh(loss_scale)));
    assert_state(what, &state, &scan, &expected);
    if expected.applied {
        for tensor in judge.tensors(gpu) {
            let corrections = [tensor.bias_correction1, tensor.bias_correction2];
            let expected = [expected.bias_correction1, expected.bias_correction2];
            assert_close(what, &corrections, &expected, ROUNDING);
            assert_eq!((tensor.steps, tensor.clip_coefficient), (1, 1.0), "{what}");
        }
    }
    state
}

fn scan_of(tensors: &[Vec<f32>]) -> Scan {
    reference::gradient_scan(&wide(&tensors.concat()))
}

#[track_caller]
fn check_partials(what: &str, flat: &Flat, partials: &[ScanPartial]) {
    for (chunk, partial) in flat.chunks.iter().zip(partials) {
        let share = flat.share(chunk);
        let scan = reference::gradient_scan(&wide(share));
        let max_bits = share.iter().map(|g| g.to_bits() & 0x7fff_ffff).max();
        assert_eq!(Some(partial.max_bits), max_bits, "{what}, {chunk:?}");
        assert_eq!(partial.nonfinite_count, scan.nonfinite_count, "{what}, {chunk:?}");
        assert_eq!(partial.zero_count, scan.zero_count, "{what}, {chunk:?}");
        if scan.nonfinite_count == 0 {
            let exponent = (partial.max_bits >> 23).max(1) as i32 - 127;
            let unit = 4f64.powi(exponent);
            assert_close(what, &[partial.scaled_sum], &[scan.sum_of_squares / unit], SUM);
        }
    }
}

#[track_caller]
pub fn assert_state(what: &str, state: &StepState, scan: &Scan, expected: &State) {
    assert_eq!(state.verdict, if expected.applied { APPLY } else { SKIP }, "{what}");
    assert_eq!(state.nonfinite_count, scan.nonfinite_count, "{what}");
    assert_eq!(state.zero_count, scan.zero_count, "{what}");
    assert_eq!(state.applied_total, expected.applied_total, "{what}");
    assert_eq!(state.skipped_total, expected.skipped_total, "{what}");
    assert_eq!(state.skipped_in_row, expected.skipped_in_row, "{what}");
    assert_eq!(f64::from(state.loss_scale), expected.loss_scale, "{what}");
    assert_eq!(state.growth_count, expected.growth_count, "{what}");
    assert_eq!(state.hysteresis_left, expected.hysteresis_left, "{what}");
    assert_eq!(state.gave_up != 0, expected.gave_up, "{what}");
    if expected.applied {
        assert_eq!(state.reason, Reason::None as u32, "{what}");
        let coefficient = expected.clip_coefficient;
        assert_close(what, &[state.gradient_norm], &[expected.gradient_norm], NORM);
        assert_close(what, &[state.clip_coefficient], &[coefficient], NORM);
        let scale = wide_state(state).gradient_scale / expected.gradient_scale;
        assert_close(what, &[scale as f32], &[1.0], NORM);
        assert!(!(f32::from_bits(1)..f32::MIN_POSITIVE).contains(&state.gradient_scale), "{what}");
        assert_close(what, &[state.learning_rate], &[expected.learning_rate], ROUNDING);
    } else {
        assert_eq!(state.reason, Reason::NonFiniteGradient as u32, "{what}");
        assert_eq!(state.gradient_norm.to_bits(), 0x7f80_0000, "{what}");
    }
}

/// Every finite f32 pattern is as likely as any other.
pub fn any_finite(seed: u64, count: usize) -> Vec<f32> {
    let (high, low) = (values(seed, count), values(seed + 1, count));
    let word = |x: f32| ((x + 1.0) * 32768.0) as u32 & 0xffff;
    let bits = high.iter().zip(&low).map(|(&h, &l)| word(h) << 16 | word(l));
    bits.map(|bits| if bits & 0x7f80_0000 == 0x7f80_0000 { bits & 0xbfff_ffff } else { bits })
        .map(f32::from_bits)
        .collect()
}
