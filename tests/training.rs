//! Whole training runs against what PyTorch computed in f64 for the same models and batches.

#[macro_use]
mod support;

use evenkeel::Gpu;
use evenkeel::graph::ops::CrossEntropy;
use evenkeel::graph::{Graph, Phase};
use evenkeel::nn::{
    Classifier, Gpt, GptConfig, LanguageModel, MlpClassifier, Positions, QkNorm, Rotary,
};
use evenkeel::plan::{Plan, PlanRequest};
use evenkeel::record::StepBuffers;
use evenkeel::train::{
    Adafactor, Adam, AdamAtan2, AdamW, Batch, Checkpoint, Clip, Lion, Model, Muon, MuonScale,
    Optimizer, Predictor, Sgd, StableAdamW, Telemetry, Trainer,
};
use safetensors::{Dtype, SafeTensors};
use support::{Tolerance, assert_close, block_on};

tests! {
    gpt_with_layer_norm, gpt_with_rms_norm, gpt_with_the_kernels_of_hardware_adapters,
    gpt_with_bounded_logits, gpt_with_adam_and_l2_decay, gpt_with_sgd, gpt_with_amsgrad,
    gpt_with_stable_adamw, gpt_with_adam_atan2, gpt_with_lion, gpt_with_adafactor, gpt_with_muon,
    gpt_with_muon_at_the_rms_of_adamw, gpt_with_cautious_adamw,
    checkpoints_hold_what_optimizers_keep, optimizers_keep_what_they_say, batch_norm_classifier,
    one_batch_is_learned_by_heart,
}

const STEPS: usize = 20;
const MICROBATCHES: usize = 2;

/// f32 arithmetic against f64: reassociated sums of some hundred terms, 2 ULP functions.
const LOSS: Tolerance =
    Tolerance { absolute: 1e-5, relative: 0.0, because: "f32 against f64 over 20 steps" };
const NORM: Tolerance =
    Tolerance { absolute: 0.0, relative: 2e-4, because: "f32 against f64 over 20 steps" };
const LOGITS: Tolerance =
    Tolerance { absolute: 2e-5, relative: 1e-5, because: "f32 against f64 in one forward pass" };

/// Names and contents of the fixture files.
macro_rules! fixtures {
    ($($name:literal),*) => {
        [$(($name, include_bytes!(concat!("fixtures/", $name, ".safetensors")))),*]
    };
}
const FIXTURES: [(&str, &[u8]); 4] =
    fixtures!["batch_norm_classifier", "gpt_bounded_logits", "gpt_layer_norm", "gpt_rms_norm"];

