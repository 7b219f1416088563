//! Averages of the weights: against f64 over the weights of each step, under the verdict, in
//! checkpoints, and in the place of the weights.

#[macro_use]
mod support;

use evenkeel::graph::ParameterSpec;
use evenkeel::hugging_face::{Config, Export, Family, Folder};
use evenkeel::nn::LanguageModel;
use evenkeel::plan::Parameters;
use evenkeel::step::Reason;
use evenkeel::train::{
    AdamW, Batch, Checkpoint, Ema, LossScale, Model, Schedule, Sgd, SnapshotRing, Trainer,
    TrainerBuilder,
};
use evenkeel::{Error, Gpu, Precision, WeightStorage};
use support::models::{Terms, small_gpt, small_gpt_batch};
use support::parted::{self, Data, FAULTS, KINDS, build, bytes, parted, step};
use support::{Tolerance, assert_close, block_on, wide};

tests! {
    averages_follow_the_weights, a_run_with_averages_is_the_run_without,
    a_skipped_step_leaves_the_averages, a_rollback_takes_the_averages_back,
    weights_that_leave_f32_are_not_averaged, a_resumed_run_goes_on_bit_by_bit,
    averages_come_and_go_with_the_settings, damaged_averages_are_refused,
    begun_anew_averages_are_the_weights, averages_in_the_place_of_weights,
    averages_in_the_storage_of_the_weights, evaluations_of_several_lengths_and_batches,
    frozen_tensors_have_no_average, a_rebuilt_trainer_has_the_averages, averages_are_exported,
    averages_are_counted, impossible_averages_are_refused,
}

const FAST: Ema = Ema { decay: 0.75, warmup: false };
const WARM: Ema = Ema { decay: 0.99, warmup: true };

/// Of weights about 1: each step rounds a difference, a share, a product and a sum.
const AVERAGE: Tolerance = Tolerance {
    absolute: 1e-6,
    relative: 1e-6,
    because: "a few roundings a step, of which a decay forgets those before",
};

fn terms() -> TrainerBuilder<Terms> {
    let optimizer = AdamW { learning_rate: 0.05, ..AdamW::default() };
    Trainer::builder(Terms::three()).optimizer(optimizer)
}

fn gpt(batch: usize) -> TrainerBuilder<LanguageModel> {
    let optimizer = AdamW { learning_rate: 0.01, ..AdamW::default() };
    Trainer::builder(small_gpt(0.1, batch)).optimizer(optimizer)
}

fn batch(seed: u64) -> Batch {
    Terms::three().data(seed, 1).batch()
}

fn steps(trainer: &mut Trainer<Terms>, count: u64) {
    for _ in 0..count {
        assert!(step(trainer, &batch(trainer.steps())).applied);
    }
}

fn checkpoint<M: Model>(trainer: &Trainer<M>) -> Checkpoint {
    block_on(trainer.checkpoint()).expect("a checkpoint")
}

/// Bits of the averages of all trained tensors.
fn averages<M: Model>(trainer: &Trainer<M>) -> Vec<Vec<u32>> {
    let checkpoint = checkpoint(trainer);
    let of = |spec: &ParameterSpec| {
        let (dims, values) = checkpoint.average(&spec.name).expect("an average");
        assert_eq!(dims, spec.shape.dims);
        values.iter().map(|x| x.to_bits()).collect()
    };
    trainer.parameters().trained().iter().map(of).collect()
}

fn read(parameters: &Parameters, name: &str) -> Vec<f32> {
    block_on(parameters.read(name)).expect("a parameter")
}

fn weights<M: Model>(trainer: &Trainer<M>) -> Vec<Vec<f32>> {
    let trained = trainer.parameters().trained().iter();
    trained.map(|spec| read(trainer.parameters(), &spec.name)).collect()
}

fn bits(values: &[Vec<f32>]) -> Vec<Vec<u32>> {
    values.iter().map(|values| values.iter().map(|x| x.to_bits()).collect()).collect()
}

