//! Kernels alone, in a program that is not evenkeel's: own wgpu device, own buffers, offsets.
//!
//! ```text
//! cargo run --release --example one_kernel
//! ```
//!
//! Three gradient steps of AdamW with a global norm clip over two tensors, without graph or
//! trainer. `gradient_scan` reads the gradients, `gradient_norm` makes their norm of what it found,
//! `verdict` gives the clip coefficient and decides whether the step counts, and `adamw` obeys. The last gradient
//! holds an Inf, so the last step must change not one bit. Everything else is compared with the same
//! arithmetic on the host.
//!
//! Buffers are the program's own and hold several things each, at offsets that are multiples of
//! 256. One rule of WebGPU shapes the layout: within a dispatch a buffer is either read or
//! written, so what one kernel reads and the same kernel writes lies in different buffers.

use std::error::Error;
use std::num::NonZeroU64;
use std::process::ExitCode;

use evenkeel::Gpu;
use evenkeel::gpu::Dispatch;
use evenkeel::kernels::{
    Adamw, AdamwParams, GradientNorm, GradientNormParams, GradientScan, GradientScanParams,
    NORM_L2, OVERFLOW_NONFINITE, Verdict, VerdictParams, chunks,
};
use evenkeel::run::{finish, say};
use evenkeel::step::{
    APPLY, Chunk, SKIP, ScanPartial, StepInput, StepState, TensorSettings, TensorState,
};

const ELEMENTS: [usize; 2] = [5_000, 129];
const MAX_NORM: f32 = 1.0;
const LEARNING_RATE: f32 = 0.01;
const BETAS: [f64; 2] = [0.9, 0.999];
const EPS: f64 = 1e-8;
const WEIGHT_DECAY: f64 = 0.1;

/// A range of one of the program's buffers.
struct Region<'a> {
    buffer: &'a wgpu::Buffer,
    offset: u64,
    size: u64,
}

/// Everything the kernels touch.
struct Regions<'a> {
    // In a buffer that only the host writes.
    chunks: Region<'a>,
    tensors: Region<'a>,
    input: Region<'a>,
    rates: Region<'a>,
    loss: Region<'a>,
    gradient: Region<'a>,
    // In one that kernels write: no kernel both reads and writes it.
    partials: Region<'a>,
    weight: Region<'a>,
    m: Region<'a>,
    v: Region<'a>,
    // In a third: the verdict writes it while it reads both of the others.
    state: Region<'a>,
}

/// Hands out regions of a buffer one after the other.
struct Layout<'a> {
    buffer: &'a wgpu::Buffer,
    end: u64,
}

impl<'a> Layout<'a> {
    fn take(&mut self, size: usize) -> Region<'a> {
        let region = Region { buffer: self.buffer, offset: self.end, size: size as u64 };
        self.end = (self.end + size as u64).next_multiple_of(256);
        assert!(self.end <= self.buffer.size(), "the buffer is too small");
        region
    }

    fn put<T: bytemuck::NoUninit>(&mut self, queue: &wgpu::Queue, data: &[T]) -> Region<'a> {
        let bytes = bytemuck::cast_slice(data);
        let region = self.take(bytes.len());
        queue.write_buffer(self.buffer, region.offset, bytes);
        region
    }
}

impl Region<'_> {
    fn binding(&self) -> wgpu::BufferBinding<'_> {
        let size = NonZeroU64::new(self.size);
        wgpu::BufferBinding { buffer: self.buffer, offset: self.offset, size }
    }
}

/// The host's AdamW, in f64.
struct Host {
    weight: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
    applied: i32,
}

fn main() -> ExitCode {
    finish(pollster::block_on(run()))
}

