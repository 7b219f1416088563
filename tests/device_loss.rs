//! A device that is lost in mid-run: everything says so, nothing hangs, and a run that is rebuilt on
//! another device from the last host snapshot is the run that never lost its device, bit by bit.

#[macro_use]
mod support;

use std::time::Duration;

use evenkeel::graph::{Graph, Phase};
use evenkeel::kernels::{CopyQuads, CopyQuadsParams};
use evenkeel::nn::{Classifier, Gpt, GptConfig, Init, LanguageModel, MlpClassifier};
use evenkeel::nn::{Generator, Sampling};
use evenkeel::plan::Parameters;
use evenkeel::train::{
    AdamW, Batch, Checkpoint, Clip, DynamicLossScale, Ema, LossScale, Model, Predictor, Sgd,
    SnapshotRing, SpikeGuard, Trainer, TrainerBuilder,
};
use evenkeel::{Error, Gpu, Precision, WeightStorage};
use support::models::{small_gpt, small_gpt_batch};
use support::{block_on, tokens, values};

tests! {
    a_device_that_is_destroyed_at_work_is_lost,
    everything_says_that_the_device_is_lost, steps_end_when_the_device_is_destroyed_under_them,
    a_run_in_f32_goes_on, a_run_in_f16_goes_on, runs_in_bf16_go_on, a_run_with_states_goes_on,
    snapshots_wait_for_nothing, without_a_snapshot_there_is_an_error_that_says_how,
    a_restored_run_has_no_older_snapshot, given_parameters_are_rebuilt_whole,
}

/// A device of its own, to be destroyed.
fn own_gpu() -> Option<Gpu> {
    support::gpu()?;
    Some(block_on(Gpu::new()).expect("another device of the adapter"))
}

fn build<M: Model>(gpu: &Gpu, builder: TrainerBuilder<M>) -> Trainer<M> {
    block_on(builder.build(gpu)).expect("a trainer")
}

#[track_caller]
fn assert_lost<T>(what: &str, result: Result<T, Error>) {
    match result {
        Err(error @ Error::DeviceLost { .. }) => {
            let text = error.to_string();
            assert!(text.contains("lost") && text.contains("host snapshot"), "{what}: {text}");
        }
        Err(error) => panic!("{what}: {error}"),
        Ok(_) => panic!("{what} went on"),
    }
}

/// A model that observes something, with all that reads the device.
fn watched_builder() -> TrainerBuilder<impl Model> {
    let config = GptConfig { watch_logits: true, ..GptConfig::gpt2(27, 8, 1, 2, 8) };
    let model = LanguageModel { gpt: Gpt::new(config).expect("valid"), batch: 2, time: 8 };
    Trainer::builder(model).watch_tensors(2).policy(SpikeGuard::default())
}

/// Natively wgpu 30 tells of it when all work is done, and refuses what is made of it before.
fn a_device_that_is_destroyed_at_work_is_lost() {
    let Some(gpu) = own_gpu() else { return };
    let (x, y) = (gpu.buffer("x", 1 << 24), gpu.buffer("y", 1 << 24));
    let copy = gpu.prepare(&CopyQuads {
        params: CopyQuadsParams { quads: 1 << 20 },
        x: x.as_entire_buffer_binding(),
        y: y.as_entire_buffer_binding(),
    });
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    gpu.encode(&mut encoder, std::iter::repeat_n(&copy, 30));
    gpu.submit(encoder);
    gpu.device.destroy();
    assert_lost("a read", block_on(gpu.read::<u32>(&y, 0, 4)));
    assert!(block_on(gpu.lost()).contains("Destroyed"));
}

