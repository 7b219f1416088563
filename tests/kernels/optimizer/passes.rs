//! What rules need to know of a whole tensor.

use evenkeel::Gpu;
use evenkeel::kernels::*;
use evenkeel::reference::optimizer as reference;
use evenkeel::reference::step::State;
use evenkeel::train;

use super::frame::{Flat, flatten, plain};
use super::runs::{self, Rule};
use super::support::{Tolerance, assert_close, read, values, wide};
use super::{
    ADAMW, BETA, EXACT, LENGTHS, PARTIAL, applied, applied_state, bind, tensor_at, tensors,
};

/// What partial sums per chunk are made of, and what they should be.
struct Sums {
    flat: Flat,
    gradients: Vec<Vec<f32>>,
    kept: Vec<Vec<f32>>,
    steps: Vec<u32>,
    state: wgpu::Buffer,
    chunks: wgpu::Buffer,
    tensors: wgpu::Buffer,
    gradient: wgpu::Buffer,
    moment: wgpu::Buffer,
    partials: wgpu::Buffer,
}

impl Sums {
    /// Tensors of all lengths at their first and later steps; `kept` maps what is drawn to what an
    /// optimizer could have kept.
    fn new(gpu: &Gpu, kept: impl Fn(f32) -> f32) -> Self {
        let gradients: Vec<Vec<f32>> = tensors(1, &LENGTHS);
        let kept: Vec<Vec<f32>> =
            tensors(50, &LENGTHS).iter().map(|t| t.iter().map(|&x| kept(x)).collect()).collect();
        let scaled: Vec<Vec<f32>> =
            gradients.iter().map(|g| g.iter().map(|g| g * 12.0).collect()).collect();
        let (flat, moment) = (flatten(&scaled), flatten(&kept));
        let steps: Vec<u32> = (0..LENGTHS.len() as u32).map(|i| 1 + i % 3).collect();
        let states: Vec<_> = steps.iter().map(|&steps| tensor_at(steps, BETA)).collect();
        Self {
            gradients: scaled,
            kept,
            steps,
            state: gpu.upload("state", &[applied()]),
            chunks: gpu.upload("chunks", &flat.chunks),
            tensors: gpu.upload("tensors", &states),
            gradient: gpu.upload("gradient", &flat.elements),
            moment: gpu.upload("moment", &moment.elements),
            partials: gpu.buffer("partials", 4 * flat.chunks.len() as u64),
            flat,
        }
    }

    fn chunk_count(&self) -> u32 {
        self.flat.chunks.len() as u32
    }

    /// Compares with what `sum` makes of the state, gradient and memory of each chunk.
    fn compare(
        &self,
        gpu: &Gpu,
        tolerance: Tolerance,
        sum: impl Fn(&State, &[f64], &[f64]) -> f64,
    ) {
        let partials = read(gpu, &self.partials);
        for (chunk, &partial) in self.flat.chunks.iter().zip(&partials) {
            let tensor = chunk.tensor as usize;
            let (first, _) = self.flat.table[tensor];
            let start = 4 * chunk.offset as usize - first as usize;
            let share = start..start + chunk.elements as usize;
            let steps = self.steps[tensor];
            let state = applied_state(steps, BETA);
            let kept = wide(&self.kept[tensor][share.clone()]);
            let kept = if steps == 1 { vec![0.0; kept.len()] } else { kept };
            let expected = sum(&state, &wide(&self.gradients[tensor][share]), &kept);
            assert_close(&format!("{chunk:?}"), &[partial], &[expected], tolerance);
        }
    }
}

pub fn agreement(gpu: &Gpu) {
    let sums = Sums::new(gpu, |x| 3.0 * x);
    gpu.run(&Agreement {
        params: AgreementParams {
            chunk_count: sums.chunk_count(),
            beta1: 0.75,
            one_minus_beta1: 0.25,
        },
        state: bind(&sums.state),
        chunks: bind(&sums.chunks),
        tensors: bind(&sums.tensors),
        gradient: bind(&sums.gradient),
        m: bind(&sums.moment),
        partials: bind(&sums.partials),
    });
    sums.compare(gpu, EXACT, |state, gradient, m| reference::agreement(BETA, state, gradient, m));
}

pub fn squared_ratio(gpu: &Gpu) {
    for eps in [1e-6, 0.5, 0.0, 1e-30] {
        let sums = Sums::new(gpu, |x| x * x * x * x);
        gpu.run(&SquaredRatio {
            params: SquaredRatioParams {
                chunk_count: sums.chunk_count(),
                beta2: 0.75,
                one_minus_beta2: 0.25,
                eps: eps as f32,
            },
            state: bind(&sums.state),
            chunks: bind(&sums.chunks),
            tensors: bind(&sums.tensors),
            gradient: bind(&sums.gradient),
            v: bind(&sums.moment),
            partials: bind(&sums.partials),
        });
        sums.compare(gpu, PARTIAL, |state, gradient, v| {
            reference::squared_ratio(BETA, eps, state, gradient, v)
        });
    }
}

pub fn moment_statistics(gpu: &Gpu) {
    for eps in [1e-8f32, 0.3, 0.0, 1e30] {
        let sums = Sums::new(gpu, |x| if x < -0.5 { 0.0 } else { x * x });
        gpu.run(&MomentStatistics {
            params: MomentStatisticsParams { chunk_count: sums.chunk_count(), eps },
            chunks: bind(&sums.chunks),
            tensors: bind(&sums.tensors),
            v: bind(&sums.moment),
            partials: bind(&sums.partials),
        });
        for (chunk, &count) in sums.flat.chunks.iter().zip(&read(gpu, &sums.partials)) {
            let tensor = chunk.tensor as usize;
            let start = 4 * chunk.offset as usize - sums.flat.table[tensor].0 as usize;
            let v = wide(&sums.kept[tensor][start..start + chunk.elements as usize]);
            let correction = applied_state(sums.steps[tensor], BETA).bias_correction2;
            let expected = reference::moment_statistics(eps.into(), correction, &v);
            assert_close(&format!("{chunk:?}, eps {eps}"), &[count], &[expected], EXACT);
        }
    }
    check_eps_shares(gpu);
}

