//! Whole optimizers as a trainer records them, behind a real scan and verdict, beside the same rule
//! in f64: tensors of every kind, steps that are skipped, memory that is emptied, and gradients at
//! the ends of f32.

mod rule;
mod run;

use evenkeel::Gpu;
use evenkeel::reference::step::{Norm, VerdictSettings};
pub use rule::Rule;
use run::drawn;
pub use run::{Run, specs};

use super::frame::{clip, plain};
use super::support::{Tolerance, assert_close, read, unpad};
use super::{frame, support};

/// Names and dimensions: empty tensors first and last, matrices of one shape apart, rows with
/// padding, more than one tile and more than one chunk.
const TENSORS: [(&str, &[usize]); 12] = [
    ("empty", &[0]),
    ("bias", &[5]),
    ("blocks.0.weight", &[12, 20]),
    ("long", &[2049]),
    ("blocks.1.weight", &[12, 20]),
    ("token_embedding.weight", &[70, 9]),
    ("blocks.2.weight", &[21, 13]),
    ("stack", &[2, 7, 10]),
    ("wide.weight", &[3, 300]),
    ("one", &[1]),
    ("column.weight", &[6, 1]),
    ("none.weight", &[0, 4]),
];

const HUNDRED_STEPS: Tolerance = Tolerance {
    absolute: 6e-6,
    relative: 1e-6,
    because: "100 steps of size 0.01, each rounding a weight near 1 and a step of a few dozen \
              operations",
};

fn rates() -> Vec<f64> {
    (0..100u32).map(|t| f64::from(0.01 * (1.0 - t as f32 / 200.0))).collect()
}

/// Against f64: some steps clipped by norm, and 10 clipped otherwise or not at all.
fn check_steps(gpu: &Gpu, rule: Rule, steps: u64) {
    for (steps, verdict) in [
        (steps, clip(Norm::L2, 20.0)),
        (10, plain()),
        (10, clip(Norm::Max, 0.5)),
        (10, VerdictSettings { clip_value: 0.25, ..clip(Norm::L2, 40.0) }),
    ] {
        let what = format!("{:?} {}", verdict.norm, verdict.clip_value);
        let verdict = VerdictSettings { learning_rates: rates(), ..verdict };
        let specs = specs(&TENSORS);
        let weights = drawn(&specs, 1);
        let mut run = Run::new(gpu, rule, verdict, specs, &weights);
        for t in 0..steps {
            run.step(&drawn(&run.specs, 100 + 20 * t));
            if t == 0 || t == 9 {
                run.compare(&format!("{what}, step {t}"), HUNDRED_STEPS);
            }
        }
        run.compare(&what, HUNDRED_STEPS);
    }
}

fn small(gpu: &Gpu, rule: Rule) -> Run<'_> {
    let verdict = VerdictSettings { learning_rates: rates(), ..clip(Norm::L2, 20.0) };
    let specs = specs(&TENSORS);
    let weights = drawn(&specs, 1);
    Run::new(gpu, rule, verdict, specs, &weights)
}

/// A bad step changes nothing, and the good step after it is the good step alone.
fn check_skip(gpu: &Gpu, rule: Rule) {
    let (mut skipping, mut control) = (small(gpu, rule), small(gpu, rule));
    let mut places = (0..TENSORS.len()).filter(|&i| TENSORS[i].1.iter().product::<usize>() > 0);
    for t in 0..3 {
        let before = skipping.bits();
        for bits in [0x7fc0_0000u32, 0x7f80_0001, 0xff80_0000] {
            let mut bad = drawn(&skipping.specs, 500 + 20 * t);
            let tensor = places.next().expect("nine tensors that are not empty");
            let last = bad[tensor].len() - 1;
            bad[tensor][last] = f32::from_bits(bits);
            skipping.step(&bad);
            assert!(skipping.bits() == before, "{rule:?}: step {t}, {bits:#x} in {tensor}");
        }
        let good = drawn(&skipping.specs, 600 + 20 * t);
        skipping.step(&good);
        control.step(&good);
        assert!(skipping.bits() != before, "{rule:?}: step {t} changed nothing");
        assert!(skipping.bits() == control.bits(), "{rule:?}: step {t}");
    }
}

