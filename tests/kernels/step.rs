//! The frame of a step. The norm is compared with f64 over the whole range of f32, and what a
//! non-finite gradient leaves behind is compared bit by bit.

use evenkeel::kernels::*;
use evenkeel::reference::step::{
    self as reference, Norm, Scaling, Scan, State, UpdateRange, VerdictSettings,
};
use evenkeel::step::{
    APPLY, Chunk, Event, Reason, SKIP, ScanPartial, StepInput, StepState, TensorRecord,
    TensorState, UpdatePartial,
};
use evenkeel::{Gpu, WeightStorage, step::TelemetryRecord};

use super::support::{Tolerance, assert_close, block_on, read, values, wide};

const SUM: Tolerance = Tolerance {
    absolute: 0.0,
    relative: 1.3e-6,
    because: "a square and 19 additions, half an ULP each, of terms of one sign",
};
const NORM: Tolerance = Tolerance {
    absolute: 1.5e-45,
    relative: 2.5e-6,
    because: "half of a square and 70 additions, a root, two quotients; results may be subnormal",
};
const ROUNDING: Tolerance =
    Tolerance { absolute: 0.0, relative: 1.2e-7, because: "one f32 rounding" };

/// Quiet and signalling NaN with either sign and several payloads, and both infinities.
pub const NONFINITE: [u32; 9] = [
    0x7fc0_0000,
    0xffc0_0000,
    0x7fff_ffff,
    0x7f80_0001,
    0x7fa5_5555,
    0xff81_2345,
    0xffbf_ffff,
    0x7f80_0000,
    0xff80_0000,
];
/// Finite values next to them in bits or in size: the largest, the smallest normal, subnormals.
const FINITE: [u32; 7] =
    [0x7f7f_ffff, 0xff7f_ffff, 0x7f7f_fffe, 0x0080_0000, 0x007f_ffff, 0x0000_0001, 0x8000_0001];