/// The shares an optimizer records: of elements, not of padding.
fn check_eps_shares(gpu: &Gpu) {
    let adamw = train::AdamW { eps: 0.1, betas: [0.0, 0.5], ..ADAMW };
    let stable = train::StableAdamW { eps: 0.1, betas: [0.0, 0.5], ..Default::default() };
    let muon = train::Muon { adamw, hidden: |_| false, ..Default::default() };
    let amsgrad = train::AdamW { amsgrad: true, ..adamw };
    for rule in [
        Rule::AdamW(adamw),
        Rule::AdamW(amsgrad),
        Rule::Adam(train::Adam { eps: 0.1, betas: [0.0, 0.5], ..Default::default() }),
        Rule::StableAdamW(stable),
        Rule::Muon(muon),
    ] {
        let mut run = runs::Run::vector(gpu, rule, plain(), &[1.0; 7]);
        run.step(&[vec![0.0, 0.05, -0.09, 0.11, -3.0, 1.0, 1.0]]);
        let shares = run.eps_shares().expect("an optimizer with eps");
        assert!((shares[0] - 3.0 / 7.0).abs() < 1e-6, "{rule:?}: {shares:?}");
    }
    for rule in [Rule::Lion(Default::default()), Rule::AdamAtan2(Default::default())] {
        assert!(runs::Run::vector(gpu, rule, plain(), &[1.0; 7]).eps_shares().is_none());
    }
}

pub fn tensor_factors(gpu: &Gpu) {
    let partials: Vec<f32> = values(1, 70_000).iter().map(|x| x * x).collect();
    let counts = [0u32, 1, 3, 63, 64, 65, 1023, 1024, 1025, 5000, 60_000];
    let (mut ranges, mut first) = (Vec::new(), 0);
    for (target_index, count) in (0..).zip(counts) {
        let elements = 3 * count + 1;
        ranges.push(TensorRange { first, count, elements, target_index: 10 - target_index });
        first += count;
    }
    let device = (gpu.upload("ranges", &ranges), gpu.upload("partials", &partials));
    for (rule, bound) in [
        (RULE_MEAN, 0.0),
        (RULE_ROOT_MEAN, 0.0),
        (RULE_INVERSE_AT_LEAST, 1e-3),
        (RULE_INVERSE_AT_LEAST, 0.2),
        (RULE_INVERSE_ROOT_ABOVE, 0.25),
        (RULE_INVERSE_ROOT_ABOVE, 1.0),
        (RULE_COMPLEMENT, 0.0),
    ] {
        let factors = gpu.upload("factors", &[f32::NAN; 12]);
        gpu.run(&TensorFactors {
            params: TensorFactorsParams { range_count: 11, rule, bound },
            ranges: bind(&device.0),
            partials: bind(&device.1),
            factors: bind(&factors),
        });
        let found = read(gpu, &factors);
        for range in &ranges {
            let share = &partials[range.first as usize..(range.first + range.count) as usize];
            let elements = range.elements as usize;
            let expected = reference::tensor_factors(rule, bound.into(), &wide(share), elements);
            let what = format!("rule {rule}, {range:?}");
            assert_close(&what, &[found[range.target_index as usize]], &[expected], PARTIAL);
        }
        assert!(found[11].is_nan());
    }
    check_many_ranges(gpu);
}

/// More tensors than a dimension of a grid takes.
fn check_many_ranges(gpu: &Gpu) {
    let count = 70_001;
    let partials = values(1, count as usize);
    let ranges: Vec<_> = (0..count)
        .map(|i| TensorRange { first: i, count: 1, elements: 1, target_index: count - 1 - i })
        .collect();
    let factors = gpu.buffer("factors", 4 * u64::from(count));
    gpu.run(&TensorFactors {
        params: TensorFactorsParams { range_count: count, rule: RULE_MEAN, bound: 0.0 },
        ranges: bind(&gpu.upload("ranges", &ranges)),
        partials: bind(&gpu.upload("partials", &partials)),
        factors: bind(&factors),
    });
    let found = read(gpu, &factors);
    assert!(found.iter().zip(partials.iter().rev()).all(|(found, partial)| found == partial));
}

pub fn weight_squares(gpu: &Gpu) {
    for scale in [1.0, 1e13, 1e30] {
        let sums = Sums::new(gpu, |x| x * scale);
        gpu.run(&WeightSquares {
            params: WeightSquaresParams { chunk_count: sums.chunk_count() },
            chunks: bind(&sums.chunks),
            weight: bind(&sums.moment),
            partials: bind(&sums.partials),
        });
        for (chunk, &sum) in sums.flat.chunks.iter().zip(&read(gpu, &sums.partials)) {
            let tensor = chunk.tensor as usize;
            let start = 4 * chunk.offset as usize - sums.flat.table[tensor].0 as usize;
            let weight = wide(&sums.kept[tensor][start..start + chunk.elements as usize]);
            let expected = reference::weight_squares(&weight);
            assert_close(&format!("{chunk:?}"), &[sum], &[expected], PARTIAL);
        }
    }
}
