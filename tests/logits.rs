//! What watches and bounds logits in a whole model: observations over microbatches, QK-clip behind
//! an update, and that nothing of it costs or changes a step that does not ask for it.

#[macro_use]
mod support;

use evenkeel::Gpu;
use evenkeel::gpu::Dispatch;
use evenkeel::graph::ops::CrossEntropy;
use evenkeel::graph::{AfterUpdate, Graph, HostData, Phase, Value};
use evenkeel::nn::{Gpt, GptConfig, LanguageModel, QkClip, QkNorm};
use evenkeel::plan::{Parameters, Plan, PlanRequest, Sinks, parameters};
use evenkeel::record::{Recorder, StepBuffers};
use evenkeel::step::{APPLY, SKIP, StepInput, StepState};
use evenkeel::train::{Batch, Model, Sgd, Trainer};
use support::models::small_gpt_batch;
use support::{Tolerance, assert_close, block_on, tokens, values, wide};

tests! {
    observations_cover_all_microbatches_of_a_step, observed_values_keep_their_slots,
    the_reported_z_loss_is_what_cross_entropy_lacks,
    a_model_that_does_not_watch_records_nothing_for_it, a_trainer_tells_what_it_observed,
    a_trainer_clips_after_its_update, watching_changes_no_bit_of_a_training,
    a_clip_brings_logits_down_to_the_threshold,
    a_clip_touches_only_projections_of_queries_and_keys_of_applied_steps,
    a_norm_of_queries_and_keys_bounds_the_logits, logits_in_chunks_train_as_whole_ones,
    logits_in_chunks_take_less_memory,
}

const VOCABULARY: usize = 27;

/// Two layers of four query heads, two of them to a key head, with biases.
fn config() -> GptConfig {
    GptConfig { kv_heads: 2, ..GptConfig::gpt2(VOCABULARY, 8, 2, 4, 16) }
}

fn model(config: GptConfig) -> LanguageModel {
    LanguageModel { gpt: Gpt::new(config).expect("valid"), batch: 2, time: 8 }
}

/// A differentiated model on the device, with all its observations as outputs behind the loss.
struct Run {
    gpu: Gpu,
    graph: Graph,
    observed: Vec<(String, Value)>,
    parameters: Parameters,
    step: StepBuffers,
    plan: Plan,
}

impl Run {
    fn new(gpu: &Gpu, model: &LanguageModel) -> Self {
        let mut graph = Graph::new(Phase::Train);
        let loss = model.build(&mut graph).loss;
        graph.backward(loss, 1.0);
        let parameters = block_on(Parameters::new(gpu, &graph, 3)).expect("parameters");
        // Initial projections give logits near zero.
        for name in parameters.names().map(str::to_owned).collect::<Vec<_>>() {
            if name.contains("qkv") {
                let count = parameters.find(&name).expect("found").shape.count();
                let large: Vec<_> = values(41, count).iter().map(|x| 2.0 * x).collect();
                parameters.write(&name, &large).expect("written");
            }
        }
        let weights = parameters.weights().iter();
        let sinks = Sinks {
            gradients: weights.map(|buffer| gpu.buffer("gradients", buffer.size())).collect(),
            staged: gpu.buffer("staged", parameters.committed().size()),
        };
        let step = StepBuffers::new(gpu);
        let observed = graph.observations().to_vec();
        let outputs: Vec<_> = [loss].into_iter().chain(observed.iter().map(|o| o.1)).collect();
        let request = PlanRequest {
            graph: &graph,
            outputs: &outputs,
            parameters: &parameters,
            sinks: Some(&sinks),
            step: &step,
            microbatches: 3,
        };
        let plan = block_on(Plan::new(gpu, &request)).expect("a plan");
        Self { gpu: gpu.clone(), graph, observed, parameters, step, plan }
    }

    fn submit(&self, dispatches: &[Dispatch]) {
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.gpu.encode(&mut encoder, dispatches);
        self.gpu.submit(encoder);
    }

