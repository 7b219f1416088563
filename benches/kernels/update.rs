//! From a gradient to new weights: scan, verdict with a clip by norm, AdamW. How the parameters
//! divide into tensors should not matter.

use evenkeel::Gpu;
use evenkeel::gpu::Dispatch;
use evenkeel::kernels::*;
use evenkeel::step::{APPLY, Chunk, StepInput, StepState, TensorSettings, TensorState};
use pollster::block_on;

use crate::bench::{Family, Work, bind};

pub const PARAMETERS: u32 = 10_000_000;
const BETA1: f32 = 0.9;
const BETA2: f32 = 0.999;

/// Flat buffers of elements in tensors of one length, a multiple of 4.
pub struct Layout {
    pub chunk_count: u32,
    pub chunk_table: Vec<Chunk>,
    pub chunks: wgpu::Buffer,
    pub tensor_count: u32,
    pub tensors: wgpu::Buffer,
    pub gradient: wgpu::Buffer,
    pub weight: wgpu::Buffer,
    pub m: wgpu::Buffer,
    pub v: wgpu::Buffer,
    pub partials: wgpu::Buffer,
    pub input: wgpu::Buffer,
    pub learning_rates: wgpu::Buffer,
    pub loss: wgpu::Buffer,
    pub state: wgpu::Buffer,
}

impl Layout {
    pub fn new(family: &Family<'_>, parameters: u32, tensors: u32) -> Self {
        let length = 4 * (parameters / 4).div_ceil(tensors);
        let starts = (0..parameters).step_by(length as usize);
        let table = starts.map(|start| (start.into(), length.min(parameters - start).into()));
        let chunks = chunks(table);
        let settings = TensorSettings { weight_decay: 1.0, learning_rate: 1.0 };
        let tensor = TensorState {
            bias_correction1: 1.0 - BETA1,
            bias_correction2: 1.0 - BETA2,
            steps: 2,
            ..TensorState::from(settings)
        };
        let input = StepInput { learning_rate_factor: 1.0, ..Default::default() };
        let gpu = family.gpu;
        let zeros = || gpu.buffer("moment", 4 * u64::from(parameters));
        Self {
            chunk_count: chunks.len() as u32,
            chunks: gpu.upload("chunks", &chunks),
            tensor_count: tensors,
            tensors: gpu.upload("tensors", &vec![tensor; tensors as usize]),
            gradient: family.vector(parameters),
            weight: family.vector(parameters),
            m: zeros(),
            v: zeros(),
            partials: gpu.buffer("partials", 16 * chunks.len() as u64),
            input: gpu.upload("input", &[input]),
            learning_rates: gpu.upload("learning rates", &[1e-3f32]),
            loss: gpu.upload("loss", &[0.0f32]),
            state: gpu.upload("state", &[applied()]),
            chunk_table: chunks,
        }
    }

    pub fn scan(&self) -> GradientScan<'_> {
        GradientScan {
            params: GradientScanParams {
                chunk_count: self.chunk_count,
                overflow_bits: OVERFLOW_NONFINITE,
            },
            chunks: bind(&self.chunks),
            gradient: bind(&self.gradient),
            partials: bind(&self.partials),
        }
    }

    /// Room for what [`Self::exact`] leaves.
    pub fn sums(&self, family: &Family<'_>) -> wgpu::Buffer {
        family.gpu.buffer("sums", u64::from(self.chunk_count) * size_of::<ExactSum>() as u64)
    }

    pub fn exact<'b>(&'b self, partials: &'b wgpu::Buffer) -> GradientScanExact<'b> {
        GradientScanExact {
            params: GradientScanExactParams {
                chunk_count: self.chunk_count,
                overflow_bits: OVERFLOW_NONFINITE,
            },
            chunks: bind(&self.chunks),
            gradient: bind(&self.gradient),
            partials: bind(partials),
        }
    }

    pub fn powers(&self, power: f32) -> GradientScanPower<'_> {
        GradientScanPower {
            params: GradientScanPowerParams {
                chunk_count: self.chunk_count,
                overflow_bits: OVERFLOW_NONFINITE,
                power,
            },
            chunks: bind(&self.chunks),
            gradient: bind(&self.gradient),
            partials: bind(&self.partials),
        }
    }

    pub fn norm(&self) -> GradientNorm<'_> {
        GradientNorm {
            params: GradientNormParams {
                partial_count: self.chunk_count,
                tensor_count: self.tensor_count,
                norm: NORM_L2,
                max_norm: 1.0,
            },
            partials: bind(&self.partials),
            tensors: bind(&self.tensors),
            state: bind(&self.state),
        }
    }

    pub fn verdict(&self) -> Verdict<'_> {
        Verdict {
            params: VerdictParams::new(self.tensor_count, [BETA1.into(), BETA2.into()]),
            input: bind(&self.input),
            learning_rates: bind(&self.learning_rates),
            loss: bind(&self.loss),
            staged: bind(&self.loss),
            tensors: bind(&self.tensors),
            state: bind(&self.state),
        }
    }

    pub fn adamw(&self) -> Adamw<'_> {
        Adamw {
            params: AdamwParams {
                chunk_count: self.chunk_count,
                beta1: BETA1,
                one_minus_beta1: 1.0 - BETA1,
                beta2: BETA2,
                one_minus_beta2: 1.0 - BETA2,
                eps: 1e-8,
                weight_decay: 0.01,
            },
            state: bind(&self.state),
            chunks: bind(&self.chunks),
            tensors: bind(&self.tensors),
            gradient: bind(&self.gradient),
            weight: bind(&self.weight),
            m: bind(&self.m),
            v: bind(&self.v),
        }
    }

    fn dispatches(&self, gpu: &Gpu) -> [Dispatch; 4] {
        let (scan, norm) = (gpu.prepare(&self.scan()), gpu.prepare(&self.norm()));
        [scan, norm, gpu.prepare(&self.verdict()), gpu.prepare(&self.adamw())]
    }
}

/// The state of a step that commits.
pub fn applied() -> StepState {
    StepState {
        loss_scale: 1.0,
        applied_total: 1,
        clip_coefficient: 1.0,
        gradient_scale: 1.0,
        gradient_prescale: 1.0,
        clip_value: 1e18,
        learning_rate: 1e-3,
        verdict: APPLY,
        ..Default::default()
    }
}

pub fn run(family: &mut Family<'_>) {
    let small = PARAMETERS / 10;
    let sizes = [(PARAMETERS, 1), (PARAMETERS, 148), (PARAMETERS, 5000), (small, 148)];
    for (parameters, tensors) in sizes {
        let layout = Layout::new(family, parameters, tensors);
        let dispatches = layout.dispatches(family.gpu);
        let size = format!("{} M in {tensors} tensors", parameters / 1_000_000);
        // The gradient is read twice; weight and moments are read and written.
        let work = Work::Bytes(32 * u64::from(parameters));
        if family.measure(
            "gradient_scan + gradient_norm + verdict + adamw",
            size,
            work,
            &dispatches,
        ) {
            // A step that is skipped would be fast.
            let state = block_on(family.gpu.read::<StepState>(&layout.state, 0, 1));
            let state = state.expect("the device")[0];
            assert_eq!((state.verdict, state.skipped_total), (APPLY, 0), "{state:?}");
        }
    }
}
