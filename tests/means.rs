//! A mean over targets is that of the step, however its targets are spread over microbatches, and
//! that of all batches of an evaluation. The oracle is one large batch in f64.

#[macro_use]
mod support;

use std::collections::HashMap;
use std::time::Duration;

use evenkeel::graph::ops::CrossEntropy;
use evenkeel::graph::{Graph, HostData, Phase, Shape};
use evenkeel::nn::{Gpt, GptConfig, LanguageModel};
use evenkeel::train::{
    Batch, Clip, LossScale, Model, Predictor, Sgd, Telemetry, Trainer, TrainerBuilder,
};
use evenkeel::{Error, Gpu, Precision};
use support::uneven::*;
use support::{Tolerance, assert_close, block_on, tokens, values, wide};

tests! {
    nine_targets_in_two_microbatches, smoothing_and_z_loss_are_means_of_the_step,
    a_microbatch_without_targets_changes_nothing, a_step_without_targets_has_no_gradient,
    half_precision_with_a_loss_scale, computed_targets_are_counted_before_the_first_microbatch,
    each_loss_counts_its_own_targets, the_observed_z_loss_is_that_of_the_step,
    splitting_and_watching_change_no_bit, a_diagnosis_divides_as_the_step_does,
    a_rebuilt_trainer_counts_the_same, an_evaluation_is_the_mean_over_all_targets,
    an_evaluation_without_counts, an_evaluation_of_nothing_is_refused,
}

const SUMS: Tolerance = Tolerance {
    absolute: 2e-7,
    relative: 2e-5,
    because: "f32 against f64 through a small model; gradients that cancel keep a rounding",
};

/// Shows gradients as they are, and a loss away from ln 27 after a step.
fn builder<M: Model>(model: M, microbatches: usize) -> TrainerBuilder<M> {
    let optimizer = Sgd { learning_rate: 2.0, ..Sgd::default() };
    Trainer::builder(model).optimizer(optimizer).accumulation(microbatches).seed(7)
}

fn build<M: Model>(gpu: &Gpu, builder: TrainerBuilder<M>) -> Trainer<M> {
    let trainer = block_on(builder.build(gpu)).expect("a trainer");
    // Far from equal logits, so that every target has a loss of its own.
    for spec in trainer.parameters().specs() {
        if spec.shape.dims.len() > 1 {
            let drawn = values(50 + u64::from(spec.stream), spec.shape.count());
            trainer.parameters().write(&spec.name, &drawn).expect("written");
        }
    }
    trainer
}

fn step<M: Model>(trainer: &mut Trainer<M>, batch: &Batch) -> Telemetry {
    block_on(trainer.step(batch)).expect("a step");
    block_on(trainer.telemetry()).expect("telemetry").pop().expect("a record")
}

/// Data of a trainer's model in f64: its parameters, and these inputs.
fn host<M: Model>(trainer: &Trainer<M>, inputs: HashMap<&'static str, Vec<f64>>) -> HostData {
    let mut data = HostData::default();
    for name in trainer.parameters().names() {
        let values = block_on(trainer.parameters().read(name)).expect("readable");
        data.values.insert(name.to_owned(), wide(&values));
    }
    data.values.extend(inputs.into_iter().map(|(name, values)| (name.to_owned(), values)));
    data
}

/// Takes a step, and compares loss, norm and all gradients with those of `whole`, the same data as
/// one batch, in f64.
fn compare<M: Model, W: Model>(
    trainer: &mut Trainer<M>,
    batch: &Batch,
    whole: &W,
    inputs: HashMap<&'static str, Vec<f64>>,
    (what, tolerance): (&str, Tolerance),
) -> Telemetry {
    let mut graph = Graph::new(Phase::Train);
    let loss = whole.build(&mut graph).loss;
    graph.backward(loss, 1.0);
    let evaluation = graph.evaluate(&host(trainer, inputs));
    let gradients = graph.evaluated_gradients(&evaluation);
    let norm = gradients.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
    let record = step(trainer, batch);
    assert!(record.applied, "{what}: {record:?}");
    let found = [record.loss, record.gradient_norm];
    assert_close(what, &found, &[evaluation.get(loss)[0], norm], tolerance);
    for (spec, expected) in graph.parameters().iter().zip(&gradients) {
        let scale = record.loss_scale;
        let actual = block_on(trainer.gradient(&spec.name)).expect("a gradient");
        let actual: Vec<_> = actual.into_iter().map(|g| g / scale).collect();
        let largest = expected.iter().fold(0f64, |largest, g| largest.max(g.abs()));
        let absolute = tolerance.absolute + tolerance.relative * largest;
        let tolerance = Tolerance { absolute, relative: 0.0, ..tolerance };
        assert_close(&format!("{what}: {}", spec.name), &actual, expected, tolerance);
    }
    record
}

