//! Policies in training: each run is predicted step by step by the f64 references of its policies,
//! from the losses and norms that its telemetry shows.

#[macro_use]
mod support;

use evenkeel::kernel::WeightStorage;
use evenkeel::nn::{Classifier, MlpClassifier};
use evenkeel::reference::policy::{
    self as reference, Effect, HistoryMemory, HistorySettings, Observed, Outcome, PercentileMemory,
    SnapshotAction, SnapshotMemory, SnapshotSettings, SpikeMemory, SpikeSettings, ZScoreMemory,
    ZScoreSettings,
};
use evenkeel::step::{Event, Reason, StepState};
use evenkeel::train::{
    AdaGc, Adam, AdamW, AdaptiveGradientClip, AutoClip, Batch, Clip, ClipBlockRms, ClipPerTensor,
    LossScale, Model, Norm, Reaction, Sgd, SnapshotRing, SpikeGuard, Telemetry, Trainer,
    TrainerBuilder, ZClip, ZClipBound,
};
use evenkeel::{Error, Gpu};
use support::models::{Terms, TermsData};
use support::{Tolerance, assert_close, block_on, tokens, values};

tests! {
    guard_and_ring_do_what_their_references_do, z_clip_does_what_its_reference_does,
    auto_clip_does_what_its_reference_does, ada_gc_does_what_its_reference_does,
    tensors_are_clipped_by_their_own_norms, updates_are_those_of_the_clipped_tensors,
    units_are_clipped_by_the_norms_of_their_weights, two_policies_compose,
    the_window_does_not_hold_the_sample, bad_samples_do_not_poison_a_detector,
    a_rollback_is_a_restart_from_the_snapshot, rollbacks_are_bounded,
    a_restored_run_forgets_the_snapshots_of_its_other_past, policies_go_on_from_a_checkpoint,
    a_bad_step_changes_nothing_whatever_the_policy, runs_repeat_and_steps_read_nothing_back,
    settings_out_of_range_are_refused,
}

const ROUNDING: Tolerance = Tolerance {
    absolute: 1e-7,
    relative: 1e-3,
    because: "mean and deviation of f32 samples, and norms of gradients in f32",
};

/// The three optimizers, slow enough that losses and norms stay where the data put them.
fn with_optimizer<M: Model>(builder: TrainerBuilder<M>, index: usize) -> TrainerBuilder<M> {
    let learning_rate = 1e-3;
    match index {
        0 => builder.optimizer(AdamW { learning_rate, ..AdamW::default() }),
        1 => builder.optimizer(Adam { learning_rate, ..Adam::default() }),
        _ => builder.optimizer(Sgd { learning_rate, ..Sgd::default() }),
    }
}

fn build<M: Model>(gpu: &Gpu, builder: TrainerBuilder<M>) -> Trainer<M> {
    block_on(builder.build(gpu)).expect("a trainer")
}

fn step<M: Model>(trainer: &mut Trainer<M>, batch: &Batch) -> Telemetry {
    block_on(trainer.step(batch)).expect("a step");
    let records = block_on(trainer.telemetry()).expect("telemetry");
    *records.last().expect("one record per step")
}

fn committed<M: Model>(trainer: &Trainer<M>) -> Vec<u8> {
    block_on(trainer.committed_bytes()).expect("committed bytes")
}

fn state<M: Model>(trainer: &Trainer<M>) -> StepState {
    block_on(trainer.state()).expect("a state")
}

/// What happens to the data of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// Loss and norm far above the others, by the gradient of this tensor.
    Spike(usize),
    /// An infinite loss, with gradients like any other.
    InfiniteLoss,
    /// A gradient that is NaN.
    Nan,
}

fn data(model: &Terms, step: usize, fault: Option<Fault>) -> TermsData {
    let mut data = model.data(step as u64 + 1, 1);
    match fault {
        Some(Fault::Spike(tensor)) => {
            data.targets[tensor].iter_mut().for_each(|target| *target *= 100.0);
        }
        Some(Fault::InfiniteLoss) => {
            data.factors[2][1] = 1e-20;
            data.targets[2][1] = 1e20;
        }
        Some(Fault::Nan) => data.targets[1][7] = f32::NAN,
        None => {}
    }
    data
}

fn batch(step: usize, fault: Option<Fault>) -> Batch {
    data(&Terms::three(), step, fault).batch()
}

/// A run, and what its telemetry and state must show.
struct Follower {
    trainer: Trainer<Terms>,
    learning_rate: f64,
    max_norm: f64,
    applied_before: bool,
    applied_total: u32,
    steps: usize,
    needs_tensor_norms: bool,
}

impl Follower {
    fn new(gpu: &Gpu, builder: TrainerBuilder<Terms>) -> Self {
        Self {
            trainer: build(gpu, builder),
            learning_rate: 1e-3,
            max_norm: f32::MAX.into(),
            applied_before: false,
            applied_total: 0,
            steps: 0,
            needs_tensor_norms: false,
        }
    }

    fn tensor_norms(&self) -> Vec<f64> {
        if !self.needs_tensor_norms {
            return Vec::new();
        }
        let norm = |name: &str| {
            let gradient = block_on(self.trainer.gradient(name)).expect("a gradient");
            gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt()
        };
        let scale = f64::from(state(&self.trainer).step_loss_scale);
        ["w0", "w1", "w2"].map(|name| norm(name) / scale).to_vec()
    }

