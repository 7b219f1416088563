//! Tensors that no binding holds: devices with small bindings train the same models as one that
//! holds each tensor whole, with the same bits. No page can run this: browsers give every device
//! the default limits at least.

mod runs;
#[path = "../support/mod.rs"]
mod support;

use std::sync::OnceLock;

use evenkeel::graph::{Element, Graph, HostData, Phase, Shape, Value};
use evenkeel::kernel::BlockFormat;
use evenkeel::kernels::Activation;
use evenkeel::nn::{Generator, Sampling};
use evenkeel::nn::{Gpt, GptConfig, Init, LanguageModel, Lora, QkClip, Targets};
use evenkeel::plan::Parameters;
use evenkeel::plan::parameters::read_slot;
use evenkeel::train::{
    AdaGc, Adafactor, Adam, AdamAtan2, AdamW, AdaptiveGradientClip, Batch, Clip, ClipBlockRms, Ema,
    Lion, Model, ModelOutput, Muon, Predictor, Sgd, StableAdamW, Telemetry, Trainer,
    TrainerBuilder, ValueKind, group_norms,
};
use evenkeel::{Error, Gpu, Precision, WeightStorage};
use support::{Tolerance, assert_close, block_on, gpu_with_bindings, tokens, values, wide};

/// Bindings that hold 512 and 384 rows of a table of 32 columns in f32; of the latter 256 are a part.
const HALF: u64 = 65_536;
const THIRD: u64 = 49_152;

/// Bindings for everything, for 512 and for 384 rows of a table of 32 columns.
fn devices() -> Option<&'static [Gpu; 3]> {
    static DEVICES: OnceLock<Option<[Gpu; 3]>> = OnceLock::new();
    let make = || {
        let [all, half, third] = [128 << 20, HALF, THIRD].map(gpu_with_bindings);
        Some([all?, half?, third?])
    };
    DEVICES.get_or_init(make).as_ref()
}

const VOCABULARY: usize = 1000;

fn config() -> GptConfig {
    GptConfig::gpt2(VOCABULARY, 8, 1, 2, 32)
}

fn model(config: GptConfig) -> LanguageModel {
    LanguageModel { gpt: Gpt::new(config).expect("valid"), batch: 1, time: 8 }
}

/// Ids of the first and the last rows and of those where parts meet, and drawn ones.
fn batch(seed: u64, microbatches: usize) -> Batch {
    let count = 8 * microbatches;
    let mut ids = tokens(2 * seed, count, VOCABULARY as u32);
    ids[..7].copy_from_slice(&[0, 999, 511, 512, 383, 384, 768]);
    let targets = tokens(2 * seed + 1, count, VOCABULARY as u32);
    Batch::new().with("tokens", ids).with("targets", targets)
}

/// A run on one of several devices.
struct Run<M: Model> {
    trainer: Trainer<M>,
    microbatches: usize,
}

impl<M: Model> Run<M> {
    fn new(gpu: &Gpu, builder: TrainerBuilder<M>) -> Self {
        let trainer = block_on(builder.build(gpu)).expect("a trainer");
        let microbatches = trainer.microbatches();
        Self { trainer, microbatches }
    }

    fn steps(&mut self, seeds: std::ops::Range<u64>) -> Vec<Telemetry> {
        for seed in seeds {
            block_on(self.trainer.step(&batch(seed, self.microbatches))).expect("a step");
        }
        block_on(self.trainer.telemetry()).expect("telemetry")
    }

    /// Every parameter, as bits.
    fn bits(&self) -> Vec<(String, Vec<u32>)> {
        let parameters = self.trainer.parameters();
        let read = |name: &str| {
            let values = block_on(parameters.read(name)).expect("a parameter");
            (name.to_owned(), values.iter().map(|x| x.to_bits()).collect())
        };
        parameters.names().map(read).collect()
    }

    fn parts(&self, name: &str) -> usize {
        self.trainer.parameters().find(name).expect("a parameter").parts().len()
    }
}

/// Fails where two runs differ in a bit of a parameter, and says where.
#[track_caller]
fn assert_same_bits(what: &str, found: &[(String, Vec<u32>)], expected: &[(String, Vec<u32>)]) {
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        assert_eq!(found.len(), expected.len(), "{what}: {name}");
        let wrong = found.iter().zip(expected).filter(|(a, b)| a != b).count();
        let first = found.iter().zip(expected).position(|(a, b)| a != b);
        assert_eq!(first, None, "{what}: {wrong} elements of {name} differ");
    }
}