fn floats(bits: &[u32]) -> Vec<f32> {
    bits.iter().map(|&bits| f32::from_bits(bits)).collect()
}

/// The formula of [`Ema`] on the host, in f64.
struct Host {
    ema: Ema,
    applied: u32,
    averages: Vec<Vec<f64>>,
}

impl Host {
    fn new(ema: Ema, weights: &[Vec<f32>]) -> Self {
        Self { ema, applied: 0, averages: weights.iter().map(|values| wide(values)).collect() }
    }

    fn follow(&mut self, weights: &[Vec<f32>]) {
        self.applied += 1;
        let t = f64::from(self.applied);
        let Ema { decay, warmup } = self.ema;
        let decay = if warmup { decay.min((1.0 + t) / (10.0 + t)) } else { decay };
        for (average, weights) in self.averages.iter_mut().zip(weights) {
            for (average, &weight) in average.iter_mut().zip(weights) {
                *average = decay * *average + (1.0 - decay) * f64::from(weight);
            }
        }
    }

    #[track_caller]
    fn assert_same(&self, what: &str, found: &[Vec<u32>]) {
        assert_eq!(found.len(), self.averages.len(), "{what}");
        for (found, expected) in found.iter().zip(&self.averages) {
            assert_close(what, &floats(found), expected, AVERAGE);
        }
    }
}

fn averages_follow_the_weights() {
    let Some(gpu) = support::gpu() else { return };
    for storage in WeightStorage::ALL {
        for ema in [FAST, WARM] {
            let mut trainer = build(&gpu, terms().weights(storage).ema(ema));
            assert_eq!(trainer.ema(), Some(ema));
            let start = weights(&trainer);
            assert_eq!(averages(&trainer), bits(&start), "{storage}: the start");
            let mut host = Host::new(ema, &start);
            for index in 0..8 {
                steps(&mut trainer, 1);
                host.follow(&weights(&trainer));
                let what = format!("{storage}, {ema:?}, step {index}");
                host.assert_same(&what, &averages(&trainer));
            }
            assert_ne!(averages(&trainer), bits(&weights(&trainer)), "{storage}");
        }
    }
}

/// Whether weights are averaged changes no bit of them, nor of moments and states, nor is there
/// anything to read.
fn a_run_with_averages_is_the_run_without() {
    let Some(gpu) = support::exclusive_gpu() else { return };
    let run = |builder: TrainerBuilder<LanguageModel>| {
        let mut trainer = build(&gpu, builder);
        for seed in 0..2 {
            block_on(trainer.step(&small_gpt_batch(seed, 2))).expect("a step");
        }
        let before = gpu.counters().maps;
        for seed in 2..5 {
            block_on(trainer.step(&small_gpt_batch(seed, 2))).expect("a step");
        }
        assert_eq!(gpu.counters().maps, before, "something was read");
        let dispatches = trainer.report().update_dispatches;
        (bits(&weights(&trainer)), dispatches, trainer)
    };
    let (expected, plain, _) = run(gpt(2));
    let (found, averaged, mut trainer) = run(gpt(2).ema(WARM));
    assert!(found == expected);
    assert_eq!(averaged, plain + 1, "one dispatch for the one segment");
    block_on(trainer.averaged()).expect("averages");
    assert!(bits(&weights(&trainer)) == expected);
}