rows! {
    gradient_scan, gradient_norm, verdict, seed_gradient, commit, telemetry, update_scan,
    tensor_telemetry, accumulate,
}

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
    loss: wgpu::Buffer,
    staged: wgpu::Buffer,
    tensor_count: usize,
    dispatches: [evenkeel::gpu::Dispatch; 3],
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
    fn run_first(&self, gpu: &Gpu, count: usize) {
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

    fn partials(&self, gpu: &Gpu) -> Vec<ScanPartial> {
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
const STAGED: [f32; 1200] = [-f32::MAX; 1200];

/// As PyTorch, without a bound.
const SCALING: Scaling = Scaling {
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
fn check(
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
fn assert_state(what: &str, state: &StepState, scan: &Scan, expected: &State) {
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

fn gradient_scan(gpu: &Gpu) {
    for size in [1, 3, 4, 255, 256, 257, 1009, 2047, 2048, 2049, 65_535, 65_536, 65_537] {
        let mut gradient = values(size as u64, size);
        gradient.iter_mut().step_by(7).for_each(|g| *g = 0.0);
        gradient.iter_mut().skip(3).step_by(11).for_each(|g| *g = -0.0);
        check(gpu, &format!("{size} elements"), &[gradient], &plain(), 1.0);
    }
    let short: Vec<_> = (1..=9).map(|length| values(length, length as usize)).collect();
    check(gpu, "lengths 1 to 9", &short, &plain(), 1.0);
    for empty in [0, 1, 2] {
        let mut tensors = vec![values(1, 5), values(2, 2050)];
        tensors.insert(empty, Vec::new());
        check(gpu, &format!("tensor {empty} is empty"), &tensors, &plain(), 1.0);
    }
    // More chunks than a dimension of a grid takes, and than a verdict's block of partials.
    let tiny: Vec<_> = values(3, 70_001).into_iter().map(|g| vec![g]).collect();
    check(gpu, "70,001 tensors", &tiny, &plain(), 1.0);
    check(gpu, "any finite", &[any_finite(1, 40_000)], &plain(), 1.0);
    check_bits(gpu);
    check_repeats(gpu);
}

/// The test on bits sees every NaN and Inf wherever it is, and nothing else.
fn check_bits(gpu: &Gpu) {
    let lengths = [5, 2049, 0, 1000];
    let tensors: Vec<_> = lengths.iter().map(|&n| values(n as u64, n)).collect();
    let flat = flatten(&tensors);
    let judge = Judge::new(gpu, &flat, &plain(), fresh(1.0));
    for place in [(0, 0), (1, 1024), (1, 2047), (1, 2048), (3, 500), (3, 999)] {
        let at = flat.table[place.0].0 as usize + place.1;
        for bits in NONFINITE.into_iter().chain(FINITE) {
            let mut elements = flat.elements.clone();
            elements[at] = f32::from_bits(bits);
            judge.set_gradient(gpu, &elements);
            judge.run(gpu);
            let expected = u32::from(NONFINITE.contains(&bits));
            let count: u32 = judge.partials(gpu).iter().map(|p| p.nonfinite_count).sum();
            assert_eq!(count, expected, "{bits:#x} at {place:?}");
            let state = judge.state(gpu);
            assert_eq!(state.nonfinite_count, expected, "{bits:#x} at {place:?}");
            assert_eq!(state.verdict, 1 - expected, "{bits:#x} at {place:?}");
        }
    }
    let all: Vec<_> = NONFINITE.into_iter().chain(FINITE).map(f32::from_bits).collect();
    let state = check(gpu, "all at once", &[all], &plain(), 1.0);
    assert_eq!(state.nonfinite_count, NONFINITE.len() as u32);
}

fn check_repeats(gpu: &Gpu) {
    let tensors: Vec<_> = (0..20).map(|i| values(i, 97 * i as usize)).collect();
    let judge = Judge::new(gpu, &flatten(&tensors), &clip(Norm::L2, 0.5), fresh(1.0));
    judge.run(gpu);
    let (partials, norm) = (judge.partials(gpu), judge.state(gpu).gradient_norm);
    for _ in 0..100 {
        judge.run(gpu);
        assert_eq!(judge.partials(gpu), partials);
        assert_eq!(judge.state(gpu).gradient_norm.to_bits(), norm.to_bits());
    }
}

fn gradient_norm(gpu: &Gpu) {
    check_extremes(gpu);
    check_pytorch_cases(gpu);
    check_constant_lists(gpu);
    check_opening(gpu);
    check_lanes(gpu);
}

/// Workgroups of 4 on a CPU, with and without subgroups of 8, and those of GPUs join in one order.
fn check_lanes(gpu: &Gpu) {
    let mut tensors: Vec<_> = (0..700).map(|i| values(i, 1 + i as usize % 7)).collect();
    tensors.push(values(701, 150_003));
    let flat = flatten(&tensors);
    let of_device = |device_type, subgroup_size| {
        let mut gpu = gpu.clone();
        gpu.info.device_type = device_type;
        (gpu.info.subgroup_min_size, gpu.info.subgroup_max_size) = (subgroup_size, subgroup_size);
        let judge = Judge::new(&gpu, &flat, &clip(Norm::L2, 0.5), fresh(1.0));
        judge.run(&gpu);
        (judge.partials(&gpu), judge.state(&gpu))
    };
    let few = of_device(wgpu::DeviceType::Cpu, 4);
    assert!(few == of_device(wgpu::DeviceType::DiscreteGpu, 32), "64 and 256 invocations");
    let largest = gpu.info.subgroup_max_size;
    assert!(few == of_device(wgpu::DeviceType::Cpu, largest), "subgroups of {largest}");
}

/// What policies set in one step is gone in the next.
fn check_opening(gpu: &Gpu) {
    let flat = flatten(&[vec![3.0], vec![4.0; 2049], vec![]]);
    let before = StepState {
        veto: 3,
        max_norm: 0.25,
        learning_rate_factor: 0.5,
        events: 7,
        event_value: 9.0,
        event_tensor: 2,
        ..fresh(2.0)
    };
    let judge = Judge::new(gpu, &flat, &clip(Norm::L2, 6.5), before);
    let tensor = TensorState { clip_coefficient: 0.125, steps: 4, ..Default::default() };
    gpu.write(&judge.tensors, 0, bytemuck::cast_slice(&[tensor; 3]));
    judge.run_first(gpu, 2);
    let state = judge.state(gpu);
    let norm = (9.0 + 16.0 * 2049.0f64).sqrt() / 2.0;
    assert_close("norm", &[state.gradient_norm], &[norm], NORM);
    let wide = f64::from(state.norm_significand) * 2f64.powi(state.norm_exponent);
    assert_close("wide norm", &[wide as f32], &[norm], NORM);
    let expected = StepState {
        gradient_norm: state.gradient_norm,
        norm_significand: state.norm_significand,
        norm_exponent: state.norm_exponent,
        max_norm: 6.5,
        ..fresh(2.0)
    };
    assert_eq!(state, expected);
    assert_eq!(judge.tensors(gpu), [TensorState { clip_coefficient: 1.0, ..tensor }; 3]);
}

fn verdict(gpu: &Gpu) {
    check_skip(gpu);
    check_schedule(gpu);
    check_long_schedule(gpu);
    check_middle_of_schedule(gpu);
    check_bias_corrections(gpu);
    check_policies(gpu);
    check_loss_scale(gpu);
    check_give_up(gpu);
    check_loss_and_states(gpu);

    for settings in [plain(), clip(Norm::L2, 1.0), clip(Norm::Max, 1.0)] {
        for tensors in [vec![], vec![vec![]], vec![vec![0.0; 10], vec![-0.0; 2049]]] {
            let state = check(gpu, "nothing but zeros", &tensors, &settings, 1.0);
            assert_eq!((state.gradient_norm, state.clip_coefficient), (0.0, 1.0));
        }
    }
    for (asked, expected) in [(0.5, 0.5), (1e18, 1e18), (3e38, 1e18)] {
        let settings = VerdictSettings { clip_value: asked, ..plain() };
        let state = check(gpu, "clip value", &[vec![1.0]], &settings, 1.0);
        assert_eq!(state.clip_value, expected);
    }
}

/// Norms that naive f32 arithmetic gives as 0 or Inf.
fn check_extremes(gpu: &Gpu) {
    let mix: Vec<_> = (0..3000).map(|i| if i % 2 == 0 { 1e30 } else { -1e-30 }).collect();
    let mut apart = vec![1e-30; 5000];
    apart[4999] = 1e30;
    let cases = [
        ("1000 x 1e20", vec![1e20; 1000]),
        ("1000 x 1e-25", vec![-1e-25; 1000]),
        ("1000 x 1e-42", vec![1e-42; 1000]),
        ("one smallest subnormal", vec![f32::from_bits(1)]),
        ("5000 x f32::MAX", vec![f32::MAX; 5000]),
        ("1e30 and 1e-30", mix),
        ("1e30 in another chunk than 1e-30", apart),
        ("any finite", any_finite(5, 3000)),
    ];
    for (name, gradient) in cases {
        for loss_scale in [1.0, 65_536.0, 0.25, 3.0] {
            for max_norm in [1.0, 1e-6, 1e30] {
                for norm in [Norm::L2, Norm::Max] {
                    let what = format!("{name}, scale {loss_scale}, {norm:?} {max_norm:e}");
                    let tensors = [gradient.clone()];
                    check(gpu, &what, &tensors, &clip(norm, max_norm), loss_scale);
                }
            }
        }
    }
}

/// test_clip_grad_norm of PyTorch.
fn check_pytorch_cases(gpu: &Gpu) {
    let tensors = [(1..=100).map(|i| i as f32).collect(), vec![1e-3; 10]];
    for (norm, expected) in [(Norm::L2, 581.678_605), (Norm::Max, 100.0)] {
        let state = check(gpu, "1..100", &tensors, &clip(norm, 2.0), 1.0);
        assert_close("norm", &[state.gradient_norm], &[expected], NORM);
        let scale = wide_state(&state).gradient_scale;
        let clipped: Vec<_> = wide(&tensors.concat()).iter().map(|g| g * scale).collect();
        let after = reference::gradient_scan(&clipped);
        let after = if norm == Norm::L2 { after.sum_of_squares.sqrt() } else { after.largest };
        assert!((after - 2.0).abs() <= 1e-6, "{norm:?}: clipped to {after}");
    }
    let small: Vec<f32> = values(4, 100).iter().map(|g| (g + 1.0) / 2e4).collect();
    for norm in [Norm::L2, Norm::Max] {
        for loss_scale in [1.0, 65_536.0] {
            let tensors = [small.clone(), vec![0.002; 10]];
            let state = check(gpu, "below", &tensors, &clip(norm, 2.0), loss_scale);
            assert_eq!((state.clip_coefficient, state.gradient_scale * loss_scale), (1.0, 1.0));
        }
    }
}

/// Lists of fours as in test_multi_tensor_l2norm of Transformer Engine: sums are exact.
fn check_constant_lists(gpu: &Gpu) {
    let lists = [
        (777, 555, 55, 1_082.663_38),
        (555, 65_537, 1, 4.0 * 66_092f64.sqrt()),
        (65_537, 555, 55, 7_626.333_33),
        (33_333, 555, 55, 5_460.910_02),
        (555 * 555, 7777 * 77, 1, 4.0 * 906_854f64.sqrt()),
    ];
    for (first, second, repeats, norm) in lists {
        let list = [vec![4.0; first], vec![4.0; second]];
        let tensors: Vec<_> = list.iter().cycle().take(2 * repeats).cloned().collect();
        let what = format!("({first}, {second}) x {repeats}");
        let state = check(gpu, &what, &tensors, &clip(Norm::L2, 1.0), 1.0);
        assert_close(&what, &[state.gradient_norm], &[norm], NORM);
        let scaled = check(gpu, &what, &tensors, &clip(Norm::L2, 1.0), 0.25);
        assert_eq!(scaled.gradient_norm, state.gradient_norm * 4.0, "{what}");
    }
}

/// A skipped step leaves all but its own fields as they were, bit by bit.
fn check_skip(gpu: &Gpu) {
    let flat = flatten(&[values(1, 100), values(2, 3000)]);
    let before = StepState {
        growth_count: 17,
        applied_total: 41,
        skipped_total: 5,
        gradient_norm: 1.5,
        clip_coefficient: 0.5,
        gradient_scale: 0.25,
        clip_value: 2.0,
        learning_rate: 0.125,
        verdict: APPLY,
        skipped_in_row: 2,
        gradient_prescale: 0.5,
        ..fresh(1024.0)
    };
    let clock = TensorState {
        clip_coefficient: 1.0,
        bias_correction1: 0.3,
        bias_correction2: 0.02,
        steps: 41,
        ..Default::default()
    };
    for bits in NONFINITE {
        let judge = Judge::new(gpu, &flat, &clip(Norm::L2, 1.0), before);
        gpu.write(&judge.tensors, 0, bytemuck::cast_slice(&[clock; 2]));
        let mut elements = flat.elements.clone();
        elements[2000] = f32::from_bits(bits);
        elements[2001] = 0.0;
        judge.set_gradient(gpu, &elements);
        judge.run(gpu);
        let found = judge.state(gpu);
        let expected = StepState {
            verdict: SKIP,
            reason: Reason::NonFiniteGradient as u32,
            skipped_total: 6,
            skipped_in_row: 3,
            gradient_norm: f32::INFINITY,
            nonfinite_count: 1,
            zero_count: 1,
            max_norm: 1.0,
            // Without meaning where the norm is Inf.
            norm_significand: found.norm_significand,
            norm_exponent: found.norm_exponent,
            ..before
        };
        assert_eq!(found, expected, "{bits:#x}");
        assert_eq!(judge.tensors(gpu), [clock; 2], "{bits:#x}");
        judge.set_gradient(gpu, &flat.elements);
        judge.run(gpu);
        let state = judge.state(gpu);
        let scan = reference::gradient_scan(&wide(&flat.elements[..100 + 3000]));
        let settings = clip(Norm::L2, 1.0);
        let good = reference::verdict(&settings, &scan, 1.0, &wide_state(&expected));
        assert_eq!((state.applied_total, state.skipped_total, state.skipped_in_row), (42, 6, 0));
        assert_eq!((state.verdict, state.reason, state.growth_count), (APPLY, 0, 17));
        assert_close("norm", &[state.gradient_norm], &[good.gradient_norm], NORM);
        let tensor = judge.tensors(gpu)[1];
        assert_close("bias correction", &[tensor.bias_correction1], &[0.3 * 0.9 + 0.1], ROUNDING);
        assert_eq!(tensor.steps, 42);
    }
}

/// A loss or a staged state that is not finite skips the step and leaves the loss scale alone; the
/// gradient comes first as a reason, the loss next.
fn check_loss_and_states(gpu: &Gpu) {
    let flat = flatten(&[values(1, 100)]);
    let settings = VerdictSettings { scaling: Some(SCALING), ..plain() };
    let judged = |loss: u32, staged: Option<(u64, u32)>, gradient: f32, veto: u32| {
        let before = StepState { growth_count: 17, applied_total: 41, ..fresh(1024.0) };
        let judge = Judge::new(gpu, &flat, &settings, before);
        judge.set_gradient(gpu, &[gradient]);
        gpu.write(&judge.loss, 0, bytemuck::bytes_of(&loss));
        if let Some((index, bits)) = staged {
            gpu.write(&judge.staged, 4 * index, bytemuck::bytes_of(&bits));
        }
        judge.run_first(gpu, 2);
        let mut state = judge.state(gpu);
        state.veto = veto;
        gpu.write(&judge.state, 0, bytemuck::bytes_of(&state));
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        gpu.encode(&mut encoder, &judge.dispatches[2..]);
        gpu.submit(encoder);
        let (reason, state) = (Reason::from_bits(judge.state(gpu).reason), judge.state(gpu));
        let is_skipped = reason != Reason::None;
        assert_eq!(state.verdict, if is_skipped { SKIP } else { APPLY });
        assert_eq!([state.skipped_total, state.skipped_in_row], [u32::from(is_skipped); 2]);
        assert!(judge.tensors(gpu).iter().all(|t| t.steps == u32::from(!is_skipped)));
        if reason != Reason::NonFiniteGradient {
            assert_eq!((state.loss_scale, state.nonfinite_count), (1024.0, 0));
            assert_eq!(state.growth_count, 17 + u32::from(!is_skipped));
        }
        reason
    };
    let (good, spike) = (2.5f32.to_bits(), Reason::NormSpike as u32);
    for bits in FINITE {
        assert_eq!(judged(bits, Some((7, bits)), 1.0, 0), Reason::None, "{bits:#x}");
    }
    for bits in NONFINITE {
        let what = format!("{bits:#x}");
        assert_eq!(judged(bits, None, 1.0, 0), Reason::NonFiniteLoss, "{what}");
        assert_eq!(judged(bits, Some((0, bits)), 1.0, spike), Reason::NonFiniteLoss, "{what}");
        assert_eq!(judged(bits, None, f32::NAN, 0), Reason::NonFiniteGradient, "{what}");
    }
    for (place, bits) in [0, 1, 2, 3, 1023, 1024, 1199].into_iter().zip(NONFINITE) {
        let staged = Some((place, bits));
        assert_eq!(judged(good, staged, 1.0, spike), Reason::NonFiniteState, "{place}: {bits:#x}");
        assert_eq!(judged(good, staged, f32::INFINITY, 0), Reason::NonFiniteGradient);
    }
}

/// What policies set between norm and verdict is obeyed.
fn check_policies(gpu: &Gpu) {
    let flat = flatten(&[vec![3.0], vec![4.0], vec![]]);
    let judge = Judge::new(gpu, &flat, &clip(Norm::L2, 10.0), fresh(1.0));
    let set = |change: &dyn Fn(&mut StepState)| {
        judge.run_first(gpu, 2);
        let mut state = judge.state(gpu);
        change(&mut state);
        gpu.write(&judge.state, 0, bytemuck::bytes_of(&state));
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        gpu.encode(&mut encoder, &judge.dispatches[2..]);
        gpu.submit(encoder);
        judge.state(gpu)
    };
    let state = set(&|state| state.veto = Reason::LossSpike as u32);
    assert_eq!((state.verdict, state.reason), (SKIP, Reason::LossSpike as u32));
    assert_eq!((state.skipped_total, state.applied_total, state.skipped_in_row), (1, 0, 1));
    assert!(judge.tensors(gpu).iter().all(|tensor| tensor.steps == 0));
    let state = set(&|state| state.max_norm = 1.25);
    assert_eq!((state.verdict, state.clip_coefficient), (APPLY, 0.25));
    let state = set(&|state| state.learning_rate_factor = 0.5);
    assert_eq!((state.clip_coefficient, state.learning_rate), (1.0, 0.5));

    let mut tensors = judge.tensors(gpu);
    let clock = tensors[0];
    assert_eq!((clock.steps, clock.reset), (2, 0));
    tensors[1].reset = 1;
    gpu.write(&judge.tensors, 0, bytemuck::cast_slice(&tensors));
    set(&|state| state.veto = Reason::NormSpike as u32);
    assert_eq!(judge.tensors(gpu), tensors, "a skipped step empties no moments");
    judge.run(gpu);
    let tensors = judge.tensors(gpu);
    assert_eq!(
        tensors.iter().map(|t| (t.steps, t.reset)).collect::<Vec<_>>(),
        [(3, 0), (1, 0), (3, 0)]
    );
    assert_close("reset", &[tensors[1].bias_correction1], &[0.1], ROUNDING);
    assert_close("not reset", &[tensors[0].bias_correction1], &[1.0 - 0.9f64.powi(3)], ROUNDING);
}

/// Runs `bad` (true for an overflow) step by step and compares with the reference. Returns the
/// loss scale and the growth count after each step.
fn scales(gpu: &Gpu, scaling: Scaling, init: f32, bad: &[bool]) -> Vec<(f32, u32)> {
    let settings = VerdictSettings { scaling: Some(scaling), ..plain() };
    let start = StepState::new(init, scaling.hysteresis);
    let judge = Judge::new(gpu, &flatten(&[vec![1.0, 2.0]]), &settings, start);
    let mut expected = wide_state(&start);
    let step = |(i, &bad): (usize, &bool)| {
        let first =
            if bad { f32::from_bits([0x7fc0_0000, 0x7f80_0000, 0xff7f_ffff][i % 3]) } else { 1.0 };
        judge.set_gradient(gpu, &[first, 2.0, 0.0, 0.0]);
        judge.run(gpu);
        let overflow = if bad { f64::INFINITY } else { 1.0 };
        let scan = reference::gradient_scan(&[overflow, 2.0]);
        let before = expected;
        expected = reference::verdict(&settings, &scan, 1.0, &expected);
        let state = judge.state(gpu);
        assert_state(&format!("{scaling:?}, step {i}"), &state, &scan, &expected);
        assert_eq!(f64::from(state.step_loss_scale), before.loss_scale);
        let moved = |event: Event| state.events & event as u32 != 0;
        assert_eq!(moved(Event::LossScaleDown), expected.loss_scale < before.loss_scale);
        assert_eq!(moved(Event::LossScaleUp), expected.loss_scale > before.loss_scale);
        (state.loss_scale, state.growth_count)
    };
    bad.iter().enumerate().map(step).collect()
}

fn check_loss_scale(gpu: &Gpu) {
    // torch: test_grad_scaling_update_scale.
    let torch = Scaling { growth: 2.0, backoff: 0.25, interval: 2, ..SCALING };
    let found = scales(gpu, torch, 4.0, &[false, false, true]);
    assert_eq!(found, [(4.0, 1), (8.0, 0), (2.0, 0)]);
    // jmp: a period of 20.
    let jmp = Scaling { interval: 20, ..SCALING };
    let found = scales(gpu, jmp, 10.0, &[false; 20]);
    let expected: Vec<_> = (1..20).map(|count| (10.0, count)).chain([(20.0, 0)]).collect();
    assert_eq!(found, expected);
    let found = scales(gpu, Scaling { growth: 3.0, ..jmp }, 30.0, &[false; 20]);
    assert_eq!(found.last(), Some(&(90.0, 0)));
    // 100 overflows in a row, and what is left at the minimum.
    for min in [1.0, 0.3125, 0.37f32].map(f64::from) {
        let found = scales(gpu, Scaling { min, ..SCALING }, 10.0, &[true; 100]);
        for (k, (scale, _)) in (1..).zip(found) {
            assert_eq!(f64::from(scale), min.max(10.0 / 2f64.powi(k)));
        }
    }
    let found = scales(gpu, SCALING, 65_536.0, &[true; 40]);
    assert_eq!(found.last(), Some(&(1.0, 0)), "never 0");
    // A growth beyond f32 does not happen.
    let eager = Scaling { interval: 1, ..SCALING };
    let found = scales(gpu, eager, 2f32.powi(125), &[false; 5]);
    let powers: Vec<_> = found.iter().map(|&(scale, _)| scale.log2()).collect();
    assert_eq!(powers, [126.0, 127.0, 127.0, 127.0, 127.0]);
    let found = scales(gpu, Scaling { max: 8.0, ..eager }, 1.0, &[false; 6]);
    assert_eq!(found.last(), Some(&(8.0, 0)));
    // Hysteresis 2: only growth refills it in Megatron-LM, every clean step in Apex.
    let megatron = Scaling { hysteresis: 2, ..SCALING };
    let found = scales(gpu, megatron, 8.0, &[true, false, true, true]);
    assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), [8.0, 8.0, 4.0, 2.0]);
    let apex = Scaling { refill_every_step: true, ..megatron };
    let found = scales(gpu, apex, 8.0, &[true, false, true, true]);
    assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), [8.0, 8.0, 8.0, 4.0]);
    let refilled = Scaling { interval: 2, ..megatron };
    let found = scales(gpu, refilled, 8.0, &[true, false, false, true, true]);
    assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), [8.0, 8.0, 16.0, 16.0, 8.0]);
}

