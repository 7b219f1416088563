//! Policies over runs of steps that the host makes up: spikes, steps skipped for other reasons,
//! overflows, losses that are NaN. Each step is compared with the f64 reference.

use evenkeel::Gpu;
use evenkeel::gpu::Dispatch;
use evenkeel::kernels::*;
use evenkeel::reference::policy::{
    self as reference, Effect, HistorySettings, Observed, Outcome, Reaction, SnapshotAction,
    SnapshotSettings, SpikeSettings, ZScoreSettings,
};
use evenkeel::step::{APPLY, Event, Reason, SKIP, StepState, TensorState};

use super::support::{Tolerance, assert_close, block_on, pad, unpad, values, wide};

const ROUNDING: Tolerance = Tolerance {
    absolute: 1e-6,
    relative: 2e-4,
    because: "mean and deviation of f32 samples whose deviation is a fiftieth of their mean",
};

rows! {
    guard_spikes, decide_snapshot, copy_snapshot, cut_learning_rate, clip_by_z_score, clip_tensors,
    clip_by_history, clip_by_percentile, clip_units,
}

const TENSORS: usize = 70;

/// A step that the host makes up.
#[derive(Clone, Debug)]
struct Step {
    loss: f32,
    norm: f32,
    tensor_norms: Vec<f32>,
    overflows: bool,
    /// Whether something other than the policy skips it.
    skipped: bool,
}

/// Losses around 3 and norms around 1, both times `scale`.
fn steps(count: usize, scale: f32) -> Vec<Step> {
    let (losses, norms) = (values(1, count), values(2, count));
    let tensors = values(3, count * TENSORS);
    let step = |i: usize| Step {
        loss: (3.0 + 0.1 * losses[i]) * scale,
        norm: (1.0 + 0.1 * norms[i]) * scale,
        tensor_norms: (0..TENSORS)
            .map(|t| if t == 5 { 0.0 } else { (1.5 + tensors[i * TENSORS + t]) * scale })
            .collect(),
        overflows: false,
        skipped: i % 17 == 3,
    };
    (0..count).map(step).collect()
}

fn tensor_norm(norm: f32) -> TensorNorm {
    let bits = norm.to_bits();
    if norm == 0.0 {
        return TensorNorm { exponent: -1024, ..Default::default() };
    }
    let exponent = (bits >> 23) as i32 - 127;
    let significand = f32::from_bits(bits & 0x7f_ffff | 0x3f80_0000);
    TensorNorm { significand, exponent, ..Default::default() }
}

/// The buffers of a step, and one policy's dispatch.
struct Bench<'g> {
    gpu: &'g Gpu,
    loss: wgpu::Buffer,
    norms: wgpu::Buffer,
    tensors: wgpu::Buffer,
    memory: wgpu::Buffer,
    state: wgpu::Buffer,
    applied_before: bool,
    loss_scale: f32,
    max_norm: f32,
}

impl<'g> Bench<'g> {
    fn new(gpu: &'g Gpu, memory_words: usize) -> Self {
        let norms = vec![TensorNorm::default(); TENSORS];
        Self {
            gpu,
            loss: gpu.buffer("loss", 4),
            norms: gpu.upload("norms", &norms),
            tensors: gpu.upload("tensors", &[TensorState::default(); TENSORS]),
            memory: gpu.upload("memory", &vec![0u32; memory_words]),
            state: gpu.upload("state", &[StepState::default()]),
            applied_before: false,
            loss_scale: 1.0,
            max_norm: f32::MAX,
        }
    }

    fn observed(&self, step: &Step) -> Observed {
        Observed {
            loss: step.loss.into(),
            norm: step.norm.into(),
            tensor_norms: step.tensor_norms.iter().map(|&x| x.into()).collect(),
            overflows: step.overflows,
            applied_before: self.applied_before,
        }
    }