fn a_skipped_step_leaves_the_averages() {
    let Some(gpu) = support::gpu() else { return };
    for ema in [FAST, WARM] {
        let mut trainer = build(&gpu, parted().ema(ema));
        let mut host = Host::new(ema, &weights(&trainer));
        for (index, fault) in (0..).zip(FAULTS) {
            let before = averages(&trainer);
            let bad = Data::new(index, 1).with(fault, 0);
            assert_eq!(step(&mut trainer, &bad.batch()).reason, fault.reason());
            assert!(averages(&trainer) == before, "{fault:?}");
            assert!(step(&mut trainer, &Data::new(index, 1).batch()).applied);
            assert!(averages(&trainer) != before, "{fault:?}");
            // The warm-up goes by applied steps.
            host.follow(&weights(&trainer));
            host.assert_same(&format!("after {fault:?}"), &averages(&trainer));
        }
        let given_up = build(&gpu, parted().ema(ema).give_up_after(1));
        assert_nothing_after_giving_up(given_up);
    }
}

fn assert_nothing_after_giving_up(mut trainer: Trainer<parted::Parted>) {
    let good = Data::new(1, 1);
    step(&mut trainer, &good.batch());
    let before = averages(&trainer);
    for data in [&good.with(KINDS[0], 0), &good, &good] {
        block_on(trainer.step(&data.batch())).expect("the host does not know yet");
    }
    assert!(averages(&trainer) == before);
}

/// As the weights, the averages end with the bytes of the snapshot, and the warm-up with its count.
fn a_rollback_takes_the_averages_back() {
    let Some(gpu) = support::gpu() else { return };
    let ring = SnapshotRing { every: 100, after: 2, ..SnapshotRing::default() };
    let mut trainer = build(&gpu, parted().ema(WARM).policy(ring));
    let mut host = Host::new(WARM, &weights(&trainer));
    step(&mut trainer, &Data::new(0, 1).batch());
    host.follow(&weights(&trainer));
    let (snapshot, committed) = (averages(&trainer), bytes(&trainer));
    step(&mut trainer, &Data::new(1, 1).batch());
    assert!(averages(&trainer) != snapshot);
    let bad = Data::new(2, 1).with(KINDS[0], 0);
    step(&mut trainer, &bad.batch());
    assert_eq!(step(&mut trainer, &bad.batch()).reason, Reason::RolledBack);
    assert!(averages(&trainer) == snapshot);
    assert!(bytes(&trainer) == committed);
    step(&mut trainer, &Data::new(3, 1).batch());
    host.follow(&weights(&trainer));
    host.assert_same("after the rollback", &averages(&trainer));
}

/// What an update loses is still in the averages.
fn weights_that_leave_f32_are_not_averaged() {
    let Some(gpu) = support::gpu() else { return };
    let optimizer = Sgd { learning_rate: 1.0, ..Sgd::default() };
    let mut trainer = build(&gpu, parted().optimizer(optimizer).ema(FAST));
    let (good, mut steep) = (Data::new(1, 1), Data::new(1, 1));
    steep.target.fill(1e3);
    step(&mut trainer, &good.batch());
    let before = averages(&trainer);
    trainer.set_learning_rate_factor(3e38);
    assert!(step(&mut trainer, &steep.batch()).applied, "its loss and gradients are finite");
    let weights = weights(&trainer);
    assert!(weights[0].iter().any(|w| !w.is_finite()), "{weights:?}");
    let parameters = block_on(trainer.averaged()).expect("averages");
    let after = read(parameters, "w");
    for ((&weight, before), after) in weights[0].iter().zip(&before[0]).zip(after) {
        assert!(after.is_finite());
        assert!(weight.is_finite() || after.to_bits() == *before, "{weight}: {after}");
    }
}

fn a_resumed_run_goes_on_bit_by_bit() {
    let Some(gpu) = support::gpu() else { return };
    for storage in WeightStorage::ALL {
        let builder = || terms().weights(storage).ema(WARM).seed(5);
        let mut whole = build(&gpu, builder());
        steps(&mut whole, 3);
        let file = checkpoint(&whole).to_bytes();
        steps(&mut whole, 3);

        let from = Checkpoint::from_bytes(&file).expect("a checkpoint");
        let mut resumed = build(&gpu, builder().seed(99));
        steps(&mut resumed, 1);
        block_on(resumed.restore(&from)).expect("it fits");
        assert!(checkpoint(&resumed).to_bytes() == file, "{storage}");
        steps(&mut resumed, 3);
        assert!(averages(&resumed) == averages(&whole), "{storage}");
        assert!(bytes(&resumed) == bytes(&whole), "{storage}");
        assert!(checkpoint(&resumed).to_bytes() == checkpoint(&whole).to_bytes(), "{storage}");
    }
}

