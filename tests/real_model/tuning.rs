//! Steps of low-rank adapters on conversations, beside both bases.

use std::collections::BTreeMap;

use evenkeel::hugging_face::Adapter;
use evenkeel::nn::{Gpt, GptConfig, LanguageModel};
use evenkeel::train::{AdamW, Batch, Clip, IGNORE, Trainer};
use safetensors::tensor::TensorView;

use super::support::{self, assert_close, block_on};
use super::{BASES, Real, ids, list, numbers, read, straying};

/// Sequences in a step.
const BATCH: usize = 2;
const ADAPTER_CONFIG: &str = "adapter_config.json";

/// A number in [-1, 1) for each element of each tensor, exact in f32: the script has the same.
fn start(tensor: usize, element: usize) -> f32 {
    let mut x = (element as u32).wrapping_add((tensor as u32).wrapping_mul(1_000_003));
    x = x.wrapping_mul(2_654_435_761);
    x ^= x >> 15;
    x = x.wrapping_mul(2_246_822_519);
    x ^= x >> 13;
    (x >> 8) as f32 / (1u32 << 23) as f32 - 1.0
}

/// The adapter that the script begins with, as PEFT would write it: tensors are counted by their
/// names' order; those of A are at most 1/32, those of B at most 1/64.
fn adapter(real: &Real) -> Adapter {
    let config = real.file.config();
    let opened = |tensors: Vec<u8>| {
        let files =
            [(ADAPTER_CONFIG, read(ADAPTER_CONFIG)), ("adapter_model.safetensors", tensors)];
        let files = files.map(|(name, contents)| (name.to_owned(), contents));
        Adapter::from_files(BTreeMap::from(files), config).unwrap_or_else(|e| panic!("{e}"))
    };
    let lora = &real.expected["lora"];
    let rank = lora["rank"].as_u64().expect("a rank") as usize;
    let shapes: BTreeMap<String, [usize; 2]> = modules(real, rank);
    assert_eq!(shapes.len() as u64, lora["tensors"].as_u64().expect("a number"));
    let bytes: Vec<Vec<u8>> = shapes
        .iter()
        .enumerate()
        .map(|(tensor, (name, [rows, columns]))| {
            let largest = if name.contains("lora_A") { 1.0 / 32.0 } else { 1.0 / 64.0 };
            let number = |element| (largest * start(tensor, element)).to_le_bytes();
            (0..rows * columns).flat_map(number).collect()
        })
        .collect();
    let views = shapes.iter().zip(&bytes).map(|((name, shape), bytes)| {
        let view = TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes);
        (name.clone(), view.expect("as many numbers as the shape says"))
    });
    let adapter = opened(safetensors::serialize(views, None).expect("serialized"));
    assert_eq!(adapter.lora().rank, rank);
    assert_eq!(Some(adapter.lora().alpha), lora["alpha"].as_f64());
    adapter
}

/// Names and shapes of all tensors of an adapter beside all linear layers.
fn modules(real: &Real, rank: usize) -> BTreeMap<String, [usize; 2]> {
    let gpt = &real.file.config().gpt;
    let (width, hidden) = (gpt.width, gpt.hidden);
    let [queries, keys] = [gpt.heads, gpt.kv_heads].map(|heads| heads * gpt.head_dim());
    let layers = [
        ("self_attn.q_proj", queries, width),
        ("self_attn.k_proj", keys, width),
        ("self_attn.v_proj", keys, width),
        ("self_attn.o_proj", width, queries),
        ("mlp.gate_proj", hidden, width),
        ("mlp.up_proj", hidden, width),
        ("mlp.down_proj", width, hidden),
    ];
    let of_block = |block: usize| {
        layers.into_iter().flat_map(move |(layer, outputs, inputs)| {
            let name = format!("base_model.model.model.layers.{block}.{layer}");
            [
                (format!("{name}.lora_A.weight"), [rank, inputs]),
                (format!("{name}.lora_B.weight"), [outputs, rank]),
            ]
        })
    };
    (0..gpt.layers).flat_map(of_block).collect()
}

/// Samples in their order, padded to the longest of all.
fn batches(real: &Real) -> (usize, Vec<Batch>) {
    let samples = list(&real.expected["samples"]);
    let samples: Vec<_> =
        samples.iter().map(|sample| (ids(&sample["tokens"]), ids(&sample["counts"]))).collect();
    let time = samples.iter().map(|(tokens, _)| tokens.len() - 1).max().expect("samples");
    let batch = |samples: &[(Vec<u32>, Vec<u32>)]| {
        let (mut inputs, mut targets) = (vec![0; BATCH * time], vec![IGNORE; BATCH * time]);
        for (row, (tokens, counts)) in samples.iter().enumerate() {
            for at in 1..tokens.len() {
                let place = row * time + at - 1;
                inputs[place] = tokens[at - 1];
                if counts[at] == 1 {
                    targets[place] = tokens[at];
                }
            }
        }
        Batch::new().with("tokens", inputs).with("targets", targets)
    };
    (time, samples.chunks_exact(BATCH).map(batch).collect())
}

fn check(base: &str) {
    let Some(real) = Real::open() else { return };
    let Some(gpu) = support::exclusive_gpu() else { return };
    let (_, base_format) = BASES.into_iter().find(|(name, _)| *name == base).expect("a base");
    let adapter = adapter(&real);
    let (time, batches) = batches(&real);
    let gpt = GptConfig { lora: adapter.gpt().lora, ..real.gpt(base_format) };
    let model = LanguageModel { gpt: Gpt::new(gpt).expect("a model"), batch: BATCH, time };
    let setting = |name: &str| real.expected["lora"][name].as_f64().expect("a number");
    let (learning_rate, eps) = (setting("learning_rate"), setting("eps"));
    let optimizer = AdamW { learning_rate, eps, weight_decay: 0.0, ..AdamW::default() };
    let builder = Trainer::builder(model).optimizer(optimizer).clip(Clip::Norm(1.0));
    let mut trainer = block_on(builder.build(&gpu)).unwrap_or_else(|e| panic!("{e}"));
    block_on(trainer.load_weights(&mut real.file.reader(|_| {}))).expect("loaded");
    block_on(trainer.load_weights(&mut adapter.reader())).expect("loaded");
    let (losses, norms) =
        (numbers(&real.of(base)["losses"]), numbers(&real.of(base)["gradient_norms"]));
    assert_eq!((losses.len(), norms.len()), (batches.len(), batches.len()));
    for batch in &batches {
        block_on(trainer.step(batch)).expect("a step");
    }
    let telemetry = block_on(trainer.telemetry()).expect("telemetry");
    assert!(telemetry.iter().all(|step| step.applied), "{telemetry:?}");
    let strays = &real.of(base)["strays"];
    let found: Vec<_> = telemetry.iter().map(|step| step.loss).collect();
    assert_close(&format!("{base}, losses"), &found, &losses, straying(&strays["losses"]));
    let found: Vec<_> = telemetry.iter().map(|step| step.gradient_norm).collect();
    let what = format!("{base}, gradient norms");
    assert_close(&what, &found, &norms, straying(&strays["gradient_norms"]));
}

#[test]
fn steps_beside_dequantized_weights_are_those_of_peft() {
    check("dequantized");
}

#[test]
fn steps_beside_weights_in_blocks_are_those_of_peft() {
    check("kept");
}
