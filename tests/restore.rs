//! What belongs to a run comes from its checkpoint, what belongs to its settings from the builder,
//! and a checkpoint that does not fit leaves no trace: the table of [`Checkpoint`], row by row.

#[macro_use]
mod support;

use evenkeel::graph::{Graph, ParameterSpec, Phase};
use evenkeel::nn::{Gpt, GptConfig, LanguageModel};
use evenkeel::plan::Parameters;
use evenkeel::step::{Reason, StepState, TensorSettings, TensorState};
use evenkeel::train::{
    AdaGc, AdamW, AutoClip, Batch, Checkpoint, Clip, DynamicLossScale, Lion, LossScale, Model,
    Muon, Schedule, Sgd, SnapshotRing, SpikeGuard, Trainer, TrainerBuilder, ZClip,
};
use evenkeel::{Error, Gpu, Precision, WeightStorage};
use support::block_on;
use support::edited::Edited;
use support::models::{Terms, small_gpt, small_gpt_batch};

tests! {
    the_same_checkpoint_is_the_same_file, every_refusal_leaves_no_trace, damaged_files_are_errors,
    a_run_with_inf_is_refused_before_anything_is_written, loss_scales_follow_the_table,
    storages_and_precisions_change, moments_need_their_optimizer, settings_are_those_of_the_new_run,
    a_run_that_had_given_up_goes_on, policies_may_come_and_go, frozen_tensors_begin_empty,
    weights_alone_begin_anew, schedules_hold_at_every_step, copies_of_parameters_stay,
    snapshots_from_before_are_gone, models_with_other_heads_are_told_apart,
}

fn terms() -> TrainerBuilder<Terms> {
    Trainer::builder(Terms::three()).optimizer(AdamW { learning_rate: 0.01, ..AdamW::default() })
}

fn batch(seed: u64) -> Batch {
    Terms::three().data(seed, 1).batch()
}

fn build<M: Model>(gpu: &Gpu, builder: TrainerBuilder<M>) -> Trainer<M> {
    block_on(builder.build(gpu)).expect("a trainer")
}

fn steps(trainer: &mut Trainer<Terms>, count: u64) {
    for _ in 0..count {
        let batch = batch(trainer.steps());
        block_on(trainer.step(&batch)).expect("a step");
    }
}

fn checkpoint<M: Model>(trainer: &Trainer<M>) -> Checkpoint {
    block_on(trainer.checkpoint()).expect("a checkpoint")
}

fn state<M: Model>(trainer: &Trainer<M>) -> StepState {
    block_on(trainer.state()).expect("a state")
}

fn tensor_states<M: Model>(trainer: &Trainer<M>) -> Vec<TensorState> {
    block_on(trainer.tensor_states()).expect("states")
}

/// All that could have changed.
fn trace(trainer: &mut Trainer<Terms>) -> (Vec<u8>, u64, u32, Vec<u8>) {
    let bytes = block_on(trainer.committed_bytes()).expect("bytes");
    (checkpoint(trainer).to_bytes(), trainer.steps(), trainer.seed(), bytes)
}

/// A trainer of `builder` after `restore`, which must work.
fn restored<M: Model>(gpu: &Gpu, builder: TrainerBuilder<M>, from: &Checkpoint) -> Trainer<M> {
    let mut trainer = build(gpu, builder);
    block_on(trainer.restore(from)).expect("it fits");
    trainer
}

/// Why `restore` fails.
#[track_caller]
fn refused<M: Model>(trainer: &mut Trainer<M>, checkpoint: &Checkpoint) -> String {
    let error = block_on(trainer.restore(checkpoint)).expect_err("it does not fit");
    assert!(matches!(error, Error::Checkpoint { .. }), "{error}");
    error.to_string()
}

fn the_same_checkpoint_is_the_same_file() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, terms().policy(ZClip::default()).policy(AutoClip::default()));
    steps(&mut trainer, 2);
    let first = checkpoint(&trainer);
    let file = first.to_bytes();
    assert_eq!(u64::from_le_bytes(file[..8].try_into().unwrap()) % 8, 0);
    for _ in 0..9 {
        assert_eq!(first.to_bytes(), file);
        assert_eq!(Checkpoint::from_bytes(&file).unwrap().to_bytes(), file);
        assert_eq!(checkpoint(&trainer).to_bytes(), file);
    }
    // And another trainer that goes on from it has it again.
    let other = terms().policy(ZClip::default()).policy(AutoClip::default());
    assert_eq!(checkpoint(&restored(&gpu, other, &first)).to_bytes(), file);
}