/// Once training has given up, good gradients change nothing either.
fn check_give_up(gpu: &Gpu) {
    let flat = flatten(&[vec![1.0, 2.0]]);
    let run = |settings: &VerdictSettings, init: f32, bad: &[bool]| {
        let judge = Judge::new(gpu, &flat, settings, fresh(init));
        for &bad in bad {
            let first = if bad { f32::INFINITY } else { 1.0 };
            judge.set_gradient(gpu, &[first, 2.0, 0.0, 0.0]);
            judge.run(gpu);
        }
        judge.state(gpu)
    };
    let three = VerdictSettings { give_up_after: 3, ..plain() };
    let state = run(&three, 1.0, &[true, true, false, true, true]);
    assert_eq!((state.gave_up, state.applied_total), (0, 1));
    let state = run(&three, 1.0, &[true, true, true, false, false]);
    assert_eq!(state.gave_up, Reason::NonFiniteGradient as u32);
    assert_eq!((state.reason, state.applied_total), (Reason::GaveUp as u32, 0));
    assert_eq!((state.skipped_total, state.skipped_in_row), (5, 5));
    let at_min = Some(Scaling { give_up_at_min: true, ..SCALING });
    let at_min = VerdictSettings { scaling: at_min, ..plain() };
    assert_eq!(run(&at_min, 4.0, &[true, true]).gave_up, 0, "it has just reached the minimum");
    let state = run(&at_min, 4.0, &[true, true, true, false]);
    assert_eq!((state.gave_up, state.loss_scale), (Reason::NonFiniteGradient as u32, 1.0));
    assert_eq!((state.applied_total, state.reason), (0, Reason::GaveUp as u32));
}

