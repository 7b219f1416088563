//! Kernels and trainers on a device that the user made, with WebGPU's default limits, and kernels
//! over parts of the user's own buffers.

mod support;

use std::sync::OnceLock;

use evenkeel::kernel::{HalfConversions, HeadQuads};
use evenkeel::kernels::{
    self, Adamw, AdamwParams, Add, AddParams, GradientNorm, GradientNormParams, GradientScan,
    GradientScanParams, LayerNorm, LayerNormParams, Scale, ScaleParams, Verdict, VerdictParams,
};
use evenkeel::nn::{Gpt, GptConfig, LanguageModel};
use evenkeel::reference;
use evenkeel::step::{ScanPartial, StepInput, StepState, TensorSettings, TensorState};
use evenkeel::train::{AdamW, Batch, Clip, Trainer};
use evenkeel::{Gpu, Precision, WeightStorage};
use support::models::{small_gpt, small_gpt_batch};
use support::{Tolerance, assert_close, block_on, read, tokens, unpad, values, wide};
use wgpu::Features;

/// A device with the limits that every WebGPU implementation has.
fn default_gpu() -> Option<Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    let gpu = GPU.get_or_init(|| {
        let (device, queue, info) = support::device(wgpu::Limits::default())?;
        Some(Gpu::from_device(device, queue, info))
    });
    gpu.clone()
}

const ROUNDING: Tolerance = Tolerance { absolute: 1e-6, relative: 1e-6, because: "f32 rounding" };

/// A part of a buffer.
fn part(buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> wgpu::BufferBinding<'_> {
    wgpu::BufferBinding { buffer, offset, size: std::num::NonZeroU64::new(bytes) }
}

/// A device that computes nothing and has every feature, with the limits that every WebGPU
/// implementation has: wgpu's checks, without a driver that compiles.
fn checking_gpu() -> Gpu {
    let noop = wgpu::NoopBackendOptions { enable: true, ..Default::default() };
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::NOOP,
        backend_options: wgpu::BackendOptions { noop, ..Default::default() },
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapter = block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()));
    let adapter = adapter.expect("the adapter that is always there");
    let descriptor = wgpu::DeviceDescriptor {
        required_features: wgpu::Features::SHADER_F16
            | wgpu::Features::SHADER_INT64
            | wgpu::Features::SUBGROUP,
        ..Default::default()
    };
    let (device, queue) = block_on(adapter.request_device(&descriptor)).expect("a device");
    Gpu::from_device(device, queue, adapter.get_info())
}

/// Shaders that need more than the defaults would be refused when their pipeline is made.
#[test]
fn every_kernel_fits_the_default_limits() {
    let gpu = checking_gpu();
    let mut built = 0;
    for declaration in kernels::all() {
        let choices: &[Vec<u32>] = match declaration.overrides {
            [] => &[vec![]],
            ["watch"] => &[vec![0], vec![1]],
            ["context"] => &[vec![64]],
            ["activation"] => &[vec![0], vec![2]],
            ["activation", "gated"] => &[vec![0, 0], vec![2, 0], vec![4, 1]],
            other => panic!("{}: no values for {other:?}", declaration.name),
        };
        let variants = declaration.variants().into_iter();
        // Smaller heads take the same kernels with less memory.
        let variants = variants.filter(|variant| variant.head_quads == HeadQuads::default());
        // Of f16 both ways are by integers or by the device: others are of the same fragments.
        let variants = variants.filter(|variant| {
            let HalfConversions { loads, stores } = variant.half_conversions;
            loads == stores || variant.precision != Precision::F16
        });
        // What wgpu calls experimental, the tests of kernels run where it is there.
        let variants = variants.filter(|variant| variant.cooperative.is_none());
        for (variant, overrides) in variants.flat_map(|v| choices.iter().map(move |o| (v, o))) {
            let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
            gpu.pipeline(declaration, variant, overrides);
            let error = block_on(scope.pop());
            assert!(error.is_none(), "{} {variant:?} {overrides:?}: {error:?}", declaration.name);
            built += 1;
        }
    }
    assert!(built > 150, "{built} pipelines");
}

