//! A run that goes on elsewhere: natively and in a page, over the same driver, 50 steps have the
//! same losses, and a checkpoint of one goes on in the other. On software drivers all of it is
//! bitwise the same.
//!
//! The two meet in a folder, `EVENKEEL_EXCHANGE`, where each writes what it found and reads what
//! the other has left there. `cargo xtask test` runs them in turn. Without the folder a run is
//! compared with its own second half.

#[macro_use]
mod support;

use evenkeel::Gpu;
use evenkeel::nn::LanguageModel;
use evenkeel::train::{AdamW, Checkpoint, Clip, LossScale, Trainer};
use support::block_on;
use support::models::{small_gpt, small_gpt_batch};

tests! { with_kernels_for_software, with_kernels_for_hardware }

const STEPS: u64 = 50;
const HALF: u64 = 25;

/// The same kernels on the same driver, but translated by naga or by Tint: a driver for hardware
/// may contract or reorder what they write, within what f32 arithmetic does to 50 steps.
const TRANSLATION: f32 = 1e-5;

fn with_kernels_for_software() {
    exchange("software", wgpu::DeviceType::Cpu);
}

fn with_kernels_for_hardware() {
    exchange("hardware", wgpu::DeviceType::DiscreteGpu);
}

fn trainer(gpu: &Gpu) -> Trainer<LanguageModel> {
    let builder = Trainer::builder(small_gpt(0.1, 4))
        .optimizer(AdamW { learning_rate: 1e-2, ..AdamW::default() })
        .clip(Clip::Norm(0.5))
        .loss_scale(LossScale::Static(1024.0))
        .seed(5);
    block_on(builder.build(gpu)).expect("a trainer")
}

/// Losses of the steps up to `end`.
fn losses(trainer: &mut Trainer<LanguageModel>, end: u64) -> Vec<f32> {
    while trainer.steps() < end {
        let batch = small_gpt_batch(trainer.steps() % 2, 4);
        block_on(trainer.step(&batch)).expect("a step");
    }
    let records = block_on(trainer.telemetry()).expect("telemetry");
    records.iter().map(|record| record.loss).collect()
}

/// What one side leaves for the other.
struct Run {
    losses: Vec<f32>,
    checkpoint: Checkpoint,
}

impl Run {
    fn new(gpu: &Gpu) -> Self {
        let mut trainer = trainer(gpu);
        let mut all = losses(&mut trainer, HALF);
        let checkpoint = block_on(trainer.checkpoint()).expect("a checkpoint");
        all.extend(losses(&mut trainer, STEPS));
        Self { losses: all, checkpoint }
    }

    fn write(&self, name: &str) {
        support::files::write(&format!("{name}.losses"), bytemuck::cast_slice(&self.losses));
        support::files::write(&format!("{name}.safetensors"), &self.checkpoint.to_bytes());
    }

    fn read(name: &str) -> Option<Self> {
        let losses = support::files::read(&format!("{name}.losses"))?;
        let checkpoint = support::files::read(&format!("{name}.safetensors")).expect("both files");
        Some(Self {
            losses: bytemuck::pod_collect_to_vec(&losses),
            checkpoint: Checkpoint::from_bytes(&checkpoint).expect("a checkpoint"),
        })
    }
}

fn exchange(kernels: &str, device_type: wgpu::DeviceType) {
    let Some(gpu) = support::gpu() else { return };
    // The device itself, not what it is made to say below. Dawn has no word for it.
    let is_software = gpu.is_software() || gpu.info.name.contains("llvmpipe");
    let Gpu { device, queue, info, .. } = gpu;
    let gpu = Gpu::from_device(device, queue, wgpu::AdapterInfo { device_type, ..info });
    let run = Run::new(&gpu);
    assert!(run.losses[49] < run.losses[0] - 0.2, "{:?}", run.losses);
    let (here, there) =
        if cfg!(target_arch = "wasm32") { ("page", "native") } else { ("native", "page") };
    run.write(&format!("{here} {kernels}"));
    let other = Run::read(&format!("{there} {kernels}")).unwrap_or_else(|| Run::new(&gpu));

    let mut resumed = trainer(&gpu);
    block_on(resumed.restore(&other.checkpoint)).expect("restored");
    let rest = losses(&mut resumed, STEPS);
    assert_eq!([run.losses.len(), other.losses.len(), rest.len()], [50, 50, 25]);
    let whole = (0..).zip(run.losses.iter().zip(&other.losses));
    let resumed = (HALF..).zip(rest.iter().zip(&other.losses[HALF as usize..]));
    if is_software {
        assert!(run.checkpoint == other.checkpoint, "checkpoints of {here} and {there} differ");
    }
    for (step, (a, b)) in whole.chain(resumed) {
        let error = (a - b).abs() / b.abs();
        let allowed = if is_software { 0.0 } else { TRANSLATION };
        assert!(error <= allowed, "step {step}: {a} {here}, {b} {there}");
    }
}