    /// Takes a step and compares all but what a ring of snapshots does with the references, which
    /// `judge` calls. Returns the record and the effect.
    fn step(
        &mut self,
        batch: &Batch,
        judge: impl FnOnce(&Observed, &mut Effect),
    ) -> (Telemetry, Effect) {
        let record = step(&mut self.trainer, batch);
        let observed = Observed {
            loss: record.loss.into(),
            norm: record.gradient_norm.into(),
            tensor_norms: self.tensor_norms(),
            overflows: record.nonfinite_count > 0,
            applied_before: self.applied_before,
        };
        let mut effect = Effect::new(self.max_norm, 3);
        judge(&observed, &mut effect);
        let what = format!("step {}: {record:?}, {effect:?}", self.steps);
        let is_finite = !observed.overflows && observed.loss.is_finite();
        let applies = is_finite && effect.veto == Reason::None;
        assert_eq!(record.applied, applies, "{what}");
        let ring = Event::Snapshot as u32 | Event::RolledBack as u32;
        assert_eq!(record.event_bits & !ring, effect.events, "{what}");
        if applies {
            self.applied_total += 1;
            assert_eq!(record.reason, Reason::None, "{what}");
            let rate = self.learning_rate * effect.learning_rate_factor;
            assert_close(&what, &[record.learning_rate], &[rate], ROUNDING);
            let coefficient = (effect.max_norm / observed.norm).min(1.0);
            assert_close(&what, &[record.clip_coefficient], &[coefficient], ROUNDING);
        } else if observed.overflows {
            assert_eq!(record.nonfinite_count, 1, "{what}");
        }
        if effect.max_norm < f64::from(f32::MAX) {
            assert_close(&what, &[record.max_norm], &[effect.max_norm], ROUNDING);
        }
        if effect.event_value != 0.0 {
            let ratio = f64::from(record.event_value) / effect.event_value;
            assert_close(&what, &[ratio as f32], &[1.0], ROUNDING);
            assert_eq!(record.event_tensor, effect.event_tensor, "{what}");
        }
        let tensors = block_on(self.trainer.tensor_states()).expect("tensors");
        for (tensor, &coefficient) in tensors.iter().zip(&effect.coefficients) {
            assert_close(&what, &[tensor.clip_coefficient], &[coefficient], ROUNDING);
        }
        self.applied_before = applies;
        self.steps += 1;
        (record, effect)
    }
}

fn spike_settings(guard: &SpikeGuard) -> SpikeSettings {
    let reaction = |reaction: &Reaction| match *reaction {
        Reaction::Skip => reference::Reaction::Skip,
        Reaction::ClipHarder { factor } => reference::Reaction::ClipHarder(factor.into()),
        Reaction::CutLearningRate { factor, steps } => {
            reference::Reaction::CutLearningRate(factor.into(), steps)
        }
        Reaction::ResetMoments => reference::Reaction::ResetMoments,
        Reaction::RollBack => reference::Reaction::RollBack,
    };
    SpikeSettings {
        window: guard.window as usize,
        threshold: guard.threshold.into(),
        watch_loss: guard.watch_loss,
        watch_norm: guard.watch_norm,
        watch_tensors: guard.reactions.contains(&Reaction::ResetMoments),
        reactions: guard.reactions.iter().map(reaction).collect(),
        repeats: guard.repeats,
        within: guard.within,
        patience: guard.patience,
    }
}

fn snapshot_settings(ring: &SnapshotRing) -> SnapshotSettings {
    SnapshotSettings {
        capacity: ring.snapshots as usize,
        every: ring.every,
        after: ring.after,
        max_rollbacks: ring.max_rollbacks,
        cut_steps: ring.cut_steps,
    }
}

fn every_reaction() -> SpikeGuard {
    SpikeGuard {
        window: 32,
        reactions: vec![
            Reaction::ClipHarder { factor: 1.25 },
            Reaction::Skip,
            Reaction::CutLearningRate { factor: 0.25, steps: 6 },
            Reaction::ResetMoments,
            Reaction::RollBack,
        ],
        within: 15,
        patience: 4,
        ..SpikeGuard::default()
    }
}

/// Faults by step: single ones, an episode that goes through every reaction, NaN in between.
fn fault(step: usize) -> Option<Fault> {
    match step {
        9 | 41 | 77 | 130 => Some(Fault::Nan),
        5 | 78 | 150 => Some(Fault::InfiniteLoss),
        40 | 44 | 48 | 52 | 56 | 60 | 64 | 68 | 72 | 76 | 80 => Some(Fault::Spike(step % 3)),
        100 | 101 | 131 => Some(Fault::Spike(1)),
        // Trouble from a snapshot on.
        160..=163 | 170..=173 | 176..=179 => Some(Fault::Nan),
        _ => None,
    }
}

