//! What a step costs, and what it depends on: counts of dispatches, submits and maps, and the
//! rules of schedule, accumulation, decay, dropout and telemetry.

#[macro_use]
mod support;

use std::collections::HashMap;
use std::time::Duration;

use evenkeel::Gpu;
use evenkeel::graph::{Graph, HostData, ParameterSpec, Phase};
use evenkeel::plan::Parameters;
use evenkeel::step::TensorSettings;
use evenkeel::train::{
    Adam, AdamW, Batch, Clip, Model, Optimizer, Schedule, Sgd, Telemetry, Trainer, TrainerBuilder,
};
use support::models::{Terms, small_gpt, small_gpt_batch};
use support::{Tolerance, assert_close, block_on, tokens, wide};

tests! {
    a_step_is_one_submit_and_no_map, the_report_counts_what_is_there,
    the_update_does_not_grow_with_the_number_of_tensors, a_seed_gives_the_same_bits,
    the_learning_rate_follows_the_schedule, a_skipped_step_does_not_advance_the_schedule,
    the_host_can_lower_the_learning_rate, microbatches_are_one_large_batch,
    vectors_do_not_decay_by_default, settings_by_tensor_are_obeyed, evaluation_has_no_dropout,
    the_telemetry_ring_wraps_around,
}

fn build<M: Model>(gpu: &Gpu, builder: TrainerBuilder<M>) -> Trainer<M> {
    block_on(builder.build(gpu)).expect("a trainer")
}

fn step<M: Model>(trainer: &mut Trainer<M>, batch: &Batch) {
    block_on(trainer.step(batch)).expect("a step");
}

fn telemetry<M: Model>(trainer: &mut Trainer<M>) -> Vec<Telemetry> {
    block_on(trainer.telemetry()).expect("telemetry")
}

fn committed<M: Model>(trainer: &Trainer<M>) -> Vec<u8> {
    block_on(trainer.committed_bytes()).expect("committed bytes")
}

fn a_step_is_one_submit_and_no_map() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    for microbatches in [1, 3] {
        let model = small_gpt(0.1, 2);
        let builder = Trainer::builder(model).clip(Clip::Norm(1.0)).accumulation(microbatches);
        // However busy the machine is.
        let builder = builder.submit_budget(Duration::MAX);
        let mut trainer = build(&gpu, builder);
        let batch = small_gpt_batch(1, 2 * microbatches);
        let report = trainer.report();
        // The first one measures: it may be several submits.
        step(&mut trainer, &batch);
        let before = gpu.counters();
        let steps = 5;
        for _ in 0..steps {
            step(&mut trainer, &batch);
        }
        let after = gpu.counters();
        assert_eq!(after.maps - before.maps, 0, "{microbatches} microbatches");
        assert_eq!(after.submits - before.submits, steps, "{microbatches} microbatches");
        assert_eq!(after.allocated_bytes, before.allocated_bytes, "{microbatches} microbatches");
        let dispatches = microbatches * report.model_dispatches + report.update_dispatches;
        assert_eq!(after.dispatches - before.dispatches, steps * dispatches as u64);

        // Only telemetry waits, and all of it at once.
        assert_eq!(telemetry(&mut trainer).len(), 1 + steps as usize);
        assert_eq!(gpu.counters().maps - after.maps, 1);
    }
}

fn the_report_counts_what_is_there() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    let trainer = build(&gpu, Trainer::builder(small_gpt(0.1, 2)));
    let (report, specs) = (trainer.report(), trainer.parameters().specs());
    assert_eq!(report.tensors, specs.len());
    assert_eq!(report.parameters, specs.iter().map(|s| s.shape.count()).sum::<usize>());
    // The plan's own and one for the loss.
    assert_eq!(report.model_dispatches, report.plan.dispatches + 1);
    assert_eq!(report.moment_bytes, 2 * trainer.parameters().weights()[0].size());
    assert!(report.gradient_bytes >= report.moment_bytes / 2);
    assert!(report.parameter_bytes >= report.moment_bytes / 2);
    assert_eq!(report.activation_bytes, report.plan.slot_bytes + report.plan.leaf_bytes);
}

fn the_update_does_not_grow_with_the_number_of_tensors() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    let optimizers: [fn(TrainerBuilder<Terms>) -> TrainerBuilder<Terms>; 3] = [
        |builder| builder.optimizer(AdamW::default()),
        |builder| builder.optimizer(Adam::default()),
        |builder| builder.optimizer(Sgd::default()),
    ];
    for optimizer in optimizers {
        let mut found = Vec::new();
        for tensors in [2, 60] {
            let model = Terms::many(tensors);
            let batch = model.data(1, 1).batch();
            let mut trainer = build(&gpu, optimizer(Trainer::builder(model)));
            let report = trainer.report();
            assert_eq!(report.tensors, tensors);
            let before = gpu.counters().dispatches;
            step(&mut trainer, &batch);
            let counted = gpu.counters().dispatches - before - report.model_dispatches as u64;
            assert_eq!(counted, report.update_dispatches as u64);
            found.push(report.update_dispatches);
        }
        // Scan, norm, verdict, optimizer, telemetry.
        assert_eq!(found, [5, 5]);
    }
}