    /// Runs one microbatch of the step.
    fn microbatch(&self, index: u32, seed: u64) {
        for (input, ids) in self.plan.inputs.iter().zip(self.ids(seed)) {
            self.gpu.write(&input.buffer, 0, bytemuck::cast_slice(&ids));
        }
        let input = StepInput { microbatch: index, ..StepInput::default() };
        self.gpu.write(&self.step.input, 0, bytemuck::bytes_of(&input));
        self.submit(if index == 0 { &self.plan.first } else { &self.plan.next });
    }

    /// Data of each input; the second target is ignored.
    fn ids(&self, seed: u64) -> Vec<Vec<u32>> {
        let inputs = self.plan.inputs.iter();
        inputs
            .map(|input| {
                let shift = u64::from(input.spec.name == "targets");
                let mut ids = tokens(2 * seed + shift, 16, VOCABULARY as u32);
                if input.spec.ignorable {
                    ids[1] = evenkeel::train::IGNORE;
                }
                ids
            })
            .collect()
    }

    /// The observation with this name, as it lies on the device.
    fn observation(&self, name: &str) -> Vec<f32> {
        let index = self.observed.iter().position(|(n, _)| n == name).expect(name);
        block_on(parameters::read_slot(&self.gpu, &self.plan.outputs[1 + index])).expect("read")
    }

    fn loss(&self) -> f32 {
        block_on(parameters::read_slot(&self.gpu, &self.plan.outputs[0])).expect("read")[0]
    }

    fn read(&self, name: &str) -> Vec<f32> {
        block_on(self.parameters.read(name)).expect("a parameter")
    }

    /// All observations in f64 for one microbatch, in their order.
    fn evaluated(&self, seed: u64) -> Vec<Vec<f64>> {
        let mut data = HostData::default();
        for name in self.parameters.names() {
            data.values.insert(name.to_owned(), wide(&self.read(name)));
        }
        for (input, ids) in self.plan.inputs.iter().zip(self.ids(seed)) {
            let ids = ids.into_iter().map(f64::from).collect();
            data.values.insert(input.spec.name.clone(), ids);
        }
        let evaluation = self.graph.evaluate(&data);
        self.observed.iter().map(|&(_, value)| evaluation.get(value).to_vec()).collect()
    }

    /// Runs QK-clip as a trainer does behind its optimizer, with the given verdict.
    fn clip(&self, model: &LanguageModel, verdict: u32) {
        let state = StepState { verdict, loss_scale: 1.0, ..StepState::default() };
        self.gpu.write(&self.step.state, 0, bytemuck::bytes_of(&state));
        let mut recorder = Recorder::new(&self.gpu, &self.step);
        let clipped = model.gpt.clipped(&self.graph);
        assert_eq!(clipped.len(), model.gpt.config().layers);
        for layer in clipped {
            let max_logit = &self.plan.values[&layer.max_logit];
            layer.record(&mut recorder, &|_| max_logit.clone(), &|index| {
                Some(self.parameters.slot(index))
            });
        }
        self.submit(&recorder.take());
    }
}

const ROUNDING: Tolerance = Tolerance {
    absolute: 2e-5,
    relative: 2e-5,
    because: "f32 against f64 through up to two layers, logits of about 10",
};

fn observed_names() -> Vec<String> {
    let layers = (0..2).flat_map(|layer| {
        ["max_logit", "entropy"].map(|name| format!("blocks.{layer}.attention.{name}"))
    });
    layers.chain(["max_logit".into(), "z_loss".into()]).collect()
}