/// Changes a file; what the error has to say.
type Refusal = (&'static str, fn(&mut Edited));

const STATE: &str = "evenkeel/state";
const TENSORS: &str = "evenkeel/tensors";

const REFUSALS: &[Refusal] = &[
    ("it has no w1", |file| drop(file.tensors.remove("w1"))),
    ("it has extra", |file| file.copy("w1", "extra")),
    ("it has no w2", |file| file.say("parameters", "w0\nw1")),
    ("another order", |file| file.say("parameters", "w1\nw0\nw2")),
    ("w0 has the shape [5, 3]", |file| file.tensors.get_mut("w0").unwrap().1 = vec![5, 3]),
    ("w0 has the shape [15]", |file| file.tensors.get_mut("w0").unwrap().1 = vec![15]),
    ("w2 is U32", |file| file.tensors.get_mut("w2").unwrap().0 = safetensors::Dtype::U32),
    ("w2 holds NaN at index 6", |file| file.set("w2", 6, f32::NAN)),
    ("w2 holds inf at index 0", |file| file.set("w2", 0, f32::INFINITY)),
    ("m/w2 holds -inf at index 3", |file| {
        file.set("evenkeel/moment/m/w2", 3, f32::NEG_INFINITY);
    }),
    ("v/w1 holds -1 at index 9", |file| file.set("evenkeel/moment/v/w1", 9, -1.0)),
    ("no evenkeel/moment/v/w2", |file| drop(file.tensors.remove("evenkeel/moment/v/w2"))),
    ("m/w9, which is not known", |file| {
        file.copy("evenkeel/moment/m/w1", "evenkeel/moment/m/w9");
    }),
    ("momentum/w1, which is not known", |file| {
        file.copy("evenkeel/moment/m/w1", "evenkeel/moment/momentum/w1");
    }),
    ("compensation/w1, which is not known", |file| {
        file.copy("w1", "evenkeel/compensation/w1");
    }),
    ("no evenkeel/compensation/w0", |file| file.say("weights", "bf16 with Kahan compensation")),
    ("evenkeel/surprise, which is not known", |file| file.copy(TENSORS, "evenkeel/surprise")),
    ("v/w2 has the shape [1, 7]", |file| {
        file.tensors.get_mut("evenkeel/moment/v/w2").unwrap().1 = vec![1, 7];
    }),
    ("no evenkeel/state", |file| drop(file.tensors.remove(STATE))),
    ("not a list of U32", |file| file.tensors.get_mut(STATE).unwrap().1 = vec![1, 27]),
    ("evenkeel/tensors has", |file| {
        let words = file.words(TENSORS).len();
        file.words(TENSORS).truncate(words - 7);
        file.tensors.get_mut(TENSORS).unwrap().1 = vec![words - 7];
    }),
    ("no field applied_total", |file| {
        let names = file.info[STATE].replace("applied_total", "applied");
        file.say(STATE, &names);
    }),
    ("4 were applied", |file| *file.field(STATE, 0, "applied_total") = 4),
    ("1 skipped", |file| *file.field(STATE, 0, "skipped_total") = 1),
    ("skipped in a row is 1", |file| *file.field(STATE, 0, "skipped_in_row") = 1),
    ("clean steps is 9", |file| *file.field(STATE, 0, "growth_count") = 9),
    ("verdict is 2", |file| *file.field(STATE, 0, "verdict") = 2),
    ("reason is 77", |file| *file.field(STATE, 0, "reason") = 77),
    ("veto is 77", |file| *file.field(STATE, 0, "veto") = 77),
    ("give up is 77", |file| *file.field(STATE, 0, "gave_up") = 77),
    ("loss scale is 0", |file| *file.field(STATE, 0, "loss_scale") = 0),
    ("loss scale is NaN", |file| *file.field(STATE, 0, "loss_scale") = f32::NAN.to_bits()),
    ("loss scale is -1", |file| *file.field(STATE, 0, "loss_scale") = (-1f32).to_bits()),
    ("of w1 is 4 of 3", |file| *file.field(TENSORS, 1, "steps") = 4),
    ("of w2 is 1.5", |file| *file.field(TENSORS, 2, "bias_correction1") = 1.5f32.to_bits()),
    ("of w0 is NaN", |file| *file.field(TENSORS, 0, "bias_correction2") = f32::NAN.to_bits()),
    ("moments of w0 is 2", |file| *file.field(TENSORS, 0, "reset") = 2),
    ("policy/AutoClip", |file| file.words("evenkeel/policy/AutoClip")[0] = 2000),
    ("policy/AutoClip", |file| file.set("evenkeel/policy/AutoClip", 7, f32::NAN)),
    ("policy/AdaGC", |file| file.set("evenkeel/policy/AdaGC", 3, f32::INFINITY)),
    ("policy/ZClip", |file| file.set("evenkeel/policy/ZClip", 3, -1.0)),
    ("policy/spike guard", |file| file.words("evenkeel/policy/spike guard")[1] = 200),
    ("policy/spike guard", |file| file.set("evenkeel/policy/spike guard", 20, f32::NAN)),
    ("its steps is \"three\"", |file| file.say("steps", "three")),
    ("its steps is \"-3\"", |file| file.say("steps", "-3")),
    ("its seed is \"4294967296\"", |file| file.say("seed", "4294967296")),
    ("its seed is \"\"", |file| drop(file.info.remove("seed"))),
    ("learning rate factor is NaN", |file| file.say("learning rate factor", "nan")),
    ("learning rate factor is -1", |file| file.say("learning rate factor", "-1")),
    ("learning rate factor is \"1,5\"", |file| file.say("learning rate factor", "1,5")),
    ("its loss scale is \"none\"", |file| file.say("loss scale", "none")),
    ("does not say its optimizer", |file| drop(file.info.remove("optimizer"))),
    ("its optimizer was Lion", |file| file.say("optimizer", "Lion")),
    ("v_max", |file| file.say("moments", "m\nv\nv_max")),
    ("checkpoint 1", |file| file.say("format", "evenkeel checkpoint 1")),
    ("\"pt\"", |file| file.say("format", "pt")),
    ("its format is None", |file| drop(file.info.remove("format"))),
];

fn every_refusal_leaves_no_trace() {
    let Some(gpu) = support::gpu() else { return };
    let builder = || {
        let guarded = terms().policy(SpikeGuard::default()).policy(AutoClip::default());
        guarded.policy(AdaGc::default()).policy(ZClip::default())
    };
    let mut first = build(&gpu, builder());
    steps(&mut first, 3);
    let good = Edited::new(&checkpoint(&first));
    let mut other = build(&gpu, builder().seed(5));
    steps(&mut other, 1);
    let before = trace(&mut other);
    for (word, change) in REFUSALS {
        let mut file = good.clone();
        change(&mut file);
        let error = match Checkpoint::from_bytes(&file.bytes()) {
            Ok(read) => refused(&mut other, &read),
            Err(error) => error.to_string(),
        };
        assert!(error.contains(word), "{word:?} is not in: {error}");
        assert!(trace(&mut other) == before, "{error} came too late");
    }
    let read = Checkpoint::from_bytes(&good.bytes()).expect("unchanged");
    block_on(other.restore(&read)).expect("unchanged");
    assert!(checkpoint(&other) == checkpoint(&first));
}

fn damaged_files_are_errors() {
    let Some(gpu) = support::gpu() else { return };
    let file = checkpoint(&build(&gpu, terms())).to_bytes();
    let error = |bytes: &[u8]| {
        let error = Checkpoint::from_bytes(bytes).expect_err("damaged");
        assert!(matches!(error, Error::Checkpoint { .. }), "{error}");
        error.to_string()
    };
    for length in (0..file.len()).step_by(97).chain([7, 8, 9, file.len() - 1]) {
        error(&file[..length]);
    }
    error(&[&file[..], &[0]].concat());
    let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    for length in [0, 1, 1 << 20, 1 << 40, u64::MAX] {
        error(&[&length.to_le_bytes()[..], &file[8..]].concat());
    }
    let text = str::from_utf8(&file[8..header]).expect("JSON").trim_end();
    let with = |text: &str| {
        let length = (text.len() as u64).to_le_bytes();
        [&length[..], text.as_bytes(), &file[header..]].concat()
    };
    assert!(Checkpoint::from_bytes(&with(text)).is_ok());
    let tensor = |name: &str, offsets: &str| {
        let shape = "\"shape\":[15]";
        format!("\"{name}\":{{\"dtype\":\"F32\",{shape},\"data_offsets\":[{offsets}]}}")
    };
    let more = |tensor: &str| with(&format!("{},{tensor}}}", &text[..text.len() - 1]));
    // Over others; past the end; twice the same name over the same bytes.
    error(&more(&tensor("again", "0,60")));
    error(&more(&tensor("past", "4000000,4000060")));
    error(&more(&tensor("huge", "0,18446744073709551615")));
    let at = text.find("\"w2\":").expect("the last tensor");
    assert!(error(&more(&text[at..text.len() - 1])).contains("names"));
    error(&with(&text.replace("[3,5]", "[18446744073709551615,18446744073709551615]")));
    error(&with(&text.replace("[3,5]", "[3,-5]")));
    // Whatever a bit becomes, nothing panics.
    for at in (8..header).step_by(3) {
        let mut flipped = file.clone();
        flipped[at] ^= 1 << (at % 8);
        let _: Result<Checkpoint, Error> = Checkpoint::from_bytes(&flipped);
    }
}

/// An applied step may make a weight Inf, where the learning rate is far too large.
fn a_run_with_inf_is_refused_before_anything_is_written() {
    let Some(gpu) = support::gpu() else { return };
    let sgd = |learning_rate| Sgd { learning_rate, momentum: 0.0, ..Sgd::default() };
    // Only the last tensor moves.
    let mut data = Terms::three().data(0, 1);
    data.factors[0].fill(0.0);
    data.factors[1].fill(0.0);
    data.targets[2].fill(1e12);
    let settings = Trainer::builder(Terms::three()).optimizer(sgd(1e30)).clip(Clip::None);
    let mut wild = build(&gpu, settings);
    block_on(wild.step(&data.batch())).expect("a step");
    let wild = checkpoint(&wild);
    let (_, values) = wild.tensor("w2").expect("the last tensor");
    assert!(values.iter().any(|x| x.is_infinite()), "{values:?}");

    let settings = Trainer::builder(Terms::three()).optimizer(sgd(0.1)).seed(9);
    let mut other = build(&gpu, settings);
    steps(&mut other, 2);
    let before = trace(&mut other);
    assert!(refused(&mut other, &wild).contains("w2 holds"));
    let error = block_on(other.restore_weights(&wild)).expect_err("weights with Inf");
    assert!(error.to_string().contains("w2 holds"), "{error}");
    assert!(Checkpoint::from_bytes(&wild.to_bytes()).is_err());
    assert!(trace(&mut other) == before);
}

fn dynamic(init: f32, min: f32, max: f32) -> LossScale {
    LossScale::Dynamic(DynamicLossScale { init, min, max, interval: 2, ..Default::default() })
}

fn loss_scales_follow_the_table() {
    let Some(gpu) = support::gpu() else { return };
    let fixed = LossScale::Static;
    let cases = [
        // After three steps the dynamic one has grown once.
        (fixed(64.0), fixed(8.0), 8.0, 0),
        (fixed(64.0), dynamic(256.0, 1.0, 1e9), 256.0, 0),
        (dynamic(256.0, 1.0, 1e9), fixed(8.0), 8.0, 0),
        (dynamic(256.0, 1.0, 1e9), dynamic(256.0, 1.0, 1e9), 512.0, 1),
        (dynamic(256.0, 1.0, 1e9), dynamic(16.0, 1.0, 128.0), 128.0, 1),
        (dynamic(256.0, 1.0, 1e9), dynamic(4096.0, 1024.0, 1e9), 1024.0, 1),
        (LossScale::default(), LossScale::dynamic(), 65_536.0, 0),
        (LossScale::dynamic(), LossScale::default(), 1.0, 0),
    ];
    for (old, new, scale, clean) in cases {
        let mut first = build(&gpu, terms().loss_scale(old));
        steps(&mut first, 3);
        let mut other = restored(&gpu, terms().loss_scale(new), &checkpoint(&first));
        let found = state(&other);
        assert_eq!((found.loss_scale, found.growth_count), (scale, clean), "{old:?} {new:?}");
        steps(&mut other, 1);
        assert_eq!(block_on(other.telemetry()).expect("telemetry")[0].loss_scale, scale);
    }
}

fn gpt(precision: Precision, weights: WeightStorage) -> TrainerBuilder<impl Model> {
    Trainer::builder(small_gpt(0.0, 2)).precision(precision).weights(weights)
}

/// f32 into f16, whose default is a dynamic scale; every storage into every other.
fn storages_and_precisions_change() {
    let Some(gpu) = support::gpu() else { return };
    for old in WeightStorage::ALL {
        let mut first = build(&gpu, gpt(Precision::F32, old));
        for seed in 0..2 {
            block_on(first.step(&small_gpt_batch(seed, 2))).expect("a step");
        }
        let from = checkpoint(&first);
        for new in WeightStorage::ALL {
            let precision =
                if new == WeightStorage::F32 { Precision::F16 } else { Precision::Bf16 };
            let mut other = restored(&gpu, gpt(precision, new), &from);
            let scale = if precision == Precision::F16 { 65_536.0 } else { 1.0 };
            assert_eq!(state(&other).loss_scale, scale);
            for name in from.names() {
                let (_, values) = from.tensor(name).expect("a tensor");
                let padded: Vec<_> = values.iter().flat_map(|&x| [x, 0.0, 0.0, 0.0]).collect();
                let [weights, beside] = new.encode(&padded);
                let kept: Vec<_> = new.decode(&weights, &beside).into_iter().step_by(4).collect();
                let read = block_on(other.parameters().read(name)).expect("read");
                assert_eq!(read, kept, "{name} of {old} in {new}");
            }
            block_on(other.step(&small_gpt_batch(2, 2))).expect("a step");
            assert_eq!(state(&other).applied_total, 3);
        }
    }
    // What is finite in f32 may not be in the new storage.
    let mut file = Edited::new(&checkpoint(&build(&gpu, terms())));
    file.set("w1", 7, 3.4e38);
    let read = Checkpoint::from_bytes(&file.bytes()).expect("finite");
    let mut other = build(&gpu, terms().weights(WeightStorage::Bf16Stochastic));
    let before = trace(&mut other);
    assert!(refused(&mut other, &read).contains("w1 holds"));
    assert!(trace(&mut other) == before);
}

/// The same names and shapes, but other heads: of them only the model can tell.
fn models_with_other_heads_are_told_apart() {
    let Some(gpu) = support::gpu() else { return };
    let from = checkpoint(&build(&gpu, gpt(Precision::F32, WeightStorage::F32)));
    let with = |heads, dropout| {
        let config = GptConfig { dropout, ..GptConfig::gpt2(27, 8, 1, heads, 8) };
        let gpt = Gpt::new(config).expect("valid");
        build(&gpu, Trainer::builder(LanguageModel { gpt, batch: 3, time: 4 }))
    };
    let mut other = with(1, 0.0);
    let before = checkpoint(&other);
    let error = refused(&mut other, &from);
    assert!(error.contains("heads 2,") && error.contains("heads 1,"), "{error}");
    assert!(block_on(other.restore_weights(&from)).is_err());
    assert!(checkpoint(&other) == before);
    // Dropout, batch and length are no part of it.
    block_on(with(2, 0.5).restore(&from)).expect("the same model");
}

fn moments_need_their_optimizer() {
    let Some(gpu) = support::gpu() else { return };
    let mut first = build(&gpu, terms());
    steps(&mut first, 2);
    let from = checkpoint(&first);
    let amsgrad = AdamW { amsgrad: true, ..AdamW::default() };
    let others: [(TrainerBuilder<Terms>, &str); 4] = [
        (terms().optimizer(Lion::default()), "here it is Lion, which keeps m;"),
        (terms().optimizer(Sgd { momentum: 0.0, ..Sgd::default() }), "Sgd, which keeps nothing;"),
        (terms().optimizer(amsgrad), "here it is AdamW, which keeps m, v, v_max"),
        (terms().optimizer(Muon::default()), "here it is Muon"),
    ];
    for (builder, word) in others {
        let mut other = build(&gpu, builder);
        let before = trace(&mut other);
        let error = refused(&mut other, &from);
        for word in [word, "was AdamW, which keeps m, v,", "Trainer::restore_weights"] {
            assert!(error.contains(word), "{word:?} is not in: {error}");
        }
        assert!(trace(&mut other) == before);
        // The way out that it names.
        block_on(other.restore_weights(&from)).expect("the same model");
        steps(&mut other, 1);
        assert_eq!(state(&other).applied_total, 1);
    }
    // Other settings of the same optimizer are no matter.
    let slower = AdamW { learning_rate: 1e-4, betas: [0.8, 0.9], ..AdamW::default() };
    restored(&gpu, terms().optimizer(slower), &from);
}

fn halved(spec: &ParameterSpec) -> TensorSettings {
    let learning_rate = if spec.name == "w1" { 0.5 } else { 1.0 };
    TensorSettings { weight_decay: 0.25, learning_rate }
}

fn settings_are_those_of_the_new_run() {
    let Some(gpu) = support::gpu() else { return };
    let mut first = build(&gpu, terms().seed(3));
    first.set_learning_rate_factor(0.25);
    steps(&mut first, 3);
    let from = checkpoint(&first);
    let schedule = Schedule::Factors(vec![1.0, 2.0, 3.0, 4.0, 5.0]);
    let changed = terms().tensor_settings(halved).schedule(schedule).clip(Clip::Norm(0.5)).seed(8);
    let mut other = restored(&gpu, changed.host_snapshots(4), &from);
    assert_eq!((other.steps(), other.seed()), (3, 3));
    assert_eq!(other.host_snapshot(), Some(&from));
    let clocks = |trainer: &Trainer<Terms>| -> Vec<_> {
        let states = tensor_states(trainer).into_iter();
        states.map(|t| (t.steps, t.bias_correction1, t.bias_correction2, t.reset)).collect()
    };
    assert_eq!(clocks(&other), clocks(&first));
    let settings: Vec<_> =
        tensor_states(&other).iter().map(|t| (t.weight_decay, t.learning_rate)).collect();
    assert_eq!(settings, [(0.25, 1.0), (0.25, 0.5), (0.25, 1.0)]);
    steps(&mut other, 1);
    let record = block_on(other.telemetry()).expect("telemetry")[0];
    // The fourth factor, the host's own, and the new clip.
    assert_eq!((record.step, record.learning_rate, record.max_norm), (3, 0.01, 0.5));

    // Twice the microbatches.
    let mut other = restored(&gpu, terms().accumulation(2), &from);
    let batch = Terms::three().data(1, 2).batch();
    block_on(other.step(&batch)).expect("a step");
    assert_eq!(state(&other).applied_total, 4);
}

fn a_run_that_had_given_up_goes_on() {
    let Some(gpu) = support::gpu() else { return };
    let mut first = build(&gpu, terms().give_up_after(2));
    steps(&mut first, 1);
    let bad = || {
        let mut data = Terms::three().data(0, 1);
        data.factors[0][0] = f32::MAX;
        data.batch()
    };
    for _ in 0..2 {
        block_on(first.step(&bad())).expect("a step");
    }
    block_on(first.telemetry()).expect("telemetry");
    assert!(block_on(first.step(&batch(0))).is_err());
    let from = checkpoint(&first);
    for mut other in [restored(&gpu, terms().give_up_after(2), &from), first] {
        block_on(other.restore(&from)).expect("it fits");
        let before = state(&other);
        assert_eq!((before.gave_up, before.skipped_in_row, before.skipped_total), (0, 0, 2));
        block_on(other.step(&bad())).expect("a step");
        steps(&mut other, 1);
        let after = state(&other);
        assert_eq!((after.gave_up, after.applied_total, after.skipped_total), (0, 2, 3));
        // The limit holds as before, and it is this run's.
        block_on(other.step(&bad())).expect("a step");
        block_on(other.step(&bad())).expect("a step");
        assert_eq!(state(&other).gave_up, Reason::NonFiniteGradient as u32);
    }
    // One that had not is as near to it as it was.
    let mut first = build(&gpu, terms().give_up_after(3));
    steps(&mut first, 1);
    block_on(first.step(&bad())).expect("a step");
    block_on(first.step(&bad())).expect("a step");
    let mut other = restored(&gpu, terms().give_up_after(3), &checkpoint(&first));
    assert_eq!(state(&other).skipped_in_row, 2);
    block_on(other.step(&bad())).expect("a step");
    assert_ne!(state(&other).gave_up, 0);
}

fn policies_may_come_and_go() {
    let Some(gpu) = support::gpu() else { return };
    let mut first = build(&gpu, terms().policy(ZClip::default()).policy(AutoClip::default()));
    steps(&mut first, 3);
    let from = checkpoint(&first);
    let memory = |trainer: &Trainer<Terms>, name: &str| {
        Edited::new(&checkpoint(trainer)).words(&format!("evenkeel/policy/{name}")).clone()
    };
    let shorter = AutoClip { history: 100, ..AutoClip::default() };
    let changed = terms().policy(SpikeGuard::default()).policy(shorter);
    let other = restored(&gpu, changed, &from);
    assert!(memory(&other, "AutoClip").iter().all(|&word| word == 0), "another size");
    assert!(memory(&other, "spike guard").iter().all(|&word| word == 0), "a new one");
    let harder = ZClip { z_threshold: 1.0, ..ZClip::default() };
    let other = restored(&gpu, terms().policy(harder), &from);
    assert_eq!(memory(&other, "ZClip"), memory(&first, "ZClip"));
    assert_eq!(memory(&other, "ZClip")[0], 2, "norms taken in");
}

/// Which tensors are frozen is a setting: one that no longer is begins with nothing kept of it, and
/// of one that is now, what the file has is left out.
fn frozen_tensors_begin_empty() {
    let Some(gpu) = support::gpu() else { return };
    let mut first = build(&gpu, terms().policy(AdaGc::default()).freeze_named("w1"));
    steps(&mut first, 3);
    let from = checkpoint(&first);
    let mut file = Edited::new(&Checkpoint::from_bytes(&from.to_bytes()).expect("a checkpoint"));
    assert!(!file.tensors.contains_key("evenkeel/moment/m/w1"));

    let mut other = build(&gpu, terms().policy(AdaGc::default()));
    steps(&mut other, 2);
    block_on(other.restore(&from)).expect("frozen then");
    let clocks: Vec<_> = tensor_states(&other).iter().map(|t| t.steps).collect();
    assert_eq!(clocks, [3, 0, 3]);
    let now = checkpoint(&other);
    let mut kept = Edited::new(&now);
    assert!(kept.words("evenkeel/moment/v/w1").iter().all(|&word| word == 0));
    let fresh = checkpoint(&build(&gpu, terms().policy(AdaGc::default())));
    let memory = "evenkeel/policy/AdaGC";
    assert_eq!(kept.words(memory), Edited::new(&fresh).words(memory), "of other tensors");
    for name in ["w0", "w2"] {
        let moment = format!("evenkeel/moment/v/{name}");
        assert_eq!(kept.words(&moment), file.words(&moment));
    }
    assert_eq!(now.tensor("w1"), from.tensor("w1"));
    steps(&mut other, 1);
    let clocks: Vec<_> = tensor_states(&other).iter().map(|t| t.steps).collect();
    assert_eq!(clocks, [4, 1, 4]);

    // And back again.
    let from = checkpoint(&other);
    steps(&mut first, 2);
    block_on(first.restore(&from)).expect("frozen now");
    assert_eq!(tensor_states(&first).iter().map(|t| t.steps).collect::<Vec<_>>(), [4, 4]);
    let now = checkpoint(&first);
    for name in ["w0", "w1", "w2"] {
        assert_eq!(now.tensor(name), from.tensor(name), "{name}");
    }

    // A moment that is missing of a tensor that was not frozen.
    file = Edited::new(&from);
    file.tensors.remove("evenkeel/moment/m/w1");
    let read = Checkpoint::from_bytes(&file.bytes()).expect("a checkpoint");
    assert!(refused(&mut other, &read).contains("no evenkeel/moment/m/w1"));
}

fn weights_alone_begin_anew() {
    let Some(gpu) = support::gpu() else { return };
    let mut first = build(&gpu, terms().seed(3));
    first.set_learning_rate_factor(0.25);
    steps(&mut first, 3);
    let from = checkpoint(&first);
    // A new run from these weights, and one that has gone elsewhere before.
    let builder = || terms().seed(8).policy(AutoClip::default()).host_snapshots(4);
    let parameters = block_on(first.parameters().copy()).expect("a copy");
    let mut fresh = build(&gpu, builder().parameters(parameters));
    let mut used = build(&gpu, builder());
    used.set_learning_rate_factor(0.5);
    steps(&mut used, 4);
    block_on(used.restore_weights(&from)).expect("the same model");
    assert_eq!(used.host_snapshot(), None);
    assert!(trace(&mut used) == trace(&mut fresh));
    steps(&mut fresh, 3);
    steps(&mut used, 3);
    assert!(trace(&mut used) == trace(&mut fresh));
    let records = block_on(used.telemetry()).expect("telemetry");
    assert_eq!(records.iter().map(|r| r.step).collect::<Vec<_>>(), [0, 1, 2]);
}

/// What optimizers pack by segments is stored by tensors.
#[test]
fn moments_fit_other_segments() {
    let Some(small) = support::gpu_with_bindings(12 << 10) else { return };
    let large = support::gpu().expect("a GPU");
    let tensors = [vec![24, 40], vec![24, 40], vec![7], vec![31, 33], vec![2, 3, 5]];
    let model = || Terms { tensors: tensors.iter().map(|dims| (dims.clone(), 1.0)).collect() };
    let batch = model().data(1, 1).batch();
    let builders: [fn(TrainerBuilder<Terms>) -> TrainerBuilder<Terms>; 3] = [
        |builder| builder.optimizer(evenkeel::train::Adafactor::default()),
        |builder| {
            builder.optimizer(Muon { hidden: |s| s.shape.dims == [24, 40], ..Muon::default() })
        },
        |builder| builder,
    ];
    for builder in builders {
        let make = |gpu: &Gpu| build(gpu, builder(Trainer::builder(model())));
        let mut first = make(&large);
        for _ in 0..2 {
            block_on(first.step(&batch)).expect("a step");
        }
        let mut other = make(&small);
        let counts = [&first, &other].map(|t| t.parameters().weights().len());
        assert!(counts[1] > counts[0], "{counts:?} segments");
        block_on(other.restore(&checkpoint(&first))).expect("it fits");
        assert!(checkpoint(&other) == checkpoint(&first));
        for trainer in [&mut first, &mut other] {
            block_on(trainer.step(&batch)).expect("a step");
        }
        // The norm is folded in another order, and nothing depends on it here.
        let (first, other) = (checkpoint(&first), checkpoint(&other));
        for name in first.names() {
            assert_eq!(first.tensor(name), other.tensor(name), "{name} after one more step");
        }
    }
}

/// The learning rate that the device finds, at steps far beyond what a test can run to.
fn schedules_hold_at_every_step() {
    let Some(gpu) = support::gpu() else { return };
    let sgd = Sgd { learning_rate: 0.3, ..Sgd::default() };
    let builder = |schedule| Trainer::builder(Terms::many(1)).optimizer(sgd).schedule(schedule);
    let batch = Terms::many(1).data(1, 1).batch();
    let all = [(10usize, 10usize, 0.1), (0, 0, 0.5), (0, 1, 0.0), (3, 4, 2.0)];
    let long = [
        (2000, (1 << 24) + 1, 0.1),
        (0, 40_000_000, 0.0),
        (70_000, 70_000, 0.1),
        (1 << 31, u32::MAX as usize, 0.1),
        (0, usize::MAX, 0.0),
        (usize::MAX, usize::MAX, 0.0),
    ];
    for (warmup, total, final_factor) in all.into_iter().chain(long) {
        for schedule in [
            Schedule::Linear { warmup, total, final_factor },
            Schedule::Cosine { warmup, total, final_factor },
        ] {
            let mut trainer = build(&gpu, builder(schedule.clone()));
            let file = Edited::new(&checkpoint(&trainer));
            let (warmup, total) = (warmup as u64, total as u64);
            let edges = [0, 1, 12, warmup / 3, warmup.saturating_sub(1), warmup, total / 2];
            let near = [total.saturating_sub(5000), total.saturating_sub(1), total, u64::MAX];
            for t in edges.into_iter().chain(near) {
                let t = u32::try_from(t).unwrap_or(u32::MAX);
                let mut file = file.clone();
                file.say("steps", &t.to_string());
                *file.field("evenkeel/state", 0, "applied_total") = t;
                let at = Checkpoint::from_bytes(&file.bytes()).expect("a checkpoint");
                block_on(trainer.restore(&at)).expect("it fits");
                block_on(trainer.step(&batch)).expect("a step");
                let found = state(&trainer).learning_rate;
                let expected = (0.3 * schedule.factor(t as usize)) as f32;
                let ulps = found.to_bits().abs_diff(expected.to_bits());
                let allowed = if total <= 65_536 { 0 } else { 2 };
                assert!(ulps <= allowed, "{schedule:?} at {t}: {found} for {expected}");
            }
        }
    }
}

fn copies_of_parameters_stay() {
    let Some(gpu) = support::gpu() else { return };
    for storage in WeightStorage::ALL {
        let mut trainer = build(&gpu, terms().weights(storage));
        steps(&mut trainer, 1);
        let read = |parameters: &Parameters| -> Vec<_> {
            let names = parameters.names();
            names.map(|name| block_on(parameters.read(name)).expect("read")).collect()
        };
        let copy = block_on(trainer.parameters().copy()).expect("a copy");
        let before = read(&copy);
        assert_eq!(before, read(trainer.parameters()));
        steps(&mut trainer, 3);
        assert_eq!(read(&copy), before, "{storage}");
        assert_ne!(read(trainer.parameters()), before, "{storage}");
        // And the other way round.
        let trained = read(trainer.parameters());
        copy.write("w0", &[0.5; 15]).expect("written");
        assert_eq!(read(trainer.parameters()), trained, "{storage}");
    }
    let mut graph = Graph::new(Phase::Train);
    Terms::three().build(&mut graph);
    let parameters = block_on(Parameters::new(&gpu, &graph, 1)).expect("parameters");
    assert_eq!(block_on(parameters.copy()).expect("a copy").storage(), parameters.storage());
}

/// A rollback after a restore goes back to what was restored, not to what this trainer once had.
fn snapshots_from_before_are_gone() {
    let Some(gpu) = support::gpu() else { return };
    let ring = || SnapshotRing { every: 2, after: 2, cut_steps: 0, ..SnapshotRing::default() };
    let mut first = build(&gpu, terms().policy(ring()));
    steps(&mut first, 5);
    let from = checkpoint(&first);
    let mut other = build(&gpu, terms().seed(8).policy(ring()));
    steps(&mut other, 6);
    block_on(other.restore(&from)).expect("it fits");
    let mut data = Terms::three().data(0, 1);
    data.factors[0][0] = f32::MAX;
    for _ in 0..2 {
        block_on(other.step(&data.batch())).expect("a step");
    }
    assert_eq!(state(&other).reason, Reason::RolledBack as u32);
    for name in ["w0", "w1", "w2"] {
        let values = block_on(other.parameters().read(name)).expect("read");
        assert_eq!(Some(values), from.tensor(name).map(|(_, values)| values), "{name}");
    }
}