/// A GPT whose microbatches are single sequences beside the whole batch in f64.
fn compare_gpt(gpu: &Gpu, loss: CrossEntropy, counted: &[usize]) -> Telemetry {
    let mut trainer = build(gpu, builder(gpt(loss, 1), counted.len()));
    let what = format!("{loss:?}, {counted:?}");
    let whole = gpt(loss, counted.len());
    compare(&mut trainer, &batch(counted), &whole, ids(counted), (&what, SUMS))
}

fn nine_targets_in_two_microbatches() {
    let Some(gpu) = support::gpu() else { return };
    let counted = [8, 1];
    let parts = compare_gpt(&gpu, CrossEntropy::default(), &counted);
    let mut whole = build(&gpu, builder(gpt(CrossEntropy::default(), 2), 1));
    let whole = step(&mut whole, &batch(&counted));
    let found = [parts.loss, parts.gradient_norm];
    let expected = [whole.loss, whole.gradient_norm].map(f64::from);
    assert_close("the same as one batch", &found, &expected, SUMS);
}

fn smoothing_and_z_loss_are_means_of_the_step() {
    let Some(gpu) = support::gpu() else { return };
    for loss in [
        CrossEntropy { label_smoothing: 0.1, z_loss: 0.0 },
        CrossEntropy { label_smoothing: 0.0, z_loss: 0.02 },
        SMOOTH,
    ] {
        compare_gpt(&gpu, loss, &[8, 1]);
        compare_gpt(&gpu, loss, &[2, 7, 4]);
    }
}

fn a_microbatch_without_targets_changes_nothing() {
    let Some(gpu) = support::gpu() else { return };
    for counted in [&[0, 8, 1][..], &[8, 0, 1], &[8, 1, 0], &[1, 0, 8, 2], &[0, 0, 0, 5]] {
        compare_gpt(&gpu, SMOOTH, counted);
    }
}

fn a_step_without_targets_has_no_gradient() {
    let Some(gpu) = support::gpu() else { return };
    for microbatches in [1, 3] {
        let mut trainer = build(&gpu, builder(gpt(SMOOTH, 1), microbatches));
        let before = block_on(trainer.parameters().read("blocks.0.attention.qkv.weight"));
        let record = step(&mut trainer, &batch(&vec![0; microbatches]));
        assert_eq!((record.loss, record.gradient_norm, record.applied), (0.0, 0.0, true));
        let after = block_on(trainer.parameters().read("blocks.0.attention.qkv.weight"));
        assert_eq!(before.expect("readable"), after.expect("readable"));
        // Counts do not outlive a step.
        let mut counted = vec![8; microbatches];
        counted[0] = 3;
        let whole = gpt(SMOOTH, microbatches);
        compare(&mut trainer, &batch(&counted), &whole, ids(&counted), ("after", SUMS));
    }
}

fn half_precision_with_a_loss_scale() {
    let Some(gpu) = support::gpu() else { return };
    let counted = [8, 1, 0, 3];
    let rounding = Tolerance {
        absolute: 1e-4,
        relative: 0.02,
        because: "activations and their gradients have 11 bits; an uneven mean is off by 15 %",
    };
    for scale in [LossScale::Static(1024.0), LossScale::dynamic()] {
        let builder = builder(gpt(SMOOTH, 1), 4).precision(Precision::F16).loss_scale(scale);
        let mut trainer = build(&gpu, builder.clip(Clip::Norm(1.0)));
        let whole = gpt(SMOOTH, 4);
        compare(&mut trainer, &batch(&counted), &whole, ids(&counted), ("f16", rounding));
    }
}

