//! Kernels alone, in a program that is not evenkeel's: own wgpu device, own buffers, offsets.
//!
//! ```text
//! cargo run --release --example one_kernel
//! ```
//!
//! Three gradient steps of AdamW with a global norm clip over two tensors, without graph or
//! trainer. `gradient_scan` reads the gradients, `verdict` turns what it found into norm, clip
//! coefficient and the decision whether the step counts, and `adamw` obeys. The last gradient
//! holds an Inf, so the last step must change nothing. Everything is compared with the same
//! arithmetic on the host.
//!
//! Buffers are the program's own and hold several things each, at offsets that are multiples of
//! 256. One rule of WebGPU shapes the layout: within a dispatch a buffer is either read or
//! written, so what one kernel reads and the same kernel writes lies in different buffers.

use std::error::Error;
use std::num::NonZeroU64;
use std::process::ExitCode;

use evenkeel::Gpu;
use evenkeel::kernels::{
    Adamw, AdamwParams, GradientScan, GradientScanParams, NORM_L2, Verdict, VerdictParams, chunks,
};
use evenkeel::step::{APPLY, ScanPartial, StepInput, StepState, TensorSettings};

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
    match pollster::block_on(run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    // The program's own wgpu.
    let descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    let instance = wgpu::Instance::new(descriptor);
    let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await?;
    let (device, queue) = adapter.request_device(&wgpu::DeviceDescriptor::default()).await?;
    let buffer = |label| {
        use wgpu::BufferUsages as Usage;
        let usage = Usage::STORAGE | Usage::COPY_DST | Usage::COPY_SRC;
        let size = 1 << 20;
        let label = Some(label);
        device.create_buffer(&wgpu::BufferDescriptor {
            label,
            size,
            usage,
            mapped_at_creation: false,
        })
    };
    let (given, made, judged) = (buffer("given"), buffer("made"), buffer("judged"));

    // Two tensors in one flat range, each starting at a whole quad.
    let (mut tensors, mut count) = (Vec::new(), 0);
    for elements in ELEMENTS {
        tensors.push((count as u64, elements as u64));
        count = (count + elements).next_multiple_of(4);
    }
    let table = chunks(tensors.iter().copied());
    let chunk_count = table.len() as u32;
    let decayed = TensorSettings { weight_decay: 1.0, learning_rate: 1.0 };
    let settings = [decayed, TensorSettings { weight_decay: 0.0, ..decayed }];
    let input = StepInput { learning_rate_factor: 1.0, ..StepInput::default() };
    let state = StepState { loss_scale: 1.0, ..StepState::default() };
    let initial = padded(&tensors, count, |i| (i as f32 * 0.37).sin());

    // What only the host writes; what kernels write and others read; the state.
    let mut layout = Layout { buffer: &given, end: 256 };
    let chunk_table = layout.put(&queue, &table);
    let tensor_table = layout.put(&queue, &settings);
    let step_input = layout.put(&queue, &[input]);
    let rates = layout.put(&queue, &[LEARNING_RATE; 4]);
    let gradient = layout.take(4 * count);
    let mut layout = Layout { buffer: &made, end: 512 };
    let partials = layout.take(size_of::<ScanPartial>() * table.len());
    let weight = layout.put(&queue, &initial);
    let (m, v) = (layout.take(4 * count), layout.take(4 * count));
    let state = Layout { buffer: &judged, end: 768 }.put(&queue, &[state]);

    // evenkeel only borrows the device; dispatches are made once and encoded every step.
    let gpu = Gpu::from_device(device.clone(), queue.clone(), adapter.get_info());
    println!("adapter  {} ({:?})", gpu.info.name, gpu.info.backend);
    let [beta1, beta2] = BETAS.map(|beta| beta as f32);
    let [one_minus_beta1, one_minus_beta2] = BETAS.map(|beta| (1.0 - beta) as f32);
    let dispatches = [
        gpu.prepare(&GradientScan {
            params: GradientScanParams { chunk_count },
            chunks: chunk_table.binding(),
            gradient: gradient.binding(),
            partials: partials.binding(),
        }),
        gpu.prepare(&Verdict {
            params: VerdictParams {
                partial_count: chunk_count,
                norm: NORM_L2,
                max_norm: MAX_NORM,
                clip_value: 1e18,
                beta1,
                one_minus_beta1,
                beta2,
                one_minus_beta2,
                schedule_length: 4,
            },
            input: step_input.binding(),
            partials: partials.binding(),
            learning_rates: rates.binding(),
            state: state.binding(),
        }),
        gpu.prepare(&Adamw {
            params: AdamwParams {
                chunk_count,
                beta1,
                one_minus_beta1,
                beta2,
                one_minus_beta2,
                eps: EPS as f32,
                weight_decay: WEIGHT_DECAY as f32,
            },
            state: state.binding(),
            chunks: chunk_table.binding(),
            tensors: tensor_table.binding(),
            gradient: gradient.binding(),
            weight: weight.binding(),
            m: m.binding(),
            v: v.binding(),
        }),
    ];

    let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let zeros = vec![0.0; count];
    let mut host = Host { weight: wide(&initial), m: zeros.clone(), v: zeros, applied: 0 };
    let decay: Vec<_> =
        (0..count).map(|i| if i < ELEMENTS[0] { WEIGHT_DECAY } else { 0.0 }).collect();
    for step in 0..3 {
        // A large gradient, a small one, and one with an Inf.
        let size = [3.0, 0.003, 1.0][step];
        let mut values = padded(&tensors, count, |i| size * ((i * (step + 2)) as f32 * 0.11).cos());
        if step == 2 {
            values[4_000] = f32::INFINITY;
        }
        queue.write_buffer(&given, gradient.offset, bytemuck::cast_slice(&values));
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        gpu.encode(&mut encoder, &dispatches);
        queue.submit([encoder.finish()]);

        let [now]: [StepState; 1] =
            gpu.read(&judged, state.offset, 1).await?.try_into().expect("one state");
        let found: Vec<f32> = gpu.read(&made, weight.offset, count).await?;
        let (norm, coefficient) = host.step(&wide(&values), &decay);
        let applied = now.verdict == APPLY;
        println!(
            "step {step}   norm {:<10.6} clip coefficient {:<10.6} {}",
            now.gradient_norm,
            now.clip_coefficient,
            if applied { "applied" } else { "skipped: a gradient is not finite" }
        );
        check("applied", applied, norm.is_finite())?;
        if applied {
            close("norm", now.gradient_norm, norm, 2e-6)?;
            close("clip coefficient", now.clip_coefficient, coefficient, 2e-6)?;
        }
        for (found, expected) in found.iter().zip(&host.weight) {
            close("weight", *found, *expected, 2e-6)?;
        }
    }
    println!("all weights, norms and decisions agree with the host");
    Ok(())
}

