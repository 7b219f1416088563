//! A sharded optimizer: each rank keeps its range of the moments, and no bit of a run depends on it.

use evenkeel::kernel::MomentStorage;
use evenkeel::nn::{Gpt, GptConfig, LanguageModel, QkClip};
use evenkeel::step::Reason;
use evenkeel::train::ranks::Exchange;
use evenkeel::train::stability::{
    AdaptiveGradientClip, ClipPerTensor, Reaction, SnapshotRing, SpikeGuard,
};
use evenkeel::train::{
    Adafactor, Adam, AdamAtan2, AdamW, Batch, Checkpoint, Clip, DynamicLossScale, Ema, Lion,
    LossScale, Model, Muon, Norm, Sgd, StableAdamW, TensorTelemetry, Trainer, TrainerBuilder,
};
use evenkeel::{Gpu, Precision, WeightStorage};

use crate::support::models::Terms;
use crate::support::parted::{Data, FAULTS, Parted};
use crate::support::{block_on, gpu, gpu_with_bindings, tokens};
use crate::{on_ranks, told};

/// Rows of 16 quads, of which 32 begin a chunk, and tensors that nobody cuts.
pub(crate) fn tables() -> Terms {
    let dims = [vec![37, 61], vec![3, 5], vec![7], vec![80, 64]];
    Terms { tensors: dims.into_iter().map(|dims| (dims, 1.0)).collect() }
}

/// A step of so many microbatches; in all but the first of them targets are this much larger.
pub(crate) fn batch(seed: u64, microbatches: usize, factor: f32) -> Batch {
    let mut data = tables().data(seed, microbatches);
    for target in &mut data.targets {
        let first = target.len() / microbatches;
        target[first..].iter_mut().for_each(|x| *x *= factor);
    }
    data.batch()
}

/// Steps of a run, with a fault of all ranks but the first.
fn batches(microbatches: usize) -> Vec<Batch> {
    let factors = [1.0, 1.0, f32::NAN, 1.0];
    (1..).zip(factors).map(|(seed, factor)| batch(seed, microbatches, factor)).collect()
}

/// All that a run comes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub checkpoint: Vec<u8>,
    pub records: Vec<String>,
    tensors: Vec<TensorTelemetry>,
    moment_bytes: u64,
}

pub(crate) fn outcome<M: Model>(
    gpu: &Gpu,
    builder: TrainerBuilder<M>,
    (rank, ranks): (usize, usize),
    batches: &[Batch],
) -> Outcome {
    let mut trainer = block_on(builder.build(gpu)).expect("a trainer");
    for batch in batches {
        let own = batch.of_rank(rank, ranks).expect("even");
        block_on(trainer.step(&own)).expect("a step");
    }
    ended(&mut trainer)
}

pub(crate) fn ended<M: Model>(trainer: &mut Trainer<M>) -> Outcome {
    let records = block_on(trainer.telemetry()).expect("telemetry");
    Outcome {
        checkpoint: block_on(trainer.checkpoint()).expect("a checkpoint").to_bytes(),
        records: records.iter().map(told).collect(),
        tensors: block_on(trainer.tensor_telemetry()).expect("telemetry of tensors"),
        moment_bytes: trainer.report().moment_bytes,
    }
}

/// What each rank of a sharded run comes to.
pub(crate) fn sharded<M: Model>(
    gpu: &Gpu,
    ranks: usize,
    builder: impl Fn() -> TrainerBuilder<M> + Sync,
    batches: &[Batch],
) -> Vec<Outcome> {
    on_ranks(ranks, |exchange| {
        let place = (exchange.rank(), exchange.size());
        let builder = builder().exchange(exchange).shard_optimizer_state(true);
        outcome(gpu, builder.compare_ranks_every(1), place, batches)
    })
}

