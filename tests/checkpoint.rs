//! A run that goes on from a checkpoint is the run that was never interrupted, bit by bit.

#[macro_use]
mod support;

use evenkeel::nn::{Classifier, MlpClassifier};
use evenkeel::step::StepState;
use evenkeel::train::{
    AdamW, Batch, Checkpoint, Clip, DynamicLossScale, LossScale, Model, Schedule, Sgd, Trainer,
    TrainerBuilder,
};
use evenkeel::{Error, Gpu, Precision, WeightStorage};
use support::models::{small_gpt, small_gpt_batch};
use support::{block_on, tokens, values};

tests! {
    weights_in_bf16_go_on, a_gpt_with_a_loss_scale_goes_on,
    running_statistics_and_accumulation_go_on, parameters_are_stored_under_their_names,
    misfits_change_nothing, what_is_trained_goes_on_beside_frozen_weights,
}

/// A loss scale that moves within a few steps.
fn restless() -> LossScale {
    LossScale::Dynamic(DynamicLossScale { init: 1024.0, interval: 2, ..Default::default() })
}

fn gpt_builder() -> TrainerBuilder<impl Model> {
    Trainer::builder(small_gpt(0.2, 2))
        .precision(Precision::F16)
        .loss_scale(restless())
        .optimizer(AdamW { learning_rate: 0.01, ..AdamW::default() })
        .schedule(Schedule::Linear { warmup: 3, total: 10, final_factor: 0.1 })
        .clip(Clip::Norm(0.5))
        .seed(5)
}

fn classifier_builder() -> TrainerBuilder<impl Model> {
    let mlp = MlpClassifier { inputs: 5, hidden: vec![7], classes: 3, batch_norm: true };
    Trainer::builder(Classifier { mlp, batch: 6 })
        .optimizer(Sgd { momentum: 0.9, ..Sgd::default() })
        .accumulation(2)
}

fn classifier_batch(seed: u64) -> Batch {
    Batch::new()
        .with("inputs", &values(seed, 2 * 6 * 5)[..])
        .with("targets", &tokens(seed + 100, 2 * 6, 3)[..])
}

fn build<M: Model>(gpu: &Gpu, builder: TrainerBuilder<M>) -> Trainer<M> {
    block_on(builder.build(gpu)).expect("a trainer")
}

/// Steps with these batches; returns all that steps leave, as bits.
fn run<M: Model>(
    trainer: &mut Trainer<M>,
    batches: impl Iterator<Item = Batch>,
) -> (Vec<[u32; 4]>, Vec<u8>, StepState) {
    for batch in batches {
        block_on(trainer.step(&batch)).expect("a step");
    }
    let records = block_on(trainer.telemetry()).expect("telemetry").into_iter().map(|r| {
        [r.step as u32, r.loss.to_bits(), r.gradient_norm.to_bits(), r.loss_scale.to_bits()]
    });
    let bytes = block_on(trainer.committed_bytes()).expect("bytes");
    (records.collect(), bytes, block_on(trainer.state()).expect("a state"))
}

fn goes_on<M: Model>(builder: impl Fn() -> TrainerBuilder<M>, batch: impl Fn(u64) -> Batch) {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = build(&gpu, builder());
    run(&mut trainer, (0..5).map(&batch));
    let checkpoint = block_on(trainer.checkpoint()).expect("a checkpoint");
    assert_eq!(checkpoint.steps(), 5);
    let file = checkpoint.to_bytes();
    let expected = run(&mut trainer, (5..10).map(&batch));
    assert_eq!(expected.0.iter().map(|r| r[0]).collect::<Vec<_>>(), [5, 6, 7, 8, 9]);

    // Back in the same trainer, and in another one that starts elsewhere.
    block_on(trainer.restore(&checkpoint)).expect("it fits");
    assert!(run(&mut trainer, (5..10).map(&batch)) == expected, "the same trainer");
    let mut other = build(&gpu, builder().seed(77));
    run(&mut other, (20..22).map(&batch));
    let read = Checkpoint::from_bytes(&file).expect("a checkpoint");
    assert_eq!(read, checkpoint);
    block_on(other.restore(&read)).expect("it fits");
    assert!(run(&mut other, (5..10).map(&batch)) == expected, "another trainer");
}

fn weights_in_bf16_go_on() {
    for storage in WeightStorage::ALL {
        let builder = || gpt_builder().precision(Precision::Bf16).weights(storage);
        goes_on(builder, |seed| small_gpt_batch(seed, 2));
    }
}

fn a_gpt_with_a_loss_scale_goes_on() {
    goes_on(gpt_builder, |seed| small_gpt_batch(seed, 2));
}

fn running_statistics_and_accumulation_go_on() {
    goes_on(classifier_builder, classifier_batch);
}