#[track_caller]
fn assert_near(what: &str, found: f64, expected: f64) {
    let error = (found - expected).abs();
    assert!(
        error <= 1e-6 * expected.abs(),
        "{what}: {found} and {expected}, summed in other order"
    );
}

/// Trains on every device and compares all bits with those of the first. Returns the runs.
fn compare<M: Model>(what: &str, build: impl Fn() -> TrainerBuilder<M>) -> Vec<Run<M>> {
    let Some(devices) = devices() else { return Vec::new() };
    let mut runs: Vec<Run<M>> = Vec::new();
    let mut expected: Option<(Vec<_>, Vec<_>, Vec<_>)> = None;
    for gpu in devices {
        let mut run = Run::new(gpu, build());
        let start = run.bits();
        let telemetry = run.steps(0..3);
        assert!(telemetry.iter().all(|step| step.applied), "{what}: {telemetry:?}");
        let end = run.bits();
        if let Some((first_start, first_end, first_telemetry)) = &expected {
            assert_same_bits(&format!("{what}, initial values"), &start, first_start);
            assert_same_bits(what, &end, first_end);
            for (a, b) in telemetry.iter().zip(first_telemetry) {
                let (a, b): (&Telemetry, &Telemetry) = (a, b);
                assert_eq!(a.loss.to_bits(), b.loss.to_bits(), "{what}");
                assert_near(what, a.gradient_norm.into(), b.gradient_norm.into());
            }
        } else {
            assert!(start.iter().zip(&end).all(|(a, b)| a != b), "{what}: something stood still");
            expected = Some((start, end, telemetry));
        }
        runs.push(run);
    }
    runs
}

fn adamw() -> AdamW {
    AdamW { learning_rate: 1e-2, weight_decay: 0.1, ..AdamW::default() }
}

const TABLE: &str = "token_embedding.weight";

#[test]
fn a_tied_table_in_parts_trains_as_a_whole_one() {
    let build = || Trainer::builder(model(config())).optimizer(adamw()).accumulation(2);
    let runs = compare("tied", build);
    let parts: Vec<_> = runs.iter().map(|run| run.parts(TABLE)).collect();
    assert!(runs.is_empty() || parts == [1, 2, 4], "{parts:?}");
    // What the report counts does not depend on the device.
    let counted =
        runs.iter().map(|run| (run.trainer.report().parameters, run.trainer.report().tensors));
    assert!(counted.collect::<std::collections::BTreeSet<_>>().len() <= 1);
}

#[test]
fn a_table_and_a_head_in_parts_train_as_whole_ones() {
    let config = GptConfig { tied_head: false, ..config() };
    let runs = compare("untied", || {
        let trainer = Trainer::builder(model(config.clone())).optimizer(adamw());
        trainer.weights(WeightStorage::Bf16Split).precision(Precision::Bf16)
    });
    let parts = runs.iter().map(|run| (run.parts(TABLE), run.parts("head.weight")));
    let parts: Vec<_> = parts.collect();
    assert!(runs.is_empty() || parts == [(1, 1), (2, 2), (4, 4)], "{parts:?}");
}

/// Activations in every precision over weights in every storage: bits as with a whole table.
#[test]
fn every_precision_and_storage_of_weights() {
    use WeightStorage::{Bf16Kahan, Bf16Split, F32};
    for (precision, storage) in [
        (Precision::F16, F32),
        (Precision::Bf16, F32),
        (Precision::F32, Bf16Split),
        // Halves of one kind made of halves of the other.
        (Precision::F16, Bf16Split),
        (Precision::F32, Bf16Kahan),
        (Precision::Bf16, Bf16Kahan),
    ] {
        compare(&format!("{precision:?} over {storage:?}"), || {
            let trainer = Trainer::builder(model(config())).optimizer(adamw());
            trainer.precision(precision).weights(storage)
        });
    }
}

/// Stochastic rounding draws by the position in a segment, so its draws differ; its weights are
/// apart by the roundings of three steps.
#[test]
fn stochastic_rounding_in_parts() {
    let Some(devices) = devices() else { return };
    let read = |gpu: &Gpu| {
        let builder = Trainer::builder(model(config())).optimizer(adamw());
        let mut run = Run::new(gpu, builder.weights(WeightStorage::Bf16Stochastic));
        let start = run.bits();
        run.steps(0..3);
        (start, block_on(run.trainer.parameters().read(TABLE)).expect("a table"))
    };
    let (start, whole) = read(&devices[0]);
    for gpu in &devices[1..] {
        let (same, parts) = read(gpu);
        assert_same_bits("initial values", &same, &start);
        for (a, b) in whole.iter().zip(&parts) {
            // A rounding moves by less than a unit, 2^-7 of the value; weights move by 1e-2 a step,
            // and where a gradient is near zero its sign may differ.
            assert!((a - b).abs() <= 3.0 * (2e-2 + a.abs() / 128.0), "{a} and {b}");
        }
        let mean = |x: &[f32]| x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len() as f64;
        assert!((mean(&whole) - mean(&parts)).abs() < 1e-4, "rounded to one side");
    }
}

