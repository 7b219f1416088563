//! Adapters beside a base in blocks: QLoRA.

use evenkeel::graph::{Graph, Phase};
use evenkeel::hugging_face::{Export, Folder};
use evenkeel::kernel::BlockFormat;
use evenkeel::nn::lora::is_adapter;
use evenkeel::nn::{GptConfig, LanguageModel, Targets};
use evenkeel::plan::Parameters;
use evenkeel::plan::parameters::WeightSource;
use evenkeel::train::{AdamW, Checkpoint, Clip, Predictor, Trainer};
use evenkeel::{Gpu, Precision, Result, WeightStorage};

use super::files::of_family;
use super::models::*;
use super::support::{self, Tolerance, assert_close, block_on, values, wide};

/// Models whose rows are made of blocks, with adapters of several kinds.
fn models() -> Vec<(&'static str, GptConfig)> {
    let with = |config: GptConfig, lora| GptConfig { lora: Some(lora), ..config };
    let llama = || GptConfig { hidden: 64, ..llama() };
    let gpt2 = || GptConfig { hidden: 32, ..GptConfig::gpt2(VOCABULARY, 8, 1, 2, 32) };
    let some = || Targets::named(["q_proj", "v_proj", "up_proj", "o_proj"]);
    vec![
        ("parts", with(llama(), lora(4, some()))),
        (
            "in chunks, again",
            GptConfig {
                recompute: true,
                logits_budget: 1,
                ..with(llama(), lora(3, Targets::AllLinear))
            },
        ),
        ("magnitudes", with(GptConfig { bias: true, ..llama() }, dora(4, some()))),
        ("embedding and head", with(llama(), lora(5, Targets::named(["embed_tokens", "lm_head"])))),
        ("a tied head", with(gpt2(), lora(4, Targets::named(["c_attn", "c_fc", "mlp.c_proj"])))),
    ]
}

fn in_blocks(config: &GptConfig, format: BlockFormat) -> GptConfig {
    GptConfig { base_format: Some(format), ..config.clone() }
}

fn trainer(gpu: &Gpu, config: &GptConfig) -> Trainer<LanguageModel> {
    let optimizer = AdamW { learning_rate: 0.02, weight_decay: 0.1, ..AdamW::default() };
    build(Trainer::builder(model(config)).optimizer(optimizer).clip(Clip::Norm(1.0)), gpu)
}

/// Gives a model the numbers of another.
fn copy(from: &Parameters, to: &Parameters) {
    for name in to.names() {
        to.write(name, &read(from, name)).expect("written");
    }
}

/// No rounding is between them: kernels add up the same numbers in the same order.
pub fn training_beside_blocks_is_training_beside_their_numbers() {
    let Some(gpu) = support::gpu() else { return };
    for (index, (what, config)) in models().into_iter().enumerate() {
        // Every format for the first, and one for each of the others.
        let formats = BlockFormat::ALL;
        let formats = if index == 0 { &formats[..] } else { &formats[index % 3..][..1] };
        for &format in formats {
            let what = format!("{what}, {format}");
            let mut blocks = trainer(&gpu, &in_blocks(&config, format));
            enlarge(blocks.parameters());
            let mut numbers = trainer(&gpu, &config);
            copy(blocks.parameters(), numbers.parameters());
            let before = all(&blocks);
            for seed in 0..3 {
                let [a, b] = [&mut blocks, &mut numbers].map(|trainer| step(trainer, &batch(seed)));
                assert!(a.applied && a.loss.is_finite() && a.gradient_norm > 1e-3, "{what}");
                assert_eq!(a.loss.to_bits(), b.loss.to_bits(), "{what}, step {seed}");
                assert_eq!(a.gradient_norm.to_bits(), b.gradient_norm.to_bits(), "{what}");
            }
            for ((name, after), (_, before)) in all(&blocks).iter().zip(&before) {
                assert_eq!(*after, bits(&read(numbers.parameters(), name)), "{what}: {name}");
                assert_eq!(after != before, is_adapter(name), "{what}: {name}");
            }
        }
    }
}

fn all(trainer: &Trainer<LanguageModel>) -> Vec<(String, Vec<u32>)> {
    let parameters = trainer.parameters();
    parameters.names().map(|name| (name.to_owned(), bits(&read(parameters, name)))).collect()
}