fn observations_cover_all_microbatches_of_a_step() {
    let Some(gpu) = support::gpu() else { return };
    let model = model(GptConfig {
        watch_logits: true,
        soft_cap: Some(6.0),
        logit_soft_cap: Some(0.3),
        qk_norm: None,
        loss: CrossEntropy { label_smoothing: 0.0, z_loss: 1e-3 },
        ..config()
    });
    let run = Run::new(&gpu, &model);
    let names: Vec<_> = run.observed.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, observed_names());
    // Two steps: the second starts afresh.
    for seeds in [[1, 2, 3], [4, 5, 6]] {
        let mut joined = run.evaluated(seeds[0]);
        for (m, &seed) in seeds.iter().enumerate() {
            run.microbatch(m as u32, seed);
            if m > 0 {
                for ((name, _), (joined, new)) in
                    run.observed.iter().zip(joined.iter_mut().zip(run.evaluated(seed)))
                {
                    for (joined, new) in joined.iter_mut().zip(new) {
                        *joined = if name.ends_with("max_logit") {
                            joined.max(new)
                        } else {
                            *joined + (new - *joined) / (m + 1) as f64
                        };
                    }
                }
            }
            for ((name, _), expected) in run.observed.iter().zip(&joined) {
                let what = format!("{name}, microbatch {m} of {seeds:?}");
                assert_close(&what, &run.observation(name), expected, ROUNDING);
            }
        }
    }
    // What is observed is what it says: logits beyond their cap, predictions below theirs.
    let logits = run.observation("blocks.0.attention.max_logit");
    assert!(logits.iter().any(|&logit| logit > 6.0), "{logits:?} before the cap of 6");
    let predicted = run.observation("max_logit")[0];
    assert!(predicted > 0.0 && predicted < 0.3, "{predicted} after the cap of 0.3");
}

/// Where most values die young, as in a forward pass alone, those observed share no buffer with any.
fn observed_values_keep_their_slots() {
    let Some(gpu) = support::gpu() else { return };
    let mut graph = Graph::new(Phase::Train);
    model(GptConfig { watch_logits: true, ..config() }).build(&mut graph);
    let outputs: Vec<_> = graph.observations().iter().map(|&(_, value)| value).collect();
    let parameters = block_on(Parameters::new(&gpu, &graph, 0)).expect("parameters");
    let step = &StepBuffers::new(&gpu);
    let (graph, parameters) = (&graph, &parameters);
    let request =
        PlanRequest { graph, outputs: &outputs, parameters, sinks: None, step, microbatches: 2 };
    let plan = block_on(Plan::new(&gpu, &request)).expect("a plan");
    assert!(plan.report.slots < plan.report.values, "others share");
    for value in outputs {
        let buffer = &plan.values[&value].buffer;
        let users = plan.values.values().filter(|slot| slot.buffer == *buffer).count();
        assert_eq!(users, 1, "{}", graph.nodes()[value.node].label);
    }
}

/// loss - z_loss is the loss of the same model without z-loss.
fn the_reported_z_loss_is_what_cross_entropy_lacks() {
    let Some(gpu) = support::gpu() else { return };
    let loss = CrossEntropy { label_smoothing: 0.1, z_loss: 0.05 };
    let with = Run::new(&gpu, &model(GptConfig { watch_logits: true, loss, ..config() }));
    let loss = CrossEntropy { z_loss: 0.0, ..loss };
    let without = Run::new(&gpu, &model(GptConfig { watch_logits: true, loss, ..config() }));
    for run in [&with, &without] {
        run.microbatch(0, 1);
    }
    assert_eq!(without.observation("z_loss"), [0.0]);
    let z_loss = with.observation("z_loss")[0];
    assert!(z_loss > 0.1, "ln(27)² / 20 is 0.54, not {z_loss}");
    let apart = with.loss() - z_loss;
    assert!((apart - without.loss()).abs() < 2e-6, "{apart} is not {}", without.loss());
}

fn a_model_that_does_not_watch_records_nothing_for_it() {
    let Some(gpu) = support::gpu() else { return };
    let plain = Run::new(&gpu, &model(config()));
    assert!(plain.observed.is_empty());
    let summaries =
        |run: &Run| run.plan.first.iter().filter(|d| d.name.ends_with("_summary")).count();
    assert_eq!(summaries(&plain), 0);
    let watching = model(GptConfig { watch_logits: true, ..config() });
    assert_eq!(summaries(&Run::new(&gpu, &watching)), 3, "two layers and the predictions");

    let mut evaluated = Graph::new(Phase::Evaluate);
    watching.build(&mut evaluated);
    assert!(evaluated.observations().is_empty(), "evaluation does not watch");
    let trainer = block_on(Trainer::builder(model(config())).build(&gpu)).expect("a trainer");
    assert!(trainer.dispatches().all(|dispatch| !dispatch.name.ends_with("_summary")));
    assert!(block_on(trainer.observations()).expect("none").is_empty());
}

