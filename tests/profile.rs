//! Profiles: a profiled step is an ordinary one, bit by bit; every dispatch is in the tables and in
//! the trace; and what is said of bytes and operations is what can be counted by hand.

#[macro_use]
mod support;

use std::collections::BTreeMap;

use evenkeel::gpu::{Stage, Timing};
use evenkeel::graph::{Graph, Shape};
use evenkeel::kernel::Work;
use evenkeel::kernels::Activation;
use evenkeel::nn::{Classifier, Linear, MlpClassifier};
use evenkeel::train::{
    AdamW, Batch, Clip, DynamicLossScale, LossScale, Model, ModelOutput, Profile, ProfileRow,
    SnapshotRing, SpikeGuard, Trainer, TrainerBuilder,
};
use evenkeel::{Gpu, Precision};
use support::models::{small_gpt, small_gpt_batch};
use support::{block_on, tokens, values};

tests! {
    a_profiled_step_is_an_ordinary_one, a_profiled_step_is_an_ordinary_one_by_repetition,
    a_profile_may_be_the_first_step, ordinary_steps_cost_what_they_did,
    every_dispatch_is_in_both_tables, work_is_what_can_be_counted, gradients_belong_to_their_module,
    the_fastest_of_several_profiles, a_batch_that_does_not_fit_changes_nothing,
    limits_are_those_of_a_device,
}

/// The same adapter without timestamps.
fn gpu_without_timestamps() -> Option<Gpu> {
    let (device, queue, info) = support::device(wgpu::Limits::default())?;
    Some(Gpu::from_device(device, queue, info))
}

fn build<M: Model>(gpu: &Gpu, builder: TrainerBuilder<M>) -> Trainer<M> {
    block_on(builder.build(gpu)).expect("a trainer")
}

fn step<M: Model>(trainer: &mut Trainer<M>, batch: &Batch) {
    block_on(trainer.step(batch)).expect("a step");
}

fn profile<M: Model>(trainer: &mut Trainer<M>, batch: &Batch) -> Profile {
    block_on(trainer.profile(batch)).expect("a profile")
}

/// Everything that a run keeps and tells.
fn told<M: Model>(trainer: &mut Trainer<M>) -> (Vec<u8>, Vec<u8>, String, Option<u64>) {
    (
        block_on(trainer.checkpoint()).expect("a checkpoint").to_bytes(),
        block_on(trainer.committed_bytes()).expect("committed bytes"),
        format!(
            "{:?} {:?}",
            block_on(trainer.telemetry()).expect("telemetry"),
            block_on(trainer.tensor_telemetry()).expect("tensor telemetry")
        ),
        trainer.host_snapshot_steps(),
    )
}

/// Takes steps in two trainers, those of `profiled` as profiles in one of them.
fn compare<M: Model>(
    gpu: &Gpu,
    builder: impl Fn() -> TrainerBuilder<M>,
    batch: impl Fn(u64) -> Batch,
    profiled: &[u64],
) {
    let [mut one, mut other] = [(); 2].map(|()| build(gpu, builder()));
    for index in 0..4 {
        let batch = batch(index);
        step(&mut one, &batch);
        if profiled.contains(&index) {
            profile(&mut other, &batch);
        } else {
            step(&mut other, &batch);
        }
    }
    assert_eq!(one.steps(), other.steps());
    assert!(told(&mut one) == told(&mut other), "profiling has changed something");
}

/// With all that a step may have: dropout, microbatches that span the step, a loss scale that
/// moves, policies that keep and restore, tensors that are watched, snapshots that are due.
fn compare_all(gpu: &Gpu) {
    let full = || {
        Trainer::builder(small_gpt(0.2, 2))
            .precision(Precision::F16)
            .loss_scale(LossScale::Dynamic(DynamicLossScale::default()))
            .optimizer(AdamW { learning_rate: 1e-2, ..AdamW::default() })
            .clip(Clip::Norm(0.5))
            .accumulation(3)
            .watch_tensors(2)
            .policy(SpikeGuard { window: 2, ..SpikeGuard::default() })
            .policy(SnapshotRing { every: 1, ..SnapshotRing::default() })
            .host_snapshots(3)
            .seed(5)
    };
    compare(gpu, full, |seed| small_gpt_batch(seed, 6), &[1, 2]);
    let classifier = || {
        let mlp = MlpClassifier { inputs: 5, hidden: vec![7], classes: 3, batch_norm: true };
        Trainer::builder(Classifier { mlp, batch: 9 })
    };
    let batch =
        |seed| Batch::new().with("inputs", values(seed, 45)).with("targets", tokens(seed, 9, 3));
    compare(gpu, classifier, batch, &[0, 3]);
}

