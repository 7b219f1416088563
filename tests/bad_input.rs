//! What a user can get wrong: each mistake is one error that names the offender and the way out,
//! and leaves everything as it was.

mod support;

use std::process::Command;
use std::sync::OnceLock;

use evenkeel::graph::ops::CrossEntropy;
use evenkeel::graph::{Graph, Phase, Shape};
use evenkeel::kernels::Activation;
use evenkeel::nn::{
    FeedForwardKind, Gpt, GptConfig, Init, LanguageModel, LayerKind, Positions, QkClip, QkNorm,
    Rotary, RotaryScaling,
};
use evenkeel::plan::Parameters;
use evenkeel::train::{
    Adam, AdamW, Batch, Clip, IGNORE, Model, ModelOutput, Optimizer, Schedule, Sgd, Trainer,
    TrainerBuilder,
};
use evenkeel::{Error, Gpu};
use support::models::{Terms, small_gpt, small_gpt_batch};
use support::{Exclusive, block_on, tokens};

#[track_caller]
fn assert_says(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[track_caller]
fn refused<M: Model>(gpu: &Gpu, builder: TrainerBuilder<M>) -> Error {
    block_on(builder.build(gpu)).err().expect("an error")
}

const CHILD: &str = "EVENKEEL_TEST_WITHOUT_DRIVER";

/// Runs itself once more, in a process that finds no driver.
#[test]
#[cfg(target_os = "linux")]
fn no_adapter() {
    if std::env::var_os(CHILD).is_some() {
        match block_on(Gpu::new()) {
            Ok(gpu) => println!("found {:?}", gpu.info.name),
            Err(error) => println!("{error:?}\n{error}"),
        }
        return;
    }
    let mut child = Command::new(std::env::current_exe().expect("this program"));
    child.args(["--exact", "no_adapter", "--nocapture"]).env(CHILD, "1");
    for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES", "VK_ADD_DRIVER_FILES"] {
        child.env(variable, "/nonexistent/driver.json");
    }
    child.env("WGPU_BACKEND", "vulkan").env_remove("WGPU_ADAPTER_NAME");
    let output = child.output().expect("a child process");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    for part in ["NoAdapter", "no GPU adapter found", "mesa-vulkan-drivers", "WGPU_BACKEND"] {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// The largest binding of a device that is made small for these tests.
const LARGEST: u64 = 64 << 10;

fn small_device() -> Option<Exclusive> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    let gpu = GPU.get_or_init(|| support::gpu_with_bindings(LARGEST));
    gpu.clone().map(Exclusive::new)
}

fn gpt(vocabulary: usize, batch: usize) -> LanguageModel {
    let gpt = Gpt::new(GptConfig::gpt2(vocabulary, 8, 1, 2, 32)).expect("valid");
    LanguageModel { gpt, batch, time: 8 }
}

/// A tensor of rows lies in parts where it must; a vector has none to divide it by.
#[test]
fn a_vector_over_the_limit() {
    let Some(gpu) = small_device() else { return };
    let model = |graph: &mut Graph| {
        let vector = graph.parameter("vector", [1, 32_000], Init::ZERO);
        let x = graph.input("x", Shape::real([1, 1]));
        let y = graph.matmul(x, vector);
        let y = graph.matmul_transposed_b(y, vector);
        ModelOutput { loss: graph.mean_squared_error(y, x), prediction: y }
    };
    let before = gpu.counters();
    let error = refused(&gpu, Trainer::builder(model));
    let Error::Limit { needed, available, .. } = error else { panic!("{error}") };
    assert_eq!((needed, available), (128_000, LARGEST));
    let limit = "maxStorageBufferBindingSize";
    assert_says(&error, &["parameter vector", "(1, 32000)", limit, "first dimension", "smaller"]);
    assert_eq!(gpu.counters(), before, "something was allocated or run");
}

#[test]
fn a_batch_over_the_limit() {
    let Some(gpu) = small_device() else { return };
    // Logits of (8, 8, 500) are 128,000 bytes, and no fewer than 64 rows are computed at a time.
    let error = refused(&gpu, Trainer::builder(gpt(500, 8)));
    let Error::Limit { needed, available, .. } = error else { panic!("{error}") };
    assert_eq!((needed, available), (128_000, LARGEST));
    assert_says(
        &error,
        &["(64, 500)", "at this width 32 rows fit", "lower the batch", "accumulate"],
    );
    let fits = block_on(Trainer::builder(gpt(500, 4)).build(&gpu));
    assert!(fits.is_ok(), "{fits:?}");
}

/// A linear layer over an input or a constant that is itself the largest tensor.
fn wide_leaf(constant: bool) -> impl Fn(&mut Graph) -> ModelOutput {
    move |graph: &mut Graph| {
        let shape = Shape::real([2000, 16]);
        let x = if constant {
            graph.constant("x", shape, &vec![0.5; 32_000])
        } else {
            graph.input("x", shape)
        };
        let weight = graph.parameter("weight", [4, 16], Init::LINEAR);
        let y = graph.linear(x, weight, None, Activation::None);
        let target = graph.constant("target", Shape::real([2000, 4]), &vec![1.0; 8000]);
        let loss = graph.mean_squared_error(y, target);
        ModelOutput { loss, prediction: y }
    }
}

#[test]
fn an_input_or_constant_over_the_limit() {
    let Some(gpu) = small_device() else { return };
    for constant in [false, true] {
        let error = refused(&gpu, Trainer::builder(wide_leaf(constant)));
        assert!(matches!(error, Error::Limit { needed: 128_000, .. }), "{error}");
        assert_says(&error, &["x of shape (2000, 16)", "1024 rows fit"]);
    }
}

/// A trainer, and what it must be after a refused step.
struct Guarded {
    gpu: Exclusive,
    trainer: Trainer<LanguageModel>,
}

/// A trainer that made one step.
fn started(gpu: &Gpu, microbatches: usize) -> Trainer<LanguageModel> {
    let builder = Trainer::builder(small_gpt(0.0, 2)).accumulation(microbatches);
    let mut trainer = block_on(builder.build(gpu)).expect("a trainer");
    block_on(trainer.step(&small_gpt_batch(1, 2 * microbatches))).expect("a step");
    trainer
}

impl Guarded {
    fn new(microbatches: usize) -> Option<Self> {
        let gpu = support::exclusive_gpu()?;
        let trainer = started(&gpu, microbatches);
        Some(Self { gpu, trainer })
    }

    /// The error of a batch; asserts that nothing happened.
    fn refuse(&mut self, batch: &Batch) -> Error {
        let bytes = block_on(self.trainer.committed_bytes()).expect("committed bytes");
        let (before, steps) = (self.gpu.counters(), self.trainer.steps());
        let error = block_on(self.trainer.step(batch)).expect_err("a bad batch");
        assert_eq!(self.gpu.counters(), before, "{error}: something was run");
        assert_eq!(self.trainer.steps(), steps, "{error}");
        let after = block_on(self.trainer.committed_bytes()).expect("committed bytes");
        assert!(bytes == after, "{error}: a committed byte changed");
        error
    }

    /// Asserts that training goes on as in a run that saw no bad batch.
    fn finish(mut self) {
        let microbatches = self.trainer.microbatches();
        let mut control = started(&self.gpu, microbatches);
        for trainer in [&mut self.trainer, &mut control] {
            block_on(trainer.step(&small_gpt_batch(2, 2 * microbatches))).expect("a good step");
        }
        let telemetry = block_on(self.trainer.telemetry()).expect("telemetry");
        assert_eq!(telemetry.len(), 2);
        assert!(telemetry.iter().all(|record| record.applied));
        assert_eq!(telemetry, block_on(control.telemetry()).expect("telemetry"));
        let [bytes, expected] = [&self.trainer, &control]
            .map(|trainer| block_on(trainer.committed_bytes()).expect("committed bytes"));
        assert!(bytes == expected, "the run differs from one without bad batches");
    }
}

#[test]
fn bad_batches() {
    for microbatches in [1, 2] {
        let Some(mut guarded) = Guarded::new(microbatches) else { return };
        let count = 16 * microbatches;
        let ids = |count| tokens(1, count, 27);
        let batch = |tokens: Vec<u32>, targets: Vec<u32>| {
            Batch::new().with("tokens", tokens).with("targets", targets)
        };

        for wrong in [0, 1, count - 1, count + 1, 16 * (3 - microbatches)] {
            let error = guarded.refuse(&batch(ids(wrong), ids(count)));
            let (expected, actual) = (count.to_string(), format!("{wrong} elements"));
            assert_says(&error, &["input \"tokens\"", &expected, &actual, "(2, 8)"]);
        }
        let error = guarded.refuse(&batch(ids(count), ids(count - 8)));
        assert_says(&error, &["input \"targets\" has"]);

        for (position, token) in [(0, 27), (count - 1, 1000), (3, u32::MAX - 1)] {
            let mut bad = ids(count);
            bad[position] = token;
            let named = format!("holds {token} at position {position}; ids must be below 27");
            let error = guarded.refuse(&batch(bad.clone(), ids(count)));
            assert_says(&error, &["input \"tokens\"", &named]);
            let error = guarded.refuse(&batch(ids(count), bad));
            assert_says(&error, &["input \"targets\"", &named]);
        }

        let real = Batch::new().with("tokens", vec![1.0f32; count]).with("targets", ids(count));
        let error = guarded.refuse(&real);
        assert_says(&error, &["input \"tokens\" holds real numbers", "expects tokens (u32)"]);

        let error = guarded.refuse(&Batch::new().with("token", ids(count)).with("target", ids(1)));
        assert_says(&error, &["\"tokens\"", "known: token, target"]);
        let error = guarded.refuse(&Batch::new().with("tokens", ids(count)));
        assert_says(&error, &["\"targets\"", "known: tokens"]);
        guarded.finish();
    }
}

/// Only targets may be ignored: a token that is looked up has to be in the table.
#[test]
fn the_ignored_target_is_no_token() {
    let Some(mut guarded) = Guarded::new(1) else { return };
    let mut ids = tokens(1, 16, 27);
    ids[5] = IGNORE;
    let bad = Batch::new().with("tokens", ids.clone()).with("targets", tokens(2, 16, 27));
    let error = guarded.refuse(&bad);
    assert_says(&error, &["input \"tokens\" holds 4294967295 at position 5", "below 27"]);
    let good = Batch::new().with("tokens", tokens(2, 16, 27)).with("targets", ids);
    block_on(guarded.trainer.step(&good)).expect("an ignored target");
    assert!(block_on(guarded.trainer.telemetry()).expect("telemetry")[1].applied);
}

#[test]
fn real_inputs_of_the_wrong_kind() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    let model = Terms::three();
    let mut trainer = block_on(Trainer::builder(model.clone()).build(&gpu)).expect("a trainer");
    let data = model.data(1, 1);
    let wrong = Batch::new().with("factor0", vec![1u32; 15]);
    let error = block_on(trainer.step(&wrong)).expect_err("tokens for numbers");
    assert_says(&error, &["input \"factor0\" holds tokens (u32)", "expects real numbers (f32)"]);
    let mut short = data.clone();
    short.targets[2].pop();
    let error = block_on(trainer.step(&short.batch())).expect_err("a short input");
    assert_says(&error, &["input \"target2\" has 6 elements", "7", "(7)"]);
    block_on(trainer.step(&data.batch())).expect("a good step");
}