/// Fails unless every rank has the bits of `expected`; of the shares below eps those that are known.
#[track_caller]
fn assert_same(what: &str, expected: &Outcome, ranks: &[Outcome]) {
    for (rank, found) in ranks.iter().enumerate() {
        let what = format!("{what}, rank {rank} of {}", ranks.len());
        assert_eq!(found.records, expected.records, "{what}");
        assert_eq!(found.tensors.len(), expected.tensors.len(), "{what}");
        for (found, expected) in found.tensors.iter().zip(&expected.tensors) {
            let eps_share = found.eps_share.and(expected.eps_share);
            assert_eq!(*found, TensorTelemetry { eps_share, ..expected.clone() }, "{what}");
        }
        let checkpoint = |bytes: &[u8]| Checkpoint::from_bytes(bytes).expect("a checkpoint");
        let values = |bytes: &[u8], name: &str| checkpoint(bytes).tensor(name).map(|t| t.1);
        for name in checkpoint(&expected.checkpoint).names() {
            let [found, expected] = [found, expected].map(|run| values(&run.checkpoint, name));
            assert!(found == expected, "{what}: other weights {name}");
        }
        assert!(found.checkpoint == expected.checkpoint, "{what}: another checkpoint");
    }
}

type Choice = (&'static str, fn(TrainerBuilder<Terms>) -> TrainerBuilder<Terms>);

pub(crate) const DECAY: AdamW = AdamW {
    learning_rate: 1e-2,
    betas: [0.9, 0.99],
    eps: 1e-3,
    weight_decay: 0.1,
    amsgrad: false,
    cautious: false,
    cautious_decay: false,
};

const OPTIMIZERS: [Choice; 22] = [
    ("AdamW", |b| b.optimizer(DECAY)),
    ("AMSGrad", |b| b.optimizer(AdamW { amsgrad: true, ..DECAY })),
    ("cautious AdamW", |b| b.optimizer(AdamW { cautious: true, ..DECAY })),
    ("AdamW with cautious decay", |b| b.optimizer(AdamW { cautious_decay: true, ..DECAY })),
    ("AdamW in bf16", |b| b.optimizer(DECAY.with_moments(MomentStorage::Bf16))),
    ("AdamW in 8 bits", |b| b.optimizer(DECAY.with_moments(MomentStorage::Blocks8))),
    ("Adam", |b| b.optimizer(Adam { weight_decay: 0.1, ..Adam::default() })),
    ("Adam in 8 bits", |b| b.optimizer(Adam::default().with_moments(MomentStorage::Blocks8))),
    ("StableAdamW", |b| b.optimizer(StableAdamW::default())),
    ("Adam-atan2", |b| b.optimizer(AdamAtan2::default())),
    ("Lion", |b| b.optimizer(Lion::default())),
    ("cautious Lion", |b| b.optimizer(Lion { cautious: true, ..Lion::default() })),
    ("Lion in bf16", |b| b.optimizer(Lion::default().with_moments(MomentStorage::Bf16))),
    ("Lion in 8 bits", |b| b.optimizer(Lion::default().with_moments(MomentStorage::Blocks8))),
    ("Adafactor", |b| b.optimizer(Adafactor::default())),
    ("Muon", |b| b.optimizer(Muon::default())),
    ("SGD with momentum", |b| b.optimizer(Sgd { momentum: 0.9, ..Sgd::default() })),
    ("SGD", |b| b.optimizer(Sgd { momentum: 0.0, ..Sgd::default() })),
    ("weights in bf16", |b| b.optimizer(DECAY).weights(WeightStorage::Bf16Stochastic)),
    ("Kahan", |b| b.optimizer(DECAY).weights(WeightStorage::Bf16Kahan)),
    ("split", |b| b.optimizer(DECAY).weights(WeightStorage::Bf16Split)),
    ("frozen", |b| b.optimizer(DECAY).freeze(|spec| spec.name == "w0")),
];

pub(crate) fn builder(
    with: fn(TrainerBuilder<Terms>) -> TrainerBuilder<Terms>,
) -> TrainerBuilder<Terms> {
    with(Trainer::builder(tables()).seed(2).clip(Clip::Norm(0.05)).watch_tensors(1))
}

/// The run of one process that accumulates.
fn alone(gpu: &Gpu, builder: TrainerBuilder<Terms>, batches: &[Batch], ranks: usize) -> Outcome {
    outcome(gpu, builder.accumulation(ranks), (0, 1), batches)
}

#[test]
fn every_optimizer_and_storage_has_the_bits_of_one_process() {
    let Some(gpu) = gpu() else { return };
    let batches = batches(3);
    for (what, with) in OPTIMIZERS {
        let expected = alone(&gpu, builder(with), &batches, 3);
        let ranks = sharded(&gpu, 3, || builder(with), &batches);
        assert_same(what, &expected, &ranks);
        let together: u64 = ranks.iter().map(|rank| rank.moment_bytes).sum();
        let each = ranks.iter().map(|rank| rank.moment_bytes).max().unwrap_or(0);
        // A few are in the scales of chunks that end with a range, or to fill up a buffer.
        assert!(together.abs_diff(expected.moment_bytes) <= 3 * 3 * 512, "{what}: {together}");
        assert!(each < expected.moment_bytes || what == "SGD", "{what}: {each}");
    }
}

#[test]
fn any_number_of_ranks_has_the_bits_of_ranks_with_everything() {
    let Some(gpu) = gpu() else { return };
    for ranks in [2, 3, 4] {
        let batches = batches(ranks);
        let with: fn(TrainerBuilder<Terms>) -> _ = |b| b.optimizer(DECAY).ema(Ema::default());
        let whole = on_ranks(ranks, |exchange| {
            let place = (exchange.rank(), exchange.size());
            outcome(&gpu, builder(with).exchange(exchange), place, &batches)
        });
        let ranges = sharded(&gpu, ranks, || builder(with), &batches);
        assert_same("sharded", &whole[0], &ranges);
        assert_same("one process", &alone(&gpu, builder(with), &batches, ranks), &ranges);
        let skipped = |record: &&String| record.contains("NonFiniteGradient");
        assert_eq!(ranges[0].records.iter().filter(skipped).count(), 1);
        // Tensors that one rank keeps are measured, by all alike.
        let known = |run: &Outcome| {
            let first = run.tensors.iter().filter(|tensor| tensor.step == 3);
            first.map(|tensor| tensor.eps_share.is_some()).collect::<Vec<_>>()
        };
        let cut = if ranks == 4 { [false, true, true, false] } else { [true, true, true, false] };
        assert!(
            ranges.iter().all(|run| known(run) == cut),
            "{ranks} ranks: {:?}",
            known(&ranges[0])
        );
    }
}

#[test]
fn moments_are_counted_before_anything_is_built() {
    let Some(gpu) = gpu() else { return };
    let found = on_ranks(4, |exchange| {
        let builder = builder(|b| b.optimizer(DECAY)).shard_optimizer_state(true);
        let builder = builder.policy(SnapshotRing::default()).exchange(exchange);
        let plan = builder.memory(&gpu).expect("a plan");
        let report = block_on(builder.build(&gpu)).expect("a trainer").report();
        assert_eq!(plan.total_bytes(), report.total_bytes());
        assert_eq!(plan.policy_bytes, report.policy_bytes);
        assert_eq!(plan.moment_bytes, report.moment_bytes);
        plan.moment_bytes
    });
    // Two moments of 16 bytes a quad. Tensors begin at multiples of 32 quads.
    assert_eq!(found, [512, 672, 512, 256].map(|quads| 2 * 16 * quads));
    let one = builder(|b| b.optimizer(DECAY)).shard_optimizer_state(true).memory(&gpu);
    assert_eq!(one.expect("a plan").moment_bytes, 2 * 16 * (672 + 1280));
}

const POLICIES: [Choice; 7] = [
    ("rollback", |b| {
        let reactions = vec![Reaction::RollBack];
        let guard = SpikeGuard { window: 3, reactions, ..SpikeGuard::default() };
        let ring = SnapshotRing { every: 1, ..SnapshotRing::default() };
        b.policy(guard).policy(ring).ema(Ema::default())
    }),
    ("AGC", |b| b.policy(AdaptiveGradientClip::default())),
    ("per tensor", |b| b.policy(ClipPerTensor { max_norm: 0.01 })),
    ("reset of moments", |b| {
        let reactions = vec![Reaction::ResetMoments];
        b.policy(SpikeGuard { window: 3, reactions, ..SpikeGuard::default() })
    }),
    ("exact norm", |b| b.norm(Norm::ExactL2)),
    ("loss scale", |b| {
        let scale = DynamicLossScale { init: 256.0, interval: 2, ..DynamicLossScale::default() };
        b.loss_scale(LossScale::Dynamic(scale))
    }),
    ("f16", |b| b.precision(Precision::F16).weights(WeightStorage::Bf16Kahan)),
];

#[test]
fn policies_see_and_take_back_what_they_would_in_one_process() {
    let Some(gpu) = gpu() else { return };
    let factors = [1.0, 1.0, 1.0, 1.0, 1e3, f32::NAN, 1e3, 1e3, 1.0];
    let batches: Vec<_> = (1..).zip(factors).map(|(seed, factor)| batch(seed, 2, factor)).collect();
    for (what, with) in POLICIES {
        let builder = || with(Trainer::builder(tables()).optimizer(DECAY).seed(2));
        let expected = alone(&gpu, builder(), &batches, 2);
        assert_same(what, &expected, &sharded(&gpu, 2, builder, &batches));
        let back = format!("{:?}", Reason::RolledBack);
        let is_back = expected.records.iter().any(|record| record.contains(&back));
        assert_eq!(is_back, what == "rollback", "{what}: {:?}", expected.records);
    }
}

#[test]
fn a_rank_may_have_no_range() {
    let Some(gpu) = gpu() else { return };
    let builder = || Trainer::builder(Parted).seed(3).optimizer(DECAY);
    let data = |seed| Data::new(seed, 4);
    let batches = [
        data(1).batch(),
        data(2).with(FAULTS[0], 3).batch(),
        data(3).with(FAULTS[6], 0).batch(),
        data(4).batch(),
    ];
    let whole = on_ranks(4, |exchange| {
        let place = (exchange.rank(), exchange.size());
        outcome(&gpu, builder().exchange(exchange), place, &batches)
    });
    let ranges = sharded(&gpu, 4, builder, &batches);
    assert_same("one tensor", &whole[0], &ranges);
    let mut kept: Vec<_> = ranges.iter().map(|run| run.moment_bytes).collect();
    kept.sort();
    assert_eq!(kept, [0, 0, 0, 2 * 512]);
}

/// More bytes than go at once; cautious, of one rank alone.
#[test]
fn weights_go_in_several_pieces() {
    let Some(gpu) = gpu() else { return };
    let model = || Terms { tensors: vec![(vec![1500, 1001], 1.0), (vec![3], 1.0)] };
    for (cautious, kept) in [(false, [16 * 128_512, 16 * 248_032]), (true, [0, 16 * 376_544])] {
        let builder = || Trainer::builder(model()).optimizer(Lion { cautious, ..Lion::default() });
        let batches = [model().data(1, 2).batch()];
        let expected = outcome(&gpu, builder().accumulation(2), (0, 1), &batches);
        let ranges = sharded(&gpu, 2, builder, &batches);
        assert_same(&format!("cautious: {cautious}"), &expected, &ranges);
        let found: Vec<_> = ranges.iter().map(|run| run.moment_bytes).collect();
        assert_eq!(found, kept, "{cautious}");
    }
}

/// A table and a head in parts, of which ranks have rows, and what acts after the update on a weight
/// that another rank advanced.
#[test]
fn tensors_in_parts_and_layers_after_the_update() {
    let Some(gpu) = gpu_with_bindings(49_152) else { return };
    let model = |clips: bool| {
        let qk_clip = clips.then_some(QkClip { threshold: 1e-3, alpha: 0.5 });
        let vocabulary = if clips { 27 } else { 1000 };
        let config = GptConfig { qk_clip, ..GptConfig::gpt2(vocabulary, 8, 1, 2, 32) };
        LanguageModel { gpt: Gpt::new(config).expect("valid"), batch: 1, time: 8 }
    };
    for (clips, vocabulary) in [(false, 1000), (true, 27)] {
        let ids = |seed| tokens(seed, 16, vocabulary);
        let step = |seed| Batch::new().with("tokens", ids(seed)).with("targets", ids(seed + 1));
        let batches = [step(1), step(2)];
        let optimizer = DECAY.with_moments(MomentStorage::Blocks8);
        let builder = || {
            Trainer::builder(model(clips)).optimizer(optimizer).weights(WeightStorage::Bf16Kahan)
        };
        let whole = on_ranks(2, |exchange| {
            let place = (exchange.rank(), exchange.size());
            outcome(&gpu, builder().exchange(exchange), place, &batches)
        });
        let ranges = sharded(&gpu, 2, builder, &batches);
        assert_same(&format!("QK-clip: {clips}"), &whole[0], &ranges);
    }
}
