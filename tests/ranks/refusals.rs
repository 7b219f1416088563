//! Ranks that differ, or cannot go on: all of them are told which one, and none takes the step.

use evenkeel::Error;
use evenkeel::graph::{AfterUpdate, Graph, Value};
use evenkeel::record::{Recorder, Slot};
use evenkeel::step::TensorSettings;
use evenkeel::train::ranks::{Exchange, Local};
use evenkeel::train::{AdamW, Clip, Model, ModelOutput, Schedule, Sgd, Trainer, TrainerBuilder};

use crate::support::models::{Terms, small_gpt_batch};
use crate::support::parted::{Data, Parted};
use crate::support::{block_on, gpu, models};
use crate::{on_ranks, state};

type Builder = TrainerBuilder<Terms>;

fn builder(model: Terms) -> Builder {
    Trainer::builder(model)
}

#[test]
fn a_rank_with_other_settings_is_named() {
    let Some(gpu) = gpu() else { return };
    type Other = (&'static str, fn() -> Builder);
    let others: [Other; 10] = [
        ("has the seed 7, rank 0 has 0;", || builder(Terms::three()).seed(7)),
        ("has accumulation 2, rank 0 has 1;", || builder(Terms::three()).accumulation(2)),
        ("has the optimizer Sgd", || builder(Terms::three()).optimizer(Sgd::default())),
        ("learning_rate: 0.5", || {
            builder(Terms::three()).optimizer(AdamW { learning_rate: 0.5, ..AdamW::default() })
        }),
        ("has the clip Norm(1.0), rank 0 has None;", || {
            builder(Terms::three()).clip(Clip::Norm(1.0))
        }),
        ("has the schedule Factors", || {
            builder(Terms::three()).schedule(Schedule::Factors(vec![1.0]))
        }),
        ("has a limit of skipped steps in a row: 3, rank 0 has 100;", || {
            builder(Terms::three()).give_up_after(3)
        }),
        ("has the settings of w1: weight decay 0, learning rate 1, rank 0 has of w1: ", || {
            builder(Terms::three()).tensor_settings(|spec| TensorSettings {
                weight_decay: if spec.name == "w1" { 0.0 } else { 1.0 },
                learning_rate: 1.0,
            })
        }),
        ("has the tensor w2 ", || {
            let mut model = Terms::three();
            model.tensors[2].0 = vec![8];
            builder(model)
        }),
        ("frozen", || builder(Terms::three()).freeze(|spec| spec.name == "w2")),
    ];
    for (expected, other) in others {
        let refused = |exchange: Local| {
            let of_rank = if exchange.rank() == 1 { other } else { || builder(Terms::three()) };
            let built = block_on(of_rank().exchange(exchange).build(&gpu));
            built.map(|_| ()).expect_err("ranks that differ")
        };
        for error in on_ranks(3, refused) {
            assert!(matches!(error, Error::Rank { rank: 1, .. }), "{expected:?}: {error}");
            assert!(error.to_string().contains(expected), "{expected:?} is missing in {error}");
        }
    }
}

#[test]
fn a_rank_that_cannot_be_built_ends_all() {
    let Some(gpu) = gpu() else { return };
    let errors = on_ranks(2, |exchange| {
        let accumulation = 1 - exchange.rank();
        let builder = builder(Terms::three()).accumulation(accumulation).exchange(exchange);
        block_on(builder.build(&gpu)).map(|_| ()).expect_err("no microbatches").to_string()
    });
    assert!(errors[0].starts_with("rank 1 cannot go on: accumulation is 0"), "{errors:?}");
    assert!(errors[1].starts_with("accumulation is 0"), "{errors:?}");
}

#[test]
fn a_bad_batch_of_one_rank_is_no_step_of_any() {
    let Some(gpu) = gpu() else { return };
    let states = on_ranks(2, |exchange| {
        let rank = exchange.rank();
        let model = models::small_gpt(0.1, 1);
        let mut trainer =
            block_on(Trainer::builder(model).exchange(exchange).build(&gpu)).expect("a trainer");
        let good = |seed| small_gpt_batch(seed, 2).of_rank(rank, 2).expect("even");
        block_on(trainer.step(&good(1))).expect("a step");
        let before = state(&trainer);
        let bad = good(2).with("more", vec![1u32]).of_length(3);
        let missing = evenkeel::train::Batch::new();
        for bad in [missing, small_gpt_batch(2, 2)] {
            let batch = if rank == 0 { &bad } else { &good(2) };
            let error = block_on(trainer.step(batch)).expect_err("no batch").to_string();
            assert_eq!(error.starts_with("rank 0 cannot go on: "), rank == 1, "{error}");
            assert!(error.contains("input"), "{error}");
        }
        assert_eq!(trainer.steps(), 1);
        assert!(before == state(&trainer));
        // What no plan asks for is no fault.
        block_on(trainer.step(&bad)).expect("a step");
        state(&trainer)
    });
    let control = on_ranks(2, |exchange| {
        let batches = [1, 2].map(|seed| small_gpt_batch(seed, 2));
        crate::run(&gpu, Trainer::builder(models::small_gpt(0.1, 1)), exchange, &batches)
    });
    assert!(states[0] == states[1]);
    assert!(states[0] == crate::all_the_same("control", control).0);
}

#[test]
fn a_rank_that_parted_is_named_at_the_next_comparison() {
    let Some(gpu) = gpu() else { return };
    for (odd, what) in [(1, "weights"), (0, "weights"), (2, "a learning-rate factor of 0.5")] {
        let errors = on_ranks(3, |exchange| {
            let rank = exchange.rank();
            let builder = Trainer::builder(Parted).compare_ranks_every(2).exchange(exchange);
            let mut trainer = block_on(builder.build(&gpu)).expect("a trainer");
            let batch = Data::new(1, 3).batch().of_rank(rank, 3).expect("even");
            for _ in 0..2 {
                block_on(trainer.step(&batch)).expect("a step");
            }
            if rank == odd && what == "weights" {
                let mut weights = block_on(trainer.parameters().read("w")).expect("readable");
                weights[3] = f32::from_bits(weights[3].to_bits() ^ 1);
                trainer.parameters().write("w", &weights).expect("written");
            } else if rank == odd {
                trainer.set_learning_rate_factor(0.5);
            }
            block_on(trainer.step(&batch)).expect_err("a bit differs")
        });
        for error in errors {
            let told = error.to_string();
            assert!(matches!(error, Error::Rank { rank, .. } if rank == odd), "{told}");
            assert!(told.starts_with(&format!("rank {odd} has {what}")), "{told}");
        }
    }
}

#[test]
fn ranks_that_begin_with_other_weights_are_told_at_the_first_step() {
    let Some(gpu) = gpu() else { return };
    let errors = on_ranks(2, |exchange| {
        let rank = exchange.rank();
        let builder = Trainer::builder(Parted).compare_ranks_every(0).exchange(exchange);
        let mut trainer = block_on(builder.build(&gpu)).expect("a trainer");
        if rank == 1 {
            trainer.parameters().write("w", &[0.5; 12]).expect("written");
        }
        let batch = Data::new(1, 2).batch().of_rank(rank, 2).expect("even");
        block_on(trainer.step(&batch)).expect_err("other weights").to_string()
    });
    for told in errors {
        assert!(told.starts_with("rank 1 has weights with the fingerprint "), "{told}");
    }
}

/// Reads a value of which nobody says how ranks make it one.
#[derive(Debug)]
struct Reads(Value);

impl AfterUpdate for Reads {
    fn reads(&self) -> Vec<Value> {
        vec![self.0]
    }

    fn record(
        &self,
        _: &mut Recorder<'_>,
        _: &dyn Fn(Value) -> Slot,
        _: &dyn Fn(usize) -> Option<Slot>,
    ) {
    }
}

#[test]
fn what_ranks_cannot_do_is_refused() {
    let Some(gpu) = gpu() else { return };
    let model = |graph: &mut Graph| {
        let output = Parted.build(graph);
        graph.after_update(Reads(output.prediction));
        ModelOutput { ..output }
    };
    on_ranks(2, |exchange| {
        let built = block_on(Trainer::builder(model).exchange(exchange).build(&gpu));
        let told = built.map(|_| ()).expect_err("a layer").to_string();
        assert!(told.contains("acts after the update") && told.contains("over_ranks"), "{told}");
    });
    on_ranks(2, |exchange| {
        let builder = Trainer::builder(Parted).exchange(exchange);
        let mut trainer = block_on(builder.build(&gpu)).expect("a trainer");
        let error = block_on(trainer.profile(&Data::new(1, 1).batch())).expect_err("a profile");
        assert!(error.to_string().contains("a profile of a step on several ranks"), "{error}");
    });
    // One rank is none.
    let [alone] = Local::ranks(1).try_into().expect("one");
    let mut trainer =
        block_on(Trainer::builder(Parted).exchange(alone).build(&gpu)).expect("built");
    block_on(trainer.profile(&Data::new(1, 1).batch())).expect("a profile");
    assert_eq!(trainer.exchange().expect("one").size(), 1);
}