/// Losses, norms and committed bytes of ten steps, as bits.
fn run_of_ten(gpu: &Gpu, seed: u32, parameters: Option<Parameters>) -> (Vec<[u32; 2]>, Vec<u8>) {
    let builder = Trainer::builder(small_gpt(0.2, 3)).clip(Clip::Norm(0.5)).seed(seed);
    let builder = match parameters {
        Some(parameters) => builder.parameters(parameters),
        None => builder,
    };
    let mut trainer = build(gpu, builder);
    for index in 0..10 {
        step(&mut trainer, &small_gpt_batch(index, 3));
    }
    let records = telemetry(&mut trainer);
    let bits = records.iter().map(|r| [r.loss, r.gradient_norm].map(f32::to_bits)).collect();
    (bits, committed(&trainer))
}

fn a_seed_gives_the_same_bits() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    let first = run_of_ten(&gpu, 5, None);
    let again = run_of_ten(&gpu, 5, None);
    assert_eq!(first.0, again.0);
    assert!(first.1 == again.1, "parameters differ");

    let other = run_of_ten(&gpu, 6, None);
    assert!(first.0.iter().zip(&other.0).all(|(a, b)| a != b), "another seed, the same losses");

    // With the same initial parameters only dropout is left to differ.
    let model = small_gpt(0.2, 3);
    let mut graph = Graph::new(Phase::Train);
    model.build(&mut graph);
    let parameters = |seed| block_on(Parameters::new(&gpu, &graph, seed)).expect("parameters");
    let same = run_of_ten(&gpu, 5, Some(parameters(5)));
    assert_eq!(first.0, same.0);
    let dropped = run_of_ten(&gpu, 6, Some(parameters(5)));
    assert!(first.0.iter().zip(&dropped.0).all(|(a, b)| a != b), "the seed does not reach dropout");
}

const BASE: f64 = 3e-3;

fn scheduled(gpu: &Gpu, schedule: Schedule) -> Trainer<Terms> {
    let optimizer = AdamW { learning_rate: BASE, ..AdamW::default() };
    build(gpu, Trainer::builder(Terms::three()).optimizer(optimizer).schedule(schedule))
}

fn schedules() -> [Schedule; 5] {
    [
        Schedule::default(),
        Schedule::Constant { warmup: 4 },
        Schedule::Linear { warmup: 2, total: 7, final_factor: 0.2 },
        Schedule::Cosine { warmup: 3, total: 8, final_factor: 0.1 },
        Schedule::Factors(vec![0.5, 2.0, 0.0, 1.25]),
    ]
}

fn the_learning_rate_follows_the_schedule() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    for schedule in schedules() {
        let mut trainer = scheduled(&gpu, schedule.clone());
        let batch = trainer.model().data(1, 1).batch();
        for _ in 0..11 {
            step(&mut trainer, &batch);
        }
        for (t, record) in telemetry(&mut trainer).iter().enumerate() {
            let expected = (BASE * schedule.factor(t)) as f32;
            assert_eq!(record.learning_rate, expected, "{schedule:?} at step {t}");
        }
    }
}

fn a_skipped_step_does_not_advance_the_schedule() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    for schedule in schedules() {
        let mut trainer = scheduled(&gpu, schedule.clone());
        let good = trainer.model().data(1, 1);
        let mut bad = good.clone();
        bad.targets[1][100] = f32::NAN;
        for index in 0..10 {
            let data = if [1, 2, 6].contains(&index) { &bad } else { &good };
            step(&mut trainer, &data.batch());
        }
        let records = telemetry(&mut trainer);
        let applied: Vec<_> = records.iter().filter(|record| record.applied).collect();
        assert_eq!(applied.len(), 7);
        for (t, record) in applied.iter().enumerate() {
            let expected = (BASE * schedule.factor(t)) as f32;
            assert_eq!(record.learning_rate, expected, "{schedule:?}, applied step {t}");
        }
    }
}