/// Only applied steps advance the schedule; its last learning rate stays.
fn check_schedule(gpu: &Gpu) {
    let settings = VerdictSettings { learning_rates: vec![0.1, 0.2, 0.3], ..plain() };
    let flat = flatten(&[vec![1.0, 2.0]]);
    let judge = Judge::with_factor(gpu, &flat, &settings, fresh(1.0), 0.5);
    let mut expected = wide_state(&fresh(1.0));
    for bad in [true, false, true, true, false, false, false, true, false] {
        let first = if bad { f32::NAN } else { 1.0 };
        judge.set_gradient(gpu, &[first, 2.0, 0.0, 0.0]);
        judge.run(gpu);
        let scan = reference::gradient_scan(&[first.into(), 2.0]);
        expected = reference::verdict(&settings, &scan, 0.5, &expected);
        let state = judge.state(gpu);
        assert_close("rate", &[state.learning_rate], &[expected.learning_rate], ROUNDING);
        assert_eq!(state.applied_total, expected.applied_total);
        assert_eq!(state.skipped_total, expected.skipped_total);
        assert_eq!(state.skipped_in_row, expected.skipped_in_row);
    }
    assert_close("last rate", &[judge.state(gpu).learning_rate], &[0.15], ROUNDING);
}

const LINES: Tolerance =
    Tolerance { absolute: 0.0, relative: 2.4e-7, because: "two knots and a line in f32" };