/// Checkpoint: "no average in the file ...: it starts as the weight of the file; none kept here: left
/// out", and "the decay: the builder's holds".
fn averages_come_and_go_with_the_settings() {
    let Some(gpu) = support::gpu() else { return };
    for storage in WeightStorage::ALL {
        let plain = || terms().weights(storage);
        let mut without = build(&gpu, plain());
        steps(&mut without, 20);
        let saved = checkpoint(&without);
        assert_eq!(saved.average("w0"), None);
        let mut with = build(&gpu, plain().ema(WARM));
        steps(&mut with, 2);
        block_on(with.restore(&saved)).expect("it fits");
        assert_eq!(averages(&with), bits(&weights(&without)), "{storage}");
        let mut host = Host::new(WARM, &weights(&with));
        host.applied = 20;
        steps(&mut with, 1);
        host.follow(&weights(&with));
        host.assert_same("the warm-up is that of the run", &averages(&with));

        block_on(without.restore(&checkpoint(&with))).expect("it fits");
        assert_eq!(bits(&weights(&without)), bits(&weights(&with)), "{storage}");
        assert_eq!(checkpoint(&without).average("w0"), None);

        let mut faster = build(&gpu, plain().ema(FAST));
        block_on(faster.restore(&checkpoint(&with))).expect("it fits");
        assert_eq!(averages(&faster), averages(&with));
        let mut host =
            Host::new(FAST, &averages(&with).iter().map(|b| floats(b)).collect::<Vec<_>>());
        steps(&mut faster, 1);
        host.follow(&weights(&faster));
        host.assert_same("another decay", &averages(&faster));
    }
}

fn damaged_averages_are_refused() {
    use support::edited::Edited;
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, terms().ema(FAST));
    steps(&mut trainer, 2);
    let saved = checkpoint(&trainer);
    steps(&mut trainer, 1);
    let before = checkpoint(&trainer).to_bytes();
    type Damage = (&'static str, fn(&mut Edited));
    let damages: [Damage; 4] = [
        ("average/w1 holds NaN at index 7", |file| file.set("evenkeel/average/w1", 7, f32::NAN)),
        ("average/w2 has the shape [1, 7]", |file| {
            file.tensors.get_mut("evenkeel/average/w2").expect("an average").1 = vec![1, 7];
        }),
        ("average/w2 is U32", |file| {
            file.tensors.get_mut("evenkeel/average/w2").expect("an average").0 =
                safetensors::Dtype::U32;
        }),
        ("average/w9, which is not known", |file| {
            file.copy("evenkeel/average/w1", "evenkeel/average/w9");
        }),
    ];
    for (reason, damage) in damages {
        let mut file = Edited::new(&saved);
        damage(&mut file);
        let damaged = Checkpoint::from_bytes(&file.bytes());
        let restored = damaged.and_then(|damaged| block_on(trainer.restore(&damaged)));
        let error = restored.expect_err("it does not fit").to_string();
        assert!(error.contains(reason), "{error}");
        assert!(checkpoint(&trainer).to_bytes() == before, "{reason}: a trace");
    }
    // One of them is missing: it starts as its weight.
    let mut file = Edited::new(&saved);
    file.tensors.remove("evenkeel/average/w0");
    let less = Checkpoint::from_bytes(&file.bytes()).expect("a file");
    block_on(trainer.restore(&less)).expect("it fits");
    let (found, weights) = (averages(&trainer), bits(&weights(&trainer)));
    assert_eq!(found[0], weights[0]);
    assert_ne!(found[1], weights[1]);
}