fn everything_says_that_the_device_is_lost() {
    let Some(gpu) = own_gpu() else { return };
    let mut trainer = build(&gpu, watched_builder());
    let model = small_gpt(0.0, 2);
    let batch = small_gpt_batch(1, 2);
    let forward = |graph: &mut Graph| vec![model.build(graph).loss];
    let predictor = block_on(Predictor::new(&gpu, trainer.parameters(), forward)).unwrap();
    let generator = block_on(Generator::new(&gpu, trainer.parameters(), &model.gpt)).unwrap();
    for _ in 0..3 {
        block_on(trainer.step(&batch)).expect("a step");
    }
    let checkpoint = block_on(trainer.checkpoint()).expect("a checkpoint");
    let buffer = gpu.buffer("mine", 16);
    assert!(gpu.check().is_ok());

    gpu.device.destroy();
    // In a page a promise tells it, natively whoever asks: once the device is done with what threads
    // that compile for the generator still run on it.
    while cfg!(not(target_arch = "wasm32")) && gpu.check().is_ok() {
        std::thread::yield_now();
    }
    let reason = block_on(gpu.lost());
    assert_lost("check", gpu.check());
    assert!(reason.contains("Destroyed"), "{reason}");
    for _ in 0..5 {
        assert_lost("step", block_on(trainer.step(&batch)));
    }
    assert_eq!(trainer.steps(), 3);
    assert_lost("telemetry", block_on(trainer.telemetry()));
    assert_lost("tensor telemetry", block_on(trainer.tensor_telemetry()));
    assert_lost("evaluate", block_on(trainer.evaluate(&batch)));
    assert_lost("diagnose", block_on(trainer.diagnose(&batch)));
    let name = trainer.parameters().specs()[0].name.clone();
    assert_lost("gradient", block_on(trainer.gradient(&name)));
    assert_lost("observations", block_on(trainer.observations()));
    assert_lost("state", block_on(trainer.state()));
    assert_lost("tensor states", block_on(trainer.tensor_states()));
    assert_lost("committed bytes", block_on(trainer.committed_bytes()));
    assert_lost("checkpoint", block_on(trainer.checkpoint()));
    assert_lost("restore", block_on(trainer.restore(&checkpoint)));
    let parameters = trainer.parameters();
    assert_lost("read", block_on(parameters.read(&name)));
    assert_lost("predictor", block_on(predictor.run(&batch)));
    assert_lost("logits", block_on(generator.logits(&[1, 2])));
    let sampling = Sampling::default();
    assert_lost("generate", block_on(generator.generate(&[1], 3, &sampling, |_| {})));
    assert_lost("a predictor", block_on(Predictor::new(&gpu, parameters, forward)));
    assert_lost("a generator", block_on(Generator::new(&gpu, parameters, &model.gpt)));
    assert_lost("a trainer", block_on(watched_builder().build(&gpu)));
    let mut graph = Graph::new(Phase::Train);
    model.build(&mut graph);
    assert_lost("parameters", block_on(Parameters::new(&gpu, &graph, 1)));
    assert_lost("a buffer", block_on(gpu.read::<u32>(&buffer, 0, 4)));
    assert_lost("rebuild", block_on(trainer.rebuild_from(&gpu, &checkpoint)));
}

/// Destroyed with work in flight: the device finishes that, so the step that comes next may still be
/// taken in, but no more than are in flight anyway.
fn steps_end_when_the_device_is_destroyed_under_them() {
    let Some(gpu) = own_gpu() else { return };
    let mut trainer = build(&gpu, Trainer::builder(small_gpt(0.1, 2)));
    let batch = small_gpt_batch(1, 2);
    for _ in 0..4 {
        block_on(trainer.step(&batch)).expect("a step");
    }
    gpu.device.destroy();
    let steps: Vec<_> = (0..4).map(|_| block_on(trainer.step(&batch))).collect();
    let first = steps.iter().position(Result::is_err).expect("an error");
    assert!(first <= 2, "{steps:?}");
    for result in steps.into_iter().skip(first) {
        assert_lost("step", result);
    }
    assert_lost("telemetry", block_on(trainer.telemetry()));
}

/// Threads wait, of which a page has one.
#[test]
fn whoever_waits_for_the_loss_is_told() {
    let Some(gpu) = own_gpu() else { return };
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let lost = gpu.lost();
            std::thread::spawn(move || block_on(lost))
        })
        .collect();
    // One that gives up waiting leaves nothing behind.
    drop(gpu.lost());
    gpu.device.destroy();
    assert_lost("check", gpu.check());
    for thread in waiting {
        assert_eq!(thread.join().expect("no panic"), "Destroyed");
    }
    assert_eq!(block_on(gpu.clone().lost()), "Destroyed", "later, too");
}

/// A loss scale that moves within a few steps.
fn restless() -> LossScale {
    LossScale::Dynamic(DynamicLossScale { init: 1024.0, interval: 2, ..Default::default() })
}

