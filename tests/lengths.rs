//! Sequences of different lengths: padding changes neither loss nor gradients, and a plan for each
//! length changes no bit of what its steps are, wherever their memory lies.

#[macro_use]
mod support;

use evenkeel::data::{PaddedBatches, Sequence};
use evenkeel::graph::{Element, Graph, HostData, Phase, Source};
use evenkeel::nn::{Gpt, GptConfig, LanguageModel, QkClip, QkNorm};
use evenkeel::plan::{Parameters, Plan, PlanRequest, SharedBuffers};
use evenkeel::record::{Slot, StepBuffers};
use evenkeel::train::{
    AdamW, Batch, IGNORE, Lengths, LossScale, Model, ModelOutput, Sgd, Trainer, TrainerBuilder,
};
use evenkeel::{Error, Gpu, Precision, WeightStorage};
use support::{Tolerance, assert_close, block_on, tokens, values, wide};

tests! {
    a_padded_batch_is_its_sequences_one_by_one, what_stands_in_padding_changes_no_bit,
    microbatches_of_padded_sequences_are_one_by_one, plans_of_several_lengths_change_no_bit,
    nothing_at_another_length_disturbs_a_run, evaluations_mix_lengths,
    a_second_plan_takes_little_memory, values_with_padding_share_no_memory, plans_are_made_when_needed_and_bounded,
    bad_lengths_are_named,
}

const VOCABULARY: usize = 29;
const CONTEXT: usize = 16;

const SUMS: Tolerance = Tolerance {
    absolute: 2e-7,
    relative: 2e-5,
    because: "f32 against f64 through a small model; gradients that cancel keep a rounding",
};

fn gpt2() -> GptConfig {
    GptConfig::gpt2(VOCABULARY, CONTEXT, 2, 2, 16)
}

fn llama() -> GptConfig {
    GptConfig {
        window: Some(5),
        qk_norm: Some(QkNorm::Rms),
        logits_budget: 1024,
        ..GptConfig::llama(VOCABULARY, CONTEXT, 2, [4, 2], 32)
    }
}

fn model(config: &GptConfig, batch: usize) -> LanguageModel {
    LanguageModel { gpt: Gpt::new(config.clone()).expect("valid"), batch, time: CONTEXT }
}

fn lengths(lengths: &[usize]) -> Lengths {
    Lengths::new(lengths.iter().copied()).expect("lengths")
}

/// Sequences of these lengths; every third target does not count.
fn sequences(lengths: &[usize]) -> Vec<Sequence> {
    let sequence = |(index, &length): (usize, &usize)| {
        let [ids, mut targets] =
            [0, 1].map(|i| tokens(2 * index as u64 + i, length, VOCABULARY as u32));
        targets.iter_mut().skip(index % 3).step_by(3).skip(1).for_each(|target| *target = IGNORE);
        Sequence { tokens: ids, targets }
    };
    lengths.iter().enumerate().map(sequence).collect()
}

/// A batch of this length, a row to a sequence.
fn padded(sequences: &[Sequence], length: usize, pad: u32) -> Batch {
    let (mut ids, mut targets) = (Vec::new(), Vec::new());
    for sequence in sequences {
        let filled = |values: &[u32], fill| {
            let mut values = values.to_vec();
            values.resize(length, fill);
            values
        };
        ids.extend(filled(&sequence.tokens, pad));
        targets.extend(filled(&sequence.targets, IGNORE));
    }
    Batch::new().with("tokens", ids).with("targets", targets).of_length(length)
}