/// x² by knots, x being the steps until the end: exact at every step close to it, by lines of four
/// to a doubling further out, which are off by 2^-6 of it at most. Clocks stop at the largest u32.
fn check_long_schedule(gpu: &Gpu) {
    const BITS: u32 = 2;
    const END: u32 = 4_000_000_000;
    let knot = |index: u32| {
        let shift = (index >> BITS).saturating_sub(1);
        f64::from(index - (shift << BITS)) * f64::from(shift).exp2()
    };
    let decay = (0..128).map(|index| (1e-20 * knot(index).powi(2)) as f32);
    // One step of rise in front.
    let rates: Vec<_> = std::iter::once(0.5).chain(decay).collect();
    let lines = |x: f64| {
        let above = (0..128).find(|&index| knot(index) > x).expect("a knot beyond");
        let (a, b) = (knot(above - 1), knot(above));
        1e-20 * (a * a + (b * b - a * a) * (x - a) / (b - a))
    };
    let params = VerdictParams {
        rising_steps: 1,
        decay_end: END,
        decay_first: 1,
        knot_bits: BITS,
        ..VerdictParams::new(1, [0.9, 0.999])
    };
    let steps = [0, 1, 2, 1000, 3_000_000_000, END - 77, END - 8, END - 7, END - 1, END, u32::MAX];
    for (t, state) in steps.into_iter().zip(states_after(gpu, params, &rates, &steps)) {
        let x = f64::from(END.saturating_sub(t));
        let expected = if t == 0 { 0.5 } else { lines(x) };
        assert_close(&format!("rate at {t}"), &[state.learning_rate], &[expected], LINES);
        let off = (expected - 1e-20 * x * x).abs();
        assert!(t == 0 || off <= 1e-20 * x * x / 64.0, "{t}: {off:e}");
        assert_eq!(state.applied_total, t.saturating_add(1));
    }
}