fn gpt(precision: Precision, weights: WeightStorage) -> TrainerBuilder<impl Model> {
    Trainer::builder(small_gpt(0.2, 2))
        .precision(precision)
        .weights(weights)
        .loss_scale(restless())
        .optimizer(AdamW { learning_rate: 0.01, ..AdamW::default() })
        .clip(Clip::Norm(0.5))
        .policy(SpikeGuard::default())
        .policy(SnapshotRing { every: 2, ..SnapshotRing::default() })
        .ema(Ema::default())
        .accumulation(2)
        .seed(5)
}

fn gpt_batch(step: u64) -> Batch {
    small_gpt_batch(step, 4)
}

/// With states: running statistics.
fn classifier() -> TrainerBuilder<impl Model> {
    let mlp = MlpClassifier { inputs: 5, hidden: vec![7], classes: 3, batch_norm: true };
    Trainer::builder(Classifier { mlp, batch: 6 })
        .optimizer(Sgd { momentum: 0.9, ..Sgd::default() })
        .watch_tensors(3)
}

fn classifier_batch(step: u64) -> Batch {
    Batch::new()
        .with("inputs", &values(step, 6 * 5)[..])
        .with("targets", &tokens(step + 100, 6, 3)[..])
}

/// All that a run leaves: telemetry from a step on as bits, a whole checkpoint, committed bytes.
type Left = (Vec<[u32; 5]>, Checkpoint, Vec<u8>);

fn left<M: Model>(trainer: &mut Trainer<M>, from: u64) -> Left {
    let records = block_on(trainer.telemetry()).expect("telemetry").into_iter();
    let bits = records.filter(|record| record.step >= from).map(|r| {
        let floats = [r.loss, r.gradient_norm, r.loss_scale].map(f32::to_bits);
        [r.step as u32, u32::from(r.applied), floats[0], floats[1], floats[2]]
    });
    let bits = bits.collect();
    let checkpoint = block_on(trainer.checkpoint()).expect("a checkpoint");
    (bits, checkpoint, block_on(trainer.committed_bytes()).expect("bytes"))
}

/// Twelve steps, with the device lost after eight of them, against twelve on one device.
fn goes_on<M: Model>(builder: impl Fn() -> TrainerBuilder<M>, batch: impl Fn(u64) -> Batch) {
    let Some(gpu) = own_gpu() else { return };
    let step = |trainer: &mut Trainer<M>| {
        let batch = batch(trainer.steps());
        block_on(trainer.step(&batch))
    };
    let mut trainer = build(&gpu, builder().host_snapshots(3));
    let mut checkpoints: Vec<Checkpoint> = Vec::new();
    assert_eq!(trainer.host_snapshot(), None);
    for _ in 0..8 {
        step(&mut trainer).expect("a step");
        if trainer.steps() < 7 {
            checkpoints.push(block_on(trainer.checkpoint()).expect("a checkpoint"));
        }
    }
    gpu.device.destroy();
    while step(&mut trainer).is_ok() {}
    assert_lost("step", step(&mut trainer));

    // The snapshot is what a checkpoint was at that step.
    assert_eq!(trainer.host_snapshot_steps(), Some(6));
    let snapshot = trainer.host_snapshot().expect("a snapshot").clone();
    assert_eq!(snapshot.steps(), 6);
    assert!(snapshot == checkpoints[5], "the snapshot is not the checkpoint of step 6");
    assert!(snapshot != checkpoints[4]);

    let gpu = support::gpu().expect("there was one");
    block_on(trainer.rebuild(&gpu)).expect("rebuilt");
    assert_eq!(trainer.steps(), 6);
    assert!(trainer.host_snapshot() == Some(&snapshot), "it is lost");
    while trainer.steps() < 12 {
        step(&mut trainer).expect("a step");
    }
    let resumed = left(&mut trainer, 6);
    assert_eq!(resumed.0.iter().map(|r| r[0]).collect::<Vec<_>>(), (6..12).collect::<Vec<_>>());

    let mut whole = build(&gpu, builder());
    while whole.steps() < 12 {
        step(&mut whole).expect("a step");
    }
    assert!(resumed == left(&mut whole, 6), "the run is another after the loss");
}

fn a_run_in_f32_goes_on() {
    goes_on(|| gpt(Precision::F32, WeightStorage::F32), gpt_batch);
}

fn a_run_in_f16_goes_on() {
    goes_on(|| gpt(Precision::F16, WeightStorage::F32), gpt_batch);
}