/// Averages lie as the weights do, in the run and in a checkpoint, and a device goes on from that of
/// another.
#[test]
fn averages_of_a_table_in_parts() {
    let ema = Ema { decay: 0.9, warmup: true };
    for storage in [WeightStorage::F32, WeightStorage::Bf16Kahan] {
        let build = || Trainer::builder(model(config())).optimizer(adamw()).ema(ema);
        let runs = compare("averages", || build().weights(storage));
        let Some(whole) = runs.first() else { return };
        let expected = block_on(whole.trainer.checkpoint()).expect("a checkpoint");
        let (dims, average) = expected.average(TABLE).expect("an average");
        assert_eq!(dims, [VOCABULARY, 32]);
        assert_ne!(average, expected.tensor(TABLE).expect("a table").1);
        for mut run in runs {
            let found = block_on(run.trainer.checkpoint()).expect("a checkpoint");
            for name in expected.names() {
                assert!(found.average(name) == expected.average(name), "{storage}: {name}");
            }
            let loss = block_on(run.trainer.evaluate_averaged(&batch(9, 1))).expect("a loss");
            assert!(loss.is_finite());
            run.steps(3..5);
            block_on(run.trainer.restore(&expected)).expect("it fits");
            let found = block_on(run.trainer.checkpoint()).expect("a checkpoint");
            assert!(found.average(TABLE) == expected.average(TABLE), "{storage}");
            let averaged = block_on(run.trainer.averaged()).expect("averages");
            let read = block_on(averaged.read(TABLE)).expect("a table");
            let error = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-4 * b.abs();
            assert!(read.iter().zip(&average).all(error), "{storage}");
        }
    }
}

/// The kernels that hardware adapters get, over parts of 256 rows, the last of 88.
#[test]
fn tiled_products_over_many_parts() {
    let build = |largest: u64| {
        let gpu = gpu_with_bindings(largest)?;
        let device_type = wgpu::DeviceType::DiscreteGpu;
        let info = wgpu::AdapterInfo { device_type, ..gpu.info.clone() };
        let gpu = Gpu::from_device(gpu.device.clone(), gpu.queue.clone(), info);
        let layer = Layer { rows: 600, cols: 256 };
        let builder = Trainer::builder(layer).optimizer(adamw()).telemetry_capacity(16);
        let mut trainer = block_on(builder.build(&gpu)).expect("a trainer");
        let batch = Batch::new().with("x", values(1, 12)).with("target", values(2, 768));
        for _ in 0..2 {
            block_on(trainer.step(&batch)).expect("a step");
        }
        assert!(block_on(trainer.telemetry()).expect("telemetry").iter().all(|step| step.applied));
        Some(Run { trainer, microbatches: 1 })
    };
    let (Some(whole), Some(parts)) = (build(128 << 20), build(256 * 1024)) else { return };
    assert_eq!(parts.parts("up.weight"), 3);
    assert_same_bits("256 rows", &parts.bits(), &whole.bits());
}

/// x (3, 4) to `cols` columns, up to `rows` and back down, both weights in parts; a bias, an
/// activation, and a product that is no linear layer.
struct Layer {
    rows: usize,
    cols: usize,
}

impl Model for Layer {
    fn build(&self, graph: &mut Graph) -> ModelOutput {
        let x = graph.input("x", Shape::real([3, 4]));
        let target = graph.input("target", Shape::real([3, self.cols]));
        let init = Init::Uniform { low: -0.3, high: 0.3 };
        let narrow = graph.parameter("narrow.weight", [self.cols, 4], init);
        let up = graph.parameter("up.weight", [self.rows, self.cols], init);
        let bias = graph.parameter("up.bias", [self.rows], init);
        let down = graph.parameter("down.weight", [self.rows, self.cols], init);
        let x = graph.linear(x, narrow, None, Activation::None);
        let hidden = graph.linear(x, up, Some(bias), Activation::GeluTanh);
        // The sum of a product runs over the parts.
        let y = graph.matmul(hidden, down);
        let loss = graph.mean_squared_error(y, target);
        ModelOutput { loss, prediction: y }
    }
}

