//! Moments in fewer bits: they train as f32 does, obey the verdict bit by bit, and go through
//! checkpoints.

#[macro_use]
mod support;

use evenkeel::kernel::MomentStorage;
use evenkeel::nn::{Gpt, GptConfig, LanguageModel};
use evenkeel::train::optimizers::CompactMoments;
use evenkeel::train::{Adam, AdamW, Batch, Lion, Optimizer, SnapshotRing, Trainer, TrainerBuilder};
use evenkeel::{Gpu, WeightStorage};
use support::{block_on, tokens};

tests! {
    they_train_as_f32_does, they_take_less_memory, a_skipped_step_changes_no_bit,
    a_run_goes_on_bit_by_bit, a_run_goes_on_in_another_storage,
    weights_and_moments_are_rounded_together,
}

const VOCABULARY: usize = 31;
const TIME: usize = 8;
/// The weights that are made too large for a step.
const NAME: &str = "token_embedding.weight";
const SMALL: [MomentStorage; 2] = [MomentStorage::Bf16, MomentStorage::Blocks8];

fn optimizers(storage: MomentStorage) -> [CompactMoments; 3] {
    let betas = [0.9, 0.95];
    [
        AdamW { learning_rate: 1e-2, betas, ..AdamW::default() }.with_moments(storage),
        Adam { learning_rate: 1e-2, betas, ..Adam::default() }.with_moments(storage),
        Lion { learning_rate: 2e-3, ..Lion::default() }.with_moments(storage),
    ]
}

fn builder(optimizer: impl Optimizer + 'static) -> TrainerBuilder<LanguageModel> {
    let config = GptConfig::gpt2(VOCABULARY, TIME, 2, 3, 24);
    let gpt = Gpt::new(config).expect("valid");
    let model = LanguageModel { gpt, batch: 4, time: TIME };
    Trainer::builder(model).optimizer(optimizer).seed(5)
}

fn build(gpu: &Gpu, optimizer: impl Optimizer + 'static) -> Trainer<LanguageModel> {
    block_on(builder(optimizer).build(gpu)).expect("a trainer")
}

/// The next token is the one before it, or twice it.
fn batch(seed: u64) -> Batch {
    let ids = tokens(seed % 7, 4 * TIME, VOCABULARY as u32);
    let targets: Vec<_> = ids.iter().map(|id| id * 2 % VOCABULARY as u32).collect();
    Batch::new().with("tokens", ids).with("targets", targets)
}

fn take(trainer: &mut Trainer<LanguageModel>, steps: std::ops::Range<u64>) -> Vec<f32> {
    for seed in steps {
        block_on(trainer.step(&batch(seed))).expect("a step");
    }
    let records = block_on(trainer.telemetry()).expect("telemetry");
    records.iter().map(|record| record.loss).collect()
}

fn committed(trainer: &Trainer<LanguageModel>) -> Vec<u8> {
    block_on(trainer.committed_bytes()).expect("readable")
}

fn they_train_as_f32_does() {
    let Some(gpu) = support::gpu() else { return };
    let final_loss = |optimizer: CompactMoments| {
        let losses = take(&mut build(&gpu, optimizer), 0..60);
        let last = losses[53..].iter().sum::<f32>() / 7.0;
        assert!(
            losses[0] > 3.2 && last < 0.5 * losses[0],
            "{optimizer:?}: {} to {last}",
            losses[0]
        );
        last
    };
    for (index, single) in optimizers(MomentStorage::F32).into_iter().enumerate() {
        let expected = final_loss(single);
        for storage in SMALL {
            let found = final_loss(optimizers(storage)[index]);
            let ratio = found / expected;
            assert!((0.6..1.6).contains(&ratio), "{single:?} in {storage}: {found}, {expected}");
        }
    }
}

fn they_take_less_memory() {
    let Some(gpu) = support::gpu() else { return };
    for index in 0..3 {
        let bytes = |storage| {
            let report = build(&gpu, optimizers(storage)[index]).report();
            report.moment_bytes
        };
        let single = bytes(MomentStorage::F32);
        assert_eq!(2 * bytes(MomentStorage::Bf16), single);
        let blocks = bytes(MomentStorage::Blocks8);
        // Scales of small tensors are those of whole chunks.
        assert!(4 * blocks > single && 3 * blocks < single, "{blocks} of {single}");
    }
}