/// Guard and ring together, over 200 steps, with each optimizer.
fn guard_and_ring_do_what_their_references_do() {
    let Some(gpu) = support::gpu() else { return };
    let guard = every_reaction();
    let ring = SnapshotRing {
        snapshots: 2,
        every: 7,
        after: 3,
        learning_rate_factor: 0.5,
        cut_steps: 4,
        ..SnapshotRing::default()
    };
    for optimizer in 0..3 {
        let builder = with_optimizer(Trainer::builder(Terms::three()).seed(2), optimizer);
        let mut run = Follower::new(&gpu, builder.policy(guard.clone()).policy(ring));
        run.needs_tensor_norms = true;
        let (settings, ring_settings) = (spike_settings(&guard), snapshot_settings(&ring));
        let (mut memory, mut held) = (SpikeMemory::default(), SnapshotMemory::default());
        // The committed bytes of the snapshots that the ring must hold.
        let mut stack: Vec<Vec<u8>> = Vec::new();
        let mut seen = 0;
        let mut restored = Vec::new();
        for i in 0..200 {
            let (record, effect) = run.step(&batch(i, fault(i)), |observed, effect| {
                reference::guard_spikes(&settings, &mut memory, observed, effect);
                reference::cut_learning_rate(&held, 0.5, effect);
            });
            seen |= record.event_bits;
            let outcome = Outcome {
                applied: record.applied,
                applied_total: run.applied_total,
                events: effect.events,
                asked: effect.veto == Reason::RolledBack,
            };
            let action = reference::decide_snapshot(&ring_settings, &mut held, &outcome);
            let what = format!("optimizer {optimizer}, step {i}: {action:?}, {record:?}");
            let has = |event: Event| record.events().any(|e| e == event);
            assert_eq!(has(Event::Snapshot), action == SnapshotAction::Take, "{what}");
            if action == SnapshotAction::Take {
                stack.push(committed(&run.trainer));
            }
            if let SnapshotAction::Restore(applied_total) = action {
                assert!(has(Event::RolledBack), "{what}");
                assert_eq!(record.reason, Reason::RolledBack, "{what}");
                assert!(committed(&run.trainer) == *stack.last().expect("one"), "{what}");
                run.applied_total = applied_total;
                restored.push(i);
                stack.truncate((stack.len() - 1).max(1));
            }
            if stack.len() > ring_settings.capacity {
                stack.remove(0);
            }
            assert_eq!(record.applied_total, run.applied_total, "{what}");
            assert_eq!(state(&run.trainer).applied_total, run.applied_total, "{what}");
        }
        for event in [
            Event::LossSpike,
            Event::NormSpike,
            Event::ClippedHarder,
            Event::LearningRateCut,
            Event::MomentsReset,
            Event::RolledBack,
            Event::Snapshot,
        ] {
            assert!(seen & event as u32 != 0, "{event:?} never showed");
        }
        assert!(restored.len() >= 5, "{restored:?}");
        assert!(restored.contains(&162) && restored.contains(&172), "{restored:?}");
    }
}

/// A run with one policy that never vetoes, over 240 steps with spikes and NaN.
fn follow_alone(
    gpu: &Gpu,
    optimizer: usize,
    with_policy: impl FnOnce(TrainerBuilder<Terms>) -> TrainerBuilder<Terms>,
    needs_tensor_norms: bool,
    mut judge: impl FnMut(&Observed, &mut Effect),
) -> Vec<Effect> {
    let builder = with_optimizer(Trainer::builder(Terms::three()).seed(2), optimizer);
    let mut run = Follower::new(gpu, with_policy(builder));
    run.needs_tensor_norms = needs_tensor_norms;
    let faults = |i: usize| match i {
        7 | 60 | 61 | 120 => Some(Fault::Nan),
        40 | 62 | 100 | 101 | 180 => Some(Fault::Spike(i % 3)),
        _ => None,
    };
    (0..240).map(|i| run.step(&batch(i, faults(i)), &mut judge).1).collect()
}

fn z_score_settings(z_clip: &ZClip) -> ZScoreSettings {
    ZScoreSettings {
        threshold: z_clip.z_threshold.into(),
        alpha: z_clip.alpha,
        warmup: z_clip.warmup,
        max_norm: z_clip.max_norm.unwrap_or(f32::MAX).into(),
        clip_factor: match z_clip.bound {
            ZClipBound::Adaptive { factor } => factor.into(),
            ZClipBound::Mean => 1.0,
        },
        eps: z_clip.eps.into(),
        to_mean: z_clip.bound == ZClipBound::Mean,
        learn_from_spikes: z_clip.learn_from_spikes,
    }
}

fn z_clip_does_what_its_reference_does() {
    let Some(gpu) = support::gpu() else { return };
    let variants = [
        ZClip { max_norm: None, ..ZClip::default() },
        ZClip { max_norm: Some(0.2), bound: ZClipBound::Mean, ..ZClip::default() },
    ];
    for (optimizer, z_clip) in [(0, variants[0]), (2, variants[1])] {
        let settings = z_score_settings(&z_clip);
        let mut memory = ZScoreMemory::default();
        let policy = |builder: TrainerBuilder<Terms>| builder.policy(z_clip);
        let effects = follow_alone(&gpu, optimizer, policy, false, |observed, effect| {
            reference::clip_by_z_score(&settings, &mut memory, observed, effect);
        });
        let clips = |i: usize| effects[i].events & Event::ClippedHarder as u32 != 0;
        assert!(clips(40) && clips(62) && clips(101) && clips(180));
    }
}

fn auto_clip_does_what_its_reference_does() {
    let Some(gpu) = support::gpu() else { return };
    for (optimizer, percentile, history) in [(1, 10.0, 1024), (2, 80.0, 50)] {
        let auto_clip = AutoClip { percentile, history, ..AutoClip::default() };
        let settings = (history as usize, f64::from(percentile) / 100.0, 25);
        let mut memory = PercentileMemory::default();
        let policy = |builder: TrainerBuilder<Terms>| builder.policy(auto_clip);
        let effects = follow_alone(&gpu, optimizer, policy, false, |observed, effect| {
            reference::clip_by_percentile(settings, &mut memory, observed, effect);
        });
        let clips = |i: usize| effects[i].events & Event::ClippedHarder as u32 != 0;
        assert!(!clips(24) && clips(40) && clips(62) && clips(180));
    }
}

fn ada_gc_does_what_its_reference_does() {
    let Some(gpu) = support::gpu() else { return };
    let ada_gc = AdaGc { lambda_absolute: 0.7, warmup: 50, ..AdaGc::default() };
    let settings = HistorySettings {
        lambda_relative: ada_gc.lambda_relative.into(),
        lambda_absolute: ada_gc.lambda_absolute.into(),
        beta: ada_gc.beta,
        warmup: ada_gc.warmup,
    };
    for optimizer in [0, 2] {
        let mut memory = HistoryMemory::default();
        let policy = |builder: TrainerBuilder<Terms>| {
            builder.policy(ada_gc).loss_scale(LossScale::Static(256.0))
        };
        let effects = follow_alone(&gpu, optimizer, policy, true, |observed, effect| {
            reference::clip_by_history(&settings, &mut memory, observed, effect);
        });
        assert!(effects[40].max_norm < 0.71 && effects[100].max_norm > 1.0);
        assert!(effects[100].coefficients[1] < 0.1, "{:?}", effects[100]);
        assert_eq!(effects[180].event_tensor, 0);
    }
}