/// Parts that end at any multiple of 4 rows, and so within partial sums: gradients against f64.
#[test]
fn layers_whose_weights_lie_in_parts() {
    let [Some(whole), Some(parts)] = [128 << 20, 16_384].map(gpu_with_bindings) else { return };
    // 8 rows fit, and 6, so 4.
    for cols in [512, 640] {
        let layer = || Layer { rows: 30, cols };
        let batch = Batch::new().with("x", values(1, 12)).with("target", values(2, 3 * cols));
        let mut found = Vec::new();
        for gpu in [&whole, &parts] {
            let builder = Trainer::builder(layer()).telemetry_capacity(16);
            let mut trainer = block_on(builder.build(gpu)).expect("a trainer");
            let names: Vec<_> = trainer.parameters().names().map(str::to_owned).collect();
            let read = |name: &String| block_on(trainer.parameters().read(name)).expect("values");
            let start: Vec<_> = names.iter().map(read).collect();
            block_on(trainer.step(&batch)).expect("a step");
            let gradient = |name: &String| block_on(trainer.gradient(name)).expect("a gradient");
            let gradients: Vec<_> = names.iter().map(gradient).collect();
            found.push((names, start, gradients));
        }
        let (names, start, gradients) = &found[1];
        assert!(start == &found[0].1, "initial values");
        let mut graph = Graph::new(Phase::Train);
        let loss = layer().build(&mut graph).loss;
        graph.backward(loss, 1.0);
        let mut data = HostData::default();
        let leaves = [("x", values(1, 12)), ("target", values(2, 3 * cols))];
        for (name, dense) in leaves
            .into_iter()
            .map(|(n, v)| (n.to_owned(), v))
            .chain(names.iter().cloned().zip(start.iter().cloned()))
        {
            data.values.insert(name, support::wide(&dense));
        }
        let expected = graph.evaluated_gradients(&graph.evaluate(&data));
        for ((name, gradient), expected) in names.iter().zip(gradients).zip(&expected) {
            let largest = expected.iter().fold(0f64, |a, b| a.max(b.abs()));
            let tolerance = support::Tolerance {
                absolute: 1e-5 * largest,
                relative: 0.0,
                because: "sums of some hundred terms in f32, beside the largest element",
            };
            support::assert_close(name, gradient, expected, tolerance);
        }
    }
}

/// A table of positions of which the model uses the first few.
#[test]
fn learned_positions_in_parts() {
    let config = GptConfig::gpt2(27, VOCABULARY, 1, 2, 32);
    let Some(devices) = devices() else { return };
    let mut runs: Vec<_> = devices
        .iter()
        .map(|gpu| {
            let builder = Trainer::builder(model(config.clone())).optimizer(adamw());
            let mut run = Run::new(gpu, builder.accumulation(2));
            let ids = |seed| tokens(seed, 16, 27);
            let batch = Batch::new().with("tokens", ids(1)).with("targets", ids(2));
            for _ in 0..3 {
                block_on(run.trainer.step(&batch)).expect("a step");
            }
            run
        })
        .collect();
    assert_eq!(runs[2].parts("position_embedding.weight"), 4);
    let expected = runs.remove(0).bits();
    for run in &runs {
        assert_same_bits("positions", &run.bits(), &expected);
    }
}

/// Rules that work element by element do with parts what they do with the whole.
#[test]
fn optimizers_that_need_no_whole_tensor() {
    fn check(what: &str, optimizer: impl Fn() -> Boxed) {
        compare(what, || Trainer::builder(model(config())).optimizer(optimizer()));
    }
    check("Adam", || Boxed(Box::new(Adam { learning_rate: 1e-2, ..Adam::default() })));
    check("AdamAtan2", || Boxed(Box::new(AdamAtan2::default())));
    check("Lion", || Boxed(Box::new(Lion::default())));
    check("Sgd", || Boxed(Box::new(Sgd { learning_rate: 0.1, momentum: 0.9, ..Sgd::default() })));
    // Table and head go by AdamW, in parts, the hidden matrices are whole.
    check("Muon", || Boxed(Box::new(Muon::default())));
}

/// Any optimizer, as one type.
#[derive(Debug)]
struct Boxed(Box<dyn evenkeel::train::Optimizer>);