    /// Runs the policy on one step. Returns the state, and the tensors.
    fn run(&self, dispatch: &Dispatch, step: &Step) -> (StepState, Vec<TensorState>) {
        let norm = tensor_norm(step.norm);
        let state = StepState {
            verdict: if self.applied_before { APPLY } else { SKIP },
            nonfinite_count: step.overflows.into(),
            gradient_norm: step.norm,
            norm_significand: norm.significand,
            norm_exponent: norm.exponent,
            max_norm: self.max_norm,
            learning_rate_factor: 1.0,
            loss_scale: self.loss_scale,
            ..StepState::default()
        };
        let scaled = step.tensor_norms.iter().map(|&norm| tensor_norm(norm * self.loss_scale));
        let clean = TensorState { clip_coefficient: 1.0, ..TensorState::default() };
        self.gpu.write(&self.state, 0, bytemuck::bytes_of(&state));
        self.gpu.write(&self.loss, 0, bytemuck::bytes_of(&step.loss));
        self.gpu.write(&self.norms, 0, bytemuck::cast_slice(&scaled.collect::<Vec<_>>()));
        self.gpu.write(&self.tensors, 0, bytemuck::cast_slice(&[clean; TENSORS]));
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.gpu.encode(&mut encoder, [dispatch]);
        self.gpu.submit(encoder);
        let tensors = block_on(self.gpu.read(&self.tensors, 0, TENSORS)).expect("readable");
        (block_on(self.gpu.read(&self.state, 0, 1)).expect("readable")[0], tensors)
    }

    /// Runs a policy over all steps beside its reference. Returns the effect of each step.
    fn compare(
        &mut self,
        what: &str,
        dispatch: &Dispatch,
        steps: &[Step],
        mut judge: impl FnMut(&Observed, &mut Effect),
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (i, step) in steps.iter().enumerate() {
            let (state, tensors) = self.run(dispatch, step);
            let mut effect = Effect::new(self.max_norm.into(), TENSORS);
            judge(&self.observed(step), &mut effect);
            assert_effect(&format!("{what}, step {i}"), &state, &tensors, &effect);
            let skipped = step.overflows || step.skipped || effect.veto != Reason::None;
            self.applied_before = !skipped;
            effects.push(effect);
        }
        effects
    }
}

fn assert_effect(what: &str, state: &StepState, tensors: &[TensorState], effect: &Effect) {
    assert_eq!(Reason::from_bits(state.veto), effect.veto, "{what}: {effect:?}");
    let events = |bits| Event::from_bits(bits).collect::<Vec<_>>();
    assert_eq!(events(state.events), events(effect.events), "{what}: {effect:?}");
    assert_eq!(state.event_tensor, effect.event_tensor, "{what}: {effect:?}");
    // One number at a time: they differ in size.
    let pairs = [
        (state.max_norm, effect.max_norm, "max_norm"),
        (state.learning_rate_factor, effect.learning_rate_factor, "learning rate factor"),
        (state.event_value, effect.event_value, "event value"),
    ];
    for (actual, expected, name) in pairs {
        let scale = if expected == 0.0 { 1.0 } else { expected };
        let ratio = (f64::from(actual) / scale) as f32;
        assert_close(&format!("{what}: {name}"), &[ratio], &[expected / scale], ROUNDING);
    }
    let coefficients: Vec<_> = tensors.iter().map(|tensor| tensor.clip_coefficient).collect();
    assert_close(what, &coefficients, &effect.coefficients, ROUNDING);
    let resets: Vec<_> = tensors.iter().map(|tensor| tensor.reset != 0).collect();
    assert_eq!(resets, effect.resets, "{what}");
}

fn spike_settings(reactions: &[Reaction]) -> SpikeSettings {
    SpikeSettings {
        window: 32,
        threshold: 6.0,
        watch_loss: true,
        watch_norm: true,
        watch_tensors: reactions.contains(&Reaction::ResetMoments),
        reactions: reactions.to_vec(),
        repeats: 2,
        within: 12,
        patience: 4,
    }
}

fn spike_reaction(reaction: &Reaction) -> SpikeReaction {
    let (kind, factor, steps) = match *reaction {
        Reaction::Skip => (SPIKE_SKIP, 0.0, 0),
        Reaction::ClipHarder(factor) => (SPIKE_CLIP_HARDER, factor as f32, 0),
        Reaction::CutLearningRate(factor, steps) => (SPIKE_CUT_LEARNING_RATE, factor as f32, steps),
        Reaction::ResetMoments => (SPIKE_RESET_MOMENTS, 0.0, 0),
        Reaction::RollBack => (SPIKE_ROLL_BACK, 0.0, 0),
    };
    SpikeReaction { kind, factor, steps }
}