#[test]
fn evaluation_checks_its_batch_too() {
    let Some(mut guarded) = Guarded::new(2) else { return };
    // One microbatch, not two.
    let error = block_on(guarded.trainer.evaluate(&small_gpt_batch(1, 4))).expect_err("too long");
    assert_says(&error, &["input \"tokens\" has 32 elements", "16"]);
    let loss = block_on(guarded.trainer.evaluate(&small_gpt_batch(1, 2))).expect("a loss");
    assert!(loss.is_finite());
    guarded.finish();
}

fn one_parameter(name: &'static str, init: Init) -> impl Fn(&mut Graph) -> ModelOutput {
    move |graph: &mut Graph| {
        let good = graph.parameter("good", [3, 5], Init::ONE);
        let other = graph.scope("blocks.3", |graph| graph.parameter(name, [3, 5], init));
        let loss = graph.mean_squared_error(good, other);
        ModelOutput { loss, prediction: loss }
    }
}

#[test]
fn initial_parameters_that_are_not_finite() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let model = one_parameter("weight", Init::Constant(bad));
        let error = refused(&gpu, Trainer::builder(model));
        let value = format!("holds {bad} at index 0");
        assert_says(&error, &["initial value of parameter blocks.3.weight", &value, "initialiser"]);
    }
    // Written there by other means than `Parameters::write`, in the last element.
    let model = small_gpt(0.0, 2);
    let mut graph = Graph::new(Phase::Train);
    model.build(&mut graph);
    let parameters = block_on(Parameters::new(&gpu, &graph, 1)).expect("parameters");
    let slot = parameters.find("norm.bias").expect("a bias");
    gpu.write(&slot.buffer, slot.offset + 28, bytemuck::bytes_of(&f32::NAN));
    let copy = block_on(parameters.copy()).expect("a copy");
    let error = refused(&gpu, Trainer::builder(model.clone()).parameters(copy));
    assert_says(&error, &["initial value of parameter norm.bias", "holds NaN at index 7"]);
    parameters.write("norm.bias", &[0.0; 8]).expect("written");
    let trainer = block_on(Trainer::builder(model).parameters(parameters).build(&gpu));
    assert!(trainer.is_ok());
}

