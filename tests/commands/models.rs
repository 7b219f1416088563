//! An adapter for the tiny model, and what models compute, by the library alone.

use evenkeel::graph::{Graph, Phase};
use evenkeel::hugging_face::{Adapter, AdapterExport, Folder};
use evenkeel::nn::lora::is_adapter;
use evenkeel::nn::{Gpt, GptConfig, Lora, Targets};
use evenkeel::plan::Parameters;
use evenkeel::text::Tokenizer;
use evenkeel::train::{Batch, Predictor};
use evenkeel::{Gpu, Precision};
use pollster::block_on;

use crate::programs::Place;
use crate::tiny_model::config;

/// Positions of the reference, more than texts here have.
const TIME: usize = 96;

/// Writes an adapter that changes what the model says.
pub fn write_adapter(gpu: &Gpu, place: &Place) -> String {
    let lora = Lora::new(4, 8.0, Targets::AllLinear);
    let gpt = Gpt::new(GptConfig { lora: Some(lora.clone()), ..config().gpt }).expect("a model");
    let parameters = parameters(gpu, &gpt);
    for spec in parameters.specs().iter().filter(|spec| is_adapter(&spec.name)) {
        let count: usize = spec.shape.dims.iter().product();
        let value = |i: usize| ((i * 37 + spec.name.len() * 11) % 19) as f32 / 20.0 - 0.45;
        let values: Vec<_> = (0..count).map(value).collect();
        parameters.write(&spec.name, &values).expect("written");
    }
    let folder = place.path("adapter");
    let export = AdapterExport::new(&config(), lora).expect("an adapter");
    block_on(export.save(&parameters, &folder)).expect("saved");
    folder
}

fn parameters(gpu: &Gpu, gpt: &Gpt) -> Parameters {
    let mut graph = Graph::in_precision(Phase::Evaluate, Precision::F32);
    let tokens = graph.tokens("tokens", [1, 1], gpt.config().vocabulary);
    gpt.logits(&mut graph, tokens);
    block_on(Parameters::new(gpu, &graph, 3)).expect("parameters")
}

/// The model of a folder over whole texts, without a cache, a loss or a draw on the device.
pub struct Reference {
    pub tokenizer: Tokenizer,
    vocabulary: usize,
    predictor: Predictor,
    _parameters: Parameters,
}

impl Reference {
    pub fn open(gpu: &Gpu, model: &str, adapter: Option<&str>) -> Self {
        let folder = Folder::open(model).expect("a folder");
        let adapter = adapter.map(|path| Adapter::open(path, folder.config()).expect("an adapter"));
        let config = adapter.as_ref().map_or(folder.config().gpt.clone(), Adapter::gpt);
        let gpt = Gpt::new(config).expect("a model");
        let parameters = parameters(gpu, &gpt);
        block_on(parameters.load(&mut folder.reader(|_| {}))).expect("loaded");
        if let Some(adapter) = &adapter {
            block_on(parameters.load(&mut adapter.reader())).expect("loaded");
        }
        let vocabulary = gpt.config().vocabulary;
        let predictor = block_on(Predictor::new(gpu, &parameters, |graph| {
            let tokens = graph.tokens("tokens", [1, TIME], vocabulary);
            vec![gpt.logits(graph, tokens)]
        }));
        let tokenizer = Tokenizer::open(model).expect("a tokenizer");
        let predictor = predictor.expect("a predictor");
        Self { tokenizer, vocabulary, predictor, _parameters: parameters }
    }

    /// The logits behind each token.
    pub fn logits(&self, tokens: &[u32]) -> Vec<Vec<f64>> {
        let mut padded = tokens.to_vec();
        padded.resize(TIME, 0);
        let batch = Batch::new().with("tokens", padded);
        let logits = block_on(self.predictor.run(&batch)).expect("logits").swap_remove(0);
        let rows = logits.chunks(self.vocabulary).take(tokens.len());
        rows.map(|row| row.iter().map(|&logit| f64::from(logit)).collect()).collect()
    }

    /// The likeliest text behind these tokens, of so many, where those that it has are made less likely.
    pub fn greedy(&self, prompt: &[u32], count: usize, penalty: f64) -> Vec<u32> {
        let mut tokens = prompt.to_vec();
        for _ in 0..count {
            let mut logits = self.logits(&tokens).pop().expect("a row");
            for (token, logit) in (0u32..).zip(&mut logits) {
                if tokens.contains(&token) {
                    *logit *= if *logit > 0.0 { penalty.recip() } else { penalty };
                }
            }
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            tokens.push(best.expect("a token") as u32);
        }
        tokens.split_off(prompt.len())
    }

    /// -ln p of each token but the first, given those before it.
    pub fn losses(&self, tokens: &[u32]) -> Vec<f64> {
        let rows = self.logits(tokens);
        let loss = |(row, &next): (&Vec<f64>, &u32)| {
            let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = row.iter().map(|logit| (logit - most).exp()).sum();
            most + sum.ln() - row[next as usize]
        };
        rows.iter().zip(&tokens[1..]).map(loss).collect()
    }
}