/// Runs the guard beside its reference. Returns the effect of each step.
fn guarded(gpu: &Gpu, settings: &SpikeSettings, steps: &[Step], loss_scale: f32) -> Vec<Effect> {
    let mut bench = Bench::new(gpu, SpikeMemory::words(settings.window as u32, TENSORS as u32));
    bench.loss_scale = loss_scale;
    let reactions: Vec<_> = settings.reactions.iter().map(spike_reaction).collect();
    let reactions = gpu.upload("reactions", &reactions);
    let dispatch = gpu.prepare(&GuardSpikes {
        params: GuardSpikesParams {
            tensor_count: TENSORS as u32,
            window: settings.window as u32,
            threshold: settings.threshold as f32,
            watch_loss: settings.watch_loss.into(),
            watch_norm: settings.watch_norm.into(),
            watch_tensors: settings.watch_tensors.into(),
            reaction_count: settings.reactions.len() as u32,
            repeats: settings.repeats,
            within: settings.within,
            patience: settings.patience,
        },
        reactions: reactions.as_entire_buffer_binding(),
        loss: bench.loss.as_entire_buffer_binding(),
        norms: bench.norms.as_entire_buffer_binding(),
        tensors: bench.tensors.as_entire_buffer_binding(),
        memory: bench.memory.as_entire_buffer_binding(),
        state: bench.state.as_entire_buffer_binding(),
    });
    let mut memory = reference::SpikeMemory::default();
    bench.compare("guard_spikes", &dispatch, steps, |step, effect| {
        reference::guard_spikes(settings, &mut memory, step, effect);
    })
}

fn has(effect: &Effect, event: Event) -> bool {
    effect.events & event as u32 != 0
}

fn guard_spikes(gpu: &Gpu) {
    every_reaction(gpu);
    level_shift(gpu);
    odd_windows(gpu);
}

fn every_reaction(gpu: &Gpu) {
    let reactions = [
        Reaction::ClipHarder(1.5),
        Reaction::Skip,
        Reaction::CutLearningRate(0.25, 5),
        Reaction::ResetMoments,
        Reaction::RollBack,
    ];
    for (scale, loss_scale) in [(1.0, 1.0), (1e-30, 1.0), (1e30, 1.0), (1.0, 65_536.0)] {
        let mut steps = steps(150, scale);
        // Before the window is half full nothing is a spike, but a loss that is not finite.
        steps[6].norm *= 100.0;
        steps[6].skipped = true;
        steps[8].loss = f32::NAN;
        for i in [30, 34, 38, 42, 46, 50, 54, 58, 62, 66] {
            steps[i].norm *= 40.0;
            steps[i].tensor_norms[i] *= 100.0;
        }
        steps[32].overflows = true;
        steps[32].loss = f32::NAN;
        steps[70].loss = f32::INFINITY;
        steps[90].loss *= 2.0;
        steps[91].loss = f32::NEG_INFINITY;
        steps[92].norm *= 1e6;
        // Falling is no spike.
        steps[120].loss *= 0.01;
        steps[121].norm = 0.0;
        let effects = guarded(gpu, &spike_settings(&reactions), &steps, loss_scale);
        let spikes: Vec<_> = (0..150).filter(|&i| effects[i].events & 3 != 0).collect();
        let expected = [8, 30, 34, 38, 42, 46, 50, 54, 58, 62, 66, 70, 90, 91, 92];
        assert_eq!(spikes, expected, "scale {scale}");
        assert_eq!(effects[8].veto, Reason::LossSpike, "nothing to clip to yet");
        let count = |event| effects.iter().filter(|effect| has(effect, event)).count();
        assert_eq!(count(Event::ClippedHarder), 2, "30 and 34; the norm of 90 is ordinary");
        assert!(count(Event::LearningRateCut) > 6);
        assert_eq!(count(Event::MomentsReset), 2);
        assert!(effects[54].resets[54] && effects[58].resets[58]);
        for i in [62, 66, 70] {
            assert_eq!(effects[i].veto, Reason::RolledBack, "step {i}");
        }
    }
}

/// What stays high is skipped for a while, then taken in, and passes.
fn level_shift(gpu: &Gpu) {
    let settings = spike_settings(&[Reaction::Skip]);
    let mut steps = steps(120, 1.0);
    for step in &mut steps[60..] {
        step.norm *= 50.0;
    }
    let effects = guarded(gpu, &settings, &steps, 1.0);
    let vetoes = effects.iter().filter(|effect| effect.veto != Reason::None).count();
    assert!((4..16).contains(&vetoes), "{vetoes} vetoes");
    assert!(effects[80..].iter().all(|effect| effect.veto == Reason::None));
    // A loss that stays NaN is no level.
    for step in &mut steps[60..] {
        step.loss = f32::NAN;
    }
    let effects = guarded(gpu, &settings, &steps, 1.0);
    assert!(effects[60..].iter().all(|effect| effect.veto == Reason::LossSpike));
}