/// At a tensor's first step it does not matter what its memory holds.
fn check_empty_memory(gpu: &Gpu, rule: Rule) {
    let (mut dirty, mut clean) = (small(gpu, rule), small(gpu, rule));
    for buffer in &dirty.moments {
        let garbage = vec![0x7fc0_0000u32; buffer.size() as usize / 4];
        gpu.write(buffer, 0, bytemuck::cast_slice(&garbage));
    }
    for t in 0..2 {
        let gradient = drawn(&dirty.specs, 700 + 20 * t);
        dirty.step(&gradient);
        clean.step(&gradient);
    }
    // What belongs to no tensor keeps its garbage.
    let pairs = dirty.bits().into_iter().zip(clean.bits());
    let differing: Vec<_> = pairs.filter(|(a, b)| a != b).collect();
    assert!(differing.iter().all(|&pair| pair == (0x7fc0_0000, 0)), "{rule:?}: {differing:x?}");
    assert!(differing.len() < 256, "{rule:?}: {} words", differing.len());

    let mut run = small(gpu, rule);
    for t in 0..6 {
        if t == 3 {
            [1, 2, 5, 8].into_iter().for_each(|tensor| run.reset(tensor));
        }
        run.step(&drawn(&run.specs, 800 + 20 * t));
    }
    run.compare("after a reset", HUNDRED_STEPS);
}

/// Gradients of zero with nothing kept do nothing: no NaN from 0 / 0.
fn check_zeros(gpu: &Gpu, rule: Rule) {
    let mut run = small(gpu, rule.undecayed());
    let before = run.bits();
    let zeros: Vec<_> = run.weights.iter().map(|w| vec![0.0; w.len()]).collect();
    run.step(&zeros);
    run.step(&zeros);
    assert_eq!(run.bits(), before, "{rule:?}");
}

/// Without a clip gradients near the ends of f32 give finite steps, and the right ones.
fn check_extremes(gpu: &Gpu, rule: Rule) {
    let tensors: [(&str, &[usize]); 3] =
        [("b", &[8]), ("a.weight", &[2, 8]), ("c.weight", &[9, 3])];
    for scale in [1e30, 1e18, 1e-12] {
        let specs = specs(&tensors);
        let weights = drawn(&specs, 1);
        let mut run = Run::new(
            gpu,
            rule,
            VerdictSettings { learning_rates: vec![0.01], ..plain() },
            specs,
            &weights,
        );
        let mut gradient = drawn(&run.specs, 2);
        gradient.iter_mut().flatten().for_each(|g| *g *= scale);
        run.step(&gradient);
        let tolerance = Tolerance { absolute: 1e-6, relative: 1e-6, because: "some roundings" };
        let what = format!("{rule:?}, gradients of {scale:e}");
        let weight = read(gpu, &run.weight);
        for (i, spec) in run.specs.iter().enumerate() {
            let padded = &weight[run.offsets[i]..][..4 * spec.shape.quads()];
            let dense = unpad(padded, spec.shape.cols());
            assert_close(&what, &dense, &run.weights[i], tolerance);
        }
        let kept = run.moments.iter().flat_map(|buffer| read(gpu, buffer));
        assert!(kept.into_iter().all(f32::is_finite), "{what}");
        for _ in 0..3 {
            run.step(&gradient);
        }
        let all = std::iter::once(&run.weight).chain(&run.moments);
        assert!(all.flat_map(|buffer| read(gpu, buffer)).all(f32::is_finite), "{what}");
    }
}

/// Ten steps at one learning rate.
pub fn check_constant_rate(gpu: &Gpu, rule: Rule, rate: f64) {
    let verdict = VerdictSettings { learning_rates: vec![rate], ..clip(Norm::L2, 20.0) };
    let specs = specs(&TENSORS);
    let weights = drawn(&specs, 1);
    let mut run = Run::new(gpu, rule, verdict, specs, &weights);
    for t in 0..10 {
        run.step(&drawn(&run.specs, 100 + 20 * t));
    }
    run.compare("at one rate", HUNDRED_STEPS);
}

/// Many short tensors, some of them empty.
pub fn check_many_tensors(gpu: &Gpu, rule: Rule, count: usize) {
    let dims = (0..count).map(|i| if i % 3 == 0 { vec![i % 10] } else { vec![2, 1 + i % 5] });
    let dims: Vec<Vec<usize>> = dims.collect();
    let tensors: Vec<_> = dims.iter().map(|dims| ("w", &dims[..])).collect();
    let specs = specs(&tensors);
    let weights = drawn(&specs, 1);
    let verdict = VerdictSettings { learning_rates: vec![0.01], ..clip(Norm::L2, 1.0) };
    let mut run = Run::new(gpu, rule, verdict, specs, &weights);
    let gradient: Vec<Vec<_>> =
        weights.iter().map(|w| w.iter().map(|w| w * 3.0).collect()).collect();
    run.step(&gradient);
    run.compare(&format!("{count} tensors"), HUNDRED_STEPS);
}

/// All of the above but many tensors.
pub fn check(gpu: &Gpu, rule: Rule) {
    check_steps(gpu, rule, 100);
    check_skip(gpu, rule);
    check_empty_memory(gpu, rule);
    check_zeros(gpu, rule);
    check_extremes(gpu, rule);
}

/// Steps alone, for an option of a rule that was checked.
pub fn check_option(gpu: &Gpu, rule: Rule) {
    check_steps(gpu, rule, 20);
    check_skip(gpu, rule);
}
