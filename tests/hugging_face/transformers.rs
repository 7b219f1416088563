//! Folders that transformers wrote, against what transformers computed with the same models in f64:
//! predictions, losses, gradients and a fine-tuning, by its own names. `make_hugging_face.py` among
//! the fixtures made them.

use std::collections::BTreeMap;

use evenkeel::Gpu;
use evenkeel::hugging_face::{Family, Folder};
use evenkeel::nn::{Gpt, LanguageModel};
use evenkeel::train::{AdamW, Batch, Clip, Predictor, Trainer};
use safetensors::{Dtype, SafeTensors};

use super::folders::{Files, open, parameters};
use super::support::{self, Tolerance, assert_close, block_on, wide};
use super::tensors::contents;

const STEPS: usize = 10;
const BATCH: usize = 2;
const TIME: usize = 14;
const LEARNING_RATE: f64 = 1e-2;

/// PyTorch in f32 strays by up to 1.1e-5 in predictions, 3e-6 in losses, 6e-6 of norms, 5e-6 of a
/// tensor's largest gradient, and 7e-6 in parameters.
const LOGITS: Tolerance =
    Tolerance { absolute: 2e-5, relative: 1e-5, because: "f32 against f64 in one forward pass" };
const LOSS: Tolerance =
    Tolerance { absolute: 1e-5, relative: 0.0, because: "f32 against f64 over 10 steps" };
const NORM: Tolerance =
    Tolerance { absolute: 0.0, relative: 5e-5, because: "f32 against f64 over 10 steps" };

/// The files of a family's fixture.
macro_rules! fixture {
    ($family:literal) => {
        [
            &include_bytes!(concat!("../fixtures/hugging_face/", $family, "/config.json"))[..],
            include_bytes!(concat!("../fixtures/hugging_face/", $family, "/model.safetensors")),
            include_bytes!(concat!("../fixtures/hugging_face/", $family, "/expected.safetensors")),
        ]
    };
}

fn files(family: Family) -> [&'static [u8]; 3] {
    match family {
        Family::Gpt2 => fixture!("gpt2"),
        Family::Llama => fixture!("llama"),
        Family::Mistral => fixture!("mistral"),
        Family::Qwen2 => fixture!("qwen2"),
        Family::Qwen3 => fixture!("qwen3"),
        Family::Gemma2 => fixture!("gemma2"),
        Family::Gemma3 => fixture!("gemma3_text"),
    }
}

/// What transformers computed.
struct Expected(SafeTensors<'static>);

impl Expected {
    fn values(&self, name: &str) -> Vec<f64> {
        let view = self.0.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(view.dtype(), Dtype::F32, "{name}");
        wide(&bytemuck::pod_collect_to_vec::<u8, f32>(view.data()))
    }

    /// Shapes and values of all tensors with this prefix, by the names behind it.
    fn all(&self, prefix: &str) -> BTreeMap<String, (Vec<usize>, Vec<f64>)> {
        let names = self.0.names().into_iter().filter_map(|name| name.strip_prefix(prefix));
        let tensor = |name: &str| {
            let full = format!("{prefix}{name}");
            let shape = self.0.tensor(&full).expect("a tensor").shape().to_vec();
            (name.to_owned(), (shape, self.values(&full)))
        };
        names.map(tensor).collect()
    }

    fn batch(&self, step: usize) -> Batch {
        let share = |name| {
            let all: Vec<u32> =
                bytemuck::pod_collect_to_vec(self.0.tensor(name).expect(name).data());
            assert_eq!(all.len(), STEPS * BATCH * TIME, "{name}");
            all[step * BATCH * TIME..][..BATCH * TIME].to_vec()
        };
        Batch::new().with("tokens", share("tokens")).with("targets", share("targets"))
    }
}

fn fixture(family: Family) -> (Folder, Files, Expected) {
    let [config, model, expected] = files(family);
    let files = Files::from([
        ("config.json".to_owned(), config.to_vec()),
        ("model.safetensors".to_owned(), model.to_vec()),
    ]);
    let expected = Expected(SafeTensors::deserialize(expected).expect("a safetensors file"));
    (open(files.clone()), files, expected)
}

/// As transformers was asked to fine-tune; weight decay is that of matrices only.
fn trainer(gpu: &Gpu, folder: &Folder) -> Trainer<LanguageModel> {
    let gpt = Gpt::new(folder.config().gpt.clone()).expect("a model");
    let model = LanguageModel { gpt, batch: BATCH, time: TIME };
    let optimizer = AdamW {
        learning_rate: LEARNING_RATE,
        betas: [0.9, 0.95],
        eps: 1e-8,
        weight_decay: 0.1,
        ..AdamW::default()
    };
    let builder = Trainer::builder(model).optimizer(optimizer).clip(Clip::Norm(1.0));
    let mut trainer = block_on(builder.build(gpu)).expect("a trainer");
    block_on(trainer.load_weights(&mut folder.reader(|_| {}))).expect("loaded");
    trainer
}

fn compare_logits(trainer: &Trainer<LanguageModel>, family: Family, expected: &Expected) {
    let predictor = Predictor::new(trainer.gpu(), trainer.parameters(), |graph| {
        let tokens = graph.tokens("tokens", [BATCH, TIME], trainer.model().gpt.config().vocabulary);
        vec![trainer.model().gpt.logits(graph, tokens)]
    });
    let predictor = block_on(predictor).expect("a predictor");
    let logits = block_on(predictor.run(&expected.batch(0))).expect("logits");
    assert_close(&format!("{family}: logits"), &logits[0], &expected.values("logits"), LOGITS);
}

/// Compares what an export writes with all that transformers has under this prefix.
fn compare_tensors(
    files: &Files,
    [family, prefix]: [&str; 2],
    expected: &Expected,
    tolerance: impl Fn(&str, usize, &[f64]) -> Tolerance,
) {
    let mut expected = expected.all(prefix);
    for tensor in contents(files) {
        let name = &tensor.name;
        let found = expected.remove(name);
        let (shape, values) = found.unwrap_or_else(|| panic!("{family} has no {prefix}{name}"));
        assert_eq!(tensor.shape, shape, "{family}: {prefix}{name}");
        let row = shape[shape.len() - 1];
        for (index, (&found, &value)) in tensor.values().iter().zip(&values).enumerate() {
            let what = format!("{family}: {prefix}{name} at {index}");
            assert_close(&what, &[found], &[value], tolerance(name, index % row, &values));
        }
    }
    assert!(expected.is_empty(), "{family}: not written: {:?}", expected.keys());
}

/// Gradients of the step before, by the names and in the shapes of their parameters in a folder.
fn compare_gradients(trainer: &Trainer<LanguageModel>, folder: &Folder, expected: &Expected) {
    let gradients = parameters(trainer.gpu(), &folder.config().gpt);
    for spec in trainer.parameters().specs() {
        let gradient = block_on(trainer.gradient(&spec.name)).expect("a gradient");
        gradients.write(&spec.name, &gradient).expect("written");
    }
    let written = block_on(folder.export().to_files(&gradients)).expect("written");
    let family = folder.config().family().model_type();
    compare_tensors(&written, [family, "gradient."], expected, |_, _, values| Tolerance {
        absolute: 2e-5 * largest(values) + 1e-7,
        relative: 0.0,
        because: "f32 against f64, relative to the tensor's largest; 1e-7 is the rounding of a sum \
                  whose terms of up to 1 cancel",
    });
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0f64, |largest, value| largest.max(value.abs()))
}