/// Constant samples, zeros, losses of both signs; each detector alone.
fn odd_windows(gpu: &Gpu) {
    let settings = spike_settings(&[Reaction::Skip]);
    let mut steps = steps(60, 1.0);
    for step in &mut steps {
        (step.loss, step.norm) = (2.5, 0.0);
    }
    steps[40].loss = 2.5 + 1e-6;
    steps[41].loss = 2.6;
    steps[42].norm = 1e20;
    let effects = guarded(gpu, &settings, &steps, 1.0);
    let vetoes: Vec<_> = (0..60).filter(|&i| effects[i].veto != Reason::None).collect();
    assert_eq!(vetoes, [41], "a window of zeros has no scale to judge by");
    for (i, step) in steps.iter_mut().enumerate() {
        (step.loss, step.norm) = if i % 2 == 0 { (-1.0, 1.0) } else { (1.0, 2.0) };
    }
    steps[40].loss = 50.0;
    steps[45].norm = 50.0;
    for (watch_loss, watch_norm, expected) in [(true, false, 40), (false, true, 45)] {
        let settings = SpikeSettings { watch_loss, watch_norm, ..settings.clone() };
        let effects = guarded(gpu, &settings, &steps, 1.0);
        let vetoes: Vec<_> = (0..60).filter(|&i| effects[i].veto != Reason::None).collect();
        assert_eq!(vetoes, [expected]);
    }
}

/// The ring over a made-up run: bad stretches, requests, spikes when one is due.
fn decide_snapshot(gpu: &Gpu) {
    for capacity in [1, 2, 3] {
        let settings =
            SnapshotSettings { capacity, every: 4, after: 3, max_rollbacks: 6, cut_steps: 5 };
        let actions = snapshots(gpu, &settings);
        let restored: Vec<_> = actions
            .iter()
            .filter_map(|action| match action {
                SnapshotAction::Restore(applied) => Some(*applied),
                _ => None,
            })
            .collect();
        assert_eq!(restored.len(), 6, "{actions:?}");
        let expected = [[9, 9, 9, 9, 9, 9], [9, 4, 4, 4, 4, 4], [9, 4, 0, 0, 0, 0]][capacity - 1];
        assert_eq!(restored[..], expected, "older ones first when trouble returns");
        assert!(actions.contains(&SnapshotAction::GiveUp));
    }
}

/// (skipped, events, asked) of each step. The first is skipped, so the first snapshot is of step 0.
fn made_up_run() -> Vec<(bool, u32, bool)> {
    let good = (false, 0, false);
    let bad = (true, 0, false);
    let mut run = vec![(true, 0, true)];
    run.extend([good; 7]);
    // One is due, but not where a spike was seen and the step applied all the same.
    run.extend([(false, Event::NormSpike as u32, false), bad, bad, good]);
    run.extend([good, good, (true, Event::LossScaleDown as u32, false), bad, bad, bad]);
    // Trouble again before there is a new snapshot, and again.
    run.extend([good, good, (true, 0, true), good, (true, 0, true), (true, 0, true)]);
    run.extend([bad; 10]);
    run
}