fn a_trainer_tells_what_it_observed() {
    let Some(gpu) = support::gpu() else { return };
    let watching = model(GptConfig { watch_logits: true, ..config() });
    let mut trainer = block_on(Trainer::builder(watching).build(&gpu)).expect("a trainer");
    block_on(trainer.step(&small_gpt_batch(1, 2))).expect("a step");
    let observed = block_on(trainer.observations()).expect("observations");
    assert_eq!(observed.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), observed_names());
    for (name, values) in &observed {
        assert_eq!(values.len(), if name.starts_with("blocks") { 4 } else { 1 }, "{name}");
        assert!(values.iter().all(|x| x.is_finite()), "{name}: {values:?}");
    }
    // Eight positions at most, and little difference between them at the start.
    let entropy = &observed[1].1;
    assert!(entropy.iter().all(|&e| (1.2..8f32.ln()).contains(&e)), "{entropy:?}");
}

/// With a learning rate of 0 only the clip moves weights, and it brings the logits down.
fn a_trainer_clips_after_its_update() {
    let Some(gpu) = support::gpu() else { return };
    let clip = QkClip { threshold: 0.5, alpha: 0.5 };
    let clipping = model(GptConfig { qk_clip: Some(clip), layers: 1, ..config() });
    let still = Sgd { learning_rate: 0.0, ..Sgd::default() };
    let builder = Trainer::builder(clipping).optimizer(still);
    let mut trainer = block_on(builder.build(&gpu)).expect("a trainer");
    let name = "blocks.0.attention.qkv.weight";
    let count = trainer.parameters().find(name).expect("found").shape.count();
    let large: Vec<_> = values(41, count).iter().map(|x| 2.0 * x).collect();
    trainer.parameters().write(name, &large).expect("written");
    let step = |trainer: &mut Trainer<LanguageModel>, seed| {
        block_on(trainer.step(&small_gpt_batch(seed, 2))).expect("a step");
        let observed = block_on(trainer.observations()).expect("observations");
        observed[0].1.iter().copied().fold(0.0, f32::max)
    };
    assert!(step(&mut trainer, 1) > 2.0);
    let after = step(&mut trainer, 1);
    assert!(after <= 0.5 * (1.0 + 1e-5), "{after}");
}

fn watching_changes_no_bit_of_a_training() {
    let Some(gpu) = support::gpu() else { return };
    let committed = |watch_logits, qk_clip| {
        let config = GptConfig { watch_logits, qk_clip, ..GptConfig::gpt2(27, 8, 1, 2, 8) };
        let model = LanguageModel { gpt: Gpt::new(config).expect("valid"), batch: 2, time: 8 };
        let mut trainer = block_on(Trainer::builder(model).seed(5).build(&gpu)).expect("a trainer");
        for step in 0..3 {
            block_on(trainer.step(&small_gpt_batch(step, 2))).expect("a step");
        }
        block_on(trainer.committed_bytes()).expect("read")
    };
    let plain = committed(false, None);
    assert!(plain == committed(true, None), "watch_logits");
    assert!(plain == committed(false, Some(QkClip::default())), "a threshold far above all logits");
}

