//! N ranks of M microbatches are one process of N M: bit by bit where it adds in the same order, and
//! within rounding elsewhere.

use std::thread::sleep;
use std::time::Duration;

use evenkeel::nn::{Gpt, GptConfig, LanguageModel, QkClip};
use evenkeel::train::ranks::Exchange;
use evenkeel::train::{
    AdamW, Batch, Clip, Ema, Lengths, LossScale, Model, Sgd, Telemetry, Trainer, TrainerBuilder,
};
use evenkeel::{Gpu, Precision, WeightStorage};

use crate::support::models::{Terms, small_gpt, small_gpt_batch};
use crate::support::uneven::{CLASSES, SMOOTH, batch, computed, gpt};
use crate::support::{Tolerance, assert_close, block_on, gpu, tokens, values};
use crate::{State, all_the_same, on_ranks, run, run_alone, state, told};

const ROUNDING: Tolerance = Tolerance {
    absolute: 2e-6,
    relative: 2e-5,
    because: "sums of gradients in f32, first over microbatches or uses and then over ranks",
};

fn terms(seed: u64, microbatches: usize) -> Batch {
    Terms::three().data(seed, microbatches).batch()
}

/// One microbatch on each rank: the order of one process.
#[track_caller]
fn same_bits<M: Model>(
    what: &str,
    gpu: &Gpu,
    ranks: usize,
    builder: impl Fn() -> TrainerBuilder<M> + Sync,
    batches: &[Batch],
) -> (State, Vec<Telemetry>) {
    let together = on_ranks(ranks, |exchange| run(gpu, builder(), exchange, batches));
    let together = all_the_same(what, together);
    let alone = run_alone(gpu, builder().accumulation(ranks), batches);
    for (together, alone) in together.1.iter().zip(&alone.1) {
        assert_eq!(told(together), told(alone), "{what}");
    }
    assert!(together.0.committed == alone.0.committed, "{what}: not the weights of one process");
    assert!(together.0.of_device == alone.0.of_device, "{what}: not the state of one process");
    together
}

#[test]
fn gradients_are_added_in_the_order_of_one_process() {
    let Some(gpu) = gpu() else { return };
    for ranks in [1, 2, 3, 4] {
        let batches: Vec<_> = (1..6).map(|seed| terms(seed, ranks)).collect();
        let builder = || Trainer::builder(Terms::three()).clip(Clip::Norm(0.01)).seed(2);
        same_bits(&format!("{ranks} ranks"), &gpu, ranks, builder, &batches);
    }
}

#[test]
fn targets_are_counted_over_all_ranks() {
    let Some(gpu) = gpu() else { return };
    for counted in [&[8, 1][..], &[0, 8, 3], &[2, 0, 0, 5]] {
        let batches = vec![batch(counted); 3];
        let builder = || {
            Trainer::builder(computed(1)).optimizer(Sgd { learning_rate: 2.0, ..Sgd::default() })
        };
        let what = format!("targets {counted:?}");
        let (_, records) = same_bits(&what, &gpu, counted.len(), builder, &batches);
        assert!(records[2].loss < records[0].loss, "{what}: {records:?}");
    }
    let none = vec![batch(&[0, 0]); 1];
    let (_, records) = same_bits("none", &gpu, 2, || Trainer::builder(computed(1)), &none);
    assert_eq!((records[0].loss, records[0].applied), (0.0, true));
}

/// A head that shares the embedding's table: two uses, which one process adds in turn.
fn close_to_one_process<M: Model>(
    what: &str,
    (ranks, microbatches): (usize, usize),
    builder: impl Fn() -> TrainerBuilder<M> + Sync,
    batches: &[Batch],
    tolerance: Tolerance,
) {
    let Some(gpu) = gpu() else { return };
    let of_rank = |exchange| run(&gpu, builder().accumulation(microbatches), exchange, batches);
    let (_, together) = all_the_same(what, on_ranks(ranks, of_rank));
    let (_, alone) = run_alone(&gpu, builder().accumulation(ranks * microbatches), batches);
    let numbers = |records: &[Telemetry]| -> Vec<_> {
        records.iter().flat_map(|record| [record.loss, record.gradient_norm]).collect()
    };
    let expected: Vec<_> = numbers(&alone).into_iter().map(f64::from).collect();
    assert_close(what, &numbers(&together), &expected, tolerance);
    assert!(together.iter().all(|record| record.applied), "{what}");
}