fn snapshots(gpu: &Gpu, settings: &SnapshotSettings) -> Vec<SnapshotAction> {
    let memory = gpu.upload("memory", &[RollbackMemory::default()]);
    let ring = gpu.upload("ring", &vec![0u32; 6 + settings.capacity]);
    let state = gpu.upload("state", &[StepState::default()]);
    let dispatch = gpu.prepare(&DecideSnapshot {
        params: DecideSnapshotParams {
            capacity: settings.capacity as u32,
            every: settings.every,
            after: settings.after,
            max_rollbacks: settings.max_rollbacks,
            cut_steps: settings.cut_steps,
        },
        memory: memory.as_entire_buffer_binding(),
        ring: ring.as_entire_buffer_binding(),
        state: state.as_entire_buffer_binding(),
    });
    let mut remembered = reference::SnapshotMemory::default();
    let (mut now, mut actions) = (StepState::default(), Vec::new());
    for (i, (skipped, events, asked)) in made_up_run().into_iter().enumerate() {
        now.verdict = if skipped { SKIP } else { APPLY };
        now.applied_total += u32::from(!skipped);
        now.events = events;
        now.veto = if asked { Reason::RolledBack as u32 } else { 0 };
        now.reason = if skipped { Reason::NonFiniteGradient as u32 } else { 0 };
        gpu.write(&state, 0, bytemuck::bytes_of(&now));
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        gpu.encode(&mut encoder, [&dispatch]);
        gpu.submit(encoder);
        let after: StepState = block_on(gpu.read(&state, 0, 1)).expect("readable")[0];
        let words: Vec<u32> = block_on(gpu.read(&ring, 0, 6)).expect("readable");
        let held: RollbackMemory = block_on(gpu.read(&memory, 0, 1)).expect("readable")[0];
        let expected = if now.gave_up == 0 {
            let applied_total = now.applied_total;
            let outcome = Outcome { applied: !skipped, applied_total, events, asked };
            reference::decide_snapshot(settings, &mut remembered, &outcome)
        } else {
            SnapshotAction::Nothing
        };
        let what = format!("capacity {}, step {i}: {expected:?}", settings.capacity);
        let event = |event: Event| after.events & event as u32 != 0;
        assert_eq!(event(Event::Snapshot), expected == SnapshotAction::Take, "{what}");
        assert_eq!(words[1] == 1, expected == SnapshotAction::Take, "{what}");
        if let SnapshotAction::Restore(applied) = expected {
            assert!(event(Event::RolledBack) && words[1] == 2, "{what}");
            assert_eq!(after.applied_total, applied, "{what}");
            assert_eq!(Reason::from_bits(after.reason), Reason::RolledBack, "{what}");
        } else {
            assert!(!event(Event::RolledBack) && words[1] != 2, "{what}");
            assert_eq!(after.applied_total, now.applied_total, "{what}");
        }
        if expected == SnapshotAction::GiveUp {
            assert_eq!(Reason::from_bits(after.gave_up), Reason::RolledBack, "{what}");
        }
        assert_eq!(words[4] as usize, remembered.snapshots.len(), "{what}");
        let counters = [held.rollbacks, held.bad, held.cut_left];
        let expected_counters = [remembered.rollbacks, remembered.bad, remembered.cut_left];
        assert_eq!(counters, expected_counters, "{what}");
        now = after;
        actions.push(expected);
    }
    actions
}

/// Sizes around a share of 4,096 quads; contents that are NaN pass as they are.
fn copy_snapshot(gpu: &Gpu) {
    for quads in [1usize, 63, 64, 65, 4095, 4096, 4097, 10_007] {
        let words = |seed: u32| -> Vec<u32> {
            (0..4 * quads as u32)
                .map(|i| (i ^ seed).wrapping_mul(0x9e37_79b1) | 0x7f80_0000)
                .collect()
        };
        let mut live_words = words(1);
        let mut slots = vec![words(2), words(3), words(4)];
        let live = gpu.upload("live", &live_words);
        let snapshots = gpu.upload("snapshots", &slots.concat());
        for (action, slot) in [(0, 1), (1, 2), (1, 0), (2, 1), (0, 0), (2, 0), (1, 1)] {
            let ring = gpu.upload("ring", &[7u32, action, slot, 0, 3, 0, 9, 9, 9]);
            gpu.run(&CopySnapshot {
                params: CopySnapshotParams { quads: quads as u32 },
                ring: ring.as_entire_buffer_binding(),
                live: live.as_entire_buffer_binding(),
                snapshots: snapshots.as_entire_buffer_binding(),
            });
            if action > 0 {
                let slot = slot as usize;
                reference::copy_snapshot(&mut live_words, &mut slots, slot, action == 2);
            }
            let found: Vec<u32> = block_on(gpu.read(&live, 0, 4 * quads)).expect("readable");
            assert!(found == live_words, "{quads} quads, action {action}: live");
            let found: Vec<u32> = block_on(gpu.read(&snapshots, 0, 12 * quads)).expect("readable");
            assert!(found == slots.concat(), "{quads} quads, action {action}: snapshots");
        }
    }
}

fn cut_learning_rate(gpu: &Gpu) {
    for cut_left in [0, 1, 7] {
        let bench = Bench::new(gpu, 4);
        let memory = RollbackMemory { cut_left, ..Default::default() };
        gpu.write(&bench.memory, 0, bytemuck::bytes_of(&memory));
        let dispatch = gpu.prepare(&CutLearningRate {
            params: CutLearningRateParams { factor: 0.125 },
            memory: bench.memory.as_entire_buffer_binding(),
            state: bench.state.as_entire_buffer_binding(),
        });
        let step = &steps(1, 1.0)[0];
        let (state, tensors) = bench.run(&dispatch, step);
        let mut effect = Effect::new(bench.max_norm.into(), TENSORS);
        let remembered = reference::SnapshotMemory { cut_left, ..Default::default() };
        reference::cut_learning_rate(&remembered, 0.125, &mut effect);
        assert_effect(&format!("{cut_left} left"), &state, &tensors, &effect);
    }
}

