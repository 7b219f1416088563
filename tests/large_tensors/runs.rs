//! Runs that go on elsewhere, and frozen tensors: what is saved, moved and left alone of tensors in
//! parts is what it is of whole ones.

use evenkeel::WeightStorage;
use evenkeel::graph::ParameterSpec;
use evenkeel::nn::{GptConfig, LanguageModel, QkClip};
use evenkeel::train::{Adafactor, Batch, Checkpoint, Muon, Optimizer, Trainer, TrainerBuilder};
use safetensors::SafeTensors;

use super::support::{block_on, gpu_with_bindings, tokens};
use super::{Boxed, Run, TABLE, VOCABULARY, adamw, assert_same_bits, config, devices, model};

const HEAD: &str = "head.weight";

/// With a table and a head, both in parts.
fn untied() -> GptConfig {
    GptConfig { tied_head: false, ..config() }
}

fn builder(storage: WeightStorage) -> TrainerBuilder<LanguageModel> {
    Trainer::builder(model(untied())).optimizer(adamw()).weights(storage)
}

/// Fails unless two files are the same, but for the norm of the last step's gradients, which is
/// summed by segments.
#[track_caller]
fn assert_same_file(a: &Checkpoint, b: &Checkpoint) {
    let files = [a, b].map(Checkpoint::to_bytes);
    let headers =
        files.each_ref().map(|bytes| SafeTensors::read_metadata(bytes).expect("a header"));
    assert_eq!(headers[0].0, headers[1].0);
    let length = 8 + headers[0].0;
    assert!(files[0][..length] == files[1][..length], "another header");
    let metadata = headers[0].1.metadata().as_ref().expect("metadata");
    let fields: Vec<_> = metadata["evenkeel/state"].lines().collect();
    let [a, b] = files.each_ref().map(|bytes| SafeTensors::deserialize(bytes).expect("a file"));
    for (name, found) in a.tensors() {
        let expected = b.tensor(&name).expect("the same names");
        let words = found.data().chunks(4).zip(expected.data().chunks(4));
        for (index, (a, b)) in words.enumerate().filter(|(_, (a, b))| a != b) {
            let is_state = name == "evenkeel/state";
            let is_norm = is_state && fields[index].contains("norm");
            assert!(
                is_norm,
                "{name}, word {index}: {a:?} {b:?} {:?}",
                is_state.then(|| fields[index])
            );
        }
    }
}

/// The floats of a checkpoint, moments included.
fn floats(checkpoint: &Checkpoint, run: &Run<LanguageModel>) -> Vec<(String, Vec<u32>)> {
    let mut all = Vec::new();
    for name in run.trainer.parameters().names() {
        let moments = ["m", "v"].map(|moment| format!("evenkeel/moment/{moment}/{name}"));
        for name in [name.to_owned()].into_iter().chain(moments) {
            let (shape, values) = checkpoint.tensor(&name).unwrap_or_else(|| panic!("no {name}"));
            assert_eq!(values.len(), shape.iter().product::<usize>(), "{name}");
            all.push((name, values.iter().map(|x| x.to_bits()).collect()));
        }
    }
    all
}

/// A checkpoint holds one tensor under its own name, whatever the device; a run goes on with it on
/// a device with other limits, with the same bits.
#[test]
fn checkpoints_move_between_limits() {
    let Some(devices) = devices() else { return };
    for storage in [WeightStorage::F32, WeightStorage::Bf16Kahan] {
        let build = || Trainer::builder(model(config())).optimizer(adamw()).weights(storage);
        let mut runs: Vec<_> = devices.iter().map(|gpu| Run::new(gpu, build())).collect();
        let mut checkpoints = Vec::new();
        for run in &mut runs {
            run.steps(0..2);
            checkpoints.push(block_on(run.trainer.checkpoint()).expect("a checkpoint"));
        }
        let expected = floats(&checkpoints[0], &runs[0]);
        for (checkpoint, run) in checkpoints.iter().zip(&runs) {
            assert_same_bits("checkpoint", &floats(checkpoint, run), &expected);
            assert_eq!(checkpoint.tensor(TABLE).expect("a table").0, [VOCABULARY, 32]);
            assert_same_file(checkpoint, &checkpoints[0]);
        }
        runs[0].steps(2..4);
        let (end, last) = (runs[0].bits(), runs.len() - 1);
        for (from, to) in [(0, 1), (1, 0), (last, 1), (1, last)] {
            let mut run = Run::new(&devices[to], build());
            let bytes = checkpoints[from].to_bytes();
            let read = Checkpoint::from_bytes(&bytes).expect("readable");
            block_on(run.trainer.restore(&read)).expect("restored");
            run.steps(2..4);
            assert_same_bits(&format!("{from} to {to}"), &run.bits(), &end);
        }
        // The same trainer, rebuilt on the device of another.
        block_on(runs[1].trainer.rebuild_from(&devices[0], &checkpoints[2])).expect("rebuilt");
        assert_eq!(runs[1].parts(TABLE), 1);
        runs[1].steps(2..4);
        assert_same_bits("rebuilt", &runs[1].bits(), &end);
    }
}

