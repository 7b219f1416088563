//! Rules whose moments take fewer bits: each step beside one in f64 that begins with what the device
//! has, and rounds by the same draws.

use evenkeel::Gpu;
use evenkeel::kernel::MomentStorage;
use evenkeel::record::{Recorder, StepBuffers};
use evenkeel::reference::optimizer::{
    self as reference, AdamSettings, LionSettings, code_values, moment_draws,
};
use evenkeel::reference::step::State;
use evenkeel::step::{StepInput, StepState, TensorState};
use evenkeel::train::optimizers::{CompactMoments, Segment, SegmentTensor};
use evenkeel::train::{self, Optimizer};

use super::frame::{Flat, flatten};
use super::runs::specs;
use super::support::{Tolerance, assert_close, read, wide};
use super::{ADAMW, LENGTHS, applied, applied_state, tensor_at, tensors};

const BETAS: [f64; 2] = [0.75, 0.75];
const DECAY: f64 = 0.1;
const SEED: u32 = 77;

const ADAM: AdamSettings = AdamSettings {
    beta1: BETAS[0],
    beta2: BETAS[1],
    eps: 1e-8,
    weight_decay: DECAY,
    learning_rate_factor: 0.01,
};

const LION: LionSettings = LionSettings {
    beta1: BETAS[0],
    beta2: BETAS[1],
    weight_decay: DECAY,
    cautious_decay: false,
    learning_rate_factor: 0.01,
};

const ONE_STEP: Tolerance = Tolerance {
    absolute: 3e-7,
    relative: 0.0,
    because: "a weight near 1 is rounded once, a step of 0.01 a dozen times",
};

/// A step of a tensor in f64: gradient, weights, moments, draws of both moments.
type Step = fn(&State, &[f64], &mut [f64], &mut [(f64, f64)], &[[u32; 2]]);

/// As those of Lion are, with one moment.
type LionRule = fn(&LionSettings, &State, &[f64], &mut [f64], &mut [f64], &[u32]);

fn lion_step(
    rule: LionRule,
    state: &State,
    (gradient, weights): (&[f64], &mut [f64]),
    moments: &mut [(f64, f64)],
    draws: &[[u32; 2]],
) {
    let mut momentum: Vec<_> = moments.iter().map(|&(m, _)| m).collect();
    let draws: Vec<_> = draws.iter().map(|&[draw, _]| draw).collect();
    rule(&LION, state, gradient, weights, &mut momentum, &draws);
    moments.iter_mut().zip(momentum).for_each(|(moments, m)| moments.0 = m);
}

pub fn adamw_bf16(gpu: &Gpu) {
    let optimizer = train::AdamW { betas: BETAS, weight_decay: DECAY, ..ADAMW };
    check(gpu, optimizer.with_moments(MomentStorage::Bf16), |state, g, w, moments, draws| {
        reference::adamw_bf16(&ADAM, state, g, w, moments, draws);
    });
}

pub fn adamw_blocks(gpu: &Gpu) {
    let optimizer = train::AdamW { betas: BETAS, weight_decay: DECAY, ..ADAMW };
    check(gpu, optimizer.with_moments(MomentStorage::Blocks8), |state, g, w, moments, draws| {
        reference::adamw_blocks(&ADAM, state, g, w, moments, draws);
    });
}

pub fn adam_bf16(gpu: &Gpu) {
    let optimizer = train::Adam { betas: BETAS, weight_decay: DECAY, ..train::Adam::default() };
    check(gpu, optimizer.with_moments(MomentStorage::Bf16), |state, g, w, moments, draws| {
        reference::adam_bf16(&ADAM, state, g, w, moments, draws);
    });
}

pub fn adam_blocks(gpu: &Gpu) {
    let optimizer = train::Adam { betas: BETAS, weight_decay: DECAY, ..train::Adam::default() };
    check(gpu, optimizer.with_moments(MomentStorage::Blocks8), |state, g, w, moments, draws| {
        reference::adam_blocks(&ADAM, state, g, w, moments, draws);
    });
}

pub fn lion_bf16(gpu: &Gpu) {
    let optimizer = train::Lion { betas: BETAS, weight_decay: DECAY, ..train::Lion::default() };
    check(gpu, optimizer.with_moments(MomentStorage::Bf16), |state, g, w, moments, draws| {
        lion_step(reference::lion_bf16, state, (g, w), moments, draws);
    });
}

pub fn lion_blocks(gpu: &Gpu) {
    let optimizer = train::Lion { betas: BETAS, weight_decay: DECAY, ..train::Lion::default() };
    check(gpu, optimizer.with_moments(MomentStorage::Blocks8), |state, g, w, moments, draws| {
        lion_step(reference::lion_blocks, state, (g, w), moments, draws);
    });
}