fn builder(config: &GptConfig, rows: usize) -> TrainerBuilder<LanguageModel> {
    let optimizer = Sgd { learning_rate: 0.5, ..Sgd::default() };
    Trainer::builder(model(config, rows)).optimizer(optimizer).seed(7)
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

/// Loss and gradients in f64 of the sequences one by one, none of them padded, and of their targets
/// the mean; gradients in the order of the graph's parameters.
fn one_by_one<M: Model>(
    trainer: &Trainer<M>,
    config: &GptConfig,
    sequences: &[Sequence],
    phase: Phase,
) -> (f64, Vec<(String, Vec<f64>)>) {
    let counted = |s: &Sequence| s.targets.iter().filter(|&&t| t != IGNORE).count() as f64;
    let all: f64 = sequences.iter().map(counted).sum();
    let (mut mean, mut sums) = (0.0, Vec::<(String, Vec<f64>)>::new());
    for sequence in sequences {
        let mut graph = Graph::new(phase);
        let time = sequence.tokens.len();
        let loss = LanguageModel { time, ..model(config, 1) }.build(&mut graph).loss;
        graph.backward(loss, 1.0);
        let mut data = HostData::default();
        for name in trainer.parameters().names() {
            let values = block_on(trainer.parameters().read(name)).expect("readable");
            data.values.insert(name.to_owned(), wide(&values));
        }
        for (name, ids) in [("tokens", &sequence.tokens), ("targets", &sequence.targets)] {
            data.values.insert(name.to_owned(), ids.iter().map(|&id| f64::from(id)).collect());
        }
        let evaluation = graph.evaluate(&data);
        let share = counted(sequence) / all;
        mean += share * evaluation.get(loss)[0];
        let gradients = graph.evaluated_gradients(&evaluation);
        for (index, (spec, gradient)) in graph.parameters().iter().zip(gradients).enumerate() {
            if sums.len() == index {
                sums.push((spec.name.clone(), vec![0.0; gradient.len()]));
            }
            sums[index].1.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += share * g);
        }
    }
    (mean, sums)
}

/// Takes a step, and compares loss and gradients.
fn compare<M: Model>(
    trainer: &mut Trainer<M>,
    batch: &Batch,
    (loss, gradients): &(f64, Vec<(String, Vec<f64>)>),
    what: &str,
) {
    block_on(trainer.step(batch)).expect("a step");
    let record = block_on(trainer.telemetry()).expect("telemetry").pop().expect("a record");
    assert!(record.applied, "{what}: {record:?}");
    assert_close(what, &[record.loss], &[*loss], SUMS);
    for (name, expected) in gradients {
        let actual = block_on(trainer.gradient(name)).expect("a gradient");
        let largest = expected.iter().fold(0f64, |largest, g| largest.max(g.abs()));
        let absolute = SUMS.absolute + SUMS.relative * largest;
        let tolerance = Tolerance { absolute, relative: 0.0, ..SUMS };
        assert_close(&format!("{what}: {name}"), &actual, expected, tolerance);
    }
}

fn a_padded_batch_is_its_sequences_one_by_one() {
    let Some(gpu) = support::gpu() else { return };
    let several = lengths(&[8, 12, CONTEXT]);
    for config in [gpt2(), llama()] {
        let mut trainer = build(&gpu, builder(&config, 3).lengths(several.clone()));
        for (found, length) in [([3, 8, 5], 8), ([12, 1, 9], 12), ([16, 2, 7], 16), ([4, 4, 6], 16)]
        {
            let sequences = sequences(&found);
            let expected = one_by_one(&trainer, &config, &sequences, Phase::Train);
            let batch = padded(&sequences, length, 0);
            compare(&mut trainer, &batch, &expected, &format!("{found:?} in {length}"));
        }
    }
}

fn what_stands_in_padding_changes_no_bit() {
    let Some(gpu) = support::gpu() else { return };
    let several = lengths(&[8, CONTEXT]);
    for config in [gpt2(), llama()] {
        let after = |pad: u32| {
            let mut trainer = build(&gpu, builder(&config, 3).lengths(several.clone()));
            for (found, length) in [([3, 7, 5], 8), ([12, 1, 9], 16)] {
                let batch = padded(&sequences(&found), length, pad);
                block_on(trainer.step(&batch)).expect("a step");
            }
            let records = block_on(trainer.telemetry()).expect("telemetry");
            let losses: Vec<_> = records.iter().map(|r| (r.loss, r.gradient_norm)).collect();
            (losses, block_on(trainer.committed_bytes()).expect("readable"))
        };
        assert_eq!(after(0), after(VOCABULARY as u32 - 1));
    }
}

fn microbatches_of_padded_sequences_are_one_by_one() {
    let Some(gpu) = support::gpu() else { return };
    let config = llama();
    let several = lengths(&[8, CONTEXT]);
    let mut trainer = build(&gpu, builder(&config, 2).accumulation(2).lengths(several));
    for (found, length) in [([16, 2, 1, 9], 16), ([8, 3, 6, 1], 8), ([4, 16, 3, 3], 16)] {
        let sequences = sequences(&found);
        let expected = one_by_one(&trainer, &config, &sequences, Phase::Train);
        let batch = padded(&sequences, length, 0);
        compare(&mut trainer, &batch, &expected, &format!("{found:?} in {length}"));
    }
}