fn a_profiled_step_is_an_ordinary_one() {
    let Some(gpu) = support::gpu() else { return };
    compare_all(&gpu);
}

fn a_profiled_step_is_an_ordinary_one_by_repetition() {
    let Some(gpu) = gpu_without_timestamps() else { return };
    let mut trainer = build(&gpu, Trainer::builder(small_gpt(0.0, 1)));
    assert_eq!(profile(&mut trainer, &small_gpt_batch(1, 1)).timing(), Timing::Repetition);
    compare_all(&gpu);
}

fn a_profile_may_be_the_first_step() {
    let Some(gpu) = support::gpu() else { return };
    let builder = || Trainer::builder(small_gpt(0.1, 2)).clip(Clip::Norm(1.0));
    compare(&gpu, builder, |seed| small_gpt_batch(seed, 2), &[0]);
}

fn ordinary_steps_cost_what_they_did() {
    // Other tests would be counted too.
    let Some(adapter) = support::adapter() else { return };
    let gpu = block_on(Gpu::from_adapter(&adapter)).expect("a device");
    let builder = Trainer::builder(small_gpt(0.1, 2)).submit_budget(std::time::Duration::MAX);
    let (mut trainer, batch) = (build(&gpu, builder), small_gpt_batch(1, 2));
    let report = trainer.report();
    let mut cost = || {
        step(&mut trainer, &batch);
        let before = gpu.counters();
        step(&mut trainer, &batch);
        let after = gpu.counters();
        let dispatches = after.dispatches - before.dispatches;
        let costs = (after.submits - before.submits, after.maps - before.maps);
        let costs = (dispatches, costs, after.allocated_bytes - before.allocated_bytes);
        profile(&mut trainer, &batch);
        costs
    };
    let dispatches = (report.model_dispatches + report.update_dispatches) as u64;
    assert_eq!(cost(), (dispatches, (1, 0), 0), "before a profile");
    assert_eq!(cost(), (dispatches, (1, 0), 0), "after it");
}

#[track_caller]
fn assert_sums(profile: &Profile, rows: &[ProfileRow]) {
    let seconds: f64 = rows.iter().map(|row| row.seconds).sum();
    assert!((seconds - profile.seconds()).abs() <= 1e-9 * seconds, "{seconds}");
    assert_eq!(rows.iter().map(|row| row.dispatches).sum::<usize>(), profile.dispatches.len());
    let work: Work = rows.iter().map(|row| row.work).sum();
    assert_eq!(work, profile.dispatches.iter().map(|dispatch| dispatch.work).sum());
    assert!(rows.windows(2).all(|pair| pair[0].seconds >= pair[1].seconds), "not sorted");
    let names: std::collections::HashSet<_> = rows.iter().map(|row| &row.name).collect();
    assert_eq!(names.len(), rows.len(), "a name twice");
    for row in rows {
        assert!(row.fewest_workgroups > 0, "{row:?}");
        let parts = row.forward_seconds + row.backward_seconds;
        assert!(parts <= row.seconds * (1.0 + 1e-9), "{row:?}");
        let most = (row.copy_seconds + row.operation_seconds).min(row.seconds);
        assert!(row.least_seconds > 0.0 && row.least_seconds <= most * (1.0 + 1e-9), "{row:?}");
    }
}