fn computed_targets_are_counted_before_the_first_microbatch() {
    let Some(gpu) = support::gpu() else { return };
    for counted in [&[8, 1][..], &[0, 3, 8]] {
        let mut trainer = build(&gpu, builder(computed(1), counted.len()));
        let whole = computed(counted.len());
        compare(&mut trainer, &batch(counted), &whole, ids(counted), ("computed", SUMS));
        // Each evaluation counts anew, too.
        let loss = block_on(trainer.evaluate(&batch(&[5]))).expect("a loss");
        assert_eq!(block_on(trainer.evaluate(&batch(&[5]))).expect("a loss"), loss);
    }
}

fn each_loss_counts_its_own_targets() {
    let Some(gpu) = support::gpu() else { return };
    let (counted, others) = ([8, 1, 0], [0, 5, 2]);
    let others = sequences(&others).remove("targets").expect("targets");
    let expected = values(9, 3 * TIME * CLASSES);
    let mut inputs = ids(&counted);
    inputs.insert("others", others.iter().map(|&id| id.into()).collect());
    inputs.insert("expected", wide(&expected));
    let batch = batch(&counted).with("others", others).with("expected", expected);
    let mut trainer = build(&gpu, builder(three_losses(1), 3));
    compare(&mut trainer, &batch, &three_losses(3), inputs, ("three losses", SUMS));
}

fn the_observed_z_loss_is_that_of_the_step() {
    let Some(gpu) = support::gpu() else { return };
    let counted = [8, 0, 1];
    let model = |batch| {
        let config = gpt(SMOOTH, batch).gpt.config().clone();
        let gpt = Gpt::new(GptConfig { watch_logits: true, ..config }).expect("valid");
        LanguageModel { gpt, batch, time: TIME }
    };
    let mut trainer = build(&gpu, builder(model(1), 3));
    let mut graph = Graph::new(Phase::Train);
    model(3).build(&mut graph);
    let evaluation = graph.evaluate(&host(&trainer, ids(&counted)));
    step(&mut trainer, &batch(&counted));
    let observed = block_on(trainer.observations()).expect("observations");
    for ((name, found), (_, value)) in observed.iter().zip(graph.observations()) {
        assert_close(name, found, evaluation.get(*value), SUMS);
    }
    assert!(observed.iter().any(|(name, _)| name == "z_loss"));
}

fn splitting_and_watching_change_no_bit() {
    let Some(gpu) = support::gpu() else { return };
    let counted = [8, 1, 0, 3, 0, 7];
    let run = |budget, every| {
        let builder = builder(gpt(SMOOTH, 2), 3).submit_budget(budget).watch_tensors(every);
        let mut trainer = build(&gpu, builder);
        let losses = [0, 1, 2].map(|_| step(&mut trainer, &batch(&counted)).loss.to_bits());
        let all = [batch(&counted[..2]), batch(&counted[4..])];
        let evaluated = block_on(trainer.evaluate_all(&all)).expect("a loss");
        (losses, evaluated.to_bits(), block_on(trainer.committed_bytes()).expect("bytes"))
    };
    let expected = run(Duration::MAX, 0);
    assert!(run(Duration::ZERO, 0) == expected, "every dispatch a submit of its own");
    assert!(run(Duration::MAX, 2) == expected, "watched");
    assert!(run(Duration::from_micros(300), 1) == expected, "both");
}

fn a_diagnosis_divides_as_the_step_does() {
    let Some(gpu) = support::gpu() else { return };
    let counted = [8, 1];
    let mut trainer = build(&gpu, builder(gpt(SMOOTH, 1), 2));
    let diagnosis = block_on(trainer.diagnose(&batch(&counted))).expect("a diagnosis");
    let record = step(&mut trainer, &batch(&counted));
    let loss = |m| {
        let mut values = diagnosis.values.iter().filter(|value| value.microbatch == m);
        let value = values.find(|value| value.label == "cross_entropy" && value.output == 0);
        f64::from(value.expect("a loss").largest)
    };
    assert_close("loss", &[record.loss], &[(loss(0) + loss(1)) / 2.0], SUMS);
    assert!(loss(0) > 4.0 * loss(1), "eight targets beside one");
}