/// As many bytes as blocks have, and nothing beside them.
pub fn blocks_take_the_bytes_of_their_format() {
    let Some(gpu) = support::gpu() else { return };
    let (_, config) = models().swap_remove(4);
    for format in BlockFormat::ALL {
        let config = in_blocks(&config, format);
        let trainer = trainer(&gpu, &config);
        // 13 x 32 tokens, 96 x 32, 32 x 32, 32 x 32, 32 x 32.
        let blocks = [13, 96, 32, 32, 32].map(|rows| rows * format.bytes() as u64);
        let expected: u64 = blocks.map(|bytes| bytes.next_multiple_of(512)).iter().sum();
        let found: u64 = trainer.parameters().blocks().iter().map(wgpu::Buffer::size).sum();
        assert_eq!(found, expected, "{format}");
        let others = trainer.parameters().specs().iter();
        let others = others.filter(|s| !s.requires_grad && s.shape.block_format().is_none());
        let flat: u64 = others.map(|s| (16 * s.shape.quads() as u64).next_multiple_of(512)).sum();
        assert_eq!(trainer.report().frozen_bytes, expected + flat, "{format}");
        assert_eq!(trainer.report().copy_bytes, 0, "{format}");
        let learned = trainer.parameters().format_of("position_embedding.weight");
        assert_eq!(learned, None, "added, not looked up in");
    }
}

/// Blocks that no quantizer would make: other scales than the largest number asks for.
fn other_blocks(parameters: &Parameters) {
    for spec in parameters.specs() {
        let Some(format) = spec.shape.block_format() else { continue };
        let (found, mut blocks) = block_on(parameters.read_blocks(&spec.name)).expect("in blocks");
        assert_eq!(found, format);
        for (at, byte) in blocks.iter_mut().enumerate() {
            // d and m stay as they are, and no q is the one of the largest number.
            let in_block = at % format.bytes();
            match format {
                BlockFormat::Q8_0 if in_block >= 2 => *byte &= 0x3b,
                BlockFormat::Q4_0 if in_block >= 2 => *byte |= 0x44,
                BlockFormat::Q4_1 if in_block >= 4 => *byte &= 0x3b,
                _ => (),
            }
        }
        parameters.write_blocks(&spec.name, &blocks).expect("finite");
        assert_eq!(block_on(parameters.read_blocks(&spec.name)).expect("in blocks").1, blocks);
        let numbers = format.decode(&blocks);
        assert_ne!(format.encode(&numbers), blocks, "{format}: not what the numbers give");
        assert_eq!(bits(&read(parameters, &spec.name)), bits(&numbers), "{format}");
    }
}

pub fn blocks_come_back_from_a_checkpoint_bit_by_bit() {
    let Some(gpu) = support::gpu() else { return };
    let (_, config) = models().swap_remove(0);
    for format in BlockFormat::ALL {
        let config = in_blocks(&config, format);
        let mut run = trainer(&gpu, &config);
        enlarge(run.parameters());
        other_blocks(run.parameters());
        step(&mut run, &batch(1));
        let bytes = block_on(run.checkpoint()).expect("a checkpoint").to_bytes();
        let checkpoint = Checkpoint::from_bytes(&bytes).expect("its own");
        let mut other = trainer(&gpu, &config);
        block_on(other.restore(&checkpoint)).unwrap_or_else(|error| panic!("{error}"));
        let committed = |run: &Trainer<_>| block_on(run.committed_bytes()).expect("bytes");
        assert!(committed(&run) == committed(&other), "{format}");
        let [a, b] = [&mut run, &mut other].map(|run| step(run, &batch(2)));
        assert_eq!(a.loss.to_bits(), b.loss.to_bits(), "{format}");
        let copy = block_on(run.parameters().copy()).expect("a copy");
        for spec in copy.specs().iter().filter(|spec| spec.shape.block_format().is_some()) {
            let [ours, theirs] = [run.parameters(), &copy]
                .map(|set| block_on(set.read_blocks(&spec.name)).expect("in blocks"));
            assert!(ours == theirs, "{format}: {}", spec.name);
        }
        // Of another base.
        for others in [config.base_format.map(|f| BlockFormat::ALL[(f as usize + 1) % 3]), None] {
            let config = GptConfig { base_format: others, ..config.clone() };
            let mut other = trainer(&gpu, &config);
            let before = committed(&other);
            let error = block_on(other.restore(&checkpoint)).expect_err("other blocks").to_string();
            assert!(error.contains(&format!("base_format {format}")), "{error}");
            assert!(committed(&other) == before, "nothing has changed");
        }
    }
}

/// Numbers of a model, for whoever asks.
struct Numbers<'a>(&'a Parameters);