fn a_skipped_step_changes_no_bit() {
    let Some(gpu) = support::gpu() else { return };
    for optimizer in SMALL.into_iter().flat_map(optimizers) {
        let mut trainer = build(&gpu, optimizer);
        take(&mut trainer, 0..3);
        let weights = block_on(trainer.parameters().read(NAME)).expect("weights");
        let write = |trainer: &Trainer<_>, weights: &[f32]| {
            trainer.parameters().write(NAME, weights).expect("written");
        };
        // No logit is finite.
        write(&trainer, &[3e38, -3e38].repeat(weights.len() / 2));
        let before = committed(&trainer);
        block_on(trainer.step(&batch(3))).expect("a step");
        let record = block_on(trainer.telemetry()).expect("telemetry").pop().expect("one");
        assert!(!record.applied, "{record:?}");
        assert!(committed(&trainer) == before, "{optimizer:?}");
        write(&trainer, &weights);
        let before = committed(&trainer);
        take(&mut trainer, 3..4);
        assert!(committed(&trainer) != before);
    }
}

fn a_run_goes_on_bit_by_bit() {
    let Some(gpu) = support::gpu() else { return };
    for optimizer in SMALL.into_iter().flat_map(optimizers) {
        let mut whole = build(&gpu, optimizer);
        take(&mut whole, 0..3);
        let checkpoint = block_on(whole.checkpoint()).expect("a checkpoint");
        let mut resumed = build(&gpu, optimizer);
        take(&mut resumed, 10..12);
        block_on(resumed.restore(&checkpoint)).expect("restored");
        assert!(committed(&resumed) == committed(&whole), "{optimizer:?}");
        let again = block_on(resumed.checkpoint()).expect("a checkpoint");
        assert_eq!(again, checkpoint);
        take(&mut whole, 3..6);
        take(&mut resumed, 3..6);
        assert!(committed(&resumed) == committed(&whole), "{optimizer:?}");
    }
    // Snapshots on the device are of bytes, whatever they stand for.
    let ring = SnapshotRing::default();
    let optimizer = optimizers(MomentStorage::Blocks8)[0];
    let mut kept = block_on(builder(optimizer).policy(ring).build(&gpu)).expect("a trainer");
    let mut plain = build(&gpu, optimizer);
    take(&mut kept, 0..3);
    take(&mut plain, 0..3);
    assert!(committed(&kept) == committed(&plain));
}

fn a_run_goes_on_in_another_storage() {
    let Some(gpu) = support::gpu() else { return };
    for index in 0..3 {
        for (from, to) in [
            (MomentStorage::F32, MomentStorage::Blocks8),
            (MomentStorage::Blocks8, MomentStorage::F32),
            (MomentStorage::Bf16, MomentStorage::Blocks8),
        ] {
            let mut one = build(&gpu, optimizers(from)[index]);
            take(&mut one, 0..30);
            let checkpoint = block_on(one.checkpoint()).expect("a checkpoint");
            let mut other = build(&gpu, optimizers(to)[index]);
            block_on(other.restore(&checkpoint)).expect("restored");
            let [one, other] = [&mut one, &mut other].map(|trainer| {
                let losses = take(trainer, 30..44);
                losses[7..].iter().sum::<f32>()
            });
            let ratio = other / one;
            assert!((0.7..1.4).contains(&ratio), "{from} to {to}: {other}, {one}");
        }
    }
}

/// Both draw random numbers, from streams of their own.
fn weights_and_moments_are_rounded_together() {
    let Some(gpu) = support::gpu() else { return };
    for storage in SMALL {
        for weights in [WeightStorage::Bf16Stochastic, WeightStorage::Bf16Split] {
            let builder = builder(optimizers(storage)[0]).weights(weights);
            let mut trainer = block_on(builder.build(&gpu)).expect("a trainer");
            let losses = take(&mut trainer, 0..40);
            assert!(losses[39] < 0.7 * losses[0], "{storage}, {weights}: {losses:?}");
        }
    }
}