#[test]
fn parameters_written_wrongly() {
    let Some(guarded) = Guarded::new(1) else { return };
    let parameters = guarded.trainer.parameters();
    let bytes = block_on(guarded.trainer.committed_bytes()).expect("committed bytes");
    for (index, bad) in [(0, f32::NAN), (5, f32::INFINITY), (7, f32::NEG_INFINITY)] {
        let mut values = [0.5; 8];
        values[index] = bad;
        let error = parameters.write("norm.weight", &values).expect_err("not finite");
        let place = format!("holds {bad} at index {index}");
        assert_says(&error, &["new value of norm.weight", &place]);
    }
    let error = parameters.write("norm.weight", &[0.5; 9]).expect_err("too long");
    assert_says(&error, &["\"norm.weight\" has 9 elements", "8"]);
    let error = parameters.write("norm.wieght", &[0.5; 8]).expect_err("no such name");
    assert_says(&error, &["\"norm.wieght\"", "known: ", "norm.weight", "blocks.0.mlp.up.bias"]);
    let error = block_on(parameters.read("nothing")).expect_err("no such name");
    assert_says(&error, &["no parameter or state named \"nothing\"", "token_embedding.weight"]);
    let error = block_on(guarded.trainer.gradient("nothing")).expect_err("no such name");
    assert_says(&error, &["named \"nothing\"", "token_embedding.weight"]);
    let after = block_on(guarded.trainer.committed_bytes()).expect("committed bytes");
    assert!(bytes == after, "a committed byte changed");
    guarded.finish();
}