fn compare_final(trainer: &Trainer<LanguageModel>, folder: &Folder, expected: &Expected) {
    let written = block_on(folder.export().to_files(trainer.parameters())).expect("written");
    let family = folder.config().family();
    let width = folder.config().gpt.width;
    compare_tensors(&written, [family.model_type(), "final."], expected, |name, column, _| {
        if name.ends_with("c_attn.bias") && (width..2 * width).contains(&column) {
            return Tolerance {
                absolute: LEARNING_RATE * STEPS as f64,
                relative: 0.0,
                because: "what GPT-2 adds to every key has no gradient, softmax takes it away: its \
                          rounding is as large as Adam's epsilon, a step as the learning rate",
            };
        }
        Tolerance {
            absolute: 5e-5,
            relative: 0.0,
            because: "Adam divides small gradients by their own size and shows their rounding",
        }
    });
}

fn check(family: Family) {
    let Some(gpu) = support::gpu() else { return };
    check_on(&gpu, family);
}

fn check_on(gpu: &Gpu, family: Family) {
    let (folder, files, expected) = fixture(family);
    assert_eq!(folder.config().family(), family);
    let mut trainer = trainer(gpu, &folder);
    let written = block_on(folder.export().to_files(trainer.parameters())).expect("written");
    assert!(written["config.json"] == files["config.json"], "{family}");
    assert!(contents(&written) == contents(&files), "{family}");
    compare_logits(&trainer, family, &expected);
    for step in 0..STEPS {
        block_on(trainer.step(&expected.batch(step))).expect("a step");
        if step == 0 {
            compare_gradients(&trainer, &folder, &expected);
        }
    }
    let telemetry = block_on(trainer.telemetry()).expect("telemetry");
    let losses: Vec<_> = telemetry.iter().map(|step| step.loss).collect();
    assert_close(&format!("{family}: loss"), &losses, &expected.values("losses"), LOSS);
    let norms: Vec<_> = telemetry.iter().map(|step| step.gradient_norm).collect();
    let expected_norms = expected.values("gradient_norms");
    assert_close(&format!("{family}: gradient norm"), &norms, &expected_norms, NORM);
    compare_final(&trainer, &folder, &expected);
}

pub fn gpt2_is_that_of_transformers() {
    check(Family::Gpt2);
}

pub fn llama_is_that_of_transformers() {
    check(Family::Llama);
}

pub fn mistral_is_that_of_transformers() {
    check(Family::Mistral);
}

pub fn qwen2_is_that_of_transformers() {
    check(Family::Qwen2);
}

pub fn qwen3_is_that_of_transformers() {
    check(Family::Qwen3);
}

pub fn gemma2_is_that_of_transformers() {
    check(Family::Gemma2);
}

pub fn gemma3_is_that_of_transformers() {
    check(Family::Gemma3);
}

/// Products and attention through workgroup memory, whatever the adapter is, for the family that
/// asks most of attention: windows, caps and a scale of its own.
pub fn gemma2_is_with_the_kernels_of_hardware_adapters() {
    let Some(gpu) = support::gpu_with_hardware_kernels() else { return };
    check_on(&gpu, Family::Gemma2);
}
