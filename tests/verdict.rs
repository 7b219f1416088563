//! What the documentation says of the verdict, a test for each sentence, with faults of every kind that
//! it sees: in the gradients, in the loss alone, in new running statistics alone; in any microbatch.

#[macro_use]
mod support;

use evenkeel::graph::{Graph, Shape};
use evenkeel::nn::{Classifier, Init, MlpClassifier};
use evenkeel::step::Reason;
use evenkeel::train::stability::SpikeGuard;
use evenkeel::train::{
    AdamW, Batch, Clip, Lion, Model, ModelOutput, Schedule, Sgd, Trainer, TrainerBuilder,
};
use evenkeel::{Error, Gpu};
use support::parted::*;
use support::{block_on, tokens, values};

tests! {
    the_loss_is_part_of_nan_or_inf, all_that_a_step_changes_obeys_the_verdict, nan_and_inf_are_found_on_bits, the_loss_of_any_microbatch_counts, a_skipped_step_is_counted_and_reported, a_step_commits_or_skips_without_a_readback, the_first_of_gradient_loss_state_and_policy_is_the_reason, the_host_can_stop_at_a_loss_or_a_state, a_skipped_step_changes_no_weight_by_telemetry, batch_norm_keeps_finite_statistics, a_state_without_a_new_value_stays,
}

/// README: "a step whose loss, gradients or new running statistics hold a NaN or Inf changes
/// nothing". Weights of zero, a target of 1e20: the loss is no f32, the norm is 1e20.
fn the_loss_is_part_of_nan_or_inf() {
    let Some(gpu) = support::gpu() else { return };
    let model = |graph: &mut Graph| {
        let weight = graph.parameter("w", [4], Init::ZERO);
        let target = graph.input("target", Shape::real([4]));
        let loss = graph.mean_squared_error(weight, target);
        ModelOutput { loss, prediction: weight }
    };
    let builder = Trainer::builder(model).clip(Clip::Norm(1.0));
    let mut trainer = build(&gpu, builder);
    let before = bytes(&trainer);
    let record = step(&mut trainer, &Batch::new().with("target", vec![1e20f32; 4]));
    assert_eq!((record.applied, record.reason), (false, Reason::NonFiniteLoss));
    assert_eq!((record.loss, record.nonfinite_count), (f32::INFINITY, 0));
    assert!((record.gradient_norm / 1e20 - 1.0).abs() < 1e-6, "{record:?}");
    assert!(before == bytes(&trainer));
    let record = step(&mut trainer, &Batch::new().with("target", vec![1.0f32; 4]));
    assert!(record.applied && before != bytes(&trainer));
}

/// README, ARCHITECTURE: "Whatever a step changes (weights, moments, counters, bias corrections, the
/// schedule's position, BatchNorm's running statistics) obeys that word"; a run with faults is the
/// run without them.
fn all_that_a_step_changes_obeys_the_verdict() {
    let Some(gpu) = support::gpu() else { return };
    let optimizers: [fn(TrainerBuilder<Parted>) -> TrainerBuilder<Parted>; 3] = [
        |builder| builder.optimizer(AdamW { weight_decay: 0.1, ..AdamW::default() }),
        |builder| builder.optimizer(Sgd { momentum: 0.9, weight_decay: 0.1, ..Sgd::default() }),
        |builder| builder.optimizer(Lion { weight_decay: 0.1, ..Lion::default() }),
    ];
    for (microbatches, optimizer) in [1, 3].into_iter().flat_map(|m| optimizers.map(|o| (m, o))) {
        let schedule = Schedule::Linear { warmup: 2, total: 9, final_factor: 0.1 };
        let make = || {
            let builder = optimizer(parted()).clip(Clip::Norm(0.5)).schedule(schedule.clone());
            build(&gpu, builder.accumulation(microbatches))
        };
        let (mut trainer, mut control) = (make(), make());
        for (index, fault) in (0..).zip(FAULTS) {
            let data = Data::new(index, microbatches);
            assert!(step(&mut trainer, &data.batch()).applied);
            step(&mut control, &data.batch());
            let (committed, counted) = (bytes(&trainer), state(&trainer));
            for microbatch in 0..microbatches {
                let what = format!("{fault:?} in microbatch {microbatch} of {microbatches}");
                let record = step(&mut trainer, &data.with(fault, microbatch).batch());
                assert_eq!((record.applied, record.reason), (false, fault.reason()), "{what}");
                assert!(committed == bytes(&trainer), "{what}: a committed byte changed");
                let after = state(&trainer);
                assert_eq!(after.applied_total, counted.applied_total, "{what}");
                assert_eq!(after.learning_rate, counted.learning_rate, "{what}");
            }
        }
        assert!(bytes(&trainer) == bytes(&control), "not the run without faults");
        let (found, expected) = (step(&mut trainer, &Data::new(50, microbatches).batch()), {
            step(&mut control, &Data::new(50, microbatches).batch())
        });
        assert_eq!(found.loss.to_bits(), expected.loss.to_bits());
        assert_eq!(found.learning_rate, expected.learning_rate);
        assert!(bytes(&trainer) == bytes(&control));
    }
}