/// A fixture file in memory.
struct Fixture(&'static [u8]);

impl Fixture {
    fn open(name: &str) -> Self {
        let found = FIXTURES.iter().find(|fixture| fixture.0 == name);
        Self(found.unwrap_or_else(|| panic!("no fixture {name}")).1)
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(self.0).expect("a safetensors file")
    }

    fn f64(&self, name: &str) -> Vec<f64> {
        let tensors = self.tensors();
        let view = tensors.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        match view.dtype() {
            Dtype::F64 => bytemuck::pod_collect_to_vec(view.data()),
            Dtype::F32 => {
                let values: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
                values.into_iter().map(f64::from).collect()
            }
            other => panic!("{name} holds {other:?}"),
        }
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        self.f64(name).into_iter().map(|x| x as f32).collect()
    }

    fn u32(&self, name: &str) -> Vec<u32> {
        bytemuck::pod_collect_to_vec(self.tensors().tensor(name).expect(name).data())
    }

    /// Names with this prefix, without it.
    fn names(&self, prefix: &str) -> Vec<String> {
        let tensors = self.tensors();
        let names = tensors.names();
        names.into_iter().filter_map(|name| Some(name.strip_prefix(prefix)?.to_owned())).collect()
    }

    /// The batch of one step, with both microbatches.
    fn batch(&self, step: usize, input: &str) -> Batch {
        fn share<T: Clone>(all: Vec<T>, step: usize) -> Vec<T> {
            let length = all.len() / STEPS;
            all[step * length..][..length].to_vec()
        }
        let batch = Batch::new().with("targets", share(self.u32("targets"), step));
        if input == "tokens" {
            batch.with(input, share(self.u32(input), step))
        } else {
            batch.with(input, share(self.f32(input), step))
        }
    }

    /// The first microbatch of the first step.
    fn microbatch(&self, input: &str) -> Batch {
        fn share<T: Clone>(all: Vec<T>) -> Vec<T> {
            all[..all.len() / (STEPS * MICROBATCHES)].to_vec()
        }
        let batch = Batch::new().with("targets", share(self.u32("targets")));
        if input == "tokens" {
            batch.with(input, share(self.u32(input)))
        } else {
            batch.with(input, share(self.f32(input)))
        }
    }
}

/// A trainer with the fixture's initial parameters.
fn trainer<M: Model>(
    gpu: &Gpu,
    fixture: &Fixture,
    model: M,
    optimizer: impl Optimizer + 'static,
) -> Trainer<M> {
    let builder = Trainer::builder(model)
        .optimizer(optimizer)
        .clip(Clip::Norm(1.0))
        .accumulation(MICROBATCHES);
    let trainer = block_on(builder.build(gpu)).expect("a trainer");
    let mut expected = fixture.names("parameter.");
    expected.sort();
    let specs = trainer.parameters().specs().iter();
    let mut found: Vec<_> = specs.map(|spec| spec.name.clone()).collect();
    found.sort();
    assert_eq!(found, expected, "parameter names");
    for name in &expected {
        let values = fixture.f32(&format!("parameter.{name}"));
        trainer.parameters().write(name, &values).expect("written");
    }
    trainer
}

/// Trains for all steps; compares the gradients after the first, then losses and norms.
fn compare<M: Model>(trainer: &mut Trainer<M>, fixture: &Fixture, input: &str, prefix: &str) {
    compare_within(trainer, fixture, input, prefix, [LOSS, NORM]);
}

/// [`compare`]s, with other tolerances of losses and norms.
fn compare_within<M: Model>(
    trainer: &mut Trainer<M>,
    fixture: &Fixture,
    input: &str,
    prefix: &str,
    [loss, norm]: [Tolerance; 2],
) {
    for step in 0..STEPS {
        block_on(trainer.step(&fixture.batch(step, input))).expect("a step");
        if step == 0 {
            compare_gradients(trainer, fixture);
        }
    }
    let telemetry = block_on(trainer.telemetry()).expect("telemetry");
    assert_eq!(telemetry.len(), STEPS);
    assert!(telemetry.iter().all(|step| step.applied));
    let column = |f: fn(&Telemetry) -> f32| telemetry.iter().map(f).collect::<Vec<_>>();
    let losses = fixture.f64(&format!("{prefix}losses"));
    assert_close("loss", &column(|step| step.loss), &losses, loss);
    let norms = fixture.f64(&format!("{prefix}gradient_norms"));
    assert_close("gradient norm", &column(|step| step.gradient_norm), &norms, norm);
    let clip = norms.iter().map(|norm| (1.0 / norm).min(1.0)).collect::<Vec<_>>();
    assert_close("clip coefficient", &column(|step| step.clip_coefficient), &clip, norm);
}

fn compare_gradients<M: Model>(trainer: &Trainer<M>, fixture: &Fixture) {
    for name in fixture.names("gradient.") {
        let expected = fixture.f64(&format!("gradient.{name}"));
        let largest = expected.iter().fold(0f64, |largest, x| largest.max(x.abs()));
        let tolerance = Tolerance {
            absolute: 1e-4 * largest + 1e-7,
            relative: 0.0,
            because: "f32 against f64, relative to the tensor's largest; 1e-7 is the rounding of a sum \
                      whose terms of up to 0.1 cancel",
        };
        let actual = block_on(trainer.gradient(&name)).expect("a gradient");
        assert_close(&format!("gradient of {name}"), &actual, &expected, tolerance);
    }
}

fn compare_parameters<M: Model>(
    trainer: &Trainer<M>,
    fixture: &Fixture,
    allowed: impl Fn(&str) -> f64,
) {
    for name in fixture.names("final.") {
        let expected = fixture.f64(&format!("final.{name}"));
        let tolerance = Tolerance {
            absolute: allowed(&name),
            relative: 0.0,
            because: "Adam divides small gradients by their own size and shows their rounding",
        };
        let actual = block_on(trainer.parameters().read(&name)).expect("a parameter");
        assert_close(&format!("final {name}"), &actual, &expected, tolerance);
    }
}

fn layer_norm_gpt() -> LanguageModel {
    let gpt = Gpt::new(GptConfig::gpt2(27, 12, 2, 2, 16)).expect("valid");
    LanguageModel { gpt, batch: 3, time: 12 }
}

fn rms_norm_gpt() -> LanguageModel {
    let config = GptConfig { hidden: 48, ..GptConfig::llama(27, 12, 2, [4, 2], 32) };
    assert_eq!(config.positions, Positions::Rotary(Rotary::new(10_000.0)));
    LanguageModel { gpt: Gpt::new(config).expect("valid"), batch: 3, time: 12 }
}

/// Everything that bounds logits, tight enough to matter.
fn bounded_gpt() -> LanguageModel {
    let config = GptConfig {
        hidden: 16,
        tied_head: true,
        qk_norm: Some(QkNorm::Rms),
        soft_cap: Some(1.5),
        logit_soft_cap: Some(2.0),
        loss: CrossEntropy { label_smoothing: 0.0, z_loss: 0.02 },
        watch_logits: true,
        ..GptConfig::llama(27, 12, 1, [4, 2], 32)
    };
    LanguageModel { gpt: Gpt::new(config).expect("valid"), batch: 3, time: 12 }
}

fn adamw() -> AdamW {
    AdamW {
        learning_rate: 1e-2,
        betas: [0.9, 0.95],
        eps: 1e-8,
        weight_decay: 0.1,
        ..AdamW::default()
    }
}

fn adam() -> Adam {
    Adam { learning_rate: 1e-2, betas: [0.9, 0.95], weight_decay: 0.01, ..Adam::default() }
}

fn compare_logits(trainer: &Trainer<LanguageModel>, fixture: &Fixture) {
    let model = trainer.model();
    let predictor = Predictor::new(trainer.gpu(), trainer.parameters(), |graph| {
        vec![model.build(graph).prediction]
    });
    let predictor = block_on(predictor).expect("a predictor");
    let logits = block_on(predictor.run(&fixture.microbatch("tokens"))).expect("logits");
    assert_close("logits", &logits[0], &fixture.f64("logits"), LOGITS);
}

fn gpt_with_layer_norm() {
    let Some(gpu) = support::gpu() else { return };
    let fixture = Fixture::open("gpt_layer_norm");
    let mut trainer = trainer(&gpu, &fixture, layer_norm_gpt(), adamw());
    compare_logits(&trainer, &fixture);
    compare(&mut trainer, &fixture, "tokens", "");
    // The key rows of qkv.bias have no gradient: softmax takes away what they add.
    compare_parameters(
        &trainer,
        &fixture,
        |name| {
            if name.ends_with("qkv.bias") { 2e-2 } else { 1e-4 }
        },
    );
}

fn gpt_with_rms_norm() {
    let Some(gpu) = support::gpu() else { return };
    let fixture = Fixture::open("gpt_rms_norm");
    let mut trainer = trainer(&gpu, &fixture, rms_norm_gpt(), adamw());
    compare_logits(&trainer, &fixture);
    compare(&mut trainer, &fixture, "tokens", "");
    compare_parameters(&trainer, &fixture, |name| {
        if name == "blocks.1.attention.qkv.weight" { 1e-3 } else { 2e-4 }
    });
}

fn gpt_with_the_kernels_of_hardware_adapters() {
    let Some(gpu) = support::gpu() else { return };
    // Products through workgroup memory, those of attention too, whatever the adapter is.
    let info = wgpu::AdapterInfo { device_type: wgpu::DeviceType::DiscreteGpu, ..gpu.info.clone() };
    let gpu = Gpu::from_device(gpu.device, gpu.queue, info);
    assert!(!gpu.is_software());
    let fixture = Fixture::open("gpt_rms_norm");
    let mut trainer = trainer(&gpu, &fixture, rms_norm_gpt(), adamw());
    let kernels: Vec<_> = trainer.dispatches().map(|dispatch| dispatch.name).collect();
    assert!(kernels.contains(&"matmul") && !kernels.contains(&"matmul_direct"), "{kernels:?}");
    let tiled =
        ["", "_backward_query", "_backward_key_value"].map(|x| format!("attention_tiled{x}"));
    assert!(tiled.iter().all(|name| kernels.contains(&name.as_str())), "{kernels:?}");
    assert!(!kernels.contains(&"attention"), "{kernels:?}");
    compare_logits(&trainer, &fixture);
    compare(&mut trainer, &fixture, "tokens", "");
}

fn gpt_with_bounded_logits() {
    let Some(gpu) = support::gpu() else { return };
    let fixture = Fixture::open("gpt_bounded_logits");
    let mut trainer = trainer(&gpu, &fixture, bounded_gpt(), adamw());
    compare_logits(&trainer, &fixture);
    compare_observations(&trainer, &fixture);
    compare(&mut trainer, &fixture, "tokens", "");
    compare_parameters(&trainer, &fixture, |_| 2e-4);
}

/// What the first microbatch lets the model observe before any update.
fn compare_observations(trainer: &Trainer<LanguageModel>, fixture: &Fixture) {
    let gpu = trainer.gpu();
    let mut graph = Graph::new(Phase::Train);
    trainer.model().build(&mut graph);
    let outputs: Vec<_> = graph.observations().iter().map(|&(_, value)| value).collect();
    let request = PlanRequest {
        graph: &graph,
        outputs: &outputs,
        parameters: trainer.parameters(),
        sinks: None,
        step: &StepBuffers::new(gpu),
        microbatches: 1,
    };
    let plan = block_on(Plan::new(gpu, &request)).expect("a plan");
    for input in &plan.inputs {
        let all = fixture.u32(&input.spec.name);
        let first = &all[..all.len() / (STEPS * MICROBATCHES)];
        gpu.write(&input.buffer, 0, bytemuck::cast_slice(first));
    }
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    gpu.encode(&mut encoder, &plan.first);
    gpu.submit(encoder);
    let names = graph.observations().iter().map(|(name, _)| name.trim_start_matches("blocks.0."));
    assert_eq!(names.len(), fixture.names("seen.").len());
    for (name, slot) in names.zip(&plan.outputs) {
        let actual = block_on(evenkeel::plan::parameters::read_slot(gpu, slot)).expect("readable");
        assert_close(name, &actual, &fixture.f64(&format!("seen.{name}")), LOGITS);
    }
}

fn gpt_with_adam_and_l2_decay() {
    let Some(gpu) = support::gpu() else { return };
    let fixture = Fixture::open("gpt_layer_norm");
    let optimizer = adam();
    let mut trainer = trainer(&gpu, &fixture, layer_norm_gpt(), optimizer);
    compare(&mut trainer, &fixture, "tokens", "adam_l2.");
}

fn gpt_with_sgd() {
    let Some(gpu) = support::gpu() else { return };
    let fixture = Fixture::open("gpt_layer_norm");
    let optimizer = Sgd { learning_rate: 0.1, momentum: 0.9, nesterov: true, ..Sgd::default() };
    let mut trainer = trainer(&gpu, &fixture, layer_norm_gpt(), optimizer);
    compare(&mut trainer, &fixture, "tokens", "sgd.");
}

/// The layer-norm GPT with one more optimizer, whose losses have this prefix.
fn gpt_with(prefix: &str, optimizer: impl Optimizer + 'static) {
    let Some(gpu) = support::gpu() else { return };
    let fixture = Fixture::open("gpt_layer_norm");
    let mut trainer = trainer(&gpu, &fixture, layer_norm_gpt(), optimizer);
    compare(&mut trainer, &fixture, "tokens", prefix);
}

fn gpt_with_amsgrad() {
    gpt_with("amsgrad.", AdamW { amsgrad: true, ..adamw() });
}

fn gpt_with_stable_adamw() {
    let AdamW { learning_rate, betas, weight_decay, .. } = adamw();
    let optimizer = StableAdamW { learning_rate, betas, weight_decay, ..StableAdamW::default() };
    gpt_with("stable_adamw.", optimizer);
}

fn gpt_with_adam_atan2() {
    let AdamW { learning_rate, betas, weight_decay, .. } = adamw();
    let optimizer = AdamAtan2 { learning_rate, betas, weight_decay, ..AdamAtan2::default() };
    gpt_with("adam_atan2.", optimizer);
}

fn gpt_with_lion() {
    gpt_with("lion.", Lion { learning_rate: 2e-3, ..Lion::default() });
}

fn gpt_with_adafactor() {
    let optimizer = Adafactor { learning_rate: 0.1, weight_decay: 0.1, ..Adafactor::default() };
    gpt_with("adafactor.", optimizer);
}

fn gpt_with_muon() {
    gpt_with("muon.", Muon { adamw: adamw(), ..Muon::default() });
}

fn gpt_with_muon_at_the_rms_of_adamw() {
    let scale = MuonScale::MatchRmsAdamW;
    gpt_with("muon_rms.", Muon { adamw: adamw(), nesterov: false, scale, ..Muon::default() });
}

fn gpt_with_cautious_adamw() {
    let Some(gpu) = support::gpu() else { return };
    let fixture = Fixture::open("gpt_rms_norm");
    let optimizer = AdamW { cautious: true, cautious_decay: true, ..adamw() };
    let mut trainer = trainer(&gpu, &fixture, rms_norm_gpt(), optimizer);
    // One element's update is there or not. Until that happens, losses agree as they do elsewhere.
    // Without the mask they are off by up to 0.25.
    let because = "a mask flips where a gradient or a weight near zero rounds across it";
    let parted = Tolerance { absolute: 1e-3, relative: 1e-3, because };
    compare_within(&mut trainer, &fixture, "tokens", "cautious.", [parted; 2]);
}

/// A run that goes on from a checkpoint has the bits of one that never stopped, also where what is
/// kept is not laid out as the parameters are.
fn checkpoints_hold_what_optimizers_keep() {
    let Some(gpu) = support::gpu() else { return };
    check_checkpoint(&gpu, Muon { adamw: adamw(), ..Muon::default() });
    check_checkpoint(&gpu, Adafactor::default());
    check_checkpoint(&gpu, AdamW { amsgrad: true, ..adamw() });
}

fn check_checkpoint(gpu: &Gpu, optimizer: impl Optimizer + Copy + 'static) {
    let fixture = Fixture::open("gpt_layer_norm");
    let make = || trainer(gpu, &fixture, layer_norm_gpt(), optimizer);
    let (mut first, mut second) = (make(), make());
    let train = |trainer: &mut Trainer<_>, steps: std::ops::Range<usize>| {
        for step in steps {
            block_on(trainer.step(&fixture.batch(step, "tokens"))).expect("a step");
        }
    };
    train(&mut first, 0..3);
    let checkpoint = block_on(first.checkpoint()).expect("a checkpoint");
    let file = Checkpoint::from_bytes(&checkpoint.to_bytes()).expect("the same");
    block_on(second.restore(&file)).expect("restored");
    train(&mut first, 3..6);
    train(&mut second, 3..6);
    let bytes = [&first, &second].map(|t| block_on(t.committed_bytes()).expect("bytes"));
    assert!(bytes[0] == bytes[1], "{optimizer:?}");
}

fn kept_bytes(gpu: &Gpu, optimizer: impl Optimizer + 'static) -> u64 {
    let builder = Trainer::builder(layer_norm_gpt()).optimizer(optimizer);
    block_on(builder.build(gpu)).expect("a trainer").report().moment_bytes
}

/// Lion keeps as much as the parameters have, with the padding between tensors.
fn optimizers_keep_what_they_say() {
    let Some(gpu) = support::gpu() else { return };
    let flat = kept_bytes(&gpu, Lion::default());
    assert_eq!(kept_bytes(&gpu, AdamW::default()), 2 * flat);
    assert_eq!(kept_bytes(&gpu, AdamW { amsgrad: true, ..AdamW::default() }), 3 * flat);
    // Two layers: qkv (48, 16), projection (16, 16), up (64, 16), down (16, 64).
    let hidden = 2 * 4 * (48 * 16 + 16 * 16 + 64 * 16 + 16 * 64);
    let trainer = Trainer::builder(layer_norm_gpt());
    let trainer = block_on(trainer.build(&gpu)).expect("a trainer");
    let elements = 4 * trainer.parameters().count() as u64;
    assert_eq!(kept_bytes(&gpu, Muon::default()), 2 * elements - hidden);
    // A number per row and per column, and one per element of vectors.
    let shapes = trainer.parameters().specs().iter().map(|spec| &spec.shape.dims);
    let numbers = shapes.map(|dims| dims.iter().map(|d| d.next_multiple_of(4)).sum::<usize>());
    let factored = 4 * numbers.sum::<usize>() as u64;
    assert_eq!(kept_bytes(&gpu, Adafactor::default()), factored);
    assert!(5 * factored < elements, "{factored} of {elements}");
}

fn classifier() -> Classifier {
    let mlp = MlpClassifier { inputs: 10, hidden: vec![24, 24], classes: 5, batch_norm: true };
    Classifier { mlp, batch: 16 }
}

fn batch_norm_classifier() {
    let Some(gpu) = support::gpu() else { return };
    let fixture = Fixture::open("batch_norm_classifier");
    let optimizer = AdamW { eps: 1e-4, ..adamw() };
    let mut trainer = trainer(&gpu, &fixture, classifier(), optimizer);

    // Training mode: the statistics are those of the batch.
    let mut graph = Graph::new(Phase::Train);
    let output = classifier().build(&mut graph);
    let request = PlanRequest {
        graph: &graph,
        outputs: &[output.prediction],
        parameters: trainer.parameters(),
        sinks: None,
        step: &StepBuffers::new(&gpu),
        microbatches: 1,
    };
    let plan = block_on(Plan::new(&gpu, &request)).expect("a plan");
    let inputs = fixture.f32("inputs");
    let first = &inputs[..16 * 10];
    let slot = &plan.inputs.iter().find(|input| input.spec.name == "inputs").expect("inputs");
    gpu.write(&slot.buffer, 0, bytemuck::cast_slice(&slot.spec.shape.pad(first)));
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    gpu.encode(&mut encoder, &plan.first);
    gpu.submit(encoder);
    let logits = evenkeel::plan::parameters::read_slot(&gpu, &plan.outputs[0]);
    let logits = block_on(logits).expect("logits");
    assert_close("logits", &logits, &fixture.f64("logits"), LOGITS);

    compare(&mut trainer, &fixture, "inputs", "");
    compare_parameters(&trainer, &fixture, |_| 2e-4);

    // Evaluation mode: the running statistics.
    let model = classifier();
    let predictor =
        Predictor::new(&gpu, trainer.parameters(), |graph| vec![model.build(graph).prediction]);
    let predictor = block_on(predictor).expect("a predictor");
    let logits = block_on(predictor.run(&fixture.microbatch("inputs"))).expect("logits");
    let tolerance = Tolerance {
        absolute: 1e-3,
        relative: 0.0,
        because: "final parameters that agree to 2e-4, through three layers",
    };
    assert_close("logits", &logits[0], &fixture.f64("evaluation_logits"), tolerance);
}

fn one_batch_is_learned_by_heart() {
    let Some(gpu) = support::gpu() else { return };
    let model = layer_norm_gpt();
    let tokens = support::tokens(1, 36, 27);
    let targets = support::tokens(2, 36, 27);
    let optimizer = AdamW { learning_rate: 1e-2, ..AdamW::default() };
    let builder = Trainer::builder(model).optimizer(optimizer).clip(Clip::Norm(1.0)).seed(7);
    let mut trainer = block_on(builder.build(&gpu)).expect("a trainer");
    let batch = Batch::new().with("tokens", tokens).with("targets", targets);
    for _ in 0..150 {
        block_on(trainer.step(&batch)).expect("a step");
    }
    let telemetry = block_on(trainer.telemetry()).expect("telemetry");
    let (first, last) = (telemetry[0].loss, telemetry[149].loss);
    // ln 27 = 3.296 for a model that knows nothing.
    assert!((first - 3.296).abs() < 0.05, "the first loss is {first}");
    assert!(last < 0.1, "the last loss is {last}");
}