fn begun_anew_averages_are_the_weights() {
    let Some(gpu) = support::gpu() else { return };
    for storage in [WeightStorage::F32, WeightStorage::Bf16Kahan] {
        let mut trainer = build(&gpu, terms().weights(storage).ema(WARM));
        steps(&mut trainer, 3);
        let saved = checkpoint(&trainer);
        steps(&mut trainer, 1);
        block_on(trainer.restore_weights(&saved)).expect("they fit");
        assert_eq!(averages(&trainer), bits(&weights(&trainer)), "{storage}");
        let mut host = Host::new(WARM, &weights(&trainer));
        steps(&mut trainer, 1);
        host.follow(&weights(&trainer));
        host.assert_same("anew", &averages(&trainer));
    }
}

/// A trainer of copies of the averages.
fn of_averages(
    gpu: &Gpu,
    trainer: &mut Trainer<LanguageModel>,
    precision: Precision,
) -> Trainer<LanguageModel> {
    let averaged = block_on(trainer.averaged()).expect("averages");
    let copy = block_on(averaged.copy()).expect("a copy");
    build(gpu, gpt(2).parameters(copy).precision(precision))
}

fn averages_in_the_place_of_weights() {
    let Some(gpu) = support::gpu() else { return };
    for (precision, storage) in [
        (Precision::F32, WeightStorage::F32),
        (Precision::F16, WeightStorage::F32),
        (Precision::Bf16, WeightStorage::F32),
        (Precision::F32, WeightStorage::Bf16Kahan),
        (Precision::F16, WeightStorage::Bf16Split),
        (Precision::Bf16, WeightStorage::Bf16Stochastic),
    ] {
        let builder = gpt(2).precision(precision).weights(storage).ema(WARM);
        let mut trainer = build(&gpu, builder.loss_scale(LossScale::Static(64.0)));
        let batch = small_gpt_batch(77, 2);
        for seed in 0..2 {
            assert!(step(&mut trainer, &small_gpt_batch(seed, 2)).applied);
            let committed = bytes(&trainer);
            let plain = block_on(trainer.evaluate(&batch)).expect("a loss");
            let found = block_on(trainer.evaluate_averaged(&batch)).expect("a loss");
            let again = block_on(trainer.evaluate(&batch)).expect("a loss");
            assert_eq!(plain.to_bits(), again.to_bits(), "the weights are no longer theirs");
            let mut other = of_averages(&gpu, &mut trainer, precision);
            let expected = block_on(other.evaluate(&batch)).expect("a loss");
            let what = format!("{precision} over {storage}, step {seed}");
            assert_eq!(found.to_bits(), expected.to_bits(), "{what}: {found}, not {expected}");
            assert_ne!(found.to_bits(), plain.to_bits(), "{what}");
            assert!(bytes(&trainer) == committed, "{what}: evaluation changed the run");
        }
    }
}

/// [`Trainer::averaged`]: in f32 the averages, in other storages rounded as they round.
fn averages_in_the_storage_of_the_weights() {
    let Some(gpu) = support::gpu() else { return };
    for storage in WeightStorage::ALL {
        let mut trainer = build(&gpu, terms().weights(storage).ema(WARM));
        for _ in 0..2 {
            steps(&mut trainer, 2);
            let exact = averages(&trainer);
            let names: Vec<_> =
                trainer.parameters().trained().iter().map(|spec| spec.name.clone()).collect();
            let averaged = block_on(trainer.averaged()).expect("averages");
            assert_eq!(averaged.storage(), storage);
            for (name, exact) in names.iter().zip(exact) {
                let mut padded = floats(&exact);
                padded.resize(padded.len().next_multiple_of(4), 0.0);
                let [weights, beside] = storage.encode(&padded);
                let expected = storage.decode(&weights, &beside);
                assert_eq!(read(averaged, name), expected[..exact.len()], "{storage}: {name}");
            }
        }
    }
}