fn parameters_are_stored_under_their_names() {
    let Some(gpu) = support::gpu() else { return };
    let trainer = build(&gpu, gpt_builder());
    let checkpoint = block_on(trainer.checkpoint()).expect("a checkpoint");
    let names: Vec<_> = checkpoint.names().collect();
    let mut expected: Vec<_> = trainer.parameters().names().collect();
    expected.sort_unstable();
    assert_eq!(names, expected);
    for name in names {
        let (shape, values) = checkpoint.tensor(name).expect("a tensor");
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}");
        assert_eq!(values, block_on(trainer.parameters().read(name)).unwrap(), "{name}");
    }
    assert_eq!(checkpoint.tensor("evenkeel/state"), None);
}

fn misfits_change_nothing() {
    let Some(gpu) = support::gpu() else { return };
    let gpt = build(&gpu, gpt_builder());
    let checkpoint = block_on(gpt.checkpoint()).expect("a checkpoint");
    let mut classifier = build(&gpu, classifier_builder());
    let before = block_on(classifier.committed_bytes()).unwrap();
    let error = block_on(classifier.restore(&checkpoint)).unwrap_err();
    assert!(matches!(error, Error::Checkpoint { .. }), "{error}");
    let names = "it has no layers.0.linear.weight, layers.0.linear.bias, layers.0.norm.weight and 3 \
                 more, but token_embedding.weight,";
    assert!(error.to_string().contains(names), "{error}");
    assert_eq!(block_on(classifier.committed_bytes()).unwrap(), before);

    let file = checkpoint.to_bytes();
    for bad in [&file[..0], &file[..100], &file[..file.len() - 1], b"not a safetensors file"] {
        let error = Checkpoint::from_bytes(bad).unwrap_err();
        assert!(matches!(error, Error::Checkpoint { .. }), "{error}");
    }
    let foreign = safetensors::serialize([] as [(&str, safetensors::tensor::TensorView); 0], None);
    let error = Checkpoint::from_bytes(&foreign.unwrap()).unwrap_err();
    assert!(error.to_string().contains("format"), "{error}");
}

/// A run of a model most of which is frozen goes on from what is trained alone, beside the same
/// frozen weights and no others.
fn what_is_trained_goes_on_beside_frozen_weights() {
    let Some(gpu) = support::gpu() else { return };
    let builder = || gpt_builder().freeze(|spec| !spec.name.starts_with("blocks.0.mlp."));
    let batches = |steps: std::ops::Range<u64>| steps.map(|seed| small_gpt_batch(seed, 2));
    let mut trainer = build(&gpu, builder());
    let frozen = block_on(trainer.fingerprint_of_frozen()).expect("a fingerprint");
    run(&mut trainer, batches(0..4));
    assert_eq!(block_on(trainer.fingerprint_of_frozen()).expect("a fingerprint"), frozen);
    let checkpoint = block_on(trainer.checkpoint_of_trained(&frozen)).expect("a checkpoint");
    let whole = block_on(trainer.checkpoint()).expect("a checkpoint");
    assert!(whole.is_whole() && !checkpoint.is_whole());
    let names: Vec<_> = checkpoint.names().collect();
    let specs = trainer.parameters().trained().iter();
    let mut trained: Vec<_> = specs.map(|spec| spec.name.as_str()).collect();
    trained.sort_unstable();
    assert!(names == trained && trained.len() > 2, "{names:?}");
    for name in names {
        assert_eq!(checkpoint.tensor(name), whole.tensor(name), "{name}");
    }
    let checkpoint = checkpoint.with_note("data", "\"lines\" of a = b");
    let file = checkpoint.to_bytes();
    assert!(file.len() < whole.to_bytes().len());
    let expected = run(&mut trainer, batches(4..8));

    let read = Checkpoint::from_bytes(&file).expect("a checkpoint");
    assert_eq!(read, checkpoint);
    assert_eq!([read.note("data"), read.note("steps")], [Some("\"lines\" of a = b"), None]);
    let mut other = build(&gpu, builder());
    run(&mut other, batches(20..22));
    block_on(other.restore_trained(&read, &frozen)).expect("it fits");
    assert!(run(&mut other, batches(4..8)) == expected, "another trainer");

    // Other frozen weights, all weights, and the two kinds in each other's place.
    let mut strange = build(&gpu, builder().seed(6));
    let before = block_on(strange.committed_bytes()).expect("bytes");
    let other_frozen = block_on(strange.fingerprint_of_frozen()).expect("a fingerprint");
    assert_ne!(other_frozen, frozen);
    let refused = |result: evenkeel::Result<()>, part: &str| {
        let error = result.expect_err(part);
        assert!(matches!(error, Error::Checkpoint { .. }), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    };
    refused(block_on(strange.restore_trained(&read, &other_frozen)), "with the fingerprint");
    refused(block_on(strange.restore(&read)), "Trainer::restore_trained");
    refused(block_on(strange.restore_weights(&read)), "Trainer::restore_trained");
    refused(block_on(strange.restore_trained(&whole, &other_frozen)), "Trainer::restore");
    let mut all = build(&gpu, gpt_builder());
    let none = block_on(all.fingerprint_of_frozen()).expect("a fingerprint");
    refused(block_on(all.restore_trained(&read, &none)), "which are not here");
    assert_eq!(block_on(strange.committed_bytes()).expect("bytes"), before);
}