async fn run() -> Result<(), Box<dyn Error>> {
    // The program's own wgpu.
    let descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    let instance = wgpu::Instance::new(descriptor);
    let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await?;
    let (device, queue) = adapter.request_device(&wgpu::DeviceDescriptor::default()).await?;
    let [given, made, judged] = ["given", "made", "judged"].map(|label| buffer(&device, label));

    // Two tensors in one flat range, each starting at a whole quad.
    let (mut tensors, mut count) = (Vec::new(), 0);
    for elements in ELEMENTS {
        tensors.push((count as u64, elements as u64));
        count = (count + elements).next_multiple_of(4);
    }
    let table = chunks(tensors.iter().copied());
    let initial = padded(&tensors, count, |i| (i as f32 * 0.37).sin());
    let regions = Regions::new(&queue, [&given, &made, &judged], &table, &initial);

    // evenkeel only borrows the device; dispatches are made once and encoded every step.
    let gpu = Gpu::from_device(device.clone(), queue.clone(), adapter.get_info());
    say!("adapter  {} ({:?})", gpu.info.name, gpu.info.backend);
    let dispatches = regions.dispatches(&gpu, table.len() as u32);

    let mut host = Host::new(&initial);
    // A large gradient, a small one, and one with an Inf.
    for (step, size) in [3.0, 0.003, 1.0].into_iter().enumerate() {
        let mut values = padded(&tensors, count, |i| size * ((i * (step + 2)) as f32 * 0.11).cos());
        if step == 2 {
            values[4_000] = f32::INFINITY;
        }
        let before = regions.committed(&gpu).await?;
        queue.write_buffer(&given, regions.gradient.offset, bytemuck::cast_slice(&values));
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        gpu.encode(&mut encoder, &dispatches);
        queue.submit([encoder.finish()]);

        let state: Vec<StepState> = gpu.read(&judged, regions.state.offset, 1).await?;
        let after = regions.committed(&gpu).await?;
        show(step, &state[0]);
        match host.step(&wide(&values)) {
            None if state[0].verdict == SKIP && bits(&before) == bits(&after) => {}
            None => return Err("the step must change nothing, as a gradient is Inf".into()),
            Some((norm, coefficient)) => {
                close("norm", state[0].gradient_norm, norm)?;
                close("clip coefficient", state[0].clip_coefficient, coefficient)?;
                for (found, expected) in after.iter().zip(&host.weight) {
                    close("weight", *found, *expected)?;
                }
            }
        }
    }
    say!("all weights, norms and decisions agree with the host");
    Ok(())
}

fn buffer(device: &wgpu::Device, label: &str) -> wgpu::Buffer {
    use wgpu::BufferUsages as Usage;
    device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        size: 1 << 20,
        usage: Usage::STORAGE | Usage::COPY_DST | Usage::COPY_SRC,
        mapped_at_creation: false,
    })
}