/// README: "NaN and Inf are found on bits": any payload, either sign; and nothing beside them.
fn nan_and_inf_are_found_on_bits() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, parted().accumulation(2).give_up_after(0));
    let data = Data::new(1, 2);
    for bits in [0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 0xffff_ffff, 0x7f80_0001, 0xff81_2345] {
        let value = f32::from_bits(bits);
        for fault in [Fault::Gradient(value), Fault::Loss(value), Fault::State(value)] {
            let record = step(&mut trainer, &data.with(fault, 1).batch());
            assert_eq!(record.reason, fault.reason(), "{bits:#x}, {fault:?}");
        }
    }
    for value in [1e38, f32::from_bits(1), -0.0] {
        let record = step(&mut trainer, &data.with(Fault::Loss(value), 1).batch());
        assert!(record.applied, "{value}: {record:?}");
    }
}

/// Telemetry: "NaN or Inf where that of one microbatch is", also where a sum of floats would lose it.
fn the_loss_of_any_microbatch_counts() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, parted().accumulation(3).give_up_after(0));
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let cases = [[inf, -inf, 0.0], [0.0, nan, 1.0], [1.0, 0.0, nan], [-inf, 0.0, inf], [nan; 3]];
    for extra in cases {
        let data = Data { extra: extra.to_vec(), ..Data::new(1, 3) };
        let record = step(&mut trainer, &data.batch());
        assert_eq!((record.applied, record.reason), (false, Reason::NonFiniteLoss), "{extra:?}");
        assert!(!record.loss.is_finite(), "{extra:?}: {record:?}");
        let first = extra.into_iter().find(|x| !x.is_finite()).expect("one");
        assert_eq!(record.loss.is_nan(), first.is_nan(), "{extra:?}: the first one stays");
    }
    // Losses whose mean is finite.
    let data = Data { extra: vec![3e38, -3e38, 1.0], ..Data::new(1, 3) };
    let record = step(&mut trainer, &data.batch());
    assert!(record.applied && record.loss.abs() < 1e32, "{record:?}");
}

/// README: "is counted and reported"; Telemetry's counts are those of a simulation on the host.
fn a_skipped_step_is_counted_and_reported() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, parted());
    let (mut total, mut in_row, mut applied) = (0, 0, 0);
    let order = [None, Some(0), Some(5), None, Some(6), Some(2), Some(8), None, None, Some(1)];
    for (index, fault) in (0..).zip(order) {
        let fault = fault.map(|fault: usize| FAULTS[fault]);
        let good = Data::new(index, 1);
        let data = fault.map_or(good.clone(), |fault| good.with(fault, 0));
        let record = step(&mut trainer, &data.batch());
        let skips = u32::from(fault.is_some());
        (total, in_row) = (total + skips, if skips == 1 { in_row + 1 } else { 0 });
        applied += 1 - skips;
        let counts = (record.skipped_total, record.skipped_in_row, record.applied_total);
        assert_eq!(counts, (total, in_row, applied), "step {index}, {fault:?}");
        assert_eq!((record.step, record.applied), (index, fault.is_none()));
        assert_eq!(record.reason, fault.map_or(Reason::None, Fault::reason));
        let state = state(&trainer);
        let counts = (state.skipped_total, state.skipped_in_row, state.applied_total);
        assert_eq!(counts, (total, in_row, applied), "step {index}, {fault:?}");
    }
}