/// What a buffer of moments holds of a tensor, as the format says.
fn stored(
    words: &[u32],
    storage: MomentStorage,
    tensor: &SegmentTensor<'_>,
    (chunks, is_square): (u32, bool),
) -> Vec<f64> {
    let first = tensor.offset as usize;
    let element = |index: usize| match storage {
        MomentStorage::F32 => f64::from(f32::from_bits(words[4 * first + index])),
        MomentStorage::Bf16 => {
            let word = words[2 * first + index / 2];
            let bits = if index.is_multiple_of(2) { word << 16 } else { word & 0xffff_0000 };
            f64::from(f32::from_bits(bits))
        }
        MomentStorage::Blocks8 => {
            let word = words[8 * chunks as usize + first + index / 4];
            let code = word >> (8 * (index % 4)) & 0xff;
            let scale = f32::from_bits(words[8 * tensor.first_chunk as usize + index / 256]);
            let values = code_values(if is_square { 8 } else { 7 });
            let magnitude = values[if is_square { code } else { code & 127 } as usize];
            let sign = if is_square || code < 128 { 1.0 } else { -1.0 };
            sign * magnitude * f64::from(scale)
        }
    };
    (0..tensor.spec.shape.count()).map(element).collect()
}

struct Device<'a> {
    gpu: &'a Gpu,
    optimizer: CompactMoments,
    flat: Flat,
    buffers: StepBuffers,
    chunks: wgpu::Buffer,
    tensors: wgpu::Buffer,
    gradient: wgpu::Buffer,
    weight: wgpu::Buffer,
    moments: Vec<wgpu::Buffer>,
}

impl Device<'_> {
    fn step(&self, layout: &[SegmentTensor<'_>], state: &StepState, gradient: &[f32]) {
        let gpu = self.gpu;
        gpu.write(&self.buffers.state, 0, bytemuck::bytes_of(state));
        gpu.write(&self.gradient, 0, bytemuck::cast_slice(gradient));
        let mut recorder = Recorder::new(gpu, &self.buffers);
        let segment = Segment {
            chunks: &self.chunks,
            chunk_count: self.flat.chunks.len() as u32,
            tensors: &self.tensors,
            gradient: &self.gradient,
            weight: &self.weight,
            moments: &self.moments,
            layout,
        };
        self.optimizer.record(&mut recorder, &segment);
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        gpu.encode(&mut encoder, &recorder.take());
        gpu.submit(encoder);
    }

    fn words(&self, buffer: &wgpu::Buffer) -> Vec<u32> {
        read(self.gpu, buffer).into_iter().map(f32::to_bits).collect()
    }

    fn bits(&self) -> Vec<Vec<u32>> {
        self.moments.iter().chain([&self.weight]).map(|buffer| self.words(buffer)).collect()
    }
}

/// Four steps, with a skipped one among them, from moments that are stale.
fn check(gpu: &Gpu, optimizer: CompactMoments, step: Step) {
    let weights = tensors(1, &LENGTHS);
    let flat = flatten(&weights);
    let dims: Vec<_> = LENGTHS.iter().map(|&length| [length]).collect();
    let named: Vec<(&str, &[usize])> = dims.iter().map(|dims| ("tensor", &dims[..])).collect();
    let specs = specs(&named);
    let mut first_chunk = 0;
    let layout: Vec<_> = (0..)
        .zip(specs.iter().zip(&flat.table))
        .map(|(index, (spec, &(offset, _)))| {
            let tensor = SegmentTensor::new(spec, index, offset as u32 / 4, first_chunk);
            first_chunk += tensor.chunk_count;
            tensor
        })
        .collect();
    let sizes = optimizer.moment_bytes(&layout);
    let stale = |&bytes: &u64| gpu.upload("moment", &vec![0x4b7f_3c81u32; bytes as usize / 4]);
    let device = Device {
        gpu,
        optimizer,
        buffers: StepBuffers {
            input: gpu.upload("input", &[StepInput::default()]),
            state: gpu.upload("state", &[applied()]),
        },
        chunks: gpu.upload("chunks", &flat.chunks),
        tensors: gpu.upload("tensors", &vec![TensorState::default(); LENGTHS.len()]),
        gradient: gpu.upload("gradient", &flat.elements),
        weight: gpu.upload("weight", &flat.elements),
        moments: sizes.iter().map(stale).collect(),
        flat,
    };
    let mut before = device.bits();
    for steps in 1..=4u32 {
        let of_tensor =
            TensorState { weight_decay: 1.0, learning_rate: 0.01, ..tensor_at(steps, BETAS[0]) };
        gpu.write(&device.tensors, 0, bytemuck::cast_slice(&vec![of_tensor; LENGTHS.len()]));
        let gradients = gradients(steps);
        let flat = flatten(&gradients).elements;
        let state = StepState { seed: SEED, applied_total: steps, ..applied() };
        device.step(&layout, &StepState { verdict: 0, ..state }, &flat);
        assert!(device.bits() == before, "a skipped step");
        device.step(&layout, &state, &flat);
        let after = device.bits();
        compare(&device, &layout, steps, (&before, &after), &gradients, step);
        before = after;
    }
}