impl<'a> Regions<'a> {
    fn new(
        queue: &wgpu::Queue,
        [given, made, judged]: [&'a wgpu::Buffer; 3],
        table: &[Chunk],
        initial: &[f32],
    ) -> Self {
        let decayed = TensorSettings { weight_decay: 1.0, learning_rate: 1.0 };
        let settings = [decayed, TensorSettings { weight_decay: 0.0, ..decayed }];
        let tensors = settings.map(TensorState::from);
        let input = StepInput { learning_rate_factor: 1.0, ..StepInput::default() };
        let state = StepState::new(1.0, 1);
        let bytes = size_of_val(initial);
        let mut given = Layout { buffer: given, end: 256 };
        let mut made = Layout { buffer: made, end: 512 };
        let mut judged = Layout { buffer: judged, end: 768 };
        Self {
            chunks: given.put(queue, table),
            tensors: judged.put(queue, &tensors),
            input: given.put(queue, &[input]),
            rates: given.put(queue, &[LEARNING_RATE]),
            loss: given.put(queue, &[0.0f32; 4]),
            gradient: given.take(bytes),
            partials: made.take(size_of::<ScanPartial>() * table.len()),
            weight: made.put(queue, initial),
            m: made.take(bytes),
            v: made.take(bytes),
            state: judged.put(queue, &[state]),
        }
    }

    fn dispatches(&self, gpu: &Gpu, chunk_count: u32) -> [Dispatch; 4] {
        let [beta1, beta2] = BETAS.map(|beta| beta as f32);
        let [one_minus_beta1, one_minus_beta2] = BETAS.map(|beta| (1.0 - beta) as f32);
        let tensor_count = ELEMENTS.len() as u32;
        let scan = GradientScan {
            params: GradientScanParams { chunk_count, overflow_bits: OVERFLOW_NONFINITE },
            chunks: self.chunks.binding(),
            gradient: self.gradient.binding(),
            partials: self.partials.binding(),
        };
        let norm = GradientNorm {
            params: GradientNormParams {
                partial_count: chunk_count,
                tensor_count,
                norm: NORM_L2,
                max_norm: MAX_NORM,
            },
            partials: self.partials.binding(),
            tensors: self.tensors.binding(),
            state: self.state.binding(),
        };
        let verdict = Verdict {
            params: VerdictParams::new(tensor_count, BETAS),
            input: self.input.binding(),
            learning_rates: self.rates.binding(),
            loss: self.loss.binding(),
            // There are no states to stage.
            staged: self.loss.binding(),
            tensors: self.tensors.binding(),
            state: self.state.binding(),
        };
        let adamw = Adamw {
            params: AdamwParams {
                chunk_count,
                beta1,
                one_minus_beta1,
                beta2,
                one_minus_beta2,
                eps: EPS as f32,
                weight_decay: WEIGHT_DECAY as f32,
            },
            state: self.state.binding(),
            chunks: self.chunks.binding(),
            tensors: self.tensors.binding(),
            gradient: self.gradient.binding(),
            weight: self.weight.binding(),
            m: self.m.binding(),
            v: self.v.binding(),
        };
        [gpu.prepare(&scan), gpu.prepare(&norm), gpu.prepare(&verdict), gpu.prepare(&adamw)]
    }

    /// Weights, then both moments.
    async fn committed(&self, gpu: &Gpu) -> evenkeel::Result<Vec<f32>> {
        let mut values = Vec::new();
        for region in [&self.weight, &self.m, &self.v] {
            let count = region.size as usize / 4;
            values.extend(gpu.read::<f32>(region.buffer, region.offset, count).await?);
        }
        Ok(values)
    }
}

fn show(step: usize, state: &StepState) {
    say!(
        "step {step}   norm {:<10.6} clip coefficient {:<10.6} {}",
        state.gradient_norm,
        state.clip_coefficient,
        if state.verdict == APPLY { "applied" } else { "skipped: a gradient is not finite" }
    );
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

impl Host {
    fn new(initial: &[f32]) -> Self {
        let zeros = vec![0.0; initial.len()];
        Self { weight: wide(initial), m: zeros.clone(), v: zeros, applied: 0 }
    }

    /// One step of the textbook's AdamW, or none: norm and clip coefficient.
    fn step(&mut self, gradient: &[f64]) -> Option<(f64, f64)> {
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        if !norm.is_finite() {
            return None;
        }
        let coefficient = (f64::from(MAX_NORM) / norm).min(1.0);
        self.applied += 1;
        let [beta1, beta2] = BETAS;
        let [unbiased1, unbiased2] = BETAS.map(|beta| 1.0 - beta.powi(self.applied));
        for (i, g) in gradient.iter().enumerate() {
            let g = g * coefficient;
            self.m[i] = beta1 * self.m[i] + (1.0 - beta1) * g;
            self.v[i] = beta2 * self.v[i] + (1.0 - beta2) * g * g;
            let update = self.m[i] / unbiased1 / ((self.v[i] / unbiased2).sqrt() + EPS);
            // The second tensor is not decayed.
            let decay = if i < ELEMENTS[0] { WEIGHT_DECAY } else { 0.0 };
            self.weight[i] -= f64::from(LEARNING_RATE) * (update + decay * self.weight[i]);
        }
        Some((norm, coefficient))
    }
}

/// Values by index, and zeros between the tensors.
fn padded(tensors: &[(u64, u64)], count: usize, value: impl Fn(usize) -> f32) -> Vec<f32> {
    let mut values = vec![0.0; count];
    for &(offset, elements) in tensors {
        let own = values.iter_mut().enumerate().skip(offset as usize).take(elements as usize);
        own.for_each(|(i, element)| *element = value(i));
    }
    values
}

/// Within a few roundings of values around 1.
fn close(what: &str, found: f32, expected: f64) -> Result<(), String> {
    if (f64::from(found) - expected).abs() <= 2e-6 * expected.abs().max(1.0) {
        return Ok(());
    }
    Err(format!("{what}: the device has {found}, the host {expected}"))
}