fn tensors_are_clipped_by_their_own_norms() {
    let Some(gpu) = support::gpu() else { return };
    let counts = [15.0f64, 37.0 * 61.0, 7.0];
    let threshold = 0.03f32;
    let rms = counts.map(|count| f64::from(threshold) * count.sqrt());
    for (optimizer, bounds) in [(0, [0.3; 3].map(|max: f32| f64::from(max))), (2, rms)] {
        let policy = |builder: TrainerBuilder<Terms>| match optimizer {
            0 => builder.policy(ClipPerTensor { max_norm: 0.3 }),
            _ => builder.policy(ClipBlockRms { threshold }),
        };
        let effects = follow_alone(&gpu, optimizer, policy, true, |observed, effect| {
            reference::clip_tensors(&bounds, observed, effect);
        });
        let clipped = |t: usize| effects.iter().filter(|e| e.coefficients[t] < 1.0).count();
        assert!(clipped(0) > 10 && clipped(2) > 10);
        assert!((1..60).contains(&clipped(1)), "spikes only: {}", clipped(1));
    }
}

/// All weights and gradients, by tensor.
fn by_tensor(trainer: &Trainer<Terms>) -> [(Vec<f32>, Vec<f32>); 3] {
    ["w0", "w1", "w2"].map(|name| {
        let weight = block_on(trainer.parameters().read(name)).expect("a weight");
        (weight, block_on(trainer.gradient(name)).expect("a gradient"))
    })
}

/// As optax's test of block RMS, through the update of a plain step: what is left of a tensor's
/// gradient has the RMS of the threshold, or is as it was.
fn updates_are_those_of_the_clipped_tensors() {
    let Some(gpu) = support::gpu() else { return };
    for threshold in [1.0, 0.5, 0.1, 1e-3] {
        let sgd = Sgd { learning_rate: 1.0, momentum: 0.0, ..Sgd::default() };
        let terms = Terms::scaled([1e3, 1e5, 1e-3]);
        let batch = terms.data(3, 1).batch();
        let builder = Trainer::builder(terms).optimizer(sgd).policy(ClipBlockRms { threshold });
        let mut trainer = build(&gpu, builder);
        let before = by_tensor(&trainer).map(|(weight, _)| weight);
        step(&mut trainer, &batch);
        for (t, (weight, gradient)) in by_tensor(&trainer).into_iter().enumerate() {
            let count = weight.len() as f64;
            let rms = |x: &[f64]| (x.iter().map(|x| x * x).sum::<f64>() / count).sqrt();
            let gradient: Vec<_> = gradient.iter().map(|&g| f64::from(g)).collect();
            let factor = (f64::from(threshold) / rms(&gradient)).min(1.0);
            let moved: Vec<_> =
                before[t].iter().zip(&gradient).map(|(&w, g)| f64::from(w) - factor * g).collect();
            let because = "the rounding of weights near 1";
            let tolerance = Tolerance { absolute: 2e-7, relative: 2e-6, because };
            assert_close(&format!("threshold {threshold}, tensor {t}"), &weight, &moved, tolerance);
            assert_eq!(factor < 1.0, t < 2, "threshold {threshold}, tensor {t}");
        }
    }
}

/// optax's own test for adaptive gradient clipping: each unit is left with r times the norm of its
/// weights, or alone if it is below. Units are rows, and all of a vector.
fn units_are_clipped_by_the_norms_of_their_weights() {
    let Some(gpu) = support::gpu() else { return };
    for loss_scale in [1.0, 4096.0] {
        for clipping in [1e-3, 0.05, 0.5, 1e6] {
            let make = || {
                let builder = Trainer::builder(Terms::three()).seed(5);
                builder.loss_scale(LossScale::Static(loss_scale))
            };
            let agc = AdaptiveGradientClip { clipping, ..AdaptiveGradientClip::default() };
            let mut control = build(&gpu, make());
            let mut trainer = build(&gpu, make().policy(agc));
            let before = by_tensor(&trainer);
            let record = step(&mut trainer, &batch(1, None));
            step(&mut control, &batch(1, None));
            let (clipped, plain) = (by_tensor(&trainer), by_tensor(&control));
            let mut squares = 0.0;
            for (t, cols) in [5, 61, 7].into_iter().enumerate() {
                let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
                let scale = f64::from(loss_scale);
                let (weight, gradient) = (wide(&before[t].0), wide(&plain[t].1));
                let units = weight.chunks(cols).zip(gradient.chunks(cols));
                let expected = units.flat_map(|(w, g)| {
                    let unscaled: Vec<_> = g.iter().map(|g| g / scale).collect();
                    reference::clip_units(clipping.into(), 1e-3, w, &unscaled)
                });
                let expected: Vec<_> = expected.map(|g| g * scale).collect();
                squares += expected.iter().map(|g| (g / scale) * (g / scale)).sum::<f64>();
                let because = "two norms and two products";
                let tolerance = Tolerance { absolute: 0.0, relative: 1e-5, because };
                let what = format!("clipping {clipping}, scale {loss_scale}, tensor {t}");
                assert_close(&what, &clipped[t].1, &expected, tolerance);
                if clipping == 1e6 {
                    assert!(clipped[t].1 == plain[t].1, "{what}: touched");
                }
            }
            assert_close(
                "the norm is of what is left",
                &[record.gradient_norm],
                &[squares.sqrt()],
                ROUNDING,
            );
        }
    }
}