/// Of sizes over seven decades; scaled by 4.
fn gradients(steps: u32) -> Vec<Vec<f32>> {
    let spread = |(i, x): (usize, f32)| 4.0 * x * 10f32.powi(-((i % 8) as i32));
    let tensor = |t: Vec<f32>| t.into_iter().enumerate().map(spread).collect();
    tensors(100 * u64::from(steps), &LENGTHS).into_iter().map(tensor).collect()
}

fn compare(
    device: &Device<'_>,
    layout: &[SegmentTensor<'_>],
    steps: u32,
    (before, after): (&[Vec<u32>], &[Vec<u32>]),
    gradients: &[Vec<f32>],
    step: Step,
) {
    let (optimizer, storage) = (device.optimizer, device.optimizer.moment_storage());
    let chunks = device.flat.chunks.len() as u32;
    let count = device.moments.len();
    let state = applied_state(steps, BETAS[0]);
    let mut others = 0;
    for (index, (tensor, gradient)) in layout.iter().zip(gradients).enumerate() {
        let kept = |bits: &[Vec<u32>], moment: usize| match moment < count {
            true => stored(&bits[moment], storage, tensor, (chunks, moment == 1)),
            false => vec![0.0; gradient.len()],
        };
        let [m, v] = [0, 1].map(|moment| match steps {
            1 => vec![0.0; gradient.len()],
            _ => kept(before, moment),
        });
        let mut moments: Vec<_> = m.into_iter().zip(v).collect();
        let weights = |bits: &[Vec<u32>]| -> Vec<f32> {
            let own = &bits[count][4 * tensor.offset as usize..][..gradient.len()];
            own.iter().map(|&bits| f32::from_bits(bits)).collect()
        };
        let mut expected = wide(&weights(before));
        let element = |i| 4 * tensor.offset as usize + i;
        let draws: Vec<_> =
            (0..gradient.len()).map(|i| moment_draws(SEED, steps, element(i))).collect();
        let (old, mut nearby) = (moments.clone(), Vec::new());
        for draws in [vec![[0; 2]; gradient.len()], vec![[0xffff; 2]; gradient.len()]] {
            let (mut moments, mut weights) = (old.clone(), expected.clone());
            step(&state, &wide(gradient), &mut weights, &mut moments, &draws);
            nearby.push(moments);
        }
        step(&state, &wide(gradient), &mut expected, &mut moments, &draws);
        let what = format!("{optimizer:?}, step {steps}, tensor {index}");
        assert_close(&what, &weights(after), &expected, ONE_STEP);
        let halves = |moments: &[(f64, f64)], which: usize| -> Vec<f64> {
            moments.iter().map(|&(m, v)| [m, v][which]).collect()
        };
        for which in 0..count {
            let found = kept(after, which);
            let is = |i: usize, x: f64| (found[i] - x).abs() <= 2e-6 * x.abs();
            let [expected, up, down] =
                [&moments, &nearby[0], &nearby[1]].map(|moments| halves(moments, which));
            for i in 0..found.len() {
                let both = [up[i], down[i]];
                let is_one = is(i, up[i]) || is(i, down[i]);
                assert!(is_one, "{what}, {which}: {} at {i} is none of {both:?}", found[i]);
                others += usize::from(!is(i, expected[i]));
            }
        }
    }
    // A moment whose last bits are others in f32 may be rounded the other way.
    assert!(others <= 3, "{optimizer:?}, step {steps}: {others} moments");
}

/// On average, what is stored is the moment itself; neither end is passed.
#[test]
fn rounding_is_right_on_average() {
    let moments = [1.0, 0.4321, 0.01234, -0.3, 0.000_77, 0.0];
    let mut sums = [[0.0; 6]; 2];
    let draws = 65_536 / 16;
    for draw in (0..65_536).step_by(16) {
        for (sums, stored) in sums.iter_mut().zip([
            reference::quantized(&moments, &[draw; 6], false),
            reference::rounded_to_bf16(&moments, &[draw; 6]),
        ]) {
            sums.iter_mut().zip(&stored).for_each(|(sum, x)| *sum += x / f64::from(draws));
            assert_eq!((stored[0], stored[5]), (1.0, 0.0));
        }
    }
    for sums in sums {
        for (mean, moment) in sums.iter().zip(moments) {
            assert!((mean - moment).abs() <= 3e-4 * moment.abs(), "{mean} for {moment}");
        }
    }
}