/// What the verdict makes of a step after so many applied ones.
fn states_after(gpu: &Gpu, params: VerdictParams, rates: &[f32], steps: &[u32]) -> Vec<StepState> {
    let learning_rates = gpu.upload("learning rates", rates);
    let tensors = gpu.upload("tensors", &[TensorState::default()]);
    let (loss, staged) = (gpu.upload("loss", &[2.5f32]), gpu.upload("staged", &STAGED));
    let input =
        gpu.upload("input", &[StepInput { learning_rate_factor: 1.0, ..Default::default() }]);
    let after = |&t: &u32| {
        let state = gpu.upload("state", &[StepState { applied_total: t, ..fresh(1.0) }]);
        gpu.run(&Verdict {
            params,
            input: input.as_entire_buffer_binding(),
            learning_rates: learning_rates.as_entire_buffer_binding(),
            loss: loss.as_entire_buffer_binding(),
            staged: staged.as_entire_buffer_binding(),
            tensors: tensors.as_entire_buffer_binding(),
            state: state.as_entire_buffer_binding(),
        });
        block_on(gpu.read(&state, 0, 1)).expect("readable")[0]
    };
    steps.iter().map(after).collect()
}

/// A rise of two steps, a constant, a line by knots, which lines between them do not bend, and what
/// is counted from the end.
fn check_middle_of_schedule(gpu: &Gpu) {
    const BITS: u32 = 2;
    const START: u32 = 1_000_000;
    const MIDDLE_END: u32 = 3_000_000_000;
    const END: u32 = MIDDLE_END + 7;
    let knot = |index: u32| {
        let shift = (index >> BITS).saturating_sub(1);
        f64::from(index - (shift << BITS)) * f64::from(shift).exp2()
    };
    let line = |x: f64| 1.0 + x * 2f64.powi(-30);
    let middle = (0..128).map(|index| line(knot(index)) as f32);
    let end = (0..8).map(|left| 100.0 + left as f32);
    let rates: Vec<_> = [0.25, 0.5].into_iter().chain(middle).chain(end).collect();
    let params = VerdictParams {
        rising_steps: 2,
        middle_end: MIDDLE_END,
        middle_start: START,
        middle_first: 2,
        decay_end: END,
        decay_first: 130,
        knot_bits: BITS,
        ..VerdictParams::new(1, [0.9, 0.999])
    };
    let expected = |t: u32| match t {
        0 => 0.25,
        1 => 0.5,
        _ if t < MIDDLE_END => line(f64::from(t.saturating_sub(START))),
        _ => 100.0 + f64::from(END.saturating_sub(t)),
    };
    let early = [0, 1, 2, 3, START - 1, START, START + 1, START + 7, START + 8, START + 9];
    let later = [START + 100, START + 54_321, 1 << 30, MIDDLE_END - 1, MIDDLE_END];
    let steps = [&early[..], &later, &[MIDDLE_END + 1, END - 1, END, END + 1, u32::MAX]].concat();
    for (&t, state) in steps.iter().zip(states_after(gpu, params, &rates, &steps)) {
        assert_close(&format!("rate at {t}"), &[state.learning_rate], &[expected(t)], LINES);
    }
}

fn check_bias_corrections(gpu: &Gpu) {
    // The sums of the weights that moments have, with the factors as they are in f32.
    let sum = |beta: f64, t: i32| {
        let (factor, rest) = (f64::from(beta as f32), f64::from((1.0 - beta) as f32));
        rest * (1.0 - factor.powi(t)) / (1.0 - factor)
    };
    let judge = Judge::new(gpu, &flatten(&[vec![1.0]]), &plain(), fresh(1.0));
    for t in 1..=1000 {
        judge.run(gpu);
        if t < 5 || t % 100 == 0 {
            let tensor = judge.tensors(gpu)[0];
            let corrections = [tensor.bias_correction1, tensor.bias_correction2];
            let tolerance = Tolerance {
                absolute: 0.0,
                relative: f64::from(t) * f64::from(f32::EPSILON),
                because: "two roundings in each step",
            };
            let expected = [sum(0.9, t), sum(0.999, t)];
            assert_close(&format!("step {t}"), &corrections, &expected, tolerance);
        }
    }
}

fn seed_gradient(gpu: &Gpu) {
    for (loss_scale, factor) in [(1.0, 1.0), (65_536.0, 0.25), (3.0, 1.0 / 3.0)] {
        let state = gpu.upload("state", &[fresh(loss_scale)]);
        let y = gpu.upload("y", &[7.0f32; 4]);
        gpu.run(&SeedGradient {
            params: SeedGradientParams { factor },
            state: state.as_entire_buffer_binding(),
            y: y.as_entire_buffer_binding(),
        });
        let expected = reference::seed_gradient(loss_scale.into(), factor.into());
        let y = read(gpu, &y);
        assert_close("seed", &y[..1], &[expected], ROUNDING);
        assert_eq!(y[1..], [7.0; 3]);
    }
}

/// Words of any kind: floats, NaN, subnormals, integers.
fn words(seed: u64, count: usize) -> Vec<u32> {
    let special = NONFINITE.into_iter().chain(FINITE).cycle();
    let any = any_finite(seed, count).into_iter().map(f32::to_bits).zip(special);
    any.enumerate().map(|(i, (any, special))| if i % 3 == 0 { special } else { any }).collect()
}