fn a_rebuilt_trainer_counts_the_same() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, builder(gpt(SMOOTH, 1), 2));
    let mut control = build(&gpu, builder(gpt(SMOOTH, 1), 2));
    for counted in [[8, 1], [0, 6]] {
        let expected = step(&mut control, &batch(&counted));
        let checkpoint = block_on(trainer.checkpoint()).expect("a checkpoint");
        block_on(trainer.rebuild_from(&gpu, &checkpoint)).expect("rebuilt");
        let found = step(&mut trainer, &batch(&counted));
        assert_eq!(found.loss.to_bits(), expected.loss.to_bits(), "{counted:?}");
    }
}

fn an_evaluation_is_the_mean_over_all_targets() {
    let Some(gpu) = support::gpu() else { return };
    for counted in [&[8, 1][..], &[0, 5, 2], &[3, 0, 0, 8], &[0, 0], &[4]] {
        let mut trainer = build(&gpu, builder(gpt(SMOOTH, 1), 1));
        let whole = batch(counted);
        let all: Vec<_> = sequences(counted)["tokens"]
            .chunks(TIME)
            .zip(sequences(counted)["targets"].chunks(TIME))
            .map(|(tokens, targets)| Batch::new().with("tokens", tokens).with("targets", targets))
            .collect();
        let mut graph = Graph::new(Phase::Evaluate);
        let loss = gpt(SMOOTH, counted.len()).build(&mut graph).loss;
        let expected = graph.evaluate(&host(&trainer, ids(counted))).get(loss)[0];
        for _ in 0..2 {
            let found = block_on(trainer.evaluate_all(&all)).expect("a loss");
            assert_close(&format!("{counted:?}"), &[found], &[expected], SUMS);
        }
        if counted.len() == 1 {
            let single = block_on(trainer.evaluate(&whole)).expect("a loss");
            let all = block_on(trainer.evaluate_all(&[whole])).expect("a loss");
            assert_eq!(single.to_bits(), all.to_bits());
        }
    }
}

fn an_evaluation_without_counts() {
    let Some(gpu) = support::gpu() else { return };
    let trainer = build(&gpu, builder(three_losses(1), 1));
    let predictor = Predictor::new(&gpu, trainer.parameters(), |graph| {
        let output = three_losses(1).build(graph);
        let expected = graph.input("expected", Shape::real([1, TIME, CLASSES]));
        let error = graph.mean_squared_error(output.prediction, expected);
        vec![error, output.prediction]
    });
    let predictor = block_on(predictor).expect("a predictor");
    let batches = [3, 4].map(|seed| {
        let tokens = tokens(seed, TIME, CLASSES as u32);
        Batch::new().with("tokens", tokens).with("expected", values(seed, TIME * CLASSES))
    });
    let means = block_on(predictor.mean(&batches)).expect("means");
    let each = batches.each_ref().map(|batch| block_on(predictor.run(batch)).expect("outputs"));
    for (output, mean) in means.iter().enumerate() {
        for (i, mean) in mean.iter().enumerate() {
            let sum = f64::from(each[0][output][i]) / 2.0 + f64::from(each[1][output][i]) / 2.0;
            assert_eq!(*mean, sum);
        }
    }
}

fn an_evaluation_of_nothing_is_refused() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, builder(gpt(SMOOTH, 1), 1));
    let error = block_on(trainer.evaluate_all(&[])).expect_err("nothing to evaluate");
    assert!(matches!(error, Error::Data { .. }), "{error}");
    let mixed = [batch(&[8]), batch(&[8, 8])];
    let error = block_on(trainer.evaluate_all(&mixed)).expect_err("another size");
    assert!(matches!(error, Error::InputSize { .. }), "{error}");
    assert!(block_on(trainer.evaluate_all(&mixed[..1])).expect("a loss") > 0.0);
}
