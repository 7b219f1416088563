//! An optimizer that the crate does not have, in a trainer: RMSprop, a rule and its description.

#[macro_use]
mod support;

use evenkeel::kernel::{Fragment, Kernel};
use evenkeel::record::Recorder;
use evenkeel::train::optimizers::{Rule, Segment};
use evenkeel::train::{Adam, Optimizer, Trainer};
use evenkeel::{Error, Gpu, WeightStorage, update_rule};
use support::models::Terms;
use support::{Tolerance, assert_close, block_on};

tests! {
    it_steps_as_in_f64, a_skipped_step_changes_no_byte, it_moves_weights_in_every_storage,
    a_restored_run_goes_on_bit_by_bit, its_settings_are_checked, the_frame_is_that_of_the_crate,
}

const RMS_PROP: Fragment = Fragment {
    path: "rms_prop_update.wgsl",
    text: "
        // v = a v + (1-a) g^2, w -= lr (g / (sqrt(v) + eps) + decay w): RMSprop (Hinton 2012).
        struct Params {
            chunk_count: u32, weight_decay: f32,
            alpha: f32, one_minus_alpha: f32, eps: f32,
        }

        @group(0) @binding(6) var<storage, read_write> v: array<vec4<f32>>;

        fn advance(at: Place, w: vec4<f32>, g: vec4<f32>) -> vec4<f32> {
            let kept = params.alpha * remembered(v[at.index], at.tensor);
            let square = kept + params.one_minus_alpha * (g * g);
            v[at.index] = square;
            let update = g / (sqrt(max(square, vec4(1e-37))) + params.eps);
            return -at.learning_rate * (update + at.weight_decay * w);
        }",
};

update_rule! {
    /// RMSprop.
    pub RmsPropUpdate = [RMS_PROP];
    uniform RmsPropUpdateParams {
        /// Decay of the mean square.
        alpha: f32,
        /// 1 - alpha, rounded once.
        one_minus_alpha: f32,
        /// Added to its root.
        eps: f32,
    }
    buffers {
        /// Mean square, as the gradient, advanced.
        Write v,
    }
}

#[derive(Clone, Copy, Debug)]
struct RmsProp {
    learning_rate: f64,
    alpha: f64,
    eps: f64,
}

impl Optimizer for RmsProp {
    fn name(&self) -> &'static str {
        "RmsProp"
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn moments(&self) -> &'static [&'static str] {
        &["v"]
    }

    fn rule(&self, _recorder: &mut Recorder<'_>, segment: &Segment<'_>) -> Rule {
        Rule::new(RmsPropUpdateParams {
            chunk_count: segment.chunk_count,
            weight_decay: 0.0,
            alpha: self.alpha as f32,
            one_minus_alpha: (1.0 - self.alpha) as f32,
            eps: self.eps as f32,
        })
    }
}

const RMS_PROP_SETTINGS: RmsProp = RmsProp { learning_rate: 0.01, alpha: 0.9, eps: 1e-6 };

fn trainer(gpu: &Gpu, storage: WeightStorage) -> Trainer<Terms> {
    let builder = Trainer::builder(Terms::three()).optimizer(RMS_PROP_SETTINGS).seed(5);
    block_on(builder.weights(storage).build(gpu)).expect("builds")
}

fn it_steps_as_in_f64() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = trainer(&gpu, WeightStorage::F32);
    let read = |trainer: &Trainer<Terms>, i: usize| {
        block_on(trainer.parameters().read(&format!("w{i}"))).expect("weights")
    };
    let wide = |weights: Vec<f32>| weights.into_iter().map(f64::from).collect::<Vec<_>>();
    let mut expected: Vec<Vec<f64>> = (0..3).map(|i| wide(read(&trainer, i))).collect();
    let mut kept: Vec<Vec<f64>> = expected.iter().map(|w| vec![0.0; w.len()]).collect();
    for step in 0..10 {
        let data = trainer.model().data(step, 1);
        block_on(trainer.step(&data.batch())).expect("a step");
        for ((w, v), target) in expected.iter_mut().zip(&mut kept).zip(&data.targets) {
            let count = w.len() as f64;
            for ((w, v), target) in w.iter_mut().zip(v).zip(target) {
                let g = 2.0 * (*w - f64::from(*target)) / count;
                *v = RMS_PROP_SETTINGS.alpha * *v + (1.0 - RMS_PROP_SETTINGS.alpha) * g * g;
                *w -= RMS_PROP_SETTINGS.learning_rate * g / (v.sqrt() + RMS_PROP_SETTINGS.eps);
            }
        }
    }
    let because = "10 steps of at most 0.03, each a dozen roundings of weights below 2";
    let tolerance = Tolerance { absolute: 3e-6, relative: 0.0, because };
    for (i, expected) in expected.iter().enumerate() {
        assert_close(&format!("w{i}"), &read(&trainer, i), expected, tolerance);
    }
}