/// Policies act in the order they were given, each on what those before it set.
fn two_policies_compose() {
    let Some(gpu) = support::gpu() else { return };
    let guard = SpikeGuard {
        window: 16,
        threshold: 20.0,
        reactions: vec![Reaction::ClipHarder { factor: 1.1 }, Reaction::Skip],
        ..SpikeGuard::default()
    };
    let z_clip = ZClip { max_norm: None, warmup: 10, ..ZClip::default() };
    let (spikes, scores) = (spike_settings(&guard), z_score_settings(&z_clip));
    for guard_first in [true, false] {
        let builder = Trainer::builder(Terms::three()).seed(2).clip(Clip::Norm(1.5));
        let builder = with_optimizer(builder, 0);
        let builder = if guard_first {
            builder.policy(guard.clone()).policy(z_clip)
        } else {
            builder.policy(z_clip).policy(guard.clone())
        };
        let mut run = Follower::new(&gpu, builder);
        run.max_norm = 1.5;
        let (mut memory, mut z_memory) = (SpikeMemory::default(), ZScoreMemory::default());
        let mut both = 0;
        for i in 0..120 {
            let (_, effect) = run.step(&batch(i, fault(i)), |observed, effect| {
                let mut first = |effect: &mut Effect| {
                    reference::guard_spikes(&spikes, &mut memory, observed, effect);
                };
                let mut second = |effect: &mut Effect| {
                    reference::clip_by_z_score(&scores, &mut z_memory, observed, effect);
                };
                if guard_first {
                    first(effect);
                    second(effect);
                } else {
                    second(effect);
                    first(effect);
                }
            });
            let wanted = Event::NormSpike as u32 | Event::ClippedHarder as u32;
            both += u32::from(effect.events & wanted == wanted);
        }
        assert!(both >= 4, "{both}");
    }
}

/// One weight whose loss the target sets: (0 - target)² with a gradient of 0 or nearly so.
fn single() -> Terms {
    Terms { tensors: vec![(vec![1], 1.0)] }
}

/// A batch with this loss, whatever the weight, and a tiny gradient.
fn loss_batch(loss: f32) -> Batch {
    let data = TermsData { factors: vec![vec![1e-20]], targets: vec![vec![loss.sqrt()]] };
    data.batch()
}

/// OLMo's own test: window 2, sigma 1; a loss of 1e9 is skipped, and the next one is not.
fn the_window_does_not_hold_the_sample() {
    let Some(gpu) = support::gpu() else { return };
    let guard =
        SpikeGuard { window: 2, threshold: 1.0, watch_norm: false, ..SpikeGuard::default() };
    let mut trainer = build(&gpu, Trainer::builder(single()).policy(guard));
    for loss in [2.0, 2.1] {
        assert!(step(&mut trainer, &loss_batch(loss)).applied);
    }
    let record = step(&mut trainer, &loss_batch(1e9));
    assert_eq!((record.applied, record.reason), (false, Reason::LossSpike));
    // With the sample itself among 2, no z-score would exceed 1/√2.
    assert!(record.event_value > 1e8, "{record:?}");
    assert!(step(&mut trainer, &loss_batch(2.05)).applied);
}

/// Losses that are NaN or Inf, skipped steps, and gradients that are NaN leave a detector as it
/// was: what comes after has the score that it would have had without them.
fn bad_samples_do_not_poison_a_detector() {
    let Some(gpu) = support::gpu() else { return };
    let guard = SpikeGuard { window: 8, patience: 100, ..SpikeGuard::default() };
    let make = || build(&gpu, Trainer::builder(single()).policy(guard.clone()));
    let (mut trainer, mut control) = (make(), make());
    let good = [2.0, 2.2, 2.1, 1.9, 2.3, 2.0, 2.1, 2.2];
    for loss in good {
        assert!(step(&mut trainer, &loss_batch(loss)).applied);
        step(&mut control, &loss_batch(loss));
    }
    for target in [1e20, -1e20, 1e30] {
        let data = TermsData { factors: vec![vec![1e-20]], targets: vec![vec![target]] };
        let record = step(&mut trainer, &data.batch());
        assert_eq!(record.reason, Reason::NonFiniteLoss, "{record:?}");
        assert_eq!(record.events().next(), Some(Event::LossSpike), "{record:?}");
        assert_eq!(record.nonfinite_count, 0);
        assert_eq!(record.event_value, f32::MAX);
    }
    let data = TermsData { factors: vec![vec![1.0]], targets: vec![vec![f32::NAN]] };
    let record = step(&mut trainer, &data.batch());
    assert_eq!((record.reason, record.event_bits), (Reason::NonFiniteGradient, 0));
    assert_eq!(step(&mut trainer, &loss_batch(1e4)).reason, Reason::LossSpike);
    let (after, expected) =
        (step(&mut trainer, &loss_batch(50.0)), step(&mut control, &loss_batch(50.0)));
    assert!(expected.event_value > 6.0 && expected.event_value < 1e6, "{expected:?}");
    assert_eq!(after.event_value, expected.event_value);
    assert!(step(&mut trainer, &loss_batch(2.1)).applied);
}

/// Widths that are no multiple of four, with running statistics.
fn classifier() -> Classifier {
    let mlp = MlpClassifier { inputs: 5, hidden: vec![6, 7], classes: 3, batch_norm: true };
    Classifier { mlp, batch: 4 }
}

fn classifier_batch(seed: u64, fault: Option<f32>) -> Batch {
    let mut inputs = values(seed, 20);
    if let Some(fault) = fault {
        inputs[3] = fault;
    }
    Batch::new().with("inputs", inputs).with("targets", tokens(seed + 1000, 4, 3))
}