fn z_score_settings() -> ZScoreSettings {
    ZScoreSettings {
        threshold: 2.5,
        alpha: 0.97,
        warmup: 25,
        max_norm: f32::MAX.into(),
        clip_factor: 1.0,
        eps: 1e-6,
        to_mean: false,
        learn_from_spikes: true,
    }
}

fn clip_by_z_score(gpu: &Gpu) {
    let plain = z_score_settings();
    let variants = [
        plain,
        ZScoreSettings { max_norm: 1.02, clip_factor: 0.9, ..plain },
        ZScoreSettings { to_mean: true, learn_from_spikes: false, warmup: 1, ..plain },
    ];
    for (variant, settings) in variants.into_iter().enumerate() {
        for scale in [1.0, 1e-25, 1e36] {
            let eps = settings.eps * f64::from(scale);
            let max_norm = (settings.max_norm * f64::from(scale)).min(f32::MAX.into());
            let settings = ZScoreSettings { eps, max_norm, ..settings };
            let mut steps = steps(200, scale);
            for i in [10, 50, 51, 80, 120] {
                steps[i].norm *= 10.0;
            }
            for i in [20, 60, 61, 130] {
                steps[i].overflows = true;
                steps[i].norm = f32::MAX;
            }
            let effects = z_scored(gpu, &settings, &steps);
            for i in [50, 51, 80, 120] {
                assert!(has(&effects[i], Event::ClippedHarder), "variant {variant}, step {i}");
            }
            assert!(!has(&effects[10], Event::ClippedHarder) || settings.warmup == 1);
        }
    }
}

fn z_scored(gpu: &Gpu, settings: &ZScoreSettings, steps: &[Step]) -> Vec<Effect> {
    let mut bench = Bench::new(gpu, size_of::<ZScoreMemory>() / 4);
    let dispatch = gpu.prepare(&ClipByZScore {
        params: ClipByZScoreParams {
            threshold: settings.threshold as f32,
            alpha: settings.alpha as f32,
            one_minus_alpha: (1.0 - settings.alpha) as f32,
            warmup: settings.warmup,
            max_norm: settings.max_norm as f32,
            clip_factor: settings.clip_factor as f32,
            eps: settings.eps as f32,
            to_mean: settings.to_mean.into(),
            learn_from_spikes: settings.learn_from_spikes.into(),
        },
        memory: bench.memory.as_entire_buffer_binding(),
        state: bench.state.as_entire_buffer_binding(),
    });
    let mut memory = reference::ZScoreMemory::default();
    bench.compare("clip_by_z_score", &dispatch, steps, |step, effect| {
        reference::clip_by_z_score(settings, &mut memory, step, effect);
    })
}

fn clip_tensors(gpu: &Gpu) {
    for (scale, loss_scale) in [(1.0, 1.0), (1e-30, 1.0), (1e30, 1.0), (1.0, 65_536.0)] {
        let mut bench = Bench::new(gpu, 1);
        bench.loss_scale = loss_scale;
        let drawn = values(9, TENSORS);
        let mut bounds: Vec<_> = drawn.iter().map(|x| (2.0 + 1.2 * x) * scale).collect();
        bounds[33] = scale;
        bounds[64] = scale;
        let table = gpu.upload("bounds", &bounds);
        let dispatch = gpu.prepare(&ClipTensors {
            params: ClipTensorsParams { tensor_count: TENSORS as u32 },
            bounds: table.as_entire_buffer_binding(),
            norms: bench.norms.as_entire_buffer_binding(),
            tensors: bench.tensors.as_entire_buffer_binding(),
            state: bench.state.as_entire_buffer_binding(),
        });
        let mut steps = steps(12, scale);
        steps[3].overflows = true;
        // One far out, two alike, and none.
        steps[5].tensor_norms[69] = 1e7 * scale;
        steps[6].tensor_norms[64] = scale * 512.0;
        steps[6].tensor_norms[33] = scale * 512.0;
        steps[7].tensor_norms.fill(0.0);
        steps[8].tensor_norms = bounds.clone();
        let effects = bench.compare("clip_tensors", &dispatch, &steps, |step, effect| {
            reference::clip_tensors(&wide(&bounds), step, effect);
        });
        assert_eq!(effects[5].event_tensor, 69);
        assert!(effects[5].coefficients[69] < 1e-6);
        for untouched in [3, 7, 8] {
            assert_eq!(effects[untouched].events, 0);
        }
    }
}