/// README: "commits or skips without one readback".
fn a_step_commits_or_skips_without_a_readback() {
    if support::gpu().is_none() {
        return;
    }
    // Its counters are to count for this test alone.
    let gpu = block_on(Gpu::new()).expect("a device");
    let mut trainer = build(&gpu, parted().accumulation(2));
    let data = Data::new(1, 2);
    step(&mut trainer, &data.batch());
    let before = gpu.counters();
    for fault in FAULTS {
        block_on(trainer.step(&data.with(fault, 1).batch())).expect("a step");
    }
    assert_eq!(gpu.counters().maps, before.maps);
    let records = block_on(trainer.telemetry()).expect("telemetry");
    let reasons: Vec<_> = records.iter().map(|record| record.reason).collect();
    assert_eq!(reasons, FAULTS.map(Fault::reason));
}

/// Verdict: "The first of these is the reason."
fn the_first_of_gradient_loss_state_and_policy_is_the_reason() {
    let Some(gpu) = support::gpu() else { return };
    let guard = SpikeGuard { window: 2, threshold: 1.0, ..SpikeGuard::default() };
    let mut trainer = build(&gpu, parted().policy(guard));
    for index in 0..4 {
        step(&mut trainer, &Data::new(index % 2, 1).batch());
    }
    let spike = Data { target: vec![1e6; WEIGHTS], ..Data::new(1, 1) };
    let [gradient, loss, new_state] = KINDS;
    let all = spike.with(new_state, 0).with(loss, 0);
    let reason = |trainer: &mut Trainer<_>, data: &Data| step(trainer, &data.batch()).reason;
    assert_eq!(reason(&mut trainer, &all.with(gradient, 0)), Reason::NonFiniteGradient);
    assert_eq!(reason(&mut trainer, &all), Reason::NonFiniteLoss);
    assert_eq!(reason(&mut trainer, &spike.with(new_state, 0)), Reason::NonFiniteState);
    assert_eq!(reason(&mut trainer, &spike), Reason::LossSpike);
}

/// TrainerBuilder::error_if_nonfinite: "fail at the first step whose gradients, loss or new running
/// statistics are not finite. Such a step changes nothing either way."
fn the_host_can_stop_at_a_loss_or_a_state() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, parted().error_if_nonfinite(true));
    let good = Data::new(1, 1);
    step(&mut trainer, &good.batch());
    let committed = bytes(&trainer);
    let mut stopped = |fault| {
        block_on(trainer.step(&good.with(fault, 0).batch())).expect("a step");
        let error = block_on(trainer.telemetry()).expect_err("a bad step");
        assert!(committed == bytes(&trainer), "{fault:?}");
        assert!(error.to_string().contains("the step changed nothing"), "{error}");
        error
    };
    let error = stopped(Fault::Gradient(f32::NAN));
    assert!(matches!(error, Error::NonFiniteGradient { step: 1, count: 1 }), "{error}");
    let error = stopped(Fault::LossOverflow);
    assert!(matches!(error, Error::NonFiniteLoss { step: 2, loss: f32::INFINITY }), "{error}");
    let error = stopped(Fault::State(f32::NAN));
    assert!(matches!(error, Error::NonFiniteState { step: 3 }), "{error}");
}