/// The logits of the first layer, whose inputs the clip does not change: those above the threshold
/// come down to it, the others stay. Groups of query heads with none above it keep their bits.
fn a_clip_brings_logits_down_to_the_threshold() {
    let Some(gpu) = support::gpu() else { return };
    for (bias, kv_heads, soft_cap) in [(true, 2, None), (false, 4, Some(3.0)), (true, 1, None)] {
        let shape = GptConfig { bias, kv_heads, soft_cap, ..config() };
        let probe = Run::new(&gpu, &model(GptConfig { watch_logits: true, ..shape.clone() }));
        probe.microbatch(0, 1);
        let logits = probe.observation("blocks.0.attention.max_logit");
        let mut sorted = logits.clone();
        sorted.sort_by(f32::total_cmp);
        // Just one head above, then two of four, then all.
        for threshold in [0.5 * (sorted[2] + sorted[3]), sorted[1] + 1e-3, 0.5 * sorted[0]] {
            let clip = QkClip { threshold, alpha: 0.5 };
            let model = model(GptConfig { qk_clip: Some(clip), ..shape.clone() });
            let run = Run::new(&gpu, &model);
            run.microbatch(0, 1);
            let before = run.observation("blocks.0.attention.max_logit");
            assert_eq!(before, logits, "the same model");
            let name = "blocks.0.attention.qkv.weight";
            let weight = run.read(name);
            run.clip(&model, APPLY);
            let clipped = run.read(name);
            run.microbatch(0, 1);
            let after = run.observation("blocks.0.attention.max_logit");
            let what = format!("{kv_heads} key heads, bias {bias}, threshold {threshold}");
            let expected: Vec<_> =
                before.iter().map(|&logit| f64::from(logit.min(threshold))).collect();
            assert_close(&what, &after, &expected, ROUNDING);

            let (group, head_rows) = (4 / kv_heads, 4 * 16);
            for (head, (old, new)) in
                weight.chunks(head_rows).zip(clipped.chunks(head_rows)).enumerate()
            {
                let kv_head = if head < 4 { head / group } else { (head - 4) % kv_heads };
                let seen = &before[kv_head * group..][..group];
                let touched = head < 4 + kv_heads && seen.iter().any(|&logit| logit > threshold);
                assert_eq!(old != new, touched, "{what}: head {head}");
            }
            // Again: nothing is above the threshold by more than rounding.
            run.clip(&model, APPLY);
            let tolerance =
                Tolerance { absolute: 0.0, relative: 1e-5, because: "logits at the threshold" };
            assert_close(&what, &run.read(name), &wide(&clipped), tolerance);
        }
    }
}

fn a_clip_touches_only_projections_of_queries_and_keys_of_applied_steps() {
    let Some(gpu) = support::gpu() else { return };
    let clip = QkClip { threshold: 1e-3, alpha: 0.5 };
    let model = model(GptConfig { qk_clip: Some(clip), ..config() });
    let run = Run::new(&gpu, &model);
    let names: Vec<_> = run.parameters.names().map(str::to_owned).collect();
    let all = || -> Vec<Vec<u32>> {
        let tensors = names.iter().map(|name| run.read(name));
        tensors.map(|tensor| tensor.iter().map(|x| x.to_bits()).collect()).collect()
    };
    run.microbatch(0, 1);
    let before = all();
    run.clip(&model, SKIP);
    assert!(before == all(), "a skipped step changes nothing");
    run.clip(&model, APPLY);
    for ((name, before), after) in names.iter().zip(&before).zip(&all()) {
        assert_eq!(before != after, name.contains("qkv"), "{name}");
    }
}

/// A norm of queries and keys bounds the logits by its weights, however large the projection is.
fn a_norm_of_queries_and_keys_bounds_the_logits() {
    let Some(gpu) = support::gpu() else { return };
    for kind in [QkNorm::Rms, QkNorm::Layer] {
        let watching = GptConfig { watch_logits: true, qk_norm: Some(kind), ..config() };
        let run = Run::new(&gpu, &model(watching));
        let names = run.parameters.specs().iter().filter(|spec| spec.name.contains("_norm."));
        let names: Vec<_> = names.map(|spec| (spec.name.as_str(), &spec.shape.dims[..])).collect();
        let expected = ["q_norm", "k_norm"].map(|n| format!("blocks.0.attention.{n}.weight"));
        assert_eq!(names[..2], expected.each_ref().map(|name| (name.as_str(), &[4][..])));
        let name = "blocks.0.attention.qkv.weight";
        let huge: Vec<_> = run.read(name).iter().map(|x| 1e6 * x).collect();
        run.parameters.write(name, &huge).expect("written");
        run.microbatch(0, 1);
        let logits = run.observation("blocks.0.attention.max_logit");
        // |q| |k| / sqrt(head) is at most sqrt(head), with head = 4.
        assert!(logits.iter().all(|&logit| logit > 1.0 && logit <= 2.00001), "{logits:?}");
    }
}