/// Weights, moments, running statistics and clocks come back bit by bit, and the run goes on as one
/// that was restored from a checkpoint of the same step.
fn a_rollback_is_a_restart_from_the_snapshot() {
    let Some(gpu) = support::gpu() else { return };
    let ring = SnapshotRing { every: 5, after: 2, cut_steps: 0, ..SnapshotRing::default() };
    let storages =
        [WeightStorage::Bf16Stochastic, WeightStorage::Bf16Kahan, WeightStorage::Bf16Split];
    let cases = (0..3).map(|optimizer| (optimizer, WeightStorage::F32));
    for (optimizer, storage) in cases.chain(storages.map(|storage| (0, storage))) {
        let make = || {
            let builder = Trainer::builder(classifier()).weights(storage);
            build(&gpu, with_optimizer(builder, optimizer).policy(ring))
        };
        let (mut trainer, mut control) = (make(), make());
        for i in 0..11 {
            let record = step(&mut trainer, &classifier_batch(i, None));
            let takes = record.events().any(|event| event == Event::Snapshot);
            assert_eq!(takes, [0, 5, 10].contains(&i), "step {i}: {record:?}");
        }
        let (bytes, checkpoint) = (committed(&trainer), block_on(trainer.checkpoint()));
        for i in 11..14 {
            assert!(step(&mut trainer, &classifier_batch(i, None)).applied);
        }
        assert!(committed(&trainer) != bytes);
        for i in 14..16 {
            let record = step(&mut trainer, &classifier_batch(i, Some(f32::NAN)));
            let rolls_back = record.events().any(|event| event == Event::RolledBack);
            assert_eq!(rolls_back, i == 15, "{record:?}");
        }
        assert!(committed(&trainer) == bytes, "{storage}, optimizer {optimizer}: not the snapshot");
        assert_eq!(state(&trainer).applied_total, 11);
        block_on(control.restore(&checkpoint.expect("a checkpoint"))).expect("restored");
        for i in 16..30 {
            let batch = classifier_batch(i, None);
            let (record, expected) = (step(&mut trainer, &batch), step(&mut control, &batch));
            let of = |record: &Telemetry| (record.loss, record.gradient_norm, record.applied_total);
            assert_eq!(of(&record), of(&expected), "step {i}");
        }
        assert!(committed(&trainer) == committed(&control), "{storage}, optimizer {optimizer}");
    }
}

/// Trouble that never ends: older and older snapshots, then the end.
fn rollbacks_are_bounded() {
    let Some(gpu) = support::gpu() else { return };
    let ring = SnapshotRing { every: 2, after: 2, max_rollbacks: 3, ..SnapshotRing::default() };
    let mut trainer = build(&gpu, Trainer::builder(Terms::three()).policy(ring));
    for i in 0..4 {
        step(&mut trainer, &batch(i, None));
    }
    let mut totals = Vec::new();
    for i in 4..12 {
        let record = step(&mut trainer, &batch(i, Some(Fault::Nan)));
        totals.push(record.applied_total);
        assert_eq!(record.gave_up.is_some(), i == 11, "{record:?}");
    }
    assert_eq!(totals, [4, 3, 3, 1, 1, 1, 1, 1], "snapshots of steps 3 and 1");
    let error = block_on(trainer.step(&batch(12, None))).expect_err("it gave up");
    assert!(matches!(error, Error::GaveUp { .. }), "{error}");
    assert!(error.to_string().contains("RolledBack"), "{error}");
}

/// The ring is not part of a checkpoint: what it holds of another past is not used.
fn a_restored_run_forgets_the_snapshots_of_its_other_past() {
    let Some(gpu) = support::gpu() else { return };
    let ring = SnapshotRing { every: 3, after: 2, ..SnapshotRing::default() };
    let mut trainer = build(&gpu, Trainer::builder(Terms::three()).policy(ring));
    step(&mut trainer, &batch(0, None));
    step(&mut trainer, &batch(1, None));
    let checkpoint = block_on(trainer.checkpoint()).expect("a checkpoint");
    let bytes = committed(&trainer);
    for i in 2..12 {
        step(&mut trainer, &batch(i, None));
    }
    block_on(trainer.restore(&checkpoint)).expect("restored");
    let record = step(&mut trainer, &batch(2, Some(Fault::Nan)));
    assert_eq!(record.events().collect::<Vec<_>>(), [Event::Snapshot]);
    for i in 3..6 {
        step(&mut trainer, &batch(i, Some(Fault::Nan)));
    }
    assert!(committed(&trainer) == bytes);
    assert_eq!(state(&trainer).applied_total, 2);
    // Restored where it stands, the ring is of this past.
    let checkpoint = block_on(trainer.checkpoint()).expect("a checkpoint");
    block_on(trainer.restore(&checkpoint)).expect("restored");
    let record = step(&mut trainer, &batch(6, Some(Fault::Nan)));
    assert!(record.events().all(|event| event != Event::Snapshot), "{record:?}");
}

/// A guard that goes on from a checkpoint sees what it would have seen.
fn policies_go_on_from_a_checkpoint() {
    let Some(gpu) = support::gpu() else { return };
    let make = || {
        let builder = Trainer::builder(Terms::three()).seed(2).policy(every_guard());
        build(&gpu, all_clips(builder))
    };
    let (mut trainer, mut other) = (make(), make());
    for i in 0..45 {
        step(&mut trainer, &batch(i, fault(i)));
    }
    let checkpoint = block_on(trainer.checkpoint()).expect("a checkpoint");
    block_on(other.restore(&checkpoint)).expect("restored");
    for i in 45..80 {
        let batch = batch(i, fault(i));
        let bits = |record: Telemetry| format!("{record:?}");
        assert_eq!(bits(step(&mut trainer, &batch)), bits(step(&mut other, &batch)), "step {i}");
    }
    assert!(committed(&trainer) == committed(&other));
}