/// TensorTelemetry: "Root of the mean square of the changes of the weights; 0 in a skipped step".
fn a_skipped_step_changes_no_weight_by_telemetry() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, parted().watch_tensors(1));
    let good = Data::new(1, 1);
    block_on(trainer.step(&good.batch())).expect("a step");
    for fault in FAULTS {
        block_on(trainer.step(&good.with(fault, 0).batch())).expect("a step");
    }
    let watched = block_on(trainer.tensor_telemetry()).expect("telemetry");
    assert!(watched[0].update_rms > 0.0);
    assert!(watched[1..].iter().all(|record| record.update_rms == 0.0));
    assert_eq!(watched.len(), 1 + FAULTS.len());
}

/// nn::BatchNorm: "a step that is skipped leaves them as they were", and no applied step makes them
/// NaN or Inf, however large the inputs are.
fn batch_norm_keeps_finite_statistics() {
    let Some(gpu) = support::gpu() else { return };
    let mlp = MlpClassifier { inputs: 5, hidden: vec![6, 7], classes: 3, batch_norm: true };
    let mut trainer = build(&gpu, Trainer::builder(Classifier { mlp, batch: 4 }));
    let batch = |scale: f32| {
        let inputs: Vec<_> = values(1, 20).into_iter().map(|x| x * scale).collect();
        Batch::new().with("inputs", inputs).with("targets", tokens(2, 4, 3))
    };
    for scale in [1.0, 1e10, 1e19, 1e22, 1e30, 3e38, 1.0] {
        let before = bytes(&trainer);
        let record = step(&mut trainer, &batch(scale));
        assert_eq!(record.applied, before != bytes(&trainer), "{scale}: {record:?}");
        for layer in 0..2 {
            for name in ["running_mean", "running_var"] {
                let name = format!("layers.{layer}.norm.{name}");
                let running = block_on(trainer.parameters().read(&name)).expect("readable");
                assert!(running.iter().all(|x| x.is_finite()), "{scale}, {name}: {running:?}");
            }
        }
        assert!(record.applied || scale > 1e10, "{scale}: {record:?}");
    }
}

/// Graph::state: "`stage` gives it a new value, which only an applied step commits": a state that is
/// only read, such as the statistics of a frozen BatchNorm, keeps its value beside one that moves.
fn a_state_without_a_new_value_stays() {
    let Some(gpu) = support::gpu() else { return };
    for (reads, trains) in [(true, false), (true, true), (false, true)] {
        let model = move |graph: &mut Graph| {
            let output = if trains {
                Parted.build(graph)
            } else {
                let weight = graph.parameter("w", [3, 4], Init::ONE);
                ModelOutput { loss: graph.mean_squared_error(weight, weight), prediction: weight }
            };
            if !reads {
                return output;
            }
            let kept = graph.state(&[("kept.mean", 2.0), ("kept.variance", 7.0)], 4);
            let [one, zero] =
                [1.0, 0.0].map(|x| graph.constant("constant", Shape::real([4]), &[x; 4]));
            let x = graph.parameter("x", [2, 4], Init::ONE);
            // Statistics are read, and no gradient is asked of them.
            let input = graph.input("input", Shape::real([2, 4]));
            let y = graph.normalize_features(input, kept, one, zero, 1e-5);
            let error = graph.mean_squared_error(x, y);
            ModelOutput { loss: graph.add(output.loss, error), ..output }
        };
        let mut trainer = build(&gpu, Trainer::builder(model));
        for index in 0..2 {
            let batch = Data::new(index, 1).batch().with("input", values(index, 8));
            assert!(step(&mut trainer, &batch).applied);
        }
        let read = |name: &str| block_on(trainer.parameters().read(name)).expect("readable");
        if reads {
            assert_eq!((read("kept.mean"), read("kept.variance")), (vec![2.0; 4], vec![7.0; 4]));
        }
        if trains {
            assert!(read("variance").iter().all(|&x| x != 1.0 && x != 0.0), "it moves");
        }
    }
}