/// The bits of one tensor.
fn bits_of(bits: &[(String, Vec<u32>)], name: &str) -> Vec<u32> {
    bits.iter().find(|(found, _)| found == name).expect("a parameter").1.clone()
}

/// In the order of their names: freezing moves tensors.
fn sorted(mut bits: Vec<(String, Vec<u32>)>) -> Vec<(String, Vec<u32>)> {
    bits.sort();
    bits
}

/// A frozen table or head keeps its bits, and the others go as beside a whole one.
#[test]
fn frozen_tensors_in_parts() {
    let Some(devices) = devices() else { return };
    for storage in [WeightStorage::F32, WeightStorage::Bf16Kahan] {
        for frozen in [TABLE, HEAD] {
            let mut expected: Option<Vec<_>> = None;
            for gpu in devices {
                let mut run = Run::new(gpu, builder(storage).freeze_named(frozen));
                let start = run.bits();
                assert!(run.steps(0..3).iter().all(|step| step.applied));
                let end = run.bits();
                for ((name, before), (_, after)) in start.iter().zip(&end) {
                    assert_eq!(before == after, name == frozen, "{storage} {frozen}: {name}");
                }
                let report = run.trainer.report();
                assert_eq!((report.frozen_tensors, report.frozen_parameters), (1, 32_000));
                let whole = expected.get_or_insert_with(|| end.clone());
                assert_same_bits(&format!("{storage}, {frozen} frozen"), &end, whole);
            }
        }
    }
}

/// Weights that come from another run keep every bit in parts, whichever were frozen there and are
/// here; a copy of them is no longer the run's.
#[test]
fn given_parameters_in_parts_move_with_every_bit() {
    let Some(devices) = devices() else { return };
    for storage in [WeightStorage::F32, WeightStorage::Bf16Kahan, WeightStorage::Bf16Split] {
        let mut expected: Option<Vec<_>> = None;
        for gpu in devices {
            let mut first = Run::new(gpu, builder(storage).freeze_named(TABLE));
            first.steps(0..2);
            let copy = block_on(first.trainer.parameters().copy()).expect("a copy");
            let before = sorted(first.bits());
            first.steps(2..3);
            assert_ne!(bits_of(&first.bits(), HEAD), bits_of(&before, HEAD));
            let given = builder(storage).parameters(copy).freeze_named(HEAD);
            let mut second = Run::new(gpu, given);
            assert_same_bits(&format!("{storage}"), &sorted(second.bits()), &before);
            second.steps(0..2);
            let end = sorted(second.bits());
            assert_eq!(bits_of(&end, HEAD), bits_of(&before, HEAD), "{storage}");
            assert_ne!(bits_of(&end, TABLE), bits_of(&before, TABLE), "{storage}");
            let whole = expected.get_or_insert_with(|| end.clone());
            assert_same_bits(&format!("{storage}, given"), &end, whole);
        }
    }
}

/// A checkpoint goes on where other tensors are frozen and bindings are others: moments of what was
/// frozen start empty, on every device.
#[test]
fn checkpoints_move_between_choices_of_frozen_tensors() {
    let Some(devices) = devices() else { return };
    for storage in [WeightStorage::F32, WeightStorage::Bf16Kahan] {
        let mut expected: Option<Vec<_>> = None;
        for (from, to) in [(0, 0), (0, 2), (2, 0), (2, 1), (1, 2)] {
            let mut run = Run::new(&devices[from], builder(storage).freeze_named(TABLE));
            run.steps(0..2);
            let checkpoint = block_on(run.trainer.checkpoint()).expect("a checkpoint");
            let moment = |name: &str| checkpoint.tensor(&format!("evenkeel/moment/m/{name}"));
            assert!(moment(TABLE).is_none());
            assert_eq!(moment(HEAD).expect("a moment").0, [VOCABULARY, 32]);
            let mut run = Run::new(&devices[to], builder(storage).freeze_named(HEAD));
            block_on(run.trainer.restore(&checkpoint)).expect("restored");
            assert_same_bits("restored", &sorted(run.bits()), &{
                let all = run.trainer.parameters().names().map(|name| {
                    let (_, values) = checkpoint.tensor(name).expect("a parameter");
                    (name.to_owned(), values.iter().map(|x| x.to_bits()).collect())
                });
                sorted(all.collect())
            });
            run.steps(2..4);
            let end = sorted(run.bits());
            let whole = expected.get_or_insert_with(|| end.clone());
            assert_same_bits(&format!("{storage}, {from} to {to}"), &end, whole);
        }
    }
}