#[test]
fn models_with_dropout_are_those_of_one_process() {
    let optimizer = || AdamW { learning_rate: 1e-2, ..AdamW::default() };
    for (ranks, microbatches) in [(2, 1), (4, 1), (2, 2), (1, 3)] {
        let batches: Vec<_> =
            (1..5).map(|seed| small_gpt_batch(seed, ranks * microbatches)).collect();
        let builder =
            || Trainer::builder(small_gpt(0.2, 1)).optimizer(optimizer()).clip(Clip::Norm(1.0));
        let what = format!("{ranks} ranks with {microbatches}");
        close_to_one_process(&what, (ranks, microbatches), builder, &batches, ROUNDING);
    }
    // Masks do depend on the rank: else both would learn from the same cells.
    let uneven = vec![batch(&[8, 1, 3, 0]); 3];
    let builder = || Trainer::builder(gpt(SMOOTH, 1)).optimizer(Sgd::default());
    close_to_one_process("uneven targets", (2, 2), builder, &uneven, ROUNDING);
}

#[test]
fn precisions_and_storages_stay_together() {
    let Some(gpu) = gpu() else { return };
    for (precision, storage) in [
        (Precision::F16, WeightStorage::F32),
        (Precision::Bf16, WeightStorage::Bf16Stochastic),
        (Precision::Bf16, WeightStorage::Bf16Kahan),
    ] {
        let what = format!("{precision:?}, {storage:?}");
        let batches: Vec<_> = (1..4).map(|seed| small_gpt_batch(seed, 4)).collect();
        let of_rank = |exchange| {
            let builder = Trainer::builder(small_gpt(0.1, 1)).precision(precision).weights(storage);
            let builder = builder.ema(Ema::default()).loss_scale(LossScale::dynamic());
            run(&gpu, builder.accumulation(2).compare_ranks_every(1), exchange, &batches)
        };
        all_the_same(&what, on_ranks(2, of_rank));
    }
}

/// What a layer reads after the update is the largest of all ranks.
#[test]
fn layers_that_act_after_the_update_see_all_ranks() {
    let Some(gpu) = gpu() else { return };
    let model = || {
        let clip = Some(QkClip { threshold: 1e-3, alpha: 0.5 });
        let config = GptConfig { qk_clip: clip, ..GptConfig::gpt2(27, 8, 1, 2, 8) };
        LanguageModel { gpt: Gpt::new(config).expect("valid"), batch: 1, time: 8 }
    };
    // Nothing but the clip moves weights, so their bits are those of one process.
    let optimizer = Sgd { learning_rate: 0.0, weight_decay: 0.0, ..Sgd::default() };
    let builder = || Trainer::builder(model()).optimizer(optimizer);
    let weights = |builder: TrainerBuilder<_>, (rank, ranks): (usize, usize), steps: u64| {
        let mut trainer = block_on(builder.build(&gpu)).expect("a trainer");
        for seed in 0..steps {
            let batch = small_gpt_batch(seed, 3).of_rank(rank, ranks).expect("even");
            block_on(trainer.step(&batch)).expect("a step");
        }
        block_on(trainer.parameters().read("blocks.0.attention.qkv.weight")).expect("readable")
    };
    let together = on_ranks(3, |exchange| {
        let place = (exchange.rank(), exchange.size());
        weights(builder().exchange(exchange), place, 3)
    });
    let alone = weights(builder().accumulation(3), (0, 1), 3);
    assert!(alone != weights(builder(), (0, 1), 0), "nothing was clipped");
    assert!(together.iter().all(|weights| *weights == alone), "another clip than one process has");
}

#[test]
fn observations_are_those_of_all_ranks() {
    let Some(gpu) = gpu() else { return };
    let model = || {
        let config = GptConfig { watch_logits: true, ..GptConfig::gpt2(27, 8, 1, 2, 8) };
        LanguageModel { gpt: Gpt::new(config).expect("valid"), batch: 1, time: 8 }
    };
    let whole = small_gpt_batch(1, 4);
    let observed = |builder: TrainerBuilder<_>, batch: &Batch| {
        let mut trainer = block_on(builder.build(&gpu)).expect("a trainer");
        block_on(trainer.step(batch)).expect("a step");
        block_on(trainer.observations()).expect("observations")
    };
    let alone = observed(Trainer::builder(model()).accumulation(4), &whole);
    assert!(alone.iter().any(|(name, _)| name.contains("entropy")), "{alone:?}");
    let ranks = on_ranks(2, |exchange| {
        let batch = whole.of_rank(exchange.rank(), exchange.size()).expect("even");
        observed(Trainer::builder(model()).accumulation(2).exchange(exchange), &batch)
    });
    for ((name, found), (_, expected)) in ranks[0].iter().zip(&alone) {
        let expected: Vec<_> = expected.iter().map(|&x| x.into()).collect();
        assert_close(name, found, &expected, ROUNDING);
    }
    assert_eq!(ranks[0], ranks[1]);
}