impl evenkeel::train::Optimizer for Boxed {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn squares(&self) -> &'static [&'static str] {
        self.0.squares()
    }

    fn moment_shares(
        &self,
        tensors: &[evenkeel::train::optimizers::SegmentTensor<'_>],
    ) -> Vec<Vec<evenkeel::train::optimizers::MomentShare>> {
        self.0.moment_shares(tensors)
    }

    fn rule(
        &self,
        recorder: &mut evenkeel::record::Recorder<'_>,
        segment: &evenkeel::train::optimizers::Segment<'_>,
    ) -> evenkeel::train::optimizers::Rule {
        self.0.rule(recorder, segment)
    }

    fn eps(&self) -> Option<f64> {
        self.0.eps()
    }

    fn moments(&self) -> &'static [&'static str] {
        self.0.moments()
    }

    fn moment_bytes(&self, tensors: &[evenkeel::train::optimizers::SegmentTensor<'_>]) -> Vec<u64> {
        self.0.moment_bytes(tensors)
    }

    fn learning_rate(&self) -> f64 {
        self.0.learning_rate()
    }

    fn betas(&self) -> [f64; 2] {
        self.0.betas()
    }

    fn validate(&self) -> evenkeel::Result<()> {
        self.0.validate()
    }

    fn takes_parts(&self, spec: &evenkeel::graph::ParameterSpec) -> bool {
        self.0.takes_parts(spec)
    }

    fn record(
        &self,
        recorder: &mut evenkeel::record::Recorder<'_>,
        segment: &evenkeel::train::optimizers::Segment<'_>,
    ) {
        self.0.record(recorder, segment);
    }
}