impl Host {
    /// One step of the textbook's AdamW; returns norm and clip coefficient.
    fn step(&mut self, gradient: &[f64], decay: &[f64]) -> (f64, f64) {
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let coefficient = (f64::from(MAX_NORM) / norm).min(1.0);
        if !norm.is_finite() {
            return (norm, coefficient);
        }
        self.applied += 1;
        let [beta1, beta2] = BETAS;
        let [unbiased1, unbiased2] = BETAS.map(|beta| 1.0 - beta.powi(self.applied));
        for (i, g) in gradient.iter().enumerate() {
            let g = g * coefficient;
            self.m[i] = beta1 * self.m[i] + (1.0 - beta1) * g;
            self.v[i] = beta2 * self.v[i] + (1.0 - beta2) * g * g;
            let update = self.m[i] / unbiased1 / ((self.v[i] / unbiased2).sqrt() + EPS);
            self.weight[i] -= f64::from(LEARNING_RATE) * (update + decay[i] * self.weight[i]);
        }
        (norm, coefficient)
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

fn check<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what}: the device has {found:?}, the host {expected:?}"))
}

/// Within a few roundings of values around 1.
fn close(what: &str, found: f32, expected: f64, tolerance: f64) -> Result<(), String> {
    if (f64::from(found) - expected).abs() <= tolerance * expected.abs().max(1.0) {
        return Ok(());
    }
    Err(format!("{what}: the device has {found}, the host {expected}"))
}