/// Three kernels over parts of two buffers; the bytes between them stay as they were.
#[test]
fn kernels_run_at_offsets() {
    let Some(gpu) = default_gpu() else { return };
    // Parts of 12 quads at 256, 512, 1024; guards of 7.0 everywhere else.
    let (rows, cols, bytes) = (4, 10, 192);
    let places = [256u64, 512, 1024];
    let mut source = vec![7.0f32; 512];
    let operands = [1, 2, 3].map(|seed| values(seed, rows * cols));
    for (place, operand) in places.iter().zip(&operands) {
        let at = *place as usize / 4;
        source[at..at + 48].copy_from_slice(&support::pad(operand, cols));
    }
    let input = gpu.upload("mine", &source);
    let output = gpu.upload("mine too", &[7.0f32; 512]);
    let statistics = gpu.upload("statistics", &[7.0f32; 256]);

    gpu.run(&Add {
        params: AddParams { quads: 12 },
        a: part(&input, 256, bytes),
        b: part(&input, 512, bytes),
        y: part(&output, 1024, bytes),
    });
    gpu.run(&Scale {
        params: ScaleParams { quads: 12, factor: -2.5 },
        x: part(&input, 1024, bytes),
        y: part(&output, 256, bytes),
    });
    let (rows32, cols32) = (rows as u32, cols as u32);
    gpu.run(&LayerNorm {
        params: LayerNormParams { rows: rows32, cols: cols32, eps: 1e-5 },
        x: part(&input, 256, bytes),
        weight: part(&input, 512, 48),
        bias: part(&input, 1024, 48),
        y: part(&output, 512, bytes),
        statistics: part(&statistics, 512, 64),
    });

    let found = read(&gpu, &output);
    let at = |place: u64| unpad(&found[place as usize / 4..][..48], cols);
    let [a, b, c] = operands.each_ref().map(|operand| wide(operand));
    assert_close("add", &at(1024), &reference::elementwise::add(&a, &b), ROUNDING);
    assert_close("scale", &at(256), &reference::elementwise::scale(-2.5, &c), ROUNDING);
    let normed = reference::normalization::layer_norm(&a, &b[..cols], &c[..cols], 1e-5);
    let tolerance = Tolerance { absolute: 1e-5, relative: 1e-5, because: "sums over 10 columns" };
    assert_close("layer norm", &at(512), &normed.y, tolerance);
    let found_statistics = read(&gpu, &statistics);
    assert_close("rstd", &[found_statistics[130]], &normed.rstd[..1], tolerance);

    for (index, &x) in found.iter().enumerate() {
        let inside =
            places.iter().any(|&place| (place / 4..place / 4 + 48).contains(&(index as u64)));
        assert!(inside || x == 7.0, "element {index} outside all parts was written: {x}");
    }
    let untouched = [0..128, 144..256];
    assert!(untouched.into_iter().flatten().all(|i| found_statistics[i] == 7.0));
    assert!(read(&gpu, &input) == source, "an operand was written");
}

/// Norm, clip and AdamW over one flat buffer that holds weights, moments and other things.
#[test]
fn an_optimizer_in_a_program_that_is_not_ours() {
    let Some(gpu) = default_gpu() else { return };
    let count = 5000;
    let (gradient, weight) = (values(1, count), values(2, count));
    let flat_bytes = 4 * count as u64;
    let offset = 768u64;
    let at_offset = |data: &[f32]| {
        let mut all = vec![7.0f32; offset as usize / 4];
        all.extend_from_slice(data);
        all.extend_from_slice(&[7.0; 64]);
        gpu.upload("mine", &all)
    };
    let gradients = at_offset(&gradient);
    let weights = at_offset(&weight);
    let moments = [at_offset(&vec![0.0; count]), at_offset(&vec![0.0; count])];
    let chunks = kernels::chunks([(0, count as u64)]);
    let chunk_count = chunks.len() as u32;
    let chunks = gpu.upload("chunks", &chunks);
    let partials = gpu.buffer("partials", u64::from(chunk_count) * size_of::<ScanPartial>() as u64);
    let state = gpu.upload("state", &[StepState::new(1.0, 1)]);
    let settings = TensorSettings { weight_decay: 1.0, learning_rate: 1.0 };
    let tensors = gpu.upload("tensors", &[TensorState::from(settings)]);
    let input = StepInput { learning_rate_factor: 1.0, ..StepInput::default() };

    gpu.run(&GradientScan {
        params: GradientScanParams { chunk_count, overflow_bits: kernels::OVERFLOW_NONFINITE },
        chunks: chunks.as_entire_buffer_binding(),
        gradient: part(&gradients, offset, flat_bytes),
        partials: partials.as_entire_buffer_binding(),
    });
    let max_norm = 1.5;
    gpu.run(&GradientNorm {
        params: GradientNormParams {
            partial_count: chunk_count,
            tensor_count: 1,
            norm: kernels::NORM_L2,
            max_norm,
        },
        partials: partials.as_entire_buffer_binding(),
        tensors: tensors.as_entire_buffer_binding(),
        state: state.as_entire_buffer_binding(),
    });
    gpu.run(&Verdict {
        params: VerdictParams::new(1, [0.9, 0.999]),
        input: gpu.upload("input", &[input]).as_entire_buffer_binding(),
        learning_rates: gpu.upload("rates", &[1e-2f32]).as_entire_buffer_binding(),
        loss: gpu.upload("loss", &[0.5f32]).as_entire_buffer_binding(),
        staged: gpu.buffer("no states", 16).as_entire_buffer_binding(),
        tensors: tensors.as_entire_buffer_binding(),
        state: state.as_entire_buffer_binding(),
    });
    gpu.run(&Adamw {
        params: AdamwParams {
            chunk_count,
            beta1: 0.9,
            one_minus_beta1: 0.1,
            beta2: 0.999,
            one_minus_beta2: 0.001,
            eps: 1e-3,
            weight_decay: 0.1,
        },
        state: state.as_entire_buffer_binding(),
        chunks: chunks.as_entire_buffer_binding(),
        tensors: tensors.as_entire_buffer_binding(),
        gradient: part(&gradients, offset, flat_bytes),
        weight: part(&weights, offset, flat_bytes),
        m: part(&moments[0], offset, flat_bytes),
        v: part(&moments[1], offset, flat_bytes),
    });

    let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
    let state: Vec<StepState> = block_on(gpu.read(&state, 0, 1)).expect("a state");
    assert_close("norm", &[state[0].gradient_norm], &[norm], ROUNDING);
    let coefficient = f64::from(max_norm) / norm;
    let expected: Vec<_> = gradient
        .iter()
        .zip(&weight)
        .map(|(&g, &w)| {
            let (g, w) = (f64::from(g) * coefficient, f64::from(w));
            // After one step both moments are those of g itself.
            w - 1e-2 * (g / (g.abs() + 1e-3) + 0.1 * w)
        })
        .collect();
    let found = read(&gpu, &weights);
    let start = offset as usize / 4;
    assert_close("weights", &found[start..start + count], &expected, ROUNDING);
    let outside = found[..start].iter().chain(&found[start + count..]);
    assert!(outside.into_iter().all(|&x| x == 7.0), "something outside the part was written");
}