/// The guard without rollbacks.
fn every_guard() -> SpikeGuard {
    let mut guard = every_reaction();
    guard.reactions.pop();
    guard
}

/// Every policy that clips.
fn all_clips<M: Model>(builder: TrainerBuilder<M>) -> TrainerBuilder<M> {
    builder
        .policy(AdaptiveGradientClip { clipping: 0.2, ..AdaptiveGradientClip::default() })
        .policy(ZClip { warmup: 5, ..ZClip::default() })
        .policy(AutoClip { warmup: 5, percentile: 50.0, ..AutoClip::default() })
        .policy(AdaGc { warmup: 3, ..AdaGc::default() })
        .policy(ClipPerTensor { max_norm: 0.3 })
        .policy(ClipBlockRms { threshold: 0.05 })
}

const ALONE: usize = 9;

/// One policy, by number; the last number means all of them.
fn with_policy<M: Model>(builder: TrainerBuilder<M>, index: usize) -> TrainerBuilder<M> {
    let ring = SnapshotRing { every: 3, after: 50, ..SnapshotRing::default() };
    match index {
        0 => builder.policy(every_guard()),
        1 => builder.policy(ring),
        2 => builder.policy(every_reaction()).policy(ring),
        3 => builder.policy(ZClip { warmup: 2, ..ZClip::default() }),
        4 => builder.policy(AutoClip { warmup: 3, ..AutoClip::default() }),
        5 => builder.policy(AdaGc { warmup: 3, ..AdaGc::default() }),
        6 => builder.policy(ClipPerTensor { max_norm: 0.1 }),
        7 => builder.policy(ClipBlockRms { threshold: 0.01 }),
        8 => builder.policy(AdaptiveGradientClip::default()),
        _ => all_clips(builder).policy(every_reaction()).policy(ring),
    }
}

/// NaN and Inf in the first, a middle and the last tensor, with every optimizer and policy.
fn a_bad_step_changes_nothing_whatever_the_policy() {
    let Some(gpu) = support::gpu() else { return };
    for optimizer in 0..3 {
        for policy in 0..=ALONE {
            let builder = with_optimizer(Trainer::builder(Terms::three()).seed(2), optimizer);
            let mut trainer = build(&gpu, with_policy(builder, policy));
            for i in 0..6 {
                assert!(step(&mut trainer, &batch(i, None)).applied);
            }
            let (bytes, before) = (committed(&trainer), state(&trainer));
            for fault in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for (tensor, element) in [(0, 0), (1, 1100), (2, 6)] {
                    let mut data = data(&Terms::three(), 6, None);
                    data.targets[tensor][element] = fault;
                    let record = step(&mut trainer, &data.batch());
                    let what = format!("optimizer {optimizer}, policy {policy}, {fault}");
                    assert_eq!(record.reason, Reason::NonFiniteGradient, "{what}");
                    assert!(committed(&trainer) == bytes, "{what}: a committed byte changed");
                    let after = state(&trainer);
                    assert_eq!(after.applied_total, before.applied_total, "{what}");
                    assert_eq!(after.learning_rate, before.learning_rate, "{what}");
                }
            }
            assert!(step(&mut trainer, &batch(7, None)).applied);
            assert!(committed(&trainer) != bytes);
        }
    }
}

/// Two equal runs leave equal bytes and equal telemetry, and no step reads anything back.
fn runs_repeat_and_steps_read_nothing_back() {
    // A device of its own, so that its counters count for this test alone.
    let Some((device, queue, info)) = support::device(wgpu::Limits::default()) else { return };
    let gpu = Gpu::from_device(device, queue, info);
    let run = || {
        let builder = with_optimizer(Trainer::builder(Terms::three()).seed(2), 0);
        // A step is one submit however busy the machine is.
        let builder = builder.submit_budget(std::time::Duration::MAX);
        let mut trainer = build(&gpu, with_policy(builder, ALONE));
        // The first step measures: it may be several submits.
        block_on(trainer.step(&batch(0, fault(0)))).expect("a step");
        let before = gpu.counters();
        for i in 1..100 {
            block_on(trainer.step(&batch(i, fault(i)))).expect("a step");
        }
        let after = gpu.counters();
        assert_eq!((after.maps - before.maps, after.submits - before.submits), (0, 99));
        assert_eq!(after.allocated_bytes, before.allocated_bytes);
        let records = block_on(trainer.telemetry()).expect("telemetry");
        (format!("{records:?}"), committed(&trainer))
    };
    let (first, second) = (run(), run());
    assert_eq!(first.0, second.0);
    assert!(first.1 == second.1);
}

/// A ring whose snapshots do not fit one binding is kept in parts.
#[test]
fn snapshots_fit_the_limits_of_the_device() {
    let Some(gpu) = support::gpu_with_bindings(128 << 10) else { return };
    // 100 KiB of weights; 4 of them take 4 parts at least.
    let model = Terms { tensors: vec![(vec![100, 256], 1.0)] };
    let ring = SnapshotRing { snapshots: 4, every: 2, after: 1, ..SnapshotRing::default() };
    let mut trainer = build(&gpu, Trainer::builder(model.clone()).policy(ring));
    let name = <evenkeel::kernels::CopySnapshot as evenkeel::kernel::Kernel>::DECLARATION.name;
    let copies = trainer.dispatches().filter(|dispatch| dispatch.name == name).count();
    assert_eq!(copies, 3 * 4 + 1, "weights and two moments in parts, and the clocks");
    let report = trainer.report();
    assert!(report.policy_bytes >= 4 * 3 * 100 * 1024, "{report:?}");
    let mut bytes = Vec::new();
    for i in 0..5 {
        step(&mut trainer, &model.data(i, 1).batch());
        if i == 4 {
            bytes = committed(&trainer);
        }
    }
    step(&mut trainer, &model.data(5, 1).batch());
    let mut bad = model.data(6, 1);
    bad.targets[0][25_599] = f32::NAN;
    let record = step(&mut trainer, &bad.batch());
    assert_eq!(record.reason, Reason::RolledBack, "{record:?}");
    assert!(committed(&trainer) == bytes);
}

