//! Activations that are computed again instead of being kept: no bit of a training changes, and its
//! memory does not grow with what is inside of blocks.

#[macro_use]
mod support;

use evenkeel::graph::{Graph, Phase};
use evenkeel::kernels::Activation;
use evenkeel::nn::{Gpt, GptConfig, Init, LanguageModel, QkClip, QkNorm};
use evenkeel::train::{AdamW, Batch, LossScale, Trainer};
use evenkeel::{Gpu, Precision, WeightStorage};
use support::{block_on, tokens};

tests! {
    recomputed_blocks_change_no_bit, recomputed_blocks_take_less_memory,
    frozen_blocks_are_not_computed_again,
}

const VOCABULARY: usize = 29;
const TIME: usize = 12;

fn model(config: GptConfig) -> LanguageModel {
    LanguageModel { gpt: Gpt::new(config).expect("valid"), batch: 2, time: TIME }
}

fn batch(seed: u64, microbatches: usize) -> Batch {
    let [ids, targets] =
        [0, 1].map(|i| tokens(2 * seed + i, 2 * TIME * microbatches, VOCABULARY as u32));
    Batch::new().with("tokens", ids).with("targets", targets)
}

/// Dropout, a clip and observations inside of blocks; other norms, windows, gates.
fn configs() -> [GptConfig; 2] {
    let gpt2 = GptConfig {
        dropout: 0.2,
        watch_logits: true,
        qk_clip: Some(QkClip { threshold: 0.5, ..QkClip::default() }),
        ..GptConfig::gpt2(VOCABULARY, TIME, 3, 2, 16)
    };
    let llama = GptConfig {
        window: Some(5),
        qk_norm: Some(QkNorm::Rms),
        post_norms: true,
        ..GptConfig::llama(VOCABULARY, TIME, 3, [4, 2], 32)
    };
    [gpt2, llama]
}

/// Three steps of two microbatches: what telemetry and parameters are then, as bits.
fn trained(gpu: &Gpu, config: &GptConfig, storage: (Precision, WeightStorage)) -> Vec<u32> {
    let adamw = AdamW { learning_rate: 1e-2, ..AdamW::default() };
    let builder = Trainer::builder(model(config.clone())).optimizer(adamw).seed(3);
    let builder = builder.precision(storage.0).weights(storage.1).accumulation(2);
    let builder = match storage.0 {
        Precision::F16 => builder.loss_scale(LossScale::Static(64.0)),
        _ => builder,
    };
    let mut trainer = block_on(builder.build(gpu)).expect("a trainer");
    for seed in 0..3 {
        block_on(trainer.step(&batch(seed, 2))).expect("a step");
    }
    let mut bits = Vec::new();
    for step in block_on(trainer.telemetry()).expect("telemetry") {
        assert!(step.applied, "{step:?}");
        bits.extend([step.loss.to_bits(), step.gradient_norm.to_bits()]);
    }
    let names: Vec<_> = trainer.parameters().names().map(str::to_owned).collect();
    for name in names {
        let values = block_on(trainer.parameters().read(&name)).expect("a parameter");
        bits.extend(values.iter().map(|x| x.to_bits()));
    }
    bits
}

fn recomputed_blocks_change_no_bit() {
    let Some(gpu) = support::gpu() else { return };
    for config in configs() {
        let again = GptConfig { recompute: true, ..config.clone() };
        for storage in [
            (Precision::F32, WeightStorage::F32),
            (Precision::F16, WeightStorage::F32),
            (Precision::Bf16, WeightStorage::Bf16Kahan),
        ] {
            let [kept, again] = [&config, &again].map(|config| trained(&gpu, config, storage));
            assert!(kept == again, "other bits: {storage:?} {config:?}");
        }
    }
}

fn recomputed_blocks_take_less_memory() {
    let Some(gpu) = support::gpu() else { return };
    let bytes = |layers: usize, recompute: bool| {
        let config = GptConfig::gpt2(VOCABULARY, TIME, layers, 2, 64);
        let builder = Trainer::builder(model(GptConfig { recompute, ..config }));
        let trainer = block_on(builder.build(&gpu)).expect("a trainer");
        trainer.report().activation_bytes
    };
    let per_block = |recompute| (bytes(8, recompute) - bytes(4, recompute)) / 4;
    // (batch, time, width) in f32: the stream and what is to be added to it.
    let tensor = (2 * TIME * 64 * 4) as u64;
    let [kept, again] = [false, true].map(per_block);
    assert!(again <= 2 * tensor + tensor / 4 && kept > 10 * tensor, "{again} of {kept} bytes");
}

/// What no gradient is made of is not computed twice.
fn frozen_blocks_are_not_computed_again() {
    let mut graph = Graph::new(Phase::Train);
    let x = graph.tokens("x", [3], 7);
    let mut x = {
        let table = graph.frozen(|graph| graph.parameter("table", [7, 8], Init::GPT2));
        graph.embedding(table, x)
    };
    for layer in 0..2 {
        x = graph.recompute(|graph| {
            let frozen = layer == 0;
            let name = format!("w{layer}");
            let make = |graph: &mut Graph| graph.parameter(&name, [8, 8], Init::GPT2);
            let weight = if frozen { graph.frozen(make) } else { make(graph) };
            graph.linear(x, weight, None, Activation::Silu)
        });
    }
    let target = graph.scale(x, 0.5);
    let loss = graph.mean_squared_error(x, target);
    let forward = graph.nodes().iter().filter(|node| node.label == "linear").count();
    graph.backward(loss, 1.0);
    let nodes = graph.nodes().iter().filter(|node| node.label == "linear");
    assert_eq!((forward, nodes.count()), (2, 3), "one layer is trained");
}