/// Dropout, a clip, observations; an odd vocabulary, whose statistics have padding of their own.
fn eventful() -> GptConfig {
    GptConfig {
        dropout: 0.2,
        watch_logits: true,
        qk_clip: Some(QkClip { threshold: 0.5, ..QkClip::default() }),
        ..gpt2()
    }
}

fn adamw(config: &GptConfig, storage: (Precision, WeightStorage)) -> TrainerBuilder<LanguageModel> {
    let adamw = AdamW { learning_rate: 1e-2, ..AdamW::default() };
    let builder = Trainer::builder(model(config, 1)).optimizer(adamw).seed(3).accumulation(3);
    let builder = builder.precision(storage.0).weights(storage.1);
    match storage.0 {
        Precision::F16 => builder.loss_scale(LossScale::Static(64.0)),
        _ => builder,
    }
}

/// Steps at one length and another, by a trainer for both and by one for each that go on from each
/// other's checkpoints.
fn plans_of_several_lengths_change_no_bit() {
    let Some(gpu) = support::gpu() else { return };
    let recompute = GptConfig { recompute: true, ..eventful() };
    for (config, storage) in [
        (eventful(), (Precision::F32, WeightStorage::F32)),
        (recompute, (Precision::F16, WeightStorage::F32)),
        (llama(), (Precision::Bf16, WeightStorage::Bf16Split)),
    ] {
        let trainer = |all: &[usize]| {
            let builder = adamw(&config, storage).lengths(lengths(all));
            block_on(builder.build(&gpu)).expect("a trainer")
        };
        let mut both = trainer(&[7, 13]);
        let mut alone = [trainer(&[7]), trainer(&[13])];
        let mut before = None;
        for (seed, length) in [7, 13, 13, 7, 13, 7].into_iter().enumerate() {
            let sequences = &sequences(&[length, length - 1, 2, length, 3, 1])[seed % 3..][..3];
            let batch = padded(sequences, length, 1);
            let one = &mut alone[usize::from(length == 13)];
            if let Some(checkpoint) = &before {
                block_on(one.restore(checkpoint)).expect("restored");
            }
            let mut seen = Vec::new();
            for trainer in [&mut both, one] {
                block_on(trainer.step(&batch)).expect("a step");
                let record = block_on(trainer.telemetry()).expect("telemetry").pop();
                let observed = block_on(trainer.observations()).expect("readable");
                let committed = block_on(trainer.committed_bytes()).expect("readable");
                seen.push((record, observed, committed));
            }
            assert_eq!(seen[0], seen[1], "step {seed} at {length}");
            before = Some(block_on(one.checkpoint()).expect("a checkpoint"));
        }
        // A run of both goes on from what runs of one left.
        let mut resumed = trainer(&[7, 13]);
        block_on(resumed.restore(&before.expect("a checkpoint"))).expect("restored");
        for length in [13, 7] {
            let batch = padded(&sequences(&[length, 4, 6]), length, 0);
            for trainer in [&mut both, &mut resumed] {
                block_on(trainer.step(&batch)).expect("a step");
            }
        }
        let [both, resumed] =
            [both, resumed].map(|t| block_on(t.committed_bytes()).expect("readable"));
        assert!(both == resumed);
    }
}

fn nothing_at_another_length_disturbs_a_run() {
    let Some(gpu) = support::gpu() else { return };
    let config = eventful();
    let run = |disturbed: bool| {
        let builder = adamw(&config, (Precision::F32, WeightStorage::F32));
        let mut trainer =
            block_on(builder.lengths(lengths(&[6, 8, 16])).build(&gpu)).expect("a trainer");
        for seed in 0..4 {
            if disturbed {
                let other = padded(&sequences(&[6, 2, 3]), 6, 0);
                let long = padded(&sequences(&[16, 2, 3]), 16, 0);
                let diagnosis = block_on(trainer.diagnose(&other)).expect("a diagnosis");
                assert!(diagnosis.first_fault().is_none(), "{diagnosis}");
                block_on(trainer.diagnose(&long)).expect("a diagnosis");
                block_on(trainer.evaluate(&padded(&sequences(&[5]), 6, 0))).expect("a loss");
                block_on(trainer.prepare(16)).expect("a plan");
            }
            let batch = padded(&sequences(&[8, 3, 1 + seed]), 8, 0);
            if disturbed && seed == 2 {
                let profile = block_on(trainer.profile(&batch)).expect("a profile");
                let dispatches = trainer.dispatches().count();
                assert!(profile.dispatches.len() > dispatches, "all microbatches");
            } else {
                block_on(trainer.step(&batch)).expect("a step");
            }
        }
        let losses: Vec<_> =
            block_on(trainer.telemetry()).expect("telemetry").iter().map(|r| r.loss).collect();
        (losses, block_on(trainer.committed_bytes()).expect("readable"))
    };
    assert_eq!(run(false), run(true));
}