/// What optimizers keep in layouts of their own moves between limits as well.
#[test]
fn moments_that_are_packed_move_between_limits() {
    let Some(devices) = devices() else { return };
    let build = || {
        let optimizer: Box<dyn Optimizer> = Box::new(Muon::default());
        Trainer::builder(model(untied())).optimizer(Boxed(optimizer))
    };
    let mut files = Vec::new();
    for gpu in devices {
        let mut run = Run::new(gpu, build());
        run.steps(0..2);
        files.push(block_on(run.trainer.checkpoint()).expect("a checkpoint"));
    }
    files.iter().for_each(|file| assert_same_file(file, &files[0]));
    let mut expected: Option<Vec<_>> = None;
    for (from, to) in [(0, 0), (0, 2), (2, 1), (1, 0)] {
        let mut run = Run::new(&devices[to], build());
        block_on(run.trainer.restore(&files[from])).expect("restored");
        run.steps(2..4);
        let end = run.bits();
        assert_same_bits(&format!("{from} to {to}"), &end, expected.get_or_insert(end.clone()));
    }
}

/// A compensation that is not that of its weights is seen in any part, and nothing is restored.
#[test]
fn a_compensation_of_other_weights_is_refused_in_every_part() {
    let Some([_, _, third]) = devices() else { return };
    let build = || builder(WeightStorage::Bf16Kahan);
    let mut run = Run::new(third, build());
    run.steps(0..2);
    let checkpoint = block_on(run.trainer.checkpoint()).expect("a checkpoint");
    let bytes = checkpoint.to_bytes();
    let name = format!("evenkeel/compensation/{TABLE}");
    let (_, kept) = checkpoint.tensor(&name).expect("a compensation");
    let start = {
        let file = SafeTensors::deserialize(&bytes).expect("a file");
        let data = file.tensor(&name).expect("there").data().as_ptr();
        data as usize - bytes.as_ptr() as usize
    };
    // One element of each part, whose weight lies between two bf16 with the new one.
    for row in [0, 500, 999] {
        let mut bytes = bytes.clone();
        let element = 32 * row + 3;
        let wrong = kept[element] + 1e-3;
        bytes[start + 4 * element..][..4].copy_from_slice(&wrong.to_le_bytes());
        let damaged = Checkpoint::from_bytes(&bytes).expect("readable");
        let mut other = Run::new(third, build().seed(5));
        let before = other.bits();
        let error = block_on(other.trainer.restore(&damaged)).expect_err("damaged");
        assert!(error.to_string().contains("compensation of token_embedding.weight"), "{error}");
        assert_same_bits("nothing is restored", &other.bits(), &before);
    }
}

/// Optimizers and clips that need the whole of a tensor do not mind a frozen one in parts.
#[test]
fn what_is_frozen_need_not_be_whole() {
    let Some([whole, parts, _]) = devices() else { return };
    let in_table = |spec: &ParameterSpec| spec.name == TABLE || spec.name == HEAD;
    let build = || {
        let trainer = Trainer::builder(model(untied())).optimizer(Adafactor::default());
        trainer.freeze(in_table)
    };
    let [expected, found] = [whole, parts].map(|gpu| {
        let mut run = Run::new(gpu, build());
        run.steps(0..3);
        run.bits()
    });
    assert_same_bits("Adafactor", &found, &expected);
    // A projection of 3 * 96 rows of 96 columns, which QK-clip would scale: 260 of them fit.
    let Some(parts) = gpu_with_bindings(99_840) else { return };
    let base = GptConfig { hidden: 96, ..GptConfig::gpt2(27, 8, 1, 2, 96) };
    let clipped = GptConfig { qk_clip: Some(QkClip::default()), ..base };
    let ids = |seed| tokens(seed, 8, 27);
    let batch = Batch::new().with("tokens", ids(1)).with("targets", ids(2));
    let [expected, found] = [whole, &parts].map(|gpu| {
        let builder = Trainer::builder(model(clipped.clone())).optimizer(adamw());
        let mut run = Run::new(gpu, builder.freeze_named("blocks.0.attention"));
        block_on(run.trainer.step(&batch)).expect("a step");
        run.bits()
    });
    assert_same_bits("QK-clip", &found, &expected);
}