#[track_caller]
fn refused<M: Model>(gpu: &Gpu, builder: TrainerBuilder<M>, says: &[&str]) {
    let error = block_on(builder.build(gpu)).err().expect("an error");
    let text = error.to_string();
    for part in says {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// What needs the whole of a tensor says so, and what to do.
#[test]
fn what_needs_the_whole_tensor_is_refused() {
    let Some([whole, parts, _]) = devices() else { return };
    let builder = || Trainer::builder(model(config()));
    let cautious = || AdamW { cautious: true, ..AdamW::default() };
    let all_hidden = || Muon { hidden: |_| true, ..Muon::default() };
    let says = [TABLE, "lies in parts", "take AdamW", "larger bindings"];
    refused(parts, builder().optimizer(StableAdamW::default()), &["StableAdamW", says[0], says[1]]);
    refused(parts, builder().optimizer(Adafactor::default()), &["Adafactor", says[2], says[3]]);
    refused(parts, builder().optimizer(cautious()), &["cautious: true", says[0]]);
    let lion = Lion { cautious: true, ..Lion::default() };
    refused(parts, builder().optimizer(lion), &["Lion", says[0]]);
    refused(parts, builder().optimizer(all_hidden()), &["Muon", says[0], "hidden"]);
    for optimizer in [
        Boxed(Box::new(StableAdamW::default())),
        Boxed(Box::new(Adafactor::default())),
        Boxed(Box::new(cautious())),
    ] {
        block_on(builder().optimizer(optimizer).build(whole)).expect("whole tensors");
    }
    // A projection of 3 * 80 rows of 80 columns.
    let clip = GptConfig { qk_clip: Some(QkClip::default()), ..GptConfig::gpt2(27, 8, 1, 2, 80) };
    let says = ["blocks.0.attention", "lies in parts", "QK-norm"];
    refused(parts, Trainer::builder(model(clip.clone())), &says);
    block_on(Trainer::builder(model(clip)).build(whole)).expect("whole tensors");
}

/// Graphs that read a parameter in parts where nothing can.
#[test]
fn operations_that_read_no_parts_are_named() {
    let Some([_, parts, _]) = devices() else { return };
    let by_row = |graph: &mut Graph| {
        let table = graph.parameter("table", [VOCABULARY, 32], Init::GPT2);
        let targets = graph.tokens("targets", [VOCABULARY], 32);
        let loss = graph.cross_entropy(table, targets, Default::default());
        ModelOutput { loss, prediction: loss }
    };
    let says = ["cross_entropy", "the parameter table", "lies in parts", "linear layers"];
    refused(parts, Trainer::builder(by_row), &says);
}

/// Logits that do not fit say which batch would.
#[test]
fn logits_over_the_limit() {
    let Some([_, _, third]) = devices() else { return };
    let gpt = Gpt::new(config()).expect("valid");
    let whole = move |graph: &mut Graph| {
        let [ids, targets] =
            ["tokens", "targets"].map(|name| graph.tokens(name, [2, 8], VOCABULARY));
        let prediction = gpt.logits(graph, ids);
        let loss = graph.cross_entropy(prediction, targets, Default::default());
        ModelOutput { loss, prediction }
    };
    let builder = Trainer::builder(whole);
    refused(third, builder, &["(2, 8, 1000)", "12 rows fit", "lower the batch", "accumulate"]);
}

/// Logits that no binding holds are computed some rows at a time, of a head in parts too: 72 rows of
/// 300 columns, where 64 fit.
#[test]
fn logits_in_chunks_of_a_head_in_parts() {
    const LARGEST: u64 = 64 * 300 * 4;
    let [Some(all), Some(small)] = [128 << 20, LARGEST].map(gpu_with_bindings) else { return };
    let [ids, targets] = [1, 2].map(|seed| tokens(seed, 72, 300));
    let batch = Batch::new().with("tokens", ids).with("targets", targets);
    for tied_head in [true, false] {
        let mut found = Vec::new();
        for gpu in [&all, &small] {
            let small = GptConfig { kv_heads: 1, hidden: 32, ..GptConfig::gpt2(300, 8, 1, 3, 72) };
            let config = GptConfig { tied_head, logits_budget: LARGEST, ..small };
            let gpt = Gpt::new(config).expect("valid");
            let model = LanguageModel { gpt, batch: 9, time: 8 };
            let mut run = Run::new(gpu, Trainer::builder(model).optimizer(adamw()));
            for _ in 0..3 {
                block_on(run.trainer.step(&batch)).expect("a step");
            }
            let name = if tied_head { TABLE } else { "head.weight" };
            assert_eq!(run.parts(name) > 1, gpu.largest_binding() == LARGEST);
            let names = run.trainer.dispatches().map(|dispatch| dispatch.name);
            assert_eq!(names.filter(|&name| name == "cross_entropy").count(), 2);
            found.push(run.bits());
        }
        assert_same_bits("in chunks", &found[1], &found[0]);
    }
}

/// What policies and telemetry say of a tensor they say of all its parts together.
#[test]
fn policies_and_telemetry_join_parts() {
    let Some(devices) = devices() else { return };
    let build = || {
        let trainer = Trainer::builder(model(config())).optimizer(adamw()).watch_tensors(1);
        let trainer = trainer.policy(ClipBlockRms { threshold: 1e-3 }).policy(AdaGc::default());
        trainer.policy(AdaptiveGradientClip { clipping: 0.05, eps: 1e-3 }).clip(Clip::Norm(0.1))
    };
    let runs = devices.iter().map(|gpu| {
        let mut run = Run::new(gpu, build());
        let steps = run.steps(0..1);
        (block_on(run.trainer.tensor_telemetry()).expect("records"), steps, run)
    });
    let mut runs: Vec<_> = runs.collect();
    let (expected, expected_steps, whole) = runs.remove(0);
    for (records, steps, run) in &runs {
        assert_eq!(records.len(), expected.len());
        for (a, b) in records.iter().zip(&expected) {
            let is_in_parts = run.parts(&a.name) > 1;
            assert_eq!((a.step, &a.name), (b.step, &b.name));
            assert_near(&a.name, a.gradient_norm, b.gradient_norm);
            assert_near(&a.name, a.weight_rms, b.weight_rms);
            assert!((a.update_rms - b.update_rms).abs() < 1e-5 * b.update_rms, "{a:?} {b:?}");
            assert_eq!((a.zero_count, a.nonfinite_count), (b.zero_count, b.nonfinite_count));
            assert!((a.frozen_share - b.frozen_share).abs() < 1e-3, "{a:?} {b:?}");
            assert_eq!(a.eps_share, b.eps_share.filter(|_| !is_in_parts));
        }
        for (a, b) in steps.iter().zip(&expected_steps) {
            assert_near("loss", a.loss.into(), b.loss.into());
            assert_near("norm", a.gradient_norm.into(), b.gradient_norm.into());
        }
        assert_eq!(run.parts(TABLE) + whole.parts(TABLE), run.parts(TABLE) + 1);
    }
    let norms = |records| group_norms(records, |_| "all")["all"];
    assert_near("all", norms(&runs[0].0), norms(&expected));
}

/// Values are looked at part by part and told about as one.
#[test]
fn diagnosis_of_parts() {
    let Some(devices) = devices() else { return };
    let mut found = Vec::new();
    for gpu in devices {
        let mut run = Run::new(gpu, Trainer::builder(model(config())));
        let clean = block_on(run.trainer.diagnose(&batch(1, 1))).expect("a diagnosis");
        assert!(clean.first_fault().is_none());
        let all = clean.values.iter().map(|value| {
            (value.label.clone(), value.largest, value.zero_count, value.subnormal_count)
        });
        let all: Vec<_> = all.collect();
        // Row 700 lies in the second part.
        let (first, part) = run
            .trainer
            .parameters()
            .find(TABLE)
            .expect("a table")
            .parts()
            .into_iter()
            .rfind(|(first, _)| *first <= 700)
            .expect("a part");
        let at = part.offset + ((700 - first) * 32 + 5) as u64 * 4;
        gpu.write(&part.buffer, at, &f32::NAN.to_le_bytes());
        let faulty = block_on(run.trainer.diagnose(&batch(1, 1))).expect("a diagnosis");
        let fault = faulty.first_fault().expect("a fault");
        assert_eq!((fault.kind, &*fault.label), (ValueKind::Parameter, TABLE));
        assert_eq!((fault.nonfinite_count, fault.first_position()), (1, Some(vec![700, 5])));
        found.push(all);
    }
    assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{found:?}");
}

/// Graphs that only run forward, over parameters in parts.
#[test]
fn prediction_and_generation_from_parts() {
    let Some(devices) = devices() else { return };
    let mut found = Vec::new();
    for gpu in devices {
        let run = Run::new(gpu, Trainer::builder(model(config())));
        let parameters = run.trainer.parameters();
        let gpt = &run.trainer.model().gpt;
        let build = |graph: &mut Graph| -> Vec<Value> {
            let ids = graph.tokens("tokens", [1, 8], VOCABULARY);
            let logits = gpt.logits(graph, ids);
            let table = graph.parameter(TABLE, [VOCABULARY, 32], Init::GPT2);
            vec![logits, table]
        };
        let predictor = block_on(Predictor::new(gpu, parameters, build)).expect("a predictor");
        let ids = batch(1, 1);
        let outputs = block_on(predictor.run(&ids)).expect("outputs");
        assert_eq!(outputs[1], block_on(parameters.read(TABLE)).expect("a table"));
        assert_eq!(outputs[1], {
            let slot = parameters.find(TABLE).expect("a table");
            assert_eq!(slot.shape.with(Element::F32).count(), 32 * VOCABULARY);
            block_on(read_slot(gpu, &slot)).expect("a table")
        });
        let generator = block_on(Generator::new(gpu, parameters, gpt)).expect("a generator");
        let sampling = Sampling::default();
        let text = block_on(generator.generate(&[999, 512], 5, &sampling, |_| {}));
        found.push((outputs, text.expect("tokens")));
    }
    assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "another result in parts");
}

/// A generator needs no room for the logits of its whole context.
#[test]
fn generation_where_the_logits_of_the_context_do_not_fit() {
    let Some([whole, _, third]) = devices() else { return };
    let config = GptConfig { context: 64, ..config() };
    let gpt = Gpt::new(config).expect("valid");
    let make = |gpu: &Gpu| {
        let mut graph = Graph::new(Phase::Evaluate);
        let ids = graph.tokens("tokens", [1, 8], VOCABULARY);
        gpt.logits(&mut graph, ids);
        block_on(Parameters::new(gpu, &graph, 3)).expect("parameters")
    };
    let parameters = make(third);
    let generator = block_on(Generator::new(third, &parameters, &gpt)).expect("a generator");
    let ids = tokens(5, 64, VOCABULARY as u32);
    let build = |graph: &mut Graph| {
        let ids = graph.tokens("tokens", [1, 64], VOCABULARY);
        vec![gpt.logits(graph, ids)]
    };
    let same = make(whole);
    let predictor = block_on(Predictor::new(whole, &same, build)).expect("a predictor");
    let batch = Batch::new().with("tokens", &ids[..]);
    let all = &block_on(predictor.run(&batch)).expect("logits")[0];
    let beside = block_on(Generator::new(whole, &same, &gpt)).expect("a generator");
    for length in [1, 40, 64] {
        let [found, beside] = [&generator, &beside]
            .map(|generator| block_on(generator.logits(&ids[..length])).expect("logits"));
        assert!(found == beside, "{length} tokens in parts");
        let expected = wide(&all[(length - 1) * VOCABULARY..][..VOCABULARY]);
        let because = "attention to a cache adds up in another order, in f32";
        let tolerance = Tolerance { absolute: 1e-5, relative: 1e-5, because };
        assert_close(&format!("{length} tokens"), &found, &expected, tolerance);
    }
}

#[test]
fn writing_reaches_all_parts_or_none() {
    let Some(devices) = devices() else { return };
    let run = Run::new(&devices[2], Trainer::builder(model(config())));
    let written = values(9, 32 * VOCABULARY);
    run.trainer.parameters().write(TABLE, &written).expect("written");
    assert_eq!(block_on(run.trainer.parameters().read(TABLE)).expect("a table"), written);
    let mut bad = written.clone();
    bad[32 * 990] = f32::INFINITY;
    bad[0] = 5.0;
    let error = run.trainer.parameters().write(TABLE, &bad).expect_err("not finite");
    assert!(matches!(error, Error::NonFinite { index: 31_680, .. }), "{error}");
    assert_eq!(block_on(run.trainer.parameters().read(TABLE)).expect("a table"), written);
}

/// GPT-2's own table, 50,257 x 768 in f32: 154 MB, where bindings end at 128 MiB as they do by
/// WebGPU's default. It is built and trained. SwiftShader would take more than a minute: there the
/// columns and the bindings are a 32nd of that.
#[test]
fn the_vocabulary_of_gpt2() {
    let Some(adapter) = support::gpu() else { return };
    let is_slow = adapter.info.name.contains("SwiftShader");
    let (width, heads, largest) = if is_slow { (24, 6, 4 << 20) } else { (768, 12, 128 << 20) };
    let Some(gpu) = gpu_with_bindings(largest) else { return };
    let vocabulary = 50_257;
    let config = GptConfig { hidden: 64, ..GptConfig::gpt2(vocabulary, 4, 1, heads, width) };
    let gpt = Gpt::new(config).expect("valid");
    let builder = Trainer::builder(LanguageModel { gpt, batch: 1, time: 4 }).optimizer(adamw());
    let mut trainer = block_on(builder.telemetry_capacity(4).build(&gpu)).expect("a trainer");
    let table = trainer.parameters().find(TABLE).expect("a table");
    assert_eq!(table.parts().iter().map(|(first, _)| *first).collect::<Vec<_>>(), [0, 43_520]);
    let (ids, targets) = ([0u32, 50_256, 43_519, 43_520], [43_520u32, 0, 50_256, 7]);
    let batch = Batch::new().with("tokens", &ids[..]).with("targets", &targets[..]);
    for _ in 0..2 {
        block_on(trainer.step(&batch)).expect("a step");
    }
    let steps = block_on(trainer.telemetry()).expect("telemetry");
    assert!(steps.iter().all(|step| step.applied), "{steps:?}");
    // A guess at the start, and less after a step on the same batch.
    assert!((steps[0].loss - (vocabulary as f32).ln()).abs() < 0.5, "{steps:?}");
    assert!(steps[1].loss < steps[0].loss - 0.1, "{steps:?}");
}

/// A frozen table whose blocks no binding holds: each part has words and scales of its own. The table
/// is looked up in, and is the head, of which the gradient of x is a sum over the parts.
#[test]
fn a_table_in_blocks_lies_in_parts() {
    let Some([whole, half, _]) = devices() else { return };
    for logits_budget in [512 << 20, 1] {
        let config = GptConfig {
            base_format: Some(BlockFormat::Q8_0),
            lora: Some(Lora::new(4, 8.0, Targets::named(["c_attn"]))),
            logits_budget,
            ..GptConfig::gpt2(2000, 8, 1, 2, 32)
        };
        let builder = || Trainer::builder(model(config.clone()));
        let [mut one, mut two] = [whole, half].map(|gpu| Run::new(gpu, builder()));
        let table = "token_embedding.weight";
        assert_eq!((one.parts(table), two.parts(table)), (1, 2));
        assert_same_bits("initial values", &one.bits(), &two.bits());
        let blocks = |run: &Run<_>| block_on(run.trainer.parameters().read_blocks(table));
        let (format, mut bytes) = blocks(&one).expect("in blocks");
        // Numbers that differ from row to row, and scales too.
        let drawn: Vec<_> = values(5, 64_000).iter().map(|x| 0.4 * x).collect();
        let drawn = format.encode(&drawn);
        bytes.copy_from_slice(&drawn);
        for run in [&one, &two] {
            run.trainer.parameters().write_blocks(table, &bytes).expect("written");
            assert!(blocks(run).expect("in blocks").1 == bytes);
        }
        for (a, b) in one.steps(0..3).iter().zip(two.steps(0..3)) {
            assert!(a.applied && a.gradient_norm > 0.0);
            assert_eq!(a.loss.to_bits(), b.loss.to_bits());
            assert_eq!(a.gradient_norm.to_bits(), b.gradient_norm.to_bits());
        }
        assert_same_bits("a table in blocks", &two.bits(), &one.bits());
        let checkpoint = block_on(two.trainer.checkpoint()).expect("a checkpoint");
        let mut other = Run::new(whole, builder());
        block_on(other.trainer.restore(&checkpoint)).expect("restored");
        assert!(blocks(&other).expect("in blocks").1 == bytes);
        assert_same_bits("from parts to a whole", &other.bits(), &one.bits());
    }
}