fn runs_in_bf16_go_on() {
    for weights in [
        WeightStorage::F32,
        WeightStorage::Bf16Stochastic,
        WeightStorage::Bf16Kahan,
        WeightStorage::Bf16Split,
    ] {
        goes_on(|| gpt(Precision::Bf16, weights), gpt_batch);
    }
}

fn a_run_with_states_goes_on() {
    goes_on(classifier, classifier_batch);
}

fn snapshots_wait_for_nothing() {
    let Some(gpu) = own_gpu() else { return };
    // A step is one submit however busy the machine is.
    let builder = Trainer::builder(small_gpt(0.1, 2)).submit_budget(Duration::MAX);
    let mut trainer = build(&gpu, builder.host_snapshots(4));
    let batch = small_gpt_batch(1, 2);
    block_on(trainer.step(&batch)).expect("a step");
    let before = gpu.counters();
    for _ in 0..40 {
        block_on(trainer.step(&batch)).expect("a step");
    }
    let after = gpu.counters();
    assert_eq!(after.submits - before.submits, 40);
    assert_eq!(after.allocated_bytes, before.allocated_bytes);
    let maps = after.maps - before.maps;
    assert!((1..=10).contains(&maps), "{maps} snapshots");
    // Steps are at most two ahead, so all but the newest have arrived.
    let steps = trainer.host_snapshot_steps().expect("a snapshot");
    assert!(steps > 30, "{steps}");
    let copied = trainer.host_snapshot().expect("a snapshot").steps();
    assert!(copied >= steps);
    assert!(trainer.report().snapshot_bytes >= trainer.report().moment_bytes);
}

fn without_a_snapshot_there_is_an_error_that_says_how() {
    let Some(gpu) = own_gpu() else { return };
    let mut trainer = build(&gpu, classifier());
    block_on(trainer.step(&classifier_batch(1))).expect("a step");
    gpu.device.destroy();
    let gpu = support::gpu().expect("there was one");
    let error = block_on(trainer.rebuild(&gpu)).unwrap_err().to_string();
    assert!(error.contains("host_snapshots") && error.contains("rebuild_from"), "{error}");
}

/// The run goes on from what was restored, not from what came before.
fn a_restored_run_has_no_older_snapshot() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, classifier().host_snapshots(2));
    for seed in 0..3 {
        block_on(trainer.step(&classifier_batch(seed))).expect("a step");
    }
    let checkpoint = block_on(trainer.checkpoint()).expect("a checkpoint");
    for seed in 3..6 {
        block_on(trainer.step(&classifier_batch(seed))).expect("a step");
    }
    block_on(trainer.restore(&checkpoint)).expect("it fits");
    block_on(trainer.state()).expect("a state");
    assert_eq!(trainer.host_snapshot(), Some(&checkpoint));
    // The one that was under way does not keep the next from being taken.
    for seed in 3..6 {
        block_on(trainer.step(&classifier_batch(seed))).expect("a step");
        block_on(trainer.state()).expect("a state");
    }
    assert_eq!(trainer.host_snapshot_steps(), Some(6));
}

/// Parameters that were given, with more tensors than the model uses.
fn given_parameters_are_rebuilt_whole() {
    let Some(gpu) = own_gpu() else { return };
    let model = small_gpt(0.1, 2);
    let mut graph = Graph::new(Phase::Train);
    graph.parameter("beside", [3], Init::ONE);
    model.build(&mut graph);
    let parameters = block_on(Parameters::new(&gpu, &graph, 3)).expect("parameters");
    let builder = Trainer::builder(model).parameters(parameters).host_snapshots(1);
    let mut trainer = build(&gpu, builder);
    block_on(trainer.step(&small_gpt_batch(1, 2))).expect("a step");
    let name = trainer.parameters().specs()[1].name.clone();
    let weights = block_on(trainer.parameters().read(&name)).expect("weights");
    gpu.device.destroy();
    let gpu = support::gpu().expect("there was one");
    block_on(trainer.rebuild(&gpu)).expect("rebuilt");
    let parameters = trainer.parameters();
    assert_eq!(block_on(parameters.read(&name)).expect("weights"), weights);
    assert_eq!(block_on(parameters.read("beside")).expect("weights"), [1.0; 3]);
    block_on(trainer.step(&small_gpt_batch(2, 2))).expect("a step");
}