fn the_host_can_lower_the_learning_rate() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    let mut trainer = scheduled(&gpu, Schedule::default());
    let batch = trainer.model().data(1, 1).batch();
    step(&mut trainer, &batch);
    trainer.set_learning_rate_factor(0.25);
    step(&mut trainer, &batch);
    trainer.set_learning_rate_factor(0.0);
    let before = block_on(trainer.parameters().read("w0")).expect("w0");
    step(&mut trainer, &batch);
    assert_eq!(before, block_on(trainer.parameters().read("w0")).expect("w0"));
    let rates: Vec<_> = telemetry(&mut trainer).iter().map(|r| r.learning_rate).collect();
    assert_eq!(rates, [BASE as f32, BASE as f32 * 0.25, 0.0]);
}

/// Sums in another order, through five steps; relative to the tensor's largest element.
fn reordered(expected: &[f32]) -> Tolerance {
    let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    Tolerance {
        absolute: 2e-5 * f64::from(largest),
        relative: 0.0,
        because: "the sums over the batch are taken in another order",
    }
}

fn microbatches_are_one_large_batch() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    // SGD, because it shows the gradients as they are.
    let optimizer = Sgd { learning_rate: 0.5, ..Sgd::default() };
    let make = |batch, microbatches| {
        let builder = Trainer::builder(small_gpt(0.0, batch)).optimizer(optimizer);
        build(&gpu, builder.clip(Clip::Norm(0.2)).accumulation(microbatches).seed(3))
    };
    for microbatches in [2, 3, 4] {
        let mut parts = make(12 / microbatches, microbatches);
        let mut whole = make(12, 1);
        for index in 0..5 {
            let batch = small_gpt_batch(index, 12);
            step(&mut whole, &batch);
            step(&mut parts, &batch);
            for spec in whole.parameters().specs() {
                let expected = block_on(whole.gradient(&spec.name)).expect("a gradient");
                let actual = block_on(parts.gradient(&spec.name)).expect("a gradient");
                let what = format!("step {index}, {microbatches} microbatches: {}", spec.name);
                let mut tolerance = reordered(&expected);
                tolerance.absolute += 1e-7;
                assert_close(&what, &actual, &wide(&expected), tolerance);
            }
        }
        let column = |records: &[Telemetry], f: fn(&Telemetry) -> f32| -> Vec<f32> {
            records.iter().map(f).collect()
        };
        let (expected, actual) = (telemetry(&mut whole), telemetry(&mut parts));
        let fields: [fn(&Telemetry) -> f32; 3] =
            [|record| record.loss, |record| record.gradient_norm, |record| record.clip_coefficient];
        for (name, field) in ["loss", "norm", "coefficient"].into_iter().zip(fields) {
            let (expected, actual) = (column(&expected, field), column(&actual, field));
            assert_close(name, &actual, &wide(&expected), reordered(&expected));
        }
        for spec in whole.parameters().specs() {
            let [expected, actual] = [&whole, &parts]
                .map(|trainer| block_on(trainer.parameters().read(&spec.name)).expect("read"));
            let mut tolerance = reordered(&expected);
            tolerance.absolute += 1e-6;
            assert_close(&spec.name, &actual, &wide(&expected), tolerance);
        }
    }
}

/// Weights of a matrix and a vector before and after one step without a gradient.
fn decayed(
    gpu: &Gpu,
    optimizer: impl Optimizer + 'static,
    settings: Option<fn(&ParameterSpec) -> TensorSettings>,
) -> [[Vec<f32>; 2]; 2] {
    let model = Terms { tensors: vec![(vec![3, 5], 1.0), (vec![7], 1.0)] };
    let mut data = model.data(1, 1);
    data.factors.iter_mut().for_each(|factor| factor.fill(0.0));
    let builder = Trainer::builder(model).optimizer(optimizer);
    let builder = match settings {
        Some(settings) => builder.tensor_settings(settings),
        None => builder,
    };
    let mut trainer = build(gpu, builder);
    let read = |trainer: &Trainer<Terms>| {
        ["w0", "w1"].map(|name| block_on(trainer.parameters().read(name)).expect("read"))
    };
    let before = read(&trainer);
    step(&mut trainer, &data.batch());
    let records = telemetry(&mut trainer);
    assert!(records[0].applied && records[0].gradient_norm == 0.0);
    // A learning-rate factor of 0 freezes: no gradient at all.
    assert_eq!(records[0].zero_count as usize, trainer.report().parameters);
    let [w0, w1] = read(&trainer);
    let [b0, b1] = before;
    [[b0, w0], [b1, w1]]
}

fn assert_decayed([before, after]: &[Vec<f32>; 2], share: f64) {
    let expected: Vec<_> = before.iter().map(|&w| f64::from(w) * (1.0 - share)).collect();
    let tolerance = Tolerance { absolute: 1e-7, relative: 1e-6, because: "f32 rounding" };
    assert_close("decayed", after, &expected, tolerance);
}