fn commit(gpu: &Gpu) {
    for quads in [1, 3, 63, 64, 65, 1009, 65_535 * 64 + 3] {
        for verdict in [APPLY, SKIP] {
            let (staged, committed) = (words(1, quads * 4), words(2, quads * 4));
            let state = gpu.upload("state", &[StepState { verdict, ..fresh(1.0) }]);
            let source = gpu.upload("staged", &staged);
            let target = gpu.upload("committed", &[&committed[..], &[9; 4]].concat());
            gpu.run(&Commit {
                params: CommitParams { quads: quads as u32 },
                state: state.as_entire_buffer_binding(),
                staged: source.as_entire_buffer_binding(),
                committed: target.as_entire_buffer_binding(),
            });
            let found: Vec<u32> = block_on(gpu.read(&target, 0, quads * 4 + 4)).expect("readable");
            let expected = reference::commit(verdict, &staged, &committed);
            assert!(found[..quads * 4] == expected, "{quads} quads, verdict {verdict}");
            assert_eq!(found[quads * 4..], [9; 4], "{quads} quads, past the end");
        }
    }
}

fn telemetry(gpu: &Gpu) {
    const CAPACITY: u32 = 3;
    let ring = gpu.buffer("ring", u64::from(CAPACITY) * size_of::<TelemetryRecord>() as u64);
    let finite = [1.5f32.to_bits(), 0x8000_0000, 1];
    let mut expected = [TelemetryRecord::default(); CAPACITY as usize];
    for (step, bits) in (0..).zip(finite.into_iter().chain(NONFINITE)) {
        let input = StepInput {
            seed: 3,
            step,
            microbatch: 1,
            learning_rate_factor: 1.0,
            first_microbatch: 0,
        };
        let state = StepState {
            loss_scale: 1024.0,
            applied_total: step + 100,
            skipped_total: step + 200,
            gradient_norm: if step % 2 == 0 { f32::INFINITY } else { 2.5 },
            clip_coefficient: 0.5,
            learning_rate: 0.125,
            verdict: step % 2,
            reason: 1 - step % 2,
            nonfinite_count: 7,
            zero_count: 8,
            max_norm: 9.0,
            step_loss_scale: 2048.0,
            skipped_in_row: 10,
            gave_up: 11,
            events: 12,
            event_value: 13.0,
            event_tensor: 14,
            ..fresh(1024.0)
        };
        let (inputs, states) = (gpu.upload("input", &[input]), gpu.upload("state", &[state]));
        let loss = gpu.upload("loss", &[bits]);
        gpu.run(&Telemetry {
            params: TelemetryParams { capacity: CAPACITY },
            input: inputs.as_entire_buffer_binding(),
            state: states.as_entire_buffer_binding(),
            loss: loss.as_entire_buffer_binding(),
            ring: ring.as_entire_buffer_binding(),
        });
        expected[(step % CAPACITY) as usize] = reference::telemetry(&input, &state, bits);
        let found: Vec<TelemetryRecord> =
            block_on(gpu.read(&ring, 0, CAPACITY as usize)).expect("readable");
        let (found, expected): (&[u32], &[u32]) =
            (bytemuck::cast_slice(&found), bytemuck::cast_slice(&expected));
        assert_eq!(found, expected, "step {step}, loss {bits:#x}");
    }
}

fn accumulate(gpu: &Gpu) {
    let tolerance = Tolerance {
        absolute: 1.3e-7,
        relative: 1.2e-7,
        because: "a product and a sum of values below 1, one f32 rounding each",
    };
    for size in [1, 3, 4, 255, 256, 257, 1009, 65_535 * 256 + 5] {
        let (x, before) = (values(1, size), values(2, size));
        for accumulate in [0, 1] {
            let factor = 1.0 / 3.0;
            let (gx, y) = (gpu.upload("x", &x), gpu.upload("y", &before));
            gpu.run(&Accumulate {
                params: AccumulateParams { quads: size.div_ceil(4) as u32, factor, accumulate },
                x: gx.as_entire_buffer_binding(),
                y: y.as_entire_buffer_binding(),
            });
            let before = (accumulate == 1).then(|| wide(&before));
            let expected = reference::accumulate(factor.into(), &wide(&x), before.as_deref());
            assert_close("accumulate", &read(gpu, &y)[..size], &expected, tolerance);
        }
    }
}

/// A step over tensors of several chunks: chunk partials and the telemetry of each tensor.
struct Watched {
    partials: Vec<UpdatePartial>,
    ring: Vec<TensorRecord>,
}

const WATCHED: [usize; 5] = [5, 2049, 0, 3000, 1];

fn watch(
    gpu: &Gpu,
    storage: WeightStorage,
    gradient: &Flat,
    old: &[f32],
    weight: &[f32],
) -> Watched {
    let state = StepState {
        gradient_scale: 0.5,
        clip_value: 0.25,
        step_loss_scale: 2.0,
        ..StepState::new(4.0, 1)
    };
    let tensor = TensorState { clip_coefficient: 0.75, ..Default::default() };
    let (count, chunk_count) = (gradient.table.len(), gradient.chunks.len());
    let segments = tensor_segments(&gradient.chunks, count as u32);
    let partials = gpu.buffer("partials", (chunk_count * size_of::<UpdatePartial>()) as u64);
    let ring = gpu.buffer("ring", (3 * count * size_of::<TensorRecord>()) as u64);
    let state = gpu.upload("state", &[state]);
    let weight = storage.encode(weight).concat();
    gpu.run_as(
        &UpdateScan {
            params: UpdateScanParams { chunk_count: chunk_count as u32 },
            state: state.as_entire_buffer_binding(),
            chunks: gpu.upload("chunks", &gradient.chunks).as_entire_buffer_binding(),
            tensors: gpu.upload("tensors", &vec![tensor; count]).as_entire_buffer_binding(),
            gradient: gpu.upload("gradient", &gradient.elements).as_entire_buffer_binding(),
            old: gpu.upload("old", old).as_entire_buffer_binding(),
            weight: gpu.upload("weight", &weight).as_entire_buffer_binding(),
            partials: partials.as_entire_buffer_binding(),
        },
        storage,
    );
    // Step 14, every second one: record 7, in a ring of three.
    let input = StepInput { step: 14, ..Default::default() };
    gpu.run(&TensorTelemetry {
        params: TensorTelemetryParams { tensor_count: count as u32, every: 2, capacity: 3 },
        input: gpu.upload("input", &[input]).as_entire_buffer_binding(),
        state: state.as_entire_buffer_binding(),
        segments: gpu.upload("segments", &segments).as_entire_buffer_binding(),
        partials: partials.as_entire_buffer_binding(),
        eps_shares: gpu.upload("shares", &[0.25f32; 5]).as_entire_buffer_binding(),
        ring: ring.as_entire_buffer_binding(),
    });
    let ring: Vec<TensorRecord> = block_on(gpu.read(&ring, 0, 3 * count)).expect("readable");
    let (mine, others): (Vec<_>, Vec<_>) =
        ring.into_iter().enumerate().partition(|(i, _)| (count..2 * count).contains(i));
    assert!(others.iter().all(|(_, record)| *record == TensorRecord::default()));
    Watched {
        partials: block_on(gpu.read(&partials, 0, chunk_count)).expect("readable"),
        ring: mine.into_iter().map(|(_, record)| record).collect(),
    }
}