fn a_skipped_step_changes_no_byte() {
    let Some(gpu) = support::gpu() else { return };
    let mut trainer = trainer(&gpu, WeightStorage::F32);
    let good = trainer.model().data(1, 1);
    block_on(trainer.step(&good.batch())).expect("a step");
    let bytes = |trainer: &Trainer<Terms>| block_on(trainer.committed_bytes()).expect("bytes");
    let before = bytes(&trainer);
    let mut bad = good.clone();
    bad.factors[1][77] = f32::NAN;
    block_on(trainer.step(&bad.batch())).expect("a step");
    assert_eq!(bytes(&trainer), before);
    block_on(trainer.step(&good.batch())).expect("a step");
    assert!(bytes(&trainer) != before);
}

/// The rule knows nothing of how weights are stored: in bf16 they move as in f32, but for what
/// rounding does to gradients.
fn it_moves_weights_in_every_storage() {
    let Some(gpu) = support::gpu() else { return };
    let read =
        |trainer: &Trainer<Terms>| block_on(trainer.parameters().read("w1")).expect("weights");
    let distance = |a: &[f32], b: &[f32]| {
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f32>() / a.len() as f32
    };
    let runs = WeightStorage::ALL.map(|storage| {
        let mut trainer = trainer(&gpu, storage);
        let start = read(&trainer);
        for step in 0..5 {
            let data = trainer.model().data(step, 1);
            block_on(trainer.step(&data.batch())).expect("a step");
        }
        (start, read(&trainer))
    });
    for (storage, (start, end)) in WeightStorage::ALL.into_iter().zip(&runs) {
        assert!(distance(start, end) > 0.02, "{storage:?}: {}", distance(start, end));
        let apart = distance(end, &runs[0].1);
        assert!(apart < 2e-3, "{storage:?}: {apart}");
    }
}

/// What it keeps is in checkpoints.
fn a_restored_run_goes_on_bit_by_bit() {
    let Some(gpu) = support::gpu() else { return };
    let [mut first, mut second] = [(); 2].map(|()| trainer(&gpu, WeightStorage::F32));
    let data = first.model().data(1, 1);
    block_on(first.step(&data.batch())).expect("a step");
    let checkpoint = block_on(first.checkpoint()).expect("a checkpoint");
    block_on(second.restore(&checkpoint)).expect("the same model and optimizer");
    let [first, second] = [&mut first, &mut second].map(|trainer| {
        block_on(trainer.step(&data.batch())).expect("a step");
        block_on(trainer.committed_bytes()).expect("bytes")
    });
    assert_eq!(first, second);
}

fn its_settings_are_checked() {
    let Some(gpu) = support::gpu() else { return };
    let wrong = RmsProp { learning_rate: -1.0, ..RMS_PROP_SETTINGS };
    match block_on(Trainer::builder(Terms::three()).optimizer(wrong).build(&gpu)) {
        Err(Error::Setting { setting, .. }) => assert_eq!(setting, "learning_rate"),
        other => panic!("{:?}", other.map(|_| ())),
    }
}

/// What the crate's own optimizers have in front of their own buffers, and the same number of
/// dispatches.
fn the_frame_is_that_of_the_crate() {
    let names = RmsPropUpdate::DECLARATION.buffers.iter().map(|(name, _)| *name);
    let expected = ["state", "chunks", "tensors", "gradient", "weight", "v"];
    assert_eq!(names.collect::<Vec<_>>(), expected);
    #[cfg(feature = "contract")]
    evenkeel::kernel::contract::check(&RmsPropUpdate::DECLARATION).expect("declared as written");
    let Some(gpu) = support::gpu() else { return };
    let adam = Trainer::builder(Terms::three()).optimizer(Adam::default());
    let adam = block_on(adam.build(&gpu)).expect("builds").report();
    let own = trainer(&gpu, WeightStorage::F32).report();
    assert_eq!(own.update_dispatches, adam.update_dispatches);
}