/// 144 positions: three chunks of logits, the last of which is not full.
fn long(config: GptConfig) -> Trainer<LanguageModel> {
    let gpu = support::gpu().expect("asked for before");
    let gpt = Gpt::new(config).expect("valid");
    let builder = Trainer::builder(LanguageModel { gpt, batch: 18, time: 8 }).seed(5);
    let sgd = Sgd { learning_rate: 0.5, ..Sgd::default() };
    block_on(builder.optimizer(sgd).accumulation(2).build(&gpu)).expect("a trainer")
}

/// Of so many microbatches; every fifth target is ignored.
fn long_batch(seed: u64, microbatches: usize) -> Batch {
    let ids = tokens(seed, 144 * microbatches, VOCABULARY as u32);
    let mut targets = tokens(seed + 100, 144 * microbatches, VOCABULARY as u32);
    targets.iter_mut().step_by(5).for_each(|target| *target = evenkeel::train::IGNORE);
    Batch::new().with("tokens", ids).with("targets", targets)
}

/// Bytes of 64 rows of logits.
fn chunk(vocabulary: usize) -> u64 {
    256 * vocabulary.next_multiple_of(4) as u64
}

fn logits_in_chunks_train_as_whole_ones() {
    if support::gpu().is_none() {
        return;
    }
    let loss = CrossEntropy { label_smoothing: 0.1, z_loss: 1e-2 };
    let capped = GptConfig { tied_head: false, logit_soft_cap: Some(1.5), loss, ..config() };
    for whole in [config(), GptConfig { watch_logits: true, ..capped }] {
        let chunked = GptConfig { logits_budget: chunk(VOCABULARY), ..whole.clone() };
        let mut trainers = [whole, chunked.clone(), chunked].map(long);
        let losses = |trainer: &Trainer<LanguageModel>| {
            trainer.dispatches().filter(|dispatch| dispatch.name == "cross_entropy").count()
        };
        assert_eq!(trainers.each_ref().map(losses), [1, 3, 3]);
        let mut found = Vec::new();
        for trainer in &mut trainers {
            for seed in 0..3 {
                block_on(trainer.step(&long_batch(seed, 2))).expect("a step");
            }
            let telemetry = block_on(trainer.telemetry()).expect("telemetry");
            let mut all: Vec<f32> = Vec::new();
            for step in &telemetry {
                assert!(step.applied);
                all.extend([step.loss, step.gradient_norm]);
            }
            all.push(block_on(trainer.evaluate(&long_batch(9, 1))).expect("a loss"));
            let names: Vec<_> = trainer.parameters().names().map(str::to_owned).collect();
            for name in names {
                all.extend(block_on(trainer.parameters().read(&name)).expect("a parameter"));
            }
            found.push(all);
        }
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(bits(&found[1]) == bits(&found[2]), "the same run, other bits");
        let because = "sums of the gradient of the head in another order, three steps long";
        let tolerance = Tolerance { absolute: 1e-5, relative: 1e-5, because };
        assert_close("in chunks", &found[1], &wide(&found[0]), tolerance);
    }
}

/// Bytes that each further position of a microbatch takes.
fn bytes_per_position(config: &GptConfig) -> u64 {
    let gpu = support::gpu().expect("asked for before");
    let [few, many] = [18, 36].map(|batch| {
        let gpt = Gpt::new(config.clone()).expect("valid");
        let builder = Trainer::builder(LanguageModel { gpt, batch, time: 8 });
        block_on(builder.build(&gpu)).expect("a trainer").report().activation_bytes
    });
    (many - few) / 144
}

fn logits_in_chunks_take_less_memory() {
    if support::gpu().is_none() {
        return;
    }
    let whole = GptConfig { vocabulary: 1000, ..config() };
    let chunked = GptConfig { logits_budget: chunk(1000), ..whole.clone() };
    let [whole, chunked] = [whole, chunked].map(|config| bytes_per_position(&config));
    // Logits and their gradient; and nothing of that width.
    assert!(whole > 8000 && chunked < 4000, "{whole} and {chunked} bytes for a position");
}