fn every_dispatch_is_in_both_tables() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, Trainer::builder(small_gpt(0.0, 2)).clip(Clip::Norm(1.0)));
    let found = profile(&mut trainer, &small_gpt_batch(1, 2));
    let kernels: Vec<_> = found.dispatches.iter().map(|dispatch| dispatch.kernel).collect();
    assert_eq!(kernels, trainer.dispatches().map(|dispatch| dispatch.name).collect::<Vec<_>>());
    let counts = found.dispatches.iter().map(|dispatch| dispatch.workgroups);
    let groups = |[x, y, z]: [u32; 3]| u64::from(x) * u64::from(y) * u64::from(z);
    assert!(counts.eq(trainer.dispatches().map(|dispatch| groups(dispatch.workgroups))));
    let mut now = 0.0;
    for dispatch in &found.dispatches {
        assert!(dispatch.begin >= now && dispatch.seconds >= 0.0, "{dispatch:?}");
        now = dispatch.begin + dispatch.seconds;
    }
    assert!(found.seconds() > 0.0 && found.elapsed_seconds() >= found.seconds() * (1.0 - 1e-9));
    assert_sums(&found, &found.by_kernel());
    for depth in 0..5 {
        assert_sums(&found, &found.by_module(depth));
    }
    let names = |depth| {
        let mut names: Vec<_> = found.by_module(depth).into_iter().map(|row| row.name).collect();
        names.sort_unstable();
        names
    };
    let outer =
        ["blocks", "head", "loss", "norm", "position_embedding", "token_embedding", "update"];
    assert_eq!(names(1), outer);
    // The last sums of several gradients, which are one dispatch, are of the block itself.
    let inner =
        ["blocks.0", "blocks.0.attention", "blocks.0.mlp", "blocks.0.norm1", "blocks.0.norm2"];
    assert_eq!(names(3), [&inner[..], &outer[1..]].concat());
    assert!(names(4).contains(&"blocks.0.attention.qkv".to_owned()), "{:?}", names(4));

    let printed = found.to_string();
    for name in names(3).iter().map(String::as_str).chain(kernels) {
        let line = printed.lines().find(|line| line.starts_with(name));
        assert!(line.is_some(), "{name} is not in\n{printed}");
    }
}

/// One linear layer of 16 x 24, a batch of 8: bytes and operations by hand. Tensors of a
/// multiple of 512 bytes have no padding behind them.
fn work_is_what_can_be_counted() {
    let Some(gpu) = support::gpu() else { return };
    let model = |graph: &mut Graph| {
        let x = graph.input("x", Shape::real([8, 16]));
        let y = graph.input("y", Shape::real([8, 24]));
        let prediction = Linear::new(16, 24).bias(false).forward(graph, "only", x);
        ModelOutput { loss: graph.mean_squared_error(prediction, y), prediction }
    };
    let mut trainer = build(&gpu, Trainer::builder(model).optimizer(AdamW::default()));
    let batch = Batch::new().with("x", values(1, 128)).with("y", values(2, 192));
    let found = profile(&mut trainer, &batch);
    let of = |stage, kernel: &str| {
        let mut all = found.dispatches.iter();
        let found = all.find(|d| d.stage == stage && d.kernel.starts_with(kernel));
        found.unwrap_or_else(|| panic!("no {kernel} {stage:?}")).work
    };
    let (x, y, weight) = (4 * 8 * 16, 4 * 8 * 24, 4 * 16 * 24);
    // There is no argument of an activation: a place of 16 bytes.
    let forward = of(Stage::Forward, "matmul_transposed_b");
    assert_eq!(forward.operations, 2 * 8 * 16 * 24);
    assert_eq!((forward.read_bytes, forward.written_bytes), (x + weight, y + 16));
    let backward = of(Stage::Backward, "matmul_transposed_a");
    assert_eq!(backward.operations, 2 * 8 * 16 * 24);
    assert_eq!((backward.read_bytes, backward.written_bytes), (x + y, weight));
    // Gradient, weight and two moments in, weight and moments out, and the tables.
    let update = of(Stage::Update, "adamw");
    assert_eq!((update.written_bytes, update.operations), (3 * weight, 0));
    let tables = update.read_bytes - 4 * weight;
    assert!(tables > 0 && tables < 1024, "{tables} bytes of tables");
}