fn clip_by_history(gpu: &Gpu) {
    for (scale, loss_scale) in [(1.0, 1.0), (1e-30, 1.0), (1e30, 1.0), (1.0, 1024.0)] {
        for warmup in [0, 20] {
            let settings = HistorySettings {
                lambda_relative: 1.05,
                lambda_absolute: f64::from(scale),
                beta: 0.98,
                warmup,
            };
            let mut bench = Bench::new(gpu, 2 + 2 * TENSORS);
            bench.loss_scale = loss_scale;
            let dispatch = gpu.prepare(&ClipByHistory {
                params: ClipByHistoryParams {
                    tensor_count: TENSORS as u32,
                    lambda_relative: 1.05,
                    lambda_absolute: scale,
                    beta: 0.98,
                    one_minus_beta: 0.02,
                    warmup,
                },
                norms: bench.norms.as_entire_buffer_binding(),
                tensors: bench.tensors.as_entire_buffer_binding(),
                memory: bench.memory.as_entire_buffer_binding(),
                state: bench.state.as_entire_buffer_binding(),
            });
            let mut steps = steps(100, scale);
            for i in [8, 40, 70] {
                steps[i].tensor_norms[i % 7] *= 100.0;
                steps[i].norm *= 10.0;
            }
            for i in [9, 41, 42] {
                steps[i].overflows = true;
                steps[i].tensor_norms.fill(f32::MAX / loss_scale);
            }
            // A tensor that gets gradients late, and one that pauses.
            for step in &mut steps[50..] {
                step.tensor_norms[5] = scale;
            }
            for step in &mut steps[60..66] {
                step.tensor_norms[6] = 0.0;
            }
            let mut memory = reference::HistoryMemory::default();
            let effects = bench.compare("clip_by_history", &dispatch, &steps, |step, effect| {
                reference::clip_by_history(&settings, &mut memory, step, effect);
            });
            assert!(has(&effects[70], Event::ClippedHarder));
            assert!(effects[70].coefficients[0] < 0.1, "{:?}", effects[70]);
            assert!(effects[49..].iter().all(|effect| effect.coefficients[5] > 0.9));
            assert!(effects[66..].iter().all(|effect| effect.coefficients[6] > 0.05));
            if warmup > 0 {
                assert_eq!(effects[8].max_norm, f64::from(scale));
                assert!(effects[10].coefficients.iter().all(|&c| c == 1.0));
            }
        }
    }
}

fn clip_by_percentile(gpu: &Gpu) {
    let cases =
        [(1, 50.0, 1), (2, 30.0, 1), (7, 10.0, 3), (64, 0.0, 5), (64, 100.0, 64), (100, 90.0, 25)];
    for (history, percentile, warmup) in cases {
        for scale in if history == 7 { vec![1.0, 1e-30, 1e35] } else { vec![1.0] } {
            let mut steps = steps(180, scale);
            for i in [20, 90, 91] {
                steps[i].norm *= 100.0;
            }
            for i in [21, 92] {
                steps[i].overflows = true;
                steps[i].norm = f32::MAX;
            }
            percentiles(gpu, history, percentile, warmup, &steps);
        }
    }
    // The longest history, and norms that are equal or 0.
    let mut long = steps(1100, 1.0);
    for step in &mut long[300..400] {
        step.norm = 0.75;
    }
    for step in &mut long[500..520] {
        step.norm = 0.0;
    }
    percentiles(gpu, LONGEST_HISTORY, 10.0, 25, &long);
}

fn percentiles(gpu: &Gpu, history: u32, percentile: f32, warmup: u32, steps: &[Step]) {
    let mut bench = Bench::new(gpu, 4 + history as usize);
    let dispatch = gpu.prepare(&ClipByPercentile {
        params: ClipByPercentileParams {
            history,
            sorted: history.next_power_of_two(),
            share: percentile / 100.0,
            warmup,
        },
        memory: bench.memory.as_entire_buffer_binding(),
        state: bench.state.as_entire_buffer_binding(),
    });
    let mut memory = reference::PercentileMemory::default();
    let settings = (history as usize, f64::from(percentile) / 100.0, warmup as usize);
    let what = format!("{history} norms, percentile {percentile}");
    let effects = bench.compare(&what, &dispatch, steps, |step, effect| {
        reference::clip_by_percentile(settings, &mut memory, step, effect);
    });
    assert!(effects.iter().any(|effect| has(effect, Event::ClippedHarder)));
}

/// One tensor of units: weights and gradients, rows of `cols` elements.
struct Units {
    units: usize,
    cols: usize,
    weight: Vec<f32>,
    gradient: Vec<f32>,
}