#[test]
fn a_gpt_trains_on_a_device_with_default_limits() {
    let Some(gpu) = default_gpu() else { return };
    let limits = gpu.device.limits();
    assert_eq!(limits.max_compute_invocations_per_workgroup, 256);
    assert_eq!(limits.max_storage_buffers_per_shader_stage, 8);
    let optimizer = AdamW { learning_rate: 1e-2, ..AdamW::default() };
    let builder = Trainer::builder(small_gpt(0.1, 2)).optimizer(optimizer).clip(Clip::Norm(1.0));
    let mut trainer = block_on(builder.build(&gpu)).expect("a trainer");
    let batch = small_gpt_batch(1, 2);
    for _ in 0..40 {
        block_on(trainer.step(&batch)).expect("a step");
    }
    let telemetry = block_on(trainer.telemetry()).expect("telemetry");
    let (first, last) = (telemetry[0].loss, telemetry[39].loss);
    assert!(telemetry.iter().all(|step| step.applied));
    assert!((first - 27f32.ln()).abs() < 0.1 && last < 0.8 * first, "{first} to {last}");
}

/// Dispatches of a step with their workgroups, which tell the variants of products apart, and the
/// losses of some steps.
fn run_of(gpu: &Gpu) -> (Vec<(&'static str, [u32; 3])>, Vec<u32>) {
    let gpt = Gpt::new(GptConfig::gpt2(27, 24, 1, 2, 48)).expect("valid");
    let model = LanguageModel { gpt, batch: 3, time: 24 };
    let mut trainer = block_on(Trainer::builder(model).seed(1).build(gpu)).expect("a trainer");
    let batch = Batch::new().with("tokens", tokens(1, 72, 27)).with("targets", tokens(2, 72, 27));
    for _ in 0..3 {
        block_on(trainer.step(&batch)).expect("a step");
    }
    let telemetry = block_on(trainer.telemetry()).expect("telemetry");
    let dispatches = trainer.dispatches().map(|dispatch| (dispatch.name, dispatch.workgroups));
    (dispatches.collect(), telemetry.iter().map(|step| step.loss.to_bits()).collect())
}

/// A device that is shared with another program is as fast as our own, if it was asked for what
/// [`Gpu::requirements`] says.
#[test]
fn a_device_that_meets_the_requirements_runs_what_our_own_does() {
    let (Some(own), Some(adapter)) = (support::gpu(), support::adapter()) else { return };
    let wanted = Gpu::requirements(&adapter);
    let used = [
        Features::SHADER_F16,
        Features::SHADER_INT64,
        Features::SUBGROUP,
        Features::TIMESTAMP_QUERY,
    ];
    let used = used.into_iter().fold(Features::empty(), |all, feature| all | feature);
    assert_eq!(wanted.features, adapter.features() & used);
    assert!(own.device.features().contains(wanted.features), "our own has them");
    assert_eq!(wanted.limits, own.device.limits());
    let mut shared = wanted.clone();
    let others = adapter.features() & Features::MAPPABLE_PRIMARY_BUFFERS;
    shared.features |= others;
    let (device, queue) = block_on(adapter.request_device(&shared.descriptor())).expect("a device");
    assert!(device.features().contains(wanted.features | others));
    let shared = Gpu::from_device(device, queue, adapter.get_info());
    let expected = run_of(&own);
    assert_eq!(run_of(&shared), expected);
    // Without the features the same kernels run, without the fast path where there is one.
    let plain = run_of(&default_gpu().expect("the same adapter"));
    let names = |run: &(Vec<(&'static str, _)>, _)| -> Vec<_> {
        run.0.iter().map(|&(name, _)| name).collect()
    };
    assert_eq!((names(&plain), &plain.1), (names(&expected), &expected.1));
    let subgroups = [own.info.subgroup_min_size, own.info.subgroup_max_size] == [8, 8];
    let has_path =
        own.is_software() && subgroups && adapter.features().contains(Features::SUBGROUP);
    assert_eq!(plain.0 != expected.0, has_path);
}

/// Everything a Llama needs, heads of the largest width included.
#[test]
fn a_llama_trains_on_a_device_with_default_limits() {
    let Some(gpu) = default_gpu() else { return };
    let config = GptConfig { soft_cap: Some(20.0), ..GptConfig::llama(27, 8, 1, [2, 1], 256) };
    let gpt = Gpt::new(config).expect("valid");
    let model = LanguageModel { gpt, batch: 1, time: 8 };
    let builder = Trainer::builder(model).clip(Clip::Norm(1.0));
    let mut trainer = block_on(builder.build(&gpu)).expect("a trainer");
    let batch = Batch::new().with("tokens", tokens(1, 8, 27)).with("targets", tokens(2, 8, 27));
    for _ in 0..5 {
        block_on(trainer.step(&batch)).expect("a step");
    }
    let telemetry = block_on(trainer.telemetry()).expect("telemetry");
    assert!(telemetry.iter().all(|step| step.applied));
    assert!(telemetry[4].loss < telemetry[0].loss, "{telemetry:?}");
}

/// Where one binding cannot hold all parameters they lie in several flat buffers, and nothing else
/// changes.
#[test]
fn parameters_in_several_segments_train_as_in_one() {
    let Some(one) = default_gpu() else { return };
    let Some(several) = support::gpu_with_bindings(4096) else { return };
    for storage in [WeightStorage::F32, WeightStorage::Bf16Kahan] {
        compare_segments(&one, &several, storage);
    }
}

fn compare_segments(one: &Gpu, several: &Gpu, storage: WeightStorage) {
    let run = |gpu: &Gpu| {
        let builder = Trainer::builder(small_gpt(0.1, 2)).telemetry_capacity(16).weights(storage);
        let mut trainer = block_on(builder.build(gpu)).expect("a trainer");
        for seed in 0..4 {
            block_on(trainer.step(&small_gpt_batch(seed, 2))).expect("a step");
        }
        let telemetry = block_on(trainer.telemetry()).expect("telemetry");
        let parameters = trainer.parameters();
        let read = |name: &str| block_on(parameters.read(name)).expect("a parameter");
        let weights: Vec<_> = parameters.names().map(read).collect();
        let dispatches = trainer.report().update_dispatches;
        (parameters.weights().len(), dispatches, weights, telemetry)
    };
    let (segments, dispatches, weights, telemetry) = run(one);
    let (more_segments, more_dispatches, split_weights, split_telemetry) = run(several);
    assert_eq!(segments, 1);
    assert!(more_segments > 1, "{more_segments} segments");
    // Scan and optimizer once for each further segment.
    assert_eq!(more_dispatches, dispatches + 2 * (more_segments - 1));
    assert_eq!(weights, split_weights);
    for (a, b) in telemetry.iter().zip(&split_telemetry) {
        assert_eq!(a.loss.to_bits(), b.loss.to_bits());
        let (norm, split) = (f64::from(a.gradient_norm), f64::from(b.gradient_norm));
        assert!((norm - split).abs() < 1e-6 * norm, "{norm} and {split}: sums in another order");
    }
}