impl WeightSource for Numbers<'_> {
    fn check(&mut self, _: &Parameters) -> Result<()> {
        Ok(())
    }

    fn rows(&mut self, name: &str, rows: std::ops::Range<usize>) -> Result<Vec<f32>> {
        let all = read(self.0, name);
        let columns = all.len() / self.0.find(name)?.shape.dims[0];
        Ok(all[rows.start * columns..rows.end * columns].to_vec())
    }
}

/// Any source of numbers is quantized as it is read, and an export has the de-quantized ones.
pub fn models_are_quantized_as_they_are_read_and_written_as_numbers() {
    let Some(gpu) = support::gpu() else { return };
    let (_, adapted) = models().swap_remove(0);
    let config = without(&adapted);
    let numbers = parameters(&gpu, &config, 3);
    enlarge(&numbers);
    for format in BlockFormat::ALL {
        let config = in_blocks(&config, format);
        let blocks = parameters(&gpu, &config, 4);
        block_on(blocks.load(&mut Numbers(&numbers))).expect("loaded");
        let again = parameters(&gpu, &without(&adapted), 5);
        let export = Export::new(of_family(&config), Precision::F32);
        let folder = Folder::from_files(block_on(export.to_files(&blocks)).expect("written"));
        block_on(again.load(&mut folder.expect("a folder").reader(|_| {}))).expect("loaded");
        for spec in blocks.specs() {
            let theirs = read(&numbers, &spec.name);
            let expected = match spec.shape.block_format() {
                Some(format) => format.decode(&format.encode(&theirs)),
                None => theirs,
            };
            assert_eq!(bits(&read(&blocks, &spec.name)), bits(&expected), "{}", spec.name);
            assert_eq!(bits(&read(&again, &spec.name)), bits(&expected), "{}", spec.name);
        }
        // Quantized as it starts, too.
        let started = parameters(&gpu, &config, 3);
        let drawn = parameters(&gpu, &without(&adapted), 3);
        for spec in started.specs() {
            let drawn = read(&drawn, &spec.name);
            let expected = match spec.shape.block_format() {
                Some(format) => format.decode(&format.encode(&drawn)),
                None => drawn,
            };
            assert_eq!(bits(&read(&started, &spec.name)), bits(&expected), "{}", spec.name);
        }
        // Logits are those of the numbers that blocks hold.
        let [found, expected] = [(&blocks, &config), (&again, &without(&adapted))]
            .map(|(parameters, config)| bits(&logits(&gpu, parameters, config, &batch(1))));
        assert_eq!(found, expected, "{format}");
    }
}

pub fn adapters_are_merged_into_the_numbers_of_blocks() {
    let Some(gpu) = support::gpu() else { return };
    let (_, config) = models().swap_remove(0);
    for format in BlockFormat::ALL {
        let config = in_blocks(&config, format);
        let adapted = parameters(&gpu, &config, 1);
        enlarge(&adapted);
        let expected = logits(&gpu, &adapted, &config, &batch(1));
        let export = Export::new(of_family(&config), Precision::F32);
        let export = export.merged(config.lora.as_ref().expect("adapted"));
        let files = block_on(export.to_files(&adapted)).unwrap_or_else(|error| panic!("{error}"));
        let folder = Folder::from_files(files).expect("a folder");
        let plain = GptConfig { base_format: None, ..without(&config) };
        let merged = parameters(&gpu, &plain, 7);
        block_on(merged.load(&mut folder.reader(|_| {}))).expect("loaded");
        let found = logits(&gpu, &merged, &plain, &batch(1));
        let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        let rounding = Tolerance {
            absolute: 2e-5 * f64::from(largest),
            relative: 0.0,
            because: "rounding of each weight once, and of sums in another order",
        };
        assert_close(format.name(), &found, &wide(&expected), rounding);
    }
}

/// Activations of 16 bits beside blocks: the loss of f32 to what these hold.
pub fn half_precision_reads_blocks() {
    let Some(gpu) = support::gpu() else { return };
    let (_, config) = models().swap_remove(0);
    for (format, precision, storage) in [
        (BlockFormat::Q8_0, Precision::Bf16, WeightStorage::F32),
        (BlockFormat::Q4_1, Precision::F16, WeightStorage::F32),
        (BlockFormat::Q4_0, Precision::Bf16, WeightStorage::Bf16Split),
    ] {
        let config = in_blocks(&config, format);
        let settings = [(Precision::F32, WeightStorage::F32), (precision, storage)];
        let mut losses = settings.map(|(precision, storage)| {
            let builder = Trainer::builder(model(&config)).precision(precision).weights(storage);
            let mut trainer = build(builder, &gpu);
            enlarge(trainer.parameters());
            (0..3).map(|seed| step(&mut trainer, &batch(seed)).loss).collect::<Vec<_>>()
        });
        let [single, half] = losses.each_mut().map(std::mem::take);
        let rounding = Tolerance {
            absolute: 0.05,
            relative: 0.02,
            because: "activations of 8 bits of significand through two blocks",
        };
        assert_close(format.name(), &half, &wide(&single), rounding);
    }
}