/// Clips and compares each unit. Returns the gradients.
fn clip_all(gpu: &Gpu, what: &str, case: &Units, clipping: f32, loss_scale: f32) -> Vec<f32> {
    let quads = case.cols.div_ceil(4) as u32;
    let table: Vec<_> =
        (0..case.units as u32).map(|u| ClipUnit { offset: u * quads, quads }).collect();
    let state = gpu.upload("state", &[StepState::new(loss_scale, 1)]);
    let units = gpu.upload("units", &table);
    let weight = gpu.upload("weight", &pad(&case.weight, case.cols));
    let gradient = gpu.upload("gradient", &pad(&case.gradient, case.cols));
    gpu.run(&ClipUnits {
        params: ClipUnitsParams { unit_count: case.units as u32, clipping, eps: 1e-3 },
        state: state.as_entire_buffer_binding(),
        units: units.as_entire_buffer_binding(),
        weight: weight.as_entire_buffer_binding(),
        gradient: gradient.as_entire_buffer_binding(),
    });
    let padded = block_on(gpu.read(&gradient, 0, case.units * quads as usize * 4));
    let clipped = unpad(&padded.expect("readable"), case.cols);
    let rows = case.weight.chunks(case.cols).zip(case.gradient.chunks(case.cols));
    for (u, ((w, g), found)) in rows.zip(clipped.chunks(case.cols)).enumerate() {
        let unscaled: Vec<_> = wide(g).iter().map(|g| g / f64::from(loss_scale)).collect();
        let expected = reference::clip_units(clipping.into(), 1e-3, &wide(w), &unscaled);
        let largest = expected.iter().fold(0.0, |largest: f64, g| largest.max(g.abs()));
        let is_finite = g.iter().all(|g| g.is_finite() && g.abs() < f32::MAX);
        if !is_finite || largest == 0.0 || expected == unscaled {
            let same = found.iter().zip(g).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{what}, unit {u}: touched");
            continue;
        }
        // In units of the largest, which may be near either end of f32.
        let ratio = |g: f64| g / largest / f64::from(loss_scale);
        let found: Vec<_> = found.iter().map(|&g| ratio(g.into()) as f32).collect();
        let expected: Vec<_> = expected.iter().map(|g| g / largest).collect();
        let because = "two norms of up to 8,000 squares, and elements that vanish beside others";
        let tolerance = Tolerance { absolute: 1e-6, relative: 1e-5, because };
        assert_close(&format!("{what}, unit {u}"), &found, &expected, tolerance);
    }
    clipped
}

fn clip_units(gpu: &Gpu) {
    for cols in [1, 3, 4, 255, 256, 257, 8009] {
        for (gradient_scale, loss_scale) in
            [(1.0, 1.0), (1e-4, 1.0), (1e20, 1.0), (3e37, 1.0), (1e-22, 1.0), (1e6, 65_536.0)]
        {
            let units = 3;
            let mut gradient = values(7, units * cols);
            gradient.iter_mut().for_each(|g| *g *= gradient_scale);
            let mut weight = values(8, units * cols);
            // One unit starts at 0.
            weight[cols..2 * cols].fill(0.0);
            let case = Units { units, cols, weight, gradient };
            let what = format!("{cols} columns, {gradient_scale}, {loss_scale}");
            clip_all(gpu, &what, &case, 0.01, loss_scale);
        }
    }
    faults_stay(gpu);
    many_units(gpu);
}

/// NaN, Inf and the largest f32 pass bit by bit, and so does all of their unit.
fn faults_stay(gpu: &Gpu) {
    let faults = [0x7fc0_0001, 0xff80_0000, 0x7f80_0000, 0x7fa5_5555, 0x7f7f_ffff];
    let (units, cols) = (faults.len() + 1, 9);
    let mut gradient = values(3, units * cols);
    for (unit, bits) in faults.into_iter().enumerate() {
        gradient[unit * cols + unit] = f32::from_bits(bits);
    }
    let before = gradient.clone();
    let weight = vec![0.5; units * cols];
    let case = Units { units, cols, weight, gradient };
    let after = clip_all(gpu, "faults", &case, 0.01, 1.0);
    for (unit, (a, b)) in after.chunks(cols).zip(before.chunks(cols)).enumerate() {
        let same = a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        assert_eq!(same, unit < faults.len(), "unit {unit}");
    }
}

/// More workgroups than one dimension of a grid has.
fn many_units(gpu: &Gpu) {
    let units = 65_537;
    let case = Units { units, cols: 1, weight: vec![1.0; units], gradient: vec![3.0; units] };
    let clipped = clip_all(gpu, "many units", &case, 0.5, 1.0);
    assert!(clipped.iter().all(|&g| (g - 0.5).abs() < 1e-6));
}