fn evaluations_mix_lengths() {
    let Some(gpu) = support::gpu() else { return };
    for config in [gpt2(), llama()] {
        let mut trainer = build(&gpu, builder(&config, 1).lengths(lengths(&[4, 8, CONTEXT])));
        for found in [&[3, 8, 5, 13][..], &[16, 2], &[1, 16, 4], &[7]] {
            let sequences = sequences(found);
            let (expected, _) = one_by_one(&trainer, &config, &sequences, Phase::Evaluate);
            let holding = |length| [4, 8, 16].into_iter().find(|&l| l >= length).expect("one");
            let batches: Vec<_> = sequences
                .iter()
                .map(|one| padded(std::slice::from_ref(one), holding(one.tokens.len()), 2))
                .collect();
            for _ in 0..2 {
                let loss = block_on(trainer.evaluate_all(&batches)).expect("a loss");
                assert_close(&format!("{found:?}"), &[loss], &[expected], SUMS);
            }
        }
    }
}

fn a_second_plan_takes_little_memory() {
    let Some(gpu) = support::gpu() else { return };
    // Copies of the weights in halves are as large as the weights, and there once.
    for precision in [Precision::F32, Precision::Bf16] {
        let builder = builder(&eventful(), 4).precision(precision);
        let mut trainer =
            block_on(builder.lengths(lengths(&[8, 12, 16])).build(&gpu)).expect("a trainer");
        let one = trainer.report();
        for length in [12, 8] {
            block_on(trainer.prepare(length)).expect("a plan");
        }
        let all = trainer.report();
        assert_eq!(one.copy_bytes, all.copy_bytes);
        assert_eq!(one.plan, all.plan);
        // Inputs and constants are its own.
        let more = all.activation_bytes - one.activation_bytes;
        let leaves = 2 * one.plan.leaf_bytes;
        assert!(more <= leaves, "{more} bytes more, {leaves} of leaves");
        assert!(leaves < one.plan.slot_bytes / 2, "the bound says something");
        assert_eq!(all.total_bytes() - one.total_bytes(), more);
    }
}

/// Padding that kernels leave alone stays zero as long as nothing else is ever written there.
fn values_with_padding_share_no_memory() {
    let Some(gpu) = support::gpu() else { return };
    let graphs = [13, 7].map(|time| {
        let mut graph = Graph::new(Phase::Evaluate);
        let loss = LanguageModel { time, ..model(&gpt2(), 1) }.build(&mut graph).loss;
        (graph, loss)
    });
    let parameters = block_on(Parameters::new(&gpu, &graphs[0].0, 1)).expect("parameters");
    let step = StepBuffers::new(&gpu);
    let mut shared = SharedBuffers::default();
    let plans = graphs.each_ref().map(|(graph, loss)| {
        let (outputs, parameters, step) = (&[*loss][..], &parameters, &step);
        let sinks = None;
        let request = PlanRequest { graph, outputs, parameters, sinks, step, microbatches: 1 };
        block_on(Plan::sharing(&gpu, &request, &mut shared)).expect("a plan")
    });
    let is_padded =
        |slot: &Slot| slot.shape.element == Element::F32 && !slot.shape.cols().is_multiple_of(4);
    let of = |plan: usize, padded: bool| -> Vec<&Slot> {
        let nodes = plans[plan].nodes.iter().filter(|node| matches!(node.source, Source::Op(_)));
        let slots = nodes.flat_map(|node| &node.outputs).map(|(_, slot)| slot);
        slots.filter(|slot| is_padded(slot) == padded).collect()
    };
    let meet = |a: &[&Slot], b: &[&Slot]| {
        a.iter().any(|a| b.iter().any(|b| a.buffer == b.buffer && a.shape != b.shape))
    };
    assert!(meet(&of(0, false), &of(1, false)), "others do");
    for (one, other) in [(0, 1), (1, 0)] {
        assert!(of(one, true).len() > 1);
        assert!(!meet(&of(one, true), &of(other, false)));
        assert!(!meet(&of(one, true), &of(other, true)));
    }
    // What outlives a pass lies at one place.
    assert_eq!(plans[0].outputs[0].buffer, plans[1].outputs[0].buffer);
}