/// Fails to build, naming the setting.
#[track_caller]
fn assert_refused(gpu: &Gpu, builder: TrainerBuilder<Terms>, what: &str) {
    match block_on(builder.build(gpu)) {
        Err(error @ Error::Setting { .. }) => {
            assert!(error.to_string().contains(what), "{error} without {what:?}");
        }
        Err(error) => panic!("{what}: {error}"),
        Ok(_) => panic!("{what}: accepted"),
    }
}

fn settings_out_of_range_are_refused() {
    let Some(gpu) = support::gpu() else { return };
    let builder = || Trainer::builder(Terms::three());
    let guard = SpikeGuard::default();
    let cut = |factor, steps| vec![Reaction::CutLearningRate { factor, steps }];
    for (guard, what) in [
        (SpikeGuard { window: 1, ..guard.clone() }, "spike window"),
        (SpikeGuard { threshold: f32::NAN, ..guard.clone() }, "spike threshold"),
        (SpikeGuard { reactions: vec![], ..guard.clone() }, "spike reactions"),
        (SpikeGuard { repeats: 0, ..guard.clone() }, "spike repeats"),
        (SpikeGuard { within: 0, ..guard.clone() }, "spike within"),
        (SpikeGuard { reactions: cut(1.5, 3), ..guard.clone() }, "CutLearningRate factor"),
        (SpikeGuard { reactions: cut(0.5, 0), ..guard.clone() }, "CutLearningRate steps"),
        (SpikeGuard::with_rollback(), "SnapshotRing"),
    ] {
        assert_refused(&gpu, builder().policy(guard), what);
    }
    let ring = SnapshotRing::default();
    for (ring, what) in [
        (SnapshotRing { snapshots: 0, ..ring }, "snapshots"),
        (SnapshotRing { every: 0, ..ring }, "snapshot interval"),
        (SnapshotRing { learning_rate_factor: -0.5, ..ring }, "after a rollback"),
    ] {
        assert_refused(&gpu, builder().policy(ring), what);
    }
    let z_clip = ZClip::default();
    for (z_clip, what) in [
        (ZClip { z_threshold: 0.0, ..z_clip }, "ZClip threshold"),
        (ZClip { alpha: 1.0, ..z_clip }, "ZClip alpha"),
        (ZClip { warmup: 0, ..z_clip }, "ZClip warmup"),
        (ZClip { max_norm: Some(-1.0), ..z_clip }, "ZClip max_norm"),
        (ZClip { bound: ZClipBound::Adaptive { factor: 0.0 }, ..z_clip }, "ZClip factor"),
        (ZClip { eps: f32::INFINITY, ..z_clip }, "ZClip eps"),
    ] {
        assert_refused(&gpu, builder().policy(z_clip), what);
    }
    let auto_clip = AutoClip::default();
    for (auto_clip, what) in [
        (AutoClip { percentile: 101.0, ..auto_clip }, "AutoClip percentile"),
        (AutoClip { history: 1025, ..auto_clip }, "AutoClip history"),
        (AutoClip { history: 10, warmup: 11, ..auto_clip }, "AutoClip warmup"),
    ] {
        assert_refused(&gpu, builder().policy(auto_clip), what);
    }
    let ada_gc = AdaGc::default();
    for (ada_gc, what) in [
        (AdaGc { lambda_relative: 0.0, ..ada_gc }, "AdaGC lambda_relative"),
        (AdaGc { lambda_absolute: f32::NAN, ..ada_gc }, "AdaGC lambda_absolute"),
        (AdaGc { beta: 1.0, ..ada_gc }, "AdaGC beta"),
    ] {
        assert_refused(&gpu, builder().policy(ada_gc), what);
    }
    let agc = AdaptiveGradientClip::default();
    assert_refused(&gpu, builder().policy(AdaptiveGradientClip { clipping: 0.0, ..agc }), "AGC");
    assert_refused(&gpu, builder().policy(AdaptiveGradientClip { eps: 0.0, ..agc }), "AGC eps");
    let per_tensor = ClipPerTensor { max_norm: -1.0 };
    assert_refused(&gpu, builder().policy(per_tensor), "ClipPerTensor max_norm");
    let block_rms = ClipBlockRms { threshold: f32::INFINITY };
    assert_refused(&gpu, builder().policy(block_rms), "ClipBlockRms threshold");
    assert_refused(&gpu, builder().norm(Norm::L1).policy(ada_gc), "AdaGC");
    build(&gpu, builder().policy(SpikeGuard::with_rollback()).policy(ring));
    for norm in [Norm::ExactL2, Norm::Infinity] {
        let mut trainer = build(&gpu, builder().norm(norm).policy(ClipPerTensor { max_norm: 0.1 }));
        step(&mut trainer, &batch(0, None));
        for (t, (_, gradient)) in by_tensor(&trainer).iter().enumerate() {
            let norm = gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
            let tensor = block_on(trainer.tensor_states()).expect("tensors")[t];
            assert_close("L2", &[tensor.clip_coefficient], &[(0.1 / norm).min(1.0)], ROUNDING);
        }
    }
}