#[test]
fn parameters_of_another_model() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    let parameters = |width: usize, layers: usize| {
        let gpt = Gpt::new(GptConfig::gpt2(27, 8, layers, 2, width)).expect("valid");
        let mut graph = Graph::new(Phase::Train);
        LanguageModel { gpt, batch: 2, time: 8 }.build(&mut graph);
        block_on(Parameters::new(&gpu, &graph, 1)).expect("parameters")
    };
    let gpt = Gpt::new(GptConfig::gpt2(27, 8, 2, 2, 8)).expect("valid");
    let model = LanguageModel { gpt, batch: 2, time: 8 };
    let builder = || Trainer::builder(model.clone());
    let error = refused(&gpu, builder().parameters(parameters(8, 1)));
    assert_says(&error, &["no parameter named \"blocks.1.", "known: ", "blocks.0.norm1.weight"]);
    let error = refused(&gpu, builder().parameters(parameters(16, 2)));
    assert_says(&error, &["no parameter", "\"token_embedding.weight\""]);
    let trainer = block_on(builder().parameters(parameters(8, 2)).build(&gpu));
    assert!(trainer.is_ok());
}

/// An optimizer with one setting changed must be refused by that name.
#[track_caller]
fn assert_setting(gpu: &Gpu, optimizer: impl Optimizer + 'static, parts: &[&str]) {
    let builder = Trainer::builder(Terms::many(2)).optimizer(optimizer);
    assert_says(&refused(gpu, builder), parts);
}