fn plans_are_made_when_needed_and_bounded() {
    let Some(gpu) = support::gpu() else { return };
    let several = lengths(&[2, 4, 8, CONTEXT]);
    let found: Vec<_> = (0..23).map(|index| 1 + index * 5 % 8).collect();
    let batches = PaddedBatches::new(sequences(&found), several.clone(), 3).expect("batches");
    let builder = adamw(&gpt2(), (Precision::F32, WeightStorage::F32)).lengths(several);
    let mut trainer = block_on(builder.build(&gpu)).expect("a trainer");
    assert_eq!(trainer.planned_lengths().collect::<Vec<_>>(), [CONTEXT]);
    for batch in batches.batches(1, 0).take(2 * batches.per_epoch()) {
        block_on(trainer.step(&batch)).expect("a step");
        assert!(trainer.planned_lengths().any(|length| batch.length() == Some(length)));
        assert!(trainer.submits().submits > 0);
    }
    let mut planned: Vec<_> = trainer.planned_lengths().collect();
    assert_eq!(planned[0], CONTEXT);
    planned.sort_unstable();
    assert_eq!(planned, [2, 4, 8, CONTEXT]);
    let records = block_on(trainer.telemetry()).expect("telemetry");
    assert!(records.iter().all(|r| r.applied && r.loss.is_finite()), "{records:?}");
    assert_eq!(records.len(), 2 * batches.per_epoch());
    let (first, second) = records.split_at(batches.per_epoch());
    let [first, second] = [first, second].map(|r| r.iter().map(|r| r.loss).sum::<f32>());
    assert!(second < first, "it learns: {first}, then {second}");
    // Another epoch is resumed in its middle.
    let resumed = batches.batch(1, trainer.steps());
    assert_eq!(batches.batches(1, 0).nth(trainer.steps() as usize), Some(resumed));
}

fn bad_lengths_are_named() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer =
        block_on(builder(&gpt2(), 1).lengths(lengths(&[4, 8])).build(&gpu)).expect("a trainer");
    let before = block_on(trainer.committed_bytes()).expect("readable");
    let sequences = sequences(&[4]);
    let wrong = [
        (padded(&sequences, 5, 0), "a batch of length 5: the trainer has plans for 4, 8"),
        (padded(&sequences, 4, 0).of_length(8), "has 4 elements, the plan was built for 8"),
        (padded(&sequences, 8, 0).of_length(4), "has 8 elements, the plan was built for 4"),
        (padded(&sequences, 4, 99), "there is nothing wrong with it"),
        (padded(&[Sequence::default()], 4, 99), "holds 99 at position 0"),
    ];
    for (batch, part) in &wrong {
        match block_on(trainer.step(batch)) {
            Ok(()) => assert!(part.contains("nothing wrong"), "{part}"),
            Err(error) => assert!(error.to_string().contains(part), "{error}"),
        }
        if !part.contains("nothing wrong") {
            let error = block_on(trainer.evaluate(batch)).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
    }
    assert_eq!(trainer.steps(), 1);
    assert!(block_on(trainer.committed_bytes()).expect("readable") != before, "one step");
    let error = block_on(trainer.prepare(6)).expect_err("no such length").to_string();
    assert!(error.contains("a batch of length 6"), "{error}");
    // Without a length, a batch is of the longest; without lengths, of the model's own.
    let batch = |length: usize| {
        let ids = tokens(3, length, VOCABULARY as u32);
        Batch::new().with("tokens", ids.clone()).with("targets", ids)
    };
    block_on(trainer.step(&batch(8))).expect("a step");
    let mut single = block_on(builder(&gpt2(), 1).build(&gpu)).expect("a trainer");
    block_on(single.step(&batch(CONTEXT))).expect("a step");
    assert_eq!(single.planned_lengths().count(), 0);

    let fixed = |graph: &mut Graph| -> ModelOutput {
        graph.set_length(None);
        model(&gpt2(), 1).build(graph)
    };
    let built = block_on(Trainer::builder(fixed).lengths(lengths(&[4, 8])).build(&gpu));
    let error = built.err().expect("the model has one length");
    assert!(matches!(error, Error::Setting { setting: "lengths", .. }), "{error}");
    assert!(error.to_string().contains("Graph::length"), "{error}");
}
