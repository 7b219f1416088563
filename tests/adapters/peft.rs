//! Adapters that PEFT wrote, against what it computed with them in f64: predictions, losses, gradients
//! of each tensor, and a fine-tuning of ten steps. `make_peft.py` among the fixtures made them.

use evenkeel::Gpu;
use evenkeel::hugging_face::{Adapter, Folder};
use evenkeel::nn::{Gpt, LanguageModel};
use evenkeel::train::{AdamW, Batch, Clip, Predictor, Trainer};
use safetensors::SafeTensors;

use super::files::{Files, loaded};
use super::models::build;
use super::support::{self, Tolerance, assert_close, block_on, wide};

const STEPS: usize = 10;
const BATCH: usize = 2;
const TIME: usize = 14;

/// The files of an adapter, and of the model that it belongs to.
pub struct Source {
    pub name: &'static str,
    /// config.json, model.safetensors, expected.safetensors
    base: [&'static [u8]; 3],
    /// adapter_config.json, adapter_model.safetensors, expected.safetensors
    adapter: [&'static [u8]; 3],
}

macro_rules! fixture {
    ($name:literal, $family:literal) => {
        Source {
            name: $name,
            base: [
                include_bytes!(concat!("../fixtures/hugging_face/", $family, "/config.json")),
                include_bytes!(concat!("../fixtures/hugging_face/", $family, "/model.safetensors")),
                include_bytes!(concat!(
                    "../fixtures/hugging_face/",
                    $family,
                    "/expected.safetensors"
                )),
            ],
            adapter: [
                include_bytes!(concat!("../fixtures/peft/", $name, "/adapter_config.json")),
                include_bytes!(concat!("../fixtures/peft/", $name, "/adapter_model.safetensors")),
                include_bytes!(concat!("../fixtures/peft/", $name, "/expected.safetensors")),
            ],
        }
    };
}

pub static FIXTURES: [Source; 6] = [
    fixture!("llama_lora", "llama"),
    fixture!("llama_rslora", "llama"),
    fixture!("llama_dora", "llama"),
    fixture!("gpt2_lora", "gpt2"),
    fixture!("gpt2_dora", "gpt2"),
    fixture!("mistral_ends", "mistral"),
];

/// An adapter with its model.
pub struct Fixture {
    pub name: &'static str,
    pub folder: Folder,
    pub adapter: Adapter,
    pub files: Files,
    expected: SafeTensors<'static>,
    batches: SafeTensors<'static>,
}

impl Source {
    pub fn open(&self) -> Fixture {
        let files = |names: [&str; 2], contents: [&'static [u8]; 3]| -> Files {
            names.into_iter().zip(contents).map(|(n, c)| (n.to_owned(), c.to_vec())).collect()
        };
        let tensors = |bytes| SafeTensors::deserialize(bytes).expect("a safetensors file");
        let of_base = files(["config.json", "model.safetensors"], self.base);
        let folder = Folder::from_files(of_base).unwrap_or_else(|error| panic!("{error}"));
        let files = files(["adapter_config.json", "adapter_model.safetensors"], self.adapter);
        let adapter = Adapter::from_files(files.clone(), folder.config());
        let adapter = adapter.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let (expected, batches) = (tensors(self.adapter[2]), tensors(self.base[2]));
        Fixture { name: self.name, folder, adapter, files, expected, batches }
    }
}

impl Fixture {
    fn values(&self, name: &str) -> Vec<f64> {
        let view = self.expected.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        wide(&bytemuck::pod_collect_to_vec::<u8, f32>(view.data()))
    }

    fn batch(&self, step: usize) -> Batch {
        let share = |name| {
            let all: Vec<u32> =
                bytemuck::pod_collect_to_vec(self.batches.tensor(name).expect(name).data());
            all[step * BATCH * TIME..][..BATCH * TIME].to_vec()
        };
        Batch::new().with("tokens", share("tokens")).with("targets", share("targets"))
    }

    fn trainer(&self, gpu: &Gpu) -> Trainer<LanguageModel> {
        let mut gpt = self.adapter.gpt();
        // That of the file is not that of the fine-tuning.
        gpt.lora.iter_mut().for_each(|lora| lora.dropout = 0.0);
        let gpt = Gpt::new(gpt).expect("a model");
        let model = LanguageModel { gpt, batch: BATCH, time: TIME };
        let optimizer = AdamW {
            learning_rate: 1e-2,
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.1,
            ..AdamW::default()
        };
        let builder = Trainer::builder(model).optimizer(optimizer).clip(Clip::Norm(1.0));
        let mut trainer = build(builder, gpu);
        block_on(trainer.load_weights(&mut self.folder.reader(|_| {}))).expect("loaded");
        block_on(trainer.load_weights(&mut self.adapter.reader())).expect("loaded");
        trainer
    }

    /// Compares what the adapter's file would have with what PEFT has under this prefix.
    fn compare(&self, written: &Files, prefix: &str, allowed: impl Fn(&[f64]) -> Tolerance) {
        let tensors = SafeTensors::deserialize(&written["adapter_model.safetensors"]);
        let mut count = 0;
        for (name, view) in tensors.expect("a safetensors file").tensors() {
            if name.contains("base_layer") {
                continue;
            }
            let expected = self.values(&format!("{prefix}{name}"));
            let found: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
            let what = format!("{}: {prefix}{name}", self.name);
            assert_close(&what, &found, &expected, allowed(&expected));
            count += 1;
        }
        let all = self.expected.names().into_iter().filter(|name| name.starts_with(prefix)).count();
        assert_eq!(count, all, "{}: {prefix}", self.name);
    }
}

fn check(name: &str) {
    let Some(gpu) = support::gpu() else { return };
    let source = FIXTURES.iter().find(|source| source.name == name).expect("a fixture");
    let fixture = source.open();
    let mut trainer = fixture.trainer(&gpu);
    let predictor = Predictor::new(&gpu, trainer.parameters(), |graph| {
        let tokens = graph.tokens("tokens", [BATCH, TIME], trainer.model().gpt.config().vocabulary);
        vec![trainer.model().gpt.logits(graph, tokens)]
    });
    let logits = block_on(block_on(predictor).expect("made").run(&fixture.batch(0))).expect("run");
    let rounding = |absolute| Tolerance { absolute, relative: 0.0, because: "f32 against f64" };
    assert_close(name, &logits[0], &fixture.values("logits"), rounding(3e-5));
    for step in 0..STEPS {
        block_on(trainer.step(&fixture.batch(step))).expect("a step");
        if step == 0 {
            let gradients = loaded(&gpu, &fixture.folder, &fixture.adapter);
            for spec in trainer.parameters().trained() {
                let gradient = block_on(trainer.gradient(&spec.name)).expect("a gradient");
                gradients.write(&spec.name, &gradient).expect("written");
            }
            let written = block_on(fixture.adapter.export().to_files(&gradients)).expect("written");
            let largest = |v: &[f64]| v.iter().fold(0f64, |largest, x| largest.max(x.abs()));
            let relative = |v: &[f64]| rounding(2e-5 * largest(v) + 1e-7);
            fixture.compare(&written, "gradient.", relative);
        }
    }
    let telemetry = block_on(trainer.telemetry()).expect("telemetry");
    let losses: Vec<_> = telemetry.iter().map(|step| step.loss).collect();
    assert_close(name, &losses, &fixture.values("losses"), rounding(1e-5));
    let norms: Vec<_> = telemetry.iter().map(|step| step.gradient_norm).collect();
    let because = "f32 against f64 over 10 steps";
    let allowed = Tolerance { absolute: 0.0, relative: 5e-5, because };
    assert_close(name, &norms, &fixture.values("gradient_norms"), allowed);
    let export = fixture.adapter.export();
    let written = block_on(export.to_files(trainer.parameters())).expect("written");
    fixture.compare(&written, "final.", |_| rounding(5e-5));
}

pub fn lora_of_llama_is_that_of_peft() {
    check("llama_lora");
}

pub fn rank_stabilised_lora_of_llama_is_that_of_peft() {
    check("llama_rslora");
}

pub fn dora_of_llama_is_that_of_peft() {
    check("llama_dora");
}

pub fn lora_of_gpt2_is_that_of_peft() {
    check("gpt2_lora");
}

pub fn dora_of_gpt2_is_that_of_peft() {
    check("gpt2_dora");
}

pub fn adapters_of_embedding_and_head_are_those_of_peft() {
    check("mistral_ends");
}