/// Accumulating kernels read what they add to.
#[cfg(not(target_arch = "wasm32"))]
#[test]
fn later_microbatches_read_the_gradients_they_add_to() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, Trainer::builder(small_gpt(0.0, 1)).accumulation(2));
    let found = profile(&mut trainer, &small_gpt_batch(1, 2));
    let of = |microbatch| {
        let all = found.dispatches.iter().filter(move |d| d.microbatch == Some(microbatch));
        let all = all.filter(|d| d.label == "blocks.0.mlp.up.linear.gradient.matmul_transposed_a");
        all.map(|d| d.work).sum::<Work>()
    };
    let (first, next) = (of(0), of(1));
    assert!(first.operations > 0 && first.operations == next.operations);
    assert_eq!(next.written_bytes, first.written_bytes);
    assert_eq!(next.read_bytes, first.read_bytes + first.written_bytes);
}

/// Also in a module that has the name that labels of gradients have.
fn gradients_belong_to_their_module() {
    let Some(gpu) = support::gpu() else { return };
    let model = |graph: &mut Graph| {
        let x = graph.input("x", Shape::real([4, 8]));
        let y = graph.input("y", Shape::real([4, 8]));
        let x = graph.scope("gradient", |graph| Linear::new(8, 8).forward(graph, "linear", x));
        let prediction = graph.module("last", |graph| graph.activation(x, Activation::Relu));
        ModelOutput { loss: graph.mean_squared_error(prediction, y), prediction }
    };
    let mut trainer = build(&gpu, Trainer::builder(model));
    let batch = Batch::new().with("x", values(1, 32)).with("y", values(2, 32));
    let found = profile(&mut trainer, &batch);
    let mut stages: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for dispatch in &found.dispatches {
        stages.entry(&*dispatch.module).or_default().push(dispatch.stage);
    }
    for module in ["gradient.linear", "last"] {
        let stages = &stages[module];
        assert!(stages.contains(&Stage::Forward) && stages.contains(&Stage::Backward), "{module}");
    }
    let outside = &stages[""];
    assert!(!outside.contains(&Stage::Update) && stages["update"] == [Stage::Update; 5]);
}

fn the_fastest_of_several_profiles() {
    let Some(gpu) = gpu_without_timestamps() else { return };
    let builder = Trainer::builder(small_gpt(0.0, 1)).watch_tensors(2);
    let (mut trainer, batch) = (build(&gpu, builder), small_gpt_batch(1, 1));
    let [watched, one, _, two] = [(); 4].map(|()| profile(&mut trainer, &batch));
    let mut fastest = one.clone();
    assert!(fastest.take_fastest(&two), "the same dispatches");
    let mut now = 0.0;
    for ((found, one), two) in fastest.dispatches.iter().zip(&one.dispatches).zip(&two.dispatches) {
        assert_eq!((found.seconds, found.begin), (one.seconds.min(two.seconds), now));
        now += found.seconds;
    }
    assert!(fastest.seconds() <= one.seconds().min(two.seconds()) * (1.0 + 1e-9));
    assert!(fastest.limits.bytes_per_second() >= one.limits.bytes_per_second());
    let before = fastest.clone();
    assert!(!fastest.take_fastest(&watched) && fastest == before, "a watched step has more");
}

fn a_batch_that_does_not_fit_changes_nothing() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, Trainer::builder(small_gpt(0.0, 2)));
    step(&mut trainer, &small_gpt_batch(1, 2));
    let before = told(&mut trainer);
    let error = block_on(trainer.profile(&small_gpt_batch(1, 3))).expect_err("too many sequences");
    assert!(error.to_string().contains("tokens"), "{error}");
    assert_eq!(trainer.steps(), 1);
    let after = told(&mut trainer);
    assert!((before.0, before.1) == (after.0, after.1), "something was written");
}