#[test]
fn optimizer_settings_out_of_range() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    // The last is finite in f64 and not in f32.
    for bad in [-1e-3, f64::NAN, f64::INFINITY, 1e39] {
        let parts = |name| [name, "but must be finite and not negative"];
        let adamw = AdamW::default();
        assert_setting(&gpu, AdamW { learning_rate: bad, ..adamw }, &parts("learning_rate is"));
        assert_setting(&gpu, AdamW { eps: bad, ..adamw }, &parts("eps is"));
        assert_setting(&gpu, AdamW { weight_decay: bad, ..adamw }, &parts("weight_decay is"));
        let adam = Adam::default();
        assert_setting(&gpu, Adam { learning_rate: bad, ..adam }, &parts("learning_rate is"));
        assert_setting(&gpu, Adam { eps: bad, ..adam }, &parts("eps is"));
        assert_setting(&gpu, Adam { weight_decay: bad, ..adam }, &parts("weight_decay is"));
        let sgd = Sgd::default();
        assert_setting(&gpu, Sgd { learning_rate: bad, ..sgd }, &parts("learning_rate is"));
        assert_setting(&gpu, Sgd { weight_decay: bad, ..sgd }, &parts("weight_decay is"));
    }
    for bad in [-0.1, 1.0, 1.5, f64::NAN] {
        let parts = |name| [name, "but must be in [0, 1)"];
        let betas = [[bad, 0.999], [0.9, bad]];
        let [first, second] = betas.map(|betas| AdamW { betas, ..AdamW::default() });
        assert_setting(&gpu, first, &parts("beta1 is"));
        assert_setting(&gpu, second, &parts("beta2 is"));
        let [first, second] = betas.map(|betas| Adam { betas, ..Adam::default() });
        assert_setting(&gpu, first, &parts("beta1 is"));
        assert_setting(&gpu, second, &parts("beta2 is"));
        let sgd = Sgd::default();
        assert_setting(&gpu, Sgd { momentum: bad, ..sgd }, &parts("momentum is"));
        assert_setting(&gpu, Sgd { dampening: bad, ..sgd }, &parts("dampening is"));
    }
    let nesterov = Sgd { nesterov: true, ..Sgd::default() };
    let named = ["nesterov is true", "with momentum and without dampening"];
    assert_setting(&gpu, Sgd { momentum: 0.0, ..nesterov }, &named);
    assert_setting(&gpu, Sgd { dampening: 0.5, ..nesterov }, &named);
}

#[test]
fn training_settings_out_of_range() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    let builder = || Trainer::builder(Terms::many(2));
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        for clip in [Clip::Norm(bad), Clip::InfinityNorm(bad), Clip::Value(bad)] {
            let error = refused(&gpu, builder().clip(clip));
            let value = format!("clip threshold is {bad}");
            assert_says(&error, &[&value, "finite and above 0"]);
        }
    }
    let error = refused(&gpu, builder().accumulation(0));
    assert_says(&error, &["accumulation is 0", "at least 1"]);

    let linear = Schedule::Linear { warmup: 5, total: 4, final_factor: 0.0 };
    let cosine = Schedule::Cosine { warmup: 5, total: 4, final_factor: 0.0 };
    for schedule in [linear, cosine] {
        let error = refused(&gpu, builder().schedule(schedule));
        assert_says(&error, &["schedule total is 4", "at least the warm-up"]);
    }
    let error = refused(&gpu, builder().schedule(Schedule::Factors(vec![])));
    assert_says(&error, &["schedule factors is empty", "at least one"]);
    for bad in [-0.5, f64::NAN, f64::INFINITY, 1e42] {
        let error = refused(&gpu, builder().schedule(Schedule::Factors(vec![1.0, bad])));
        assert_says(&error, &["scheduled learning rate is", "finite and not negative"]);
        let cosine = Schedule::Cosine { warmup: 2, total: 9, final_factor: bad };
        let error = refused(&gpu, builder().schedule(cosine));
        assert_says(&error, &["scheduled learning rate is", "finite and not negative"]);
    }
}

#[test]
#[should_panic(expected = "a learning-rate factor of NaN")]
fn a_learning_rate_factor_that_is_not_finite() {
    let Some(gpu) = support::exclusive_gpu() else {
        panic!("a learning-rate factor of NaN: skipped")
    };
    let mut trainer = block_on(Trainer::builder(Terms::many(2)).build(&gpu)).expect("a trainer");
    trainer.set_learning_rate_factor(f32::NAN);
}