pub fn blocks_that_cannot_be_are_named() {
    let Some(gpu) = support::gpu() else { return };
    let (_, config) = models().swap_remove(0);
    let config = in_blocks(&config, BlockFormat::Q4_0);
    let validated = |config: GptConfig| config.validate().expect_err("refused").to_string();
    let error = validated(GptConfig { hidden: 48, ..config.clone() });
    assert!(error.contains("hidden") && error.contains("48") && error.contains("32"), "{error}");
    let error = validated(GptConfig { width: 48, head_dim: Some(8), ..without(&config) });
    assert!(error.contains("width") && error.contains("48"), "{error}");
    let error =
        validated(GptConfig { head_dim: Some(16), heads: 1, kv_heads: 1, ..config.clone() });
    assert!(error.contains("heads * head_dim") && error.contains("16"), "{error}");

    // Without adapters, all of it would be trained.
    let error = block_on(Trainer::builder(model(&without(&config))).build(&gpu));
    let error = error.expect_err("trained blocks").to_string();
    assert!(error.contains("blocks of Q4_0") && error.contains("lora"), "{error}");
    let norms =
        Trainer::builder(model(&without(&config))).freeze(|spec| !spec.name.contains("norm"));
    let mut norms = build(norms, &gpu);
    assert!(step(&mut norms, &batch(1)).applied, "with all blocks frozen");

    // Two graphs over one set.
    let parameters = parameters(&gpu, &config, 1);
    for other in [None, Some(BlockFormat::Q8_0)] {
        let other = GptConfig { base_format: other, ..config.clone() };
        let gpt = model(&other).gpt;
        let predictor = block_on(Predictor::new(&gpu, &parameters, |graph: &mut Graph| {
            let tokens = graph.tokens("tokens", [BATCH, TIME], VOCABULARY);
            vec![gpt.logits(graph, tokens)]
        }));
        let error = predictor.expect_err("another format").to_string();
        assert!(error.contains("Q4_0") && error.contains("base_format"), "{error}");
    }

    let name = "blocks.0.mlp.down.weight";
    let before = block_on(parameters.read_blocks(name)).expect("in blocks").1;
    let count = read(&parameters, name).len();
    let mut numbers = values(1, count);
    for (index, value) in [(70, f32::NAN), (33, f32::INFINITY), (64, 600_000.0)] {
        numbers[index] = value;
        let error = parameters.write(name, &numbers).expect_err("no scale").to_string();
        assert!(error.contains(name) && error.contains("Q4_0"), "{error}");
        numbers[index] = 0.0;
    }
    let error = parameters.write_blocks(name, &before[1..]).expect_err("too few").to_string();
    assert!(error.contains(name), "{error}");
    let mut wrong = before.clone();
    wrong[18 * 3..18 * 3 + 2].copy_from_slice(&[0x00, 0x7c]);
    let error = parameters.write_blocks(name, &wrong).expect_err("Inf").to_string();
    assert!(error.contains(name) && error.contains("96"), "{error}");
    let error = block_on(parameters.read_blocks("norm.weight")).expect_err("no blocks").to_string();
    assert!(error.contains("norm.weight") && error.contains(name), "{error}");
    assert_eq!(block_on(parameters.read_blocks(name)).expect("in blocks").1, before, "unchanged");
    assert!(parameters.can_hold_in(name, 500_000.0) && !parameters.can_hold_in(name, 600_000.0));
    assert!(!parameters.can_hold_in(name, f32::NAN) && parameters.can_hold_in("norm.weight", 1e30));

    // What cannot read blocks says so.
    let mut graph = Graph::new(Phase::Evaluate);
    let refused = std::panic::AssertUnwindSafe(|| {
        let w = graph.in_blocks(config.base_format, |graph| {
            graph.weight("w", [4, 32], evenkeel::nn::Init::ZERO)
        });
        graph.add(w, w)
    });
    if cfg!(not(target_arch = "wasm32")) {
        let panic = std::panic::catch_unwind(refused).expect_err("blocks are not added");
        let message = panic.downcast_ref::<String>().expect("a message");
        assert!(message.contains("cannot read w, (4, 32) Q4_0, in blocks"), "{message}");
    }
}