fn evaluations_of_several_lengths_and_batches() {
    use evenkeel::train::Lengths;
    let Some(gpu) = support::gpu() else { return };
    let lengths = Lengths::new([4, 8]).expect("lengths");
    let builder = |builder: TrainerBuilder<LanguageModel>| builder.lengths(lengths.clone());
    let mut trainer = build(&gpu, builder(gpt(2)).ema(FAST));
    for seed in 0..2 {
        step(&mut trainer, &small_gpt_batch(seed, 2));
    }
    let short = |seed: u64| {
        let ids = |seed| support::tokens(seed, 8, 27);
        let batch = Batch::new().with("tokens", ids(2 * seed)).with("targets", ids(2 * seed + 1));
        batch.of_length(4)
    };
    let batches = [small_gpt_batch(5, 2), short(6), small_gpt_batch(7, 2)];
    let plain = block_on(trainer.evaluate_all(&batches)).expect("a loss");
    let found = block_on(trainer.evaluate_averaged_all(&batches)).expect("a loss");
    let copy = block_on(block_on(trainer.averaged()).expect("averages").copy()).expect("a copy");
    let mut other = build(&gpu, builder(gpt(2)).parameters(copy));
    let expected = block_on(other.evaluate_all(&batches)).expect("a loss");
    assert_eq!(found.to_bits(), expected.to_bits());
    assert_ne!(found.to_bits(), plain.to_bits());
    let again = block_on(trainer.evaluate_all(&batches)).expect("a loss");
    assert_eq!(again.to_bits(), plain.to_bits());
}

fn frozen_tensors_have_no_average() {
    let Some(gpu) = support::gpu() else { return };
    let builder = || terms().ema(FAST);
    let mut trainer = build(&gpu, builder().freeze_named("w1"));
    let all = build(&gpu, builder());
    let [some, all] = [&trainer, &all].map(|trainer| trainer.report().average_bytes);
    assert!(0 < some && some < all, "{some} of {all} bytes");
    steps(&mut trainer, 3);
    let saved = checkpoint(&trainer);
    assert_eq!(saved.average("w1"), None);
    assert_eq!(averages(&trainer).len(), 2);
    let frozen = read(trainer.parameters(), "w1");
    let averaged = block_on(trainer.averaged()).expect("averages");
    assert_eq!(read(averaged, "w1"), frozen, "the weight itself");
    assert_ne!(read(averaged, "w0"), read(trainer.parameters(), "w0"));

    // No longer frozen: from its weight on. Frozen again: left out.
    let mut thawed = build(&gpu, builder());
    block_on(thawed.restore(&saved)).expect("it fits");
    let (found, weights) = (averages(&thawed), bits(&weights(&thawed)));
    assert_eq!(found[1], weights[1]);
    assert_ne!(found[0], weights[0]);
    steps(&mut thawed, 1);
    let saved = checkpoint(&thawed);
    assert!(saved.average("w1").is_some());
    block_on(trainer.restore(&saved)).expect("it fits");
    assert_eq!(checkpoint(&trainer).average("w1"), None);
    assert_eq!(checkpoint(&trainer).average("w0"), saved.average("w0"));
}

fn a_rebuilt_trainer_has_the_averages() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, terms().ema(WARM).host_snapshots(2));
    steps(&mut trainer, 4);
    let at_four = averages(&trainer);
    let saved = checkpoint(&trainer);
    steps(&mut trainer, 1);
    let snapshot = trainer.host_snapshot().expect("one has arrived").clone();
    assert_eq!(snapshot.steps(), 4);
    assert!(snapshot == saved);
    block_on(trainer.rebuild(&gpu)).expect("rebuilt");
    assert_eq!((trainer.steps(), trainer.ema()), (4, Some(WARM)));
    assert!(averages(&trainer) == at_four);
    steps(&mut trainer, 2);
    let mut whole = build(&gpu, terms().ema(WARM));
    steps(&mut whole, 6);
    assert!(averages(&trainer) == averages(&whole));
}