fn vectors_do_not_decay_by_default() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    let adamw = AdamW { learning_rate: 0.1, weight_decay: 0.5, ..AdamW::default() };
    let [matrix, vector] = decayed(&gpu, adamw, None);
    assert_decayed(&matrix, 0.05);
    assert_eq!(vector[0], vector[1]);

    let sgd = Sgd { learning_rate: 0.1, weight_decay: 0.5, ..Sgd::default() };
    let [matrix, vector] = decayed(&gpu, sgd, None);
    assert_decayed(&matrix, 0.05);
    assert_eq!(vector[0], vector[1]);

    // The penalty is Adam's whole gradient: one learning rate towards zero.
    let adam = Adam { learning_rate: 0.1, weight_decay: 0.5, ..Adam::default() };
    let [[before, after], vector] = decayed(&gpu, adam, None);
    let expected = before.iter().map(|&w| f64::from(w) - 0.1 * f64::from(w).signum());
    let expected = expected.collect::<Vec<_>>();
    let tolerance = Tolerance { absolute: 1e-5, relative: 0.0, because: "eps, f32 rounding" };
    assert_close("one step towards zero", &after, &expected, tolerance);
    assert_eq!(vector[0], vector[1]);
}

fn settings_by_tensor_are_obeyed() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    let adamw = AdamW { learning_rate: 0.1, weight_decay: 0.5, ..AdamW::default() };
    let settings: fn(&ParameterSpec) -> TensorSettings = |spec| match &*spec.name {
        "w0" => TensorSettings { weight_decay: 1.0, learning_rate: 0.0 },
        _ => TensorSettings { weight_decay: 2.0, learning_rate: 0.5 },
    };
    let [matrix, vector] = decayed(&gpu, adamw, Some(settings));
    assert_eq!(matrix[0], matrix[1]);
    assert_decayed(&vector, 0.05);
}

fn evaluation_has_no_dropout() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    let model = small_gpt(0.5, 2);
    let mut trainer = build(&gpu, Trainer::builder(model).seed(9));
    // Away from the start, where all logits are nearly equal and dropout hardly shows.
    for spec in trainer.parameters().specs() {
        if spec.shape.dims.len() > 1 {
            let name_seed = u64::from(spec.stream) + 50;
            let values = support::values(name_seed, spec.shape.count());
            trainer.parameters().write(&spec.name, &values).expect("written");
        }
    }
    // What the model computes where it has no dropout at all.
    let mut graph = Graph::new(Phase::Evaluate);
    let loss = small_gpt(0.0, 2).build(&mut graph).loss;
    let mut data = HostData { values: HashMap::new(), ..HostData::default() };
    for spec in trainer.parameters().specs() {
        let values = block_on(trainer.parameters().read(&spec.name)).expect("a parameter");
        data.values.insert(spec.name.clone(), wide(&values));
    }
    for (seed, name) in [(2, "tokens"), (3, "targets")] {
        let ids = tokens(seed, 16, 27).into_iter().map(f64::from).collect();
        data.values.insert(name.into(), ids);
    }
    let expected = graph.evaluate(&data).get(loss)[0];
    let batch = small_gpt_batch(1, 2);
    let tolerance = Tolerance { absolute: 0.0, relative: 1e-5, because: "f32 against f64" };
    for _ in 0..2 {
        let loss = block_on(trainer.evaluate(&batch)).expect("a loss");
        assert_close("loss in evaluation", &[loss], &[expected], tolerance);
    }
    step(&mut trainer, &batch);
    let loss = f64::from(telemetry(&mut trainer)[0].loss);
    assert!((loss / expected - 1.0).abs() > 1e-2, "{loss} in training, {expected} in evaluation");
}

fn the_telemetry_ring_wraps_around() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    let model = Terms::three();
    let batches: Vec<_> = (0..12).map(|seed| model.data(seed, 1).batch()).collect();
    let run = |capacity| {
        let builder = Trainer::builder(model.clone()).telemetry_capacity(capacity).seed(1);
        let mut trainer = build(&gpu, builder);
        batches[..10].iter().for_each(|batch| step(&mut trainer, batch));
        trainer
    };
    let all = telemetry(&mut run(1024));
    assert_eq!(all.iter().map(|r| r.step).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());

    let mut trainer = run(4);
    assert_eq!(telemetry(&mut trainer), all[6..]);
    assert_eq!(telemetry(&mut trainer), []);
    batches[10..].iter().for_each(|batch| step(&mut trainer, batch));
    let steps: Vec<_> = telemetry(&mut trainer).iter().map(|record| record.step).collect();
    assert_eq!(steps, [10, 11]);
}