fn limits_are_those_of_a_device() {
    let Some(gpu) = support::gpu() else { return };
    let limits = block_on(gpu.device_limits()).expect("limits");
    assert!(limits.empty_seconds > 0.0 && limits.operations_per_second > 1e6, "{limits:?}");
    assert!(limits.copies.len() >= 3 && limits.bytes_per_second() > 1e6, "{limits:?}");
    let has_stamps = gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY);
    assert!(has_stamps || limits.timing == Timing::Repetition);
    let Some(gpu) = gpu_without_timestamps() else { return };
    let limits = block_on(gpu.device_limits()).expect("limits");
    assert_eq!(limits.timing, Timing::Repetition);
}

/// What ui.perfetto.dev takes: the Trace Event Format.
#[cfg(not(target_arch = "wasm32"))]
mod trace {
    use serde_json::Value;

    use super::*;

    /// Microseconds as they are written, in nanoseconds.
    fn nanoseconds(event: &Value, key: &str) -> i64 {
        let microseconds = event[key].as_f64().unwrap_or_else(|| panic!("{key} of {event}"));
        (1e3 * microseconds).round() as i64
    }

    #[test]
    fn a_trace_has_the_numbers_of_the_tables() {
        let Some(gpu) = support::gpu() else { return };
        let mut trainer = build(&gpu, Trainer::builder(small_gpt(0.0, 1)).accumulation(2));
        let mut found = profile(&mut trainer, &small_gpt_batch(1, 2));
        found.adapter = "an \"adapter\" \\ with\n what must be escaped".to_owned();
        let trace: Value = serde_json::from_str(&found.trace()).expect("JSON");
        let events = trace["traceEvents"].as_array().expect("events");
        let (names, events): (Vec<_>, Vec<_>) = events.iter().partition(|e| e["ph"] == "M");
        assert_eq!(names[0]["args"]["name"], *found.adapter);
        let rows: BTreeMap<_, _> = names[1..]
            .iter()
            .map(|event| (event["tid"].as_u64().expect("a row"), &event["args"]["name"]))
            .collect();
        let rows: Vec<_> = rows.into_iter().collect();
        assert_eq!(rows.len(), 3);
        for (row, name) in rows {
            let events: Vec<_> = events.iter().filter(|event| event["tid"] == row).collect();
            let mut now = 0;
            for event in &events {
                assert!(event["ph"] == "X" && event["pid"] == 1, "{event}");
                let (begin, duration) = (nanoseconds(event, "ts"), nanoseconds(event, "dur"));
                assert!(begin >= now && duration >= 0, "{event} before {now}");
                now = begin + duration;
            }
            let end = (1e9 * found.elapsed_seconds()).round() as i64;
            assert_eq!(now, end, "{name}");
            if name == "kernels" {
                check_kernels(&found, &events);
            }
        }
    }

    fn check_kernels(found: &Profile, events: &[&&Value]) {
        assert_eq!(events.len(), found.dispatches.len());
        for row in found.by_kernel() {
            let mine = events.iter().filter(|event| event["name"] == *row.name);
            let sum: i64 = mine.clone().map(|event| nanoseconds(event, "dur")).sum();
            assert_eq!(mine.count(), row.dispatches, "{}", row.name);
            let allowed = row.dispatches as f64 + 1.0;
            assert!((sum as f64 - 1e9 * row.seconds).abs() <= allowed, "{}: {sum} ns", row.name);
        }
        for row in found.by_module(usize::MAX) {
            let arguments = events.iter().map(|event| &event["args"]);
            let mine = arguments.filter(|arguments| arguments["module"] == *row.name);
            let number = |key: &str| -> u64 {
                mine.clone().map(|arguments| arguments[key].as_u64().expect("a number")).sum()
            };
            if mine.clone().count() > 0 {
                let bytes = number("read bytes") + number("written bytes");
                assert_eq!((bytes, number("operations")), (row.work.bytes(), row.work.operations));
            }
        }
        let microbatches: Vec<_> =
            events.iter().filter_map(|event| event["args"]["microbatch"].as_u64()).collect();
        assert!(microbatches.contains(&0) && microbatches.contains(&1));
    }
}