/// Flat buffers of a step with zeros, weights that stand still, and sizes over f32's range.
fn watched_step(scale: f32, storage: WeightStorage) -> (Flat, Vec<f32>, Vec<f32>) {
    let tensors: Vec<_> = (1..).zip(WATCHED).map(|(seed, n)| values(seed, n)).collect();
    let mut gradient = flatten(&tensors);
    gradient.elements.iter_mut().for_each(|g| *g *= scale);
    gradient.elements.iter_mut().step_by(5).for_each(|g| *g = 0.0);
    let count = gradient.elements.len();
    let rounded = |x: Vec<f32>| {
        let [weights, beside] = storage.encode(&x);
        storage.decode(&weights, &beside)
    };
    let old = rounded(values(50, count).iter().map(|x| x * scale.recip()).collect());
    let mut weight =
        rounded(old.iter().zip(values(60, count)).map(|(w, d)| w + 0.3 * d * w).collect());
    for i in (0..count).step_by(3) {
        weight[i] = old[i];
    }
    (gradient, old, weight)
}

const WATCHED_SUM: Tolerance = Tolerance {
    absolute: 1e-6,
    relative: 4e-6,
    because: "squares and some tens of additions of terms of one sign; ratios to f64",
};

fn update_scan(gpu: &Gpu) {
    for (scale, storage) in [
        (1.0, WeightStorage::F32),
        (1e25, WeightStorage::F32),
        (1e-25, WeightStorage::F32),
        (1.0, WeightStorage::Bf16Stochastic),
        (1.0, WeightStorage::Bf16Kahan),
        (1.0, WeightStorage::Bf16Split),
    ] {
        for bad in [false, true] {
            let (mut gradient, old, weight) = watched_step(scale, storage);
            if bad {
                for i in [1, 2100, 4000] {
                    gradient.elements[i] = f32::from_bits(NONFINITE[i % NONFINITE.len()]);
                }
            }
            let watched = watch(gpu, storage, &gradient, &old, &weight);
            for (chunk, partial) in gradient.chunks.iter().zip(&watched.partials) {
                let share = chunk.offset as usize * 4..(chunk.offset + chunk.quads) as usize * 4;
                let part = |x: &[f32]| wide(&x[share.clone()]);
                let expected = reference::update_scan(
                    &part(&gradient.elements),
                    &part(&old),
                    &part(&weight),
                    0.5 * 0.75,
                    0.25,
                );
                assert_update(&format!("{scale:e} {storage} {chunk:?}"), partial, &expected);
            }
        }
    }
}

#[track_caller]
fn assert_update(what: &str, found: &UpdatePartial, expected: &UpdateRange) {
    let counts = [found.nonfinite_count, found.zero_count, found.frozen_count];
    let wanted = [expected.nonfinite_count, expected.zero_count, expected.frozen_count];
    assert_eq!(counts, wanted, "{what}");
    // NaN is above no bound.
    assert!(found.cut_count.abs_diff(expected.cut_count) <= expected.nonfinite_count, "{what}");
    for (name, max_bits, sum, (largest, squares)) in [
        ("gradient", found.gradient_max_bits, found.gradient_sum, expected.gradient),
        ("weight", found.weight_max_bits, found.weight_sum, expected.weight),
        ("update", found.update_max_bits, found.update_sum, expected.update),
    ] {
        let exponent = ((max_bits >> 23).max(1) as i32 - 127).min(126);
        let ratio =
            if squares == 0.0 { 1.0 } else { f64::from(sum) * 4f64.powi(exponent) / squares };
        assert_close(&format!("{what}, {name}"), &[ratio as f32], &[1.0], WATCHED_SUM);
        let ratio =
            if largest == 0.0 { 1.0 } else { f64::from(f32::from_bits(max_bits)) / largest };
        assert_close(&format!("{what}, largest {name}"), &[ratio as f32], &[1.0], WATCHED_SUM);
    }
}

fn tensor_telemetry(gpu: &Gpu) {
    for scale in [1.0, 1e25, 1e-25] {
        let (mut gradient, old, weight) = watched_step(scale, WeightStorage::F32);
        // One chunk of a tensor far larger than the others.
        gradient.elements[2060] = 1e30;
        let watched = watch(gpu, WeightStorage::F32, &gradient, &old, &weight);
        for (tensor, record) in watched.ring.iter().enumerate() {
            assert_eq!((record.step, record.loss_scale, record.eps_share), (14, 2.0, 0.25));
            let chunks = gradient.chunks.iter().filter(|chunk| chunk.tensor as usize == tensor);
            let parts: Vec<_> = chunks
                .map(|chunk| {
                    let share =
                        chunk.offset as usize * 4..(chunk.offset + chunk.quads) as usize * 4;
                    let part = |x: &[f32]| wide(&x[share.clone()]);
                    reference::update_scan(
                        &part(&gradient.elements),
                        &part(&old),
                        &part(&weight),
                        0.5 * 0.75,
                        0.25,
                    )
                })
                .collect();
            let expected = reference::tensor_telemetry(&parts);
            let words: [u32; 13] = bytemuck::cast(*record);
            let found: UpdatePartial =
                bytemuck::cast::<[u32; 10], _>(words[2..12].try_into().unwrap());
            assert_update(&format!("{scale:e}, tensor {tensor}"), &found, &expected);
        }
    }
}