/// Each rank has a plan for its own.
#[test]
fn ranks_may_have_batches_of_different_lengths() {
    let Some(gpu) = gpu() else { return };
    let states = on_ranks(2, |exchange| {
        let rank = exchange.rank();
        let lengths = Lengths::new([4, 8]).expect("two");
        let builder = Trainer::builder(gpt(SMOOTH, 1)).lengths(lengths).compare_ranks_every(1);
        let mut trainer = block_on(builder.exchange(exchange).build(&gpu)).expect("a trainer");
        for step in 0..4 {
            let length = if (step + rank) % 2 == 0 { 4 } else { 8 };
            let ids = |seed| tokens(seed, length, CLASSES as u32);
            let batch = Batch::new().with("tokens", ids(1)).with("targets", ids(2));
            block_on(trainer.step(&batch.of_length(length))).expect("a step");
        }
        let records = block_on(trainer.telemetry()).expect("telemetry");
        assert!(records[3].loss < records[0].loss, "{records:?}");
        state(&trainer)
    });
    assert!(states[0] == states[1]);
}

/// More bytes than go at once.
#[test]
fn large_gradients_go_in_pieces() {
    let Some(gpu) = gpu() else { return };
    let model = || Terms { tensors: vec![(vec![1500, 1001], 1.0), (vec![3], 1.0)] };
    let batches = [model().data(1, 2).batch()];
    let builder = || Trainer::builder(model()).optimizer(Sgd::default());
    same_bits("6 MB", &gpu, 2, builder, &batches);
}

#[test]
fn who_comes_late_changes_no_bit() {
    let Some(gpu) = gpu() else { return };
    let batches: Vec<_> = (1..4).map(|seed| terms(seed, 3)).collect();
    let with_delays = |delays: [u64; 3]| {
        let of_rank = |exchange: evenkeel::train::ranks::Local| {
            sleep(Duration::from_millis(delays[exchange.rank()]));
            run(&gpu, Trainer::builder(Terms::three()), exchange, &batches)
        };
        all_the_same("delays", on_ranks(3, of_rank)).0
    };
    let first = with_delays([0, 0, 0]);
    assert!(first == with_delays([40, 0, 20]) && first == with_delays([0, 30, 60]));
}

/// As processes have them.
#[test]
fn each_rank_may_have_a_device_of_its_own() {
    let Some(gpu) = gpu() else { return };
    let batches: Vec<_> = (1..4).map(|seed| small_gpt_batch(seed, 2)).collect();
    let builder = || Trainer::builder(small_gpt(0.1, 1)).compare_ranks_every(1);
    let own = on_ranks(2, |exchange| {
        let gpu = block_on(Gpu::new()).expect("a device");
        run(&gpu, builder(), exchange, &batches)
    });
    let own = all_the_same("devices", own);
    let shared = on_ranks(2, |exchange| run(&gpu, builder(), exchange, &batches));
    assert!(own.0 == all_the_same("one device", shared).0);
}

#[test]
fn memory_is_told_before() {
    let Some(gpu) = gpu() else { return };
    on_ranks(2, |exchange| {
        let builder = Trainer::builder(Terms { tensors: vec![(vec![1200, 1000], 1.0)] });
        let builder = builder.exchange(exchange);
        let plan = builder.memory(&gpu).expect("a plan");
        let report = block_on(builder.build(&gpu)).expect("a trainer").report();
        assert_eq!(plan.exchange_bytes, 2 * (4 << 20));
        assert_eq!(plan.exchange_bytes, report.exchange_bytes);
        assert_eq!(plan.total_bytes(), report.total_bytes());
    });
    let alone = Trainer::builder(Terms::three()).memory(&gpu).expect("a plan");
    assert_eq!(alone.exchange_bytes, 0);
}

/// Values that are drawn are one sequence, of which each rank has its part.
#[test]
fn a_share_of_a_batch_is_its_rows() {
    let (x, ids) = (values(1, 12), vec![1u32, 2, 3, 4, 5, 6]);
    let whole = Batch::new().with("x", &x[..]).with("ids", ids).of_length(3);
    let share = whole.of_rank(1, 3).expect("even");
    let expected = Batch::new().with("x", &x[4..8]).with("ids", vec![3u32, 4]).of_length(3);
    assert_eq!(share, expected);
    let error = whole.of_rank(0, 4).expect_err("6 tokens").to_string();
    assert!(error.contains("\"ids\" of 6 elements: 4 ranks have no equal parts"), "{error}");
}