#[test]
fn gpt_settings_out_of_range() {
    let good = GptConfig::gpt2(27, 8, 2, 4, 32);
    let rotary =
        |base| GptConfig { positions: Positions::Rotary(Rotary::new(base)), ..good.clone() };
    let clip = |threshold, alpha| Some(QkClip { threshold, alpha });
    let cases: Vec<(GptConfig, &str)> = vec![
        (GptConfig { norm_eps: 0.0, ..good.clone() }, "norm_eps is 0, but must be above 0"),
        (
            GptConfig { soft_cap: Some(f32::INFINITY), ..good.clone() },
            "soft_cap is inf, but must be finite and above 0, or None",
        ),
        (
            GptConfig { logit_soft_cap: Some(-30.0), ..good.clone() },
            "logit_soft_cap is -30, but must be finite and above 0, or None",
        ),
        (
            GptConfig { qk_clip: clip(0.0, 0.5), ..good.clone() },
            "QK-clip threshold is 0, but must be in [1e-6, 1e30]",
        ),
        (
            GptConfig { qk_clip: clip(f32::NAN, 0.5), ..good.clone() },
            "QK-clip threshold is NaN, but must be in [1e-6, 1e30]",
        ),
        (
            GptConfig { qk_clip: clip(100.0, 1.5), ..good.clone() },
            "QK-clip alpha is 1.5, but must be in [0, 1]",
        ),
        (
            GptConfig {
                qk_clip: Some(QkClip::default()),
                qk_norm: Some(QkNorm::Rms),
                ..good.clone()
            },
            "qk_clip is Some, but must be None with qk_norm",
        ),
        (rotary(0.0), "rotary base is 0, but must be finite and above 0"),
        (
            GptConfig { loss: CrossEntropy { label_smoothing: 1.0, z_loss: 0.0 }, ..good.clone() },
            "label_smoothing is 1, but must be in [0, 1)",
        ),
        (
            GptConfig { loss: CrossEntropy { label_smoothing: 0.0, z_loss: -1.0 }, ..good.clone() },
            "z_loss is -1, but must be finite, at least 0",
        ),
        (GptConfig { vocabulary: 0, ..good.clone() }, "vocabulary is 0, but must be at least 1"),
        (GptConfig { context: 0, ..good.clone() }, "context is 0, but must be at least 1"),
        (GptConfig { layers: 0, ..good.clone() }, "layers is 0, but must be at least 1"),
        (GptConfig { heads: 0, ..good.clone() }, "heads is 0, but must be at least 1"),
        (GptConfig { kv_heads: 0, ..good.clone() }, "kv_heads is 0, but must be at least 1"),
        (GptConfig { width: 0, ..good.clone() }, "width is 0, but must be at least 1"),
        (GptConfig { hidden: 0, ..good.clone() }, "hidden is 0, but must be at least 1"),
        (GptConfig { heads: 5, ..good.clone() }, "width is 32, but must be a multiple of heads"),
        (GptConfig { kv_heads: 3, ..good.clone() }, "kv_heads is 3, but must be a divisor"),
        (GptConfig { width: 24, ..good.clone() }, "width / heads is 6, but must be a multiple"),
        (GptConfig { width: 2048, ..good.clone() }, "width / heads is 512, but must be"),
        (
            GptConfig { width: 16, ..rotary(1e4) },
            "width / heads is 4, but must be a multiple of 4 (of 8",
        ),
        (
            GptConfig { feed_forward: FeedForwardKind::SwiGlu, hidden: 30, ..good.clone() },
            "hidden is 30, but must be a multiple of 4 with SwiGLU or GeGLU",
        ),
        (GptConfig { dropout: 1.0, ..good.clone() }, "dropout is 1, but must be in [0, 1)"),
        (GptConfig { dropout: -0.1, ..good.clone() }, "dropout is -0.1, but must be in [0, 1)"),
        (GptConfig { dropout: f32::NAN, ..good.clone() }, "dropout is NaN, but must be in [0, 1)"),
    ];
    for (config, message) in cases {
        assert_says(&Gpt::new(config).expect_err(message), &[message]);
    }
    let settings = GptConfig { loss: CrossEntropy::default(), ..good };
    assert!(Gpt::new(settings).is_ok());
}