/// A folder for transformers made of the averages is the model that [`Trainer::averaged`] is.
fn averages_are_exported() {
    let Some(gpu) = support::gpu() else { return };
    let model = small_gpt(0.1, 2);
    let config = Config::new(Family::Gpt2, model.gpt.config().clone()).expect("a GPT-2");
    let mut trainer = build(&gpu, gpt(2).ema(WARM));
    for seed in 0..3 {
        step(&mut trainer, &small_gpt_batch(seed, 2));
    }
    let export = Export::new(config, Precision::F32);
    let averaged = block_on(trainer.averaged()).expect("averages");
    let files = block_on(export.to_files(averaged)).expect("written");
    let expected: Vec<_> = averaged.names().map(|name| read(averaged, name)).collect();
    let folder = Folder::from_files(files).expect("a folder");
    let mut other = build(&gpu, gpt(2).ema(WARM));
    block_on(other.load_weights(&mut folder.reader(|_| {}))).expect("loaded");
    let names = other.parameters().names();
    let found: Vec<_> = names.map(|name| read(other.parameters(), name)).collect();
    assert_eq!(bits(&found), bits(&expected));
    assert_ne!(bits(&found), bits(&weights(&trainer)));
    assert_eq!(averages(&other), bits(&weights(&other)), "they begin anew too");
}

fn averages_are_counted() {
    let Some(gpu) = support::gpu() else { return };
    let plain = terms().memory(&gpu).expect("a plan");
    let with = terms().ema(FAST).memory(&gpu).expect("a plan");
    assert_eq!(plain.average_bytes, 0);
    assert_eq!(with.average_bytes, with.moment_bytes / 2, "AdamW keeps two of its size");
    assert_eq!(with.total_bytes(), plain.total_bytes() + with.average_bytes);
    let elements: usize = 3 * 5 + 37 * 61 + 7;
    let more = with.host.checkpoint_bytes - plain.host.checkpoint_bytes;
    assert_eq!(more, 4 * elements as u64);
    assert!(with.to_string().contains("average of the weights"), "{with}");
    assert!(!plain.to_string().contains("average of the weights"), "{plain}");
    let trainer = build(&gpu, terms().ema(FAST));
    let report = trainer.report();
    assert_eq!(report.average_bytes, with.average_bytes);
    assert_eq!(report.total_bytes(), with.total_bytes());
}

fn impossible_averages_are_refused() {
    let Some(gpu) = support::gpu() else { return };
    for decay in [1.0, -0.1, f64::NAN, f64::INFINITY] {
        let ema = Ema { decay, ..Ema::default() };
        let error = block_on(terms().ema(ema).build(&gpu)).expect_err("no share");
        assert!(matches!(error, Error::Setting { .. }), "{error}");
        assert!(error.to_string().contains("average"), "{error}");
        assert!(terms().ema(ema).memory(&gpu).is_err());
    }
    // A decay of 0 keeps the last weights.
    let mut trainer = build(&gpu, terms().ema(Ema { decay: 0.0, warmup: true }));
    steps(&mut trainer, 1);
    let expected: Vec<_> = weights(&trainer).iter().map(|values| wide(values)).collect();
    for (found, expected) in averages(&trainer).iter().zip(&expected) {
        assert_close("decay 0", &floats(found), expected, AVERAGE);
    }
    let mut without = build(&gpu, terms().schedule(Schedule::default()));
    for error in [
        block_on(without.averaged()).expect_err("none are kept").to_string(),
        block_on(without.evaluate_averaged(&batch(0))).expect_err("none are kept").to_string(),
    ] {
        assert!(error.contains("TrainerBuilder::ema"), "{error}");
    }
    assert_eq!(without.ema(), None);
}