/// What the families of models add to the settings.
#[test]
fn family_settings_out_of_range() {
    let llama = GptConfig::llama(27, 8, 2, [4, 2], 32);
    let gpt2 = GptConfig::gpt2(27, 8, 2, 4, 32);
    let linear = |factor| RotaryScaling::Linear { factor };
    let window = |window, layer_kinds| GptConfig { window, layer_kinds, ..llama.clone() };
    let (full, sliding) = (LayerKind::Full, LayerKind::Sliding);
    let sliding_rotary = |base, scaling| GptConfig {
        window_rotary: Some(Rotary { base, scaling }),
        ..window(Some(4), vec![sliding, full])
    };
    let heads = |head_dim| GptConfig { head_dim: Some(head_dim), ..llama.clone() };
    let scales = |attention_scale, embedding_scale| GptConfig {
        attention_scale,
        embedding_scale,
        ..llama.clone()
    };
    let scaled = Rotary { base: 1e4, scaling: linear(-2.0) };
    let geglu = FeedForwardKind::GeGlu;
    let cases: Vec<(GptConfig, &str)> = vec![
        (heads(0), "head_dim is 0, but must be a multiple of 4 (of 8 with rotary positions)"),
        (heads(12), "head_dim is 12, but must be a multiple of 4 (of 8 with rotary positions)"),
        (heads(264), "head_dim is 264, but must be"),
        (window(Some(0), vec![]), "window is Some(0), but must be at least 1 position, or None"),
        (window(None, vec![sliding, full]), "window is None, but must be some number of positions"),
        (window(Some(4), vec![full, full]), "window is Some(4), but must be None where no layer"),
        (
            window(Some(4), vec![sliding]),
            "layer_kinds is a list of 1, but must be empty or one for",
        ),
        (sliding_rotary(0.0, RotaryScaling::None), "window_rotary base is 0, but must be finite"),
        (sliding_rotary(1e4, linear(f64::NAN)), "window_rotary factor is NaN, but must be finite"),
        (
            GptConfig { window_rotary: Some(Rotary::new(1e4)), ..llama.clone() },
            "window_rotary is Rotary(10000.0), but must be None without rotary positions and a layer",
        ),
        (
            GptConfig { window_rotary: Some(Rotary::new(1e4)), window: Some(4), ..gpt2.clone() },
            "window_rotary is Rotary(10000.0), but must be None without rotary positions",
        ),
        (
            GptConfig { positions: Positions::Rotary(scaled), ..llama.clone() },
            "rotary factor is -2, but must be finite and above 0",
        ),
        (
            GptConfig { norm_weight_offset: 0.5, ..llama.clone() },
            "norm_weight_offset is 0.5, but must be 0, or 1 with rms_norm",
        ),
        (
            GptConfig { norm_weight_offset: 1.0, ..gpt2.clone() },
            "norm_weight_offset is 1, but must be 0, or 1 with rms_norm",
        ),
        (scales(Some(0.0), None), "attention_scale is 0, but must be finite and above 0, or None"),
        (scales(None, Some(f32::NAN)), "embedding_scale is NaN, but must be finite and above 0"),
        (GptConfig { feed_forward: geglu, hidden: 30, ..gpt2.clone() }, "hidden is 30, but must"),
    ];
    for (config, message) in cases {
        assert_says(&Gpt::new(config).expect_err(message), &[message]);
    }
    for config in [
        heads(16),
        heads(256),
        window(Some(1), vec![]),
        window(Some(100), LayerKind::every(2, 2)),
        sliding_rotary(1e4, linear(8.0)),
        GptConfig { width: 30, hidden: 30, head_dim: Some(4), ..gpt2 },
    ] {
        assert!(Gpt::new(config.clone()).is_ok(), "{config:?}");
    }
}

#[test]
#[should_panic(expected = "9 positions, the context is 8")]
fn more_positions_than_the_context() {
    let gpt = Gpt::new(GptConfig::gpt2(27, 8, 1, 2, 8)).expect("valid");
    LanguageModel { gpt, batch: 1, time: 9 }.build(&mut Graph::new(Phase::Train));
}
