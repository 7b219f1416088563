//! The optimizer's storages of weights: bits of what is stored, and single updates, which are exact
//! enough here for bits as well. An optimizer that adds what it is told, SGD with a gradient and no
//! more, stands for all; tests/weights.rs has the others.

use evenkeel::kernel::WeightStorage;
use evenkeel::kernels::*;
use evenkeel::reference::weights::{self as reference, Stored, Use};
use evenkeel::step::{APPLY, SKIP, StepState, TensorSettings, TensorState};
use evenkeel::{Gpu, Precision};

use super::support::{Tolerance, assert_close, block_on, gpu, values};

tests! {
    stochastic_rounding_has_the_bits_of_the_reference, stochastic_rounding_has_no_bias,
    stochastic_rounding_at_the_ends, kahan_compensation_has_the_bits_of_the_reference,
    a_thousand_small_steps, scaled_weights,
}

rows! { store_weights, load_weights, average_weights }

/// The stored bits of each element: the weights, and what is kept beside them.
fn bits(gpu: &Gpu, storage: WeightStorage, weight: &wgpu::Buffer) -> [Vec<u8>; 2] {
    let bytes: Vec<u8> = block_on(gpu.read(weight, 0, weight.size() as usize)).expect("readable");
    let share = storage.precision().quad_bytes() as usize;
    let (weights, beside) = bytes.split_at(bytes.len() * share / storage.quad_bytes() as usize);
    [weights.to_vec(), beside.to_vec()]
}

fn halves(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]))
}

/// The stored values as the reference has them.
fn decoded(storage: WeightStorage, [weights, beside]: &[Vec<u8>; 2]) -> Vec<Stored> {
    let weights = storage.precision().decode(weights);
    let beside: Vec<f64> = match storage {
        WeightStorage::F32 | WeightStorage::Bf16Stochastic => vec![0.0; weights.len()],
        WeightStorage::Bf16Kahan => {
            Precision::Bf16.decode(beside).into_iter().map(f64::from).collect()
        }
        WeightStorage::Bf16Split => halves(beside).map(|half| f64::from(half as i16)).collect(),
    };
    let stored = |(weight, beside)| Stored { weight, beside };
    weights.into_iter().zip(beside).map(stored).collect()
}

/// A buffer for `count` weights, filled with ones in all bits.
fn storage_buffer(gpu: &Gpu, storage: WeightStorage, count: usize) -> wgpu::Buffer {
    gpu.upload("weight", &vec![0xffu8; count / 4 * storage.quad_bytes() as usize])
}

fn store(gpu: &Gpu, storage: WeightStorage, weight: &wgpu::Buffer, first: usize, x: &[f32]) {
    let quads = x.len() as u32 / 4;
    let x = gpu.upload("x", x);
    let store = StoreWeights {
        params: StoreWeightsParams { first: first as u32 / 4, quads },
        x: x.as_entire_buffer_binding(),
        weight: weight.as_entire_buffer_binding(),
    };
    gpu.run_as(&store, storage);
}

/// Every upper half with lower halves around those that decide: halves, ties, carries.
fn all_uppers() -> Vec<f32> {
    let lowers = [0u32, 1, 0x7fff, 0x8000, 0x8001, 0x1234, 0xabcd, 0xffff];
    let all = (0..=0xffffu32).flat_map(|upper| lowers.map(|lower| upper << 16 | lower));
    all.map(f32::from_bits).collect()
}

/// Of what Kahan loses at most 2^-9 is left, which may be subnormal, and be flushed.
fn may_be_flushed(storage: WeightStorage, x: f32) -> bool {
    storage == WeightStorage::Bf16Kahan && x.abs() < 1e-30
}

#[track_caller]
fn assert_stored(storage: WeightStorage, x: &[f32], found: &[Vec<u8>; 2]) {
    let expected = reference::store_weights(storage, x);
    let [host, host_beside] = storage.encode(x);
    assert!(found[0] == host, "{storage}: weights differ from the host's");
    for (i, (found, host)) in halves(&found[1]).zip(halves(&host_beside)).enumerate() {
        let sensible = x[i].is_finite() && !may_be_flushed(storage, x[i]);
        assert!(found == host || !sensible, "{storage}: {:#x}: beside", x[i].to_bits());
    }
    for ((&x, expected), found) in x.iter().zip(expected).zip(decoded(storage, found)) {
        let what = || format!("{storage}: {:#x}: {found:?}, not {expected:?}", x.to_bits());
        if x.is_nan() {
            assert!(found.weight.is_nan(), "{}", what());
            continue;
        }
        assert_eq!(found.weight.to_bits(), expected.weight.to_bits(), "{}", what());
        let sensible = expected.weight.is_finite() && !may_be_flushed(storage, x);
        assert!(found.beside == expected.beside || !sensible, "{}", what());
    }
}

fn store_weights(gpu: &Gpu) {
    for storage in WeightStorage::ALL {
        let x = all_uppers();
        let weight = storage_buffer(gpu, storage, x.len());
        store(gpu, storage, &weight, 0, &x);
        assert_stored(storage, &x, &bits(gpu, storage, &weight));
        check_store_in_place(gpu, storage);
    }
}

/// A tensor in the middle of others, of every small number of quads.
fn check_store_in_place(gpu: &Gpu, storage: WeightStorage) {
    for quads in [1usize, 3, 64, 65, 257] {
        let (count, first) = (4 * quads, 12);
        // Flat buffers are multiples of 32 quads.
        let total = (first + count + 20).next_multiple_of(128);
        let weight = storage_buffer(gpu, storage, total);
        let x = values(quads as u64, count);
        store(gpu, storage, &weight, first, &x);
        let found = bits(gpu, storage, &weight);
        let inside = found.each_ref().map(|bytes| {
            let each = bytes.len() / total;
            let (inside, outside) = (first * each..(first + count) * each, bytes.len());
            let mut others = (0..inside.start).chain(inside.end..outside);
            assert!(others.all(|i| bytes[i] == 0xff), "{storage}: {quads} quads");
            bytes[inside].to_vec()
        });
        assert_stored(storage, &x, &inside);
    }
}

fn load_weights(gpu: &Gpu) {
    for storage in WeightStorage::ALL {
        let x = all_uppers();
        let [weights, beside] = storage.encode(&x);
        let weight = gpu.upload("weight", &[&weights[..], &beside].concat());
        let y = gpu.buffer("y", 4 * x.len() as u64);
        let load = LoadWeights {
            params: LoadWeightsParams { quads: x.len() as u32 / 4 },
            weight: weight.as_entire_buffer_binding(),
            y: y.as_entire_buffer_binding(),
        };
        gpu.run_as(&load, storage);
        let found = super::support::read(gpu, &y);
        let host = storage.decode(&weights, &beside);
        let stored = decoded(storage, &[weights, beside]);
        let expected = reference::load_weights(storage, &stored);
        for (i, (&found, expected)) in found.iter().zip(expected).enumerate() {
            let what = || format!("{storage}: {:#x}: {found:e}, not {expected:e}", x[i].to_bits());
            if !stored[i].weight.is_finite() && storage != WeightStorage::Bf16Split {
                assert!(!found.is_finite(), "{}", what());
            } else if x[i].is_nan() {
                assert!(found.is_nan(), "{}", what());
            } else if !may_be_flushed(storage, x[i]) {
                assert_eq!(found.to_bits(), (expected as f32).to_bits(), "{}", what());
                assert_eq!(found.to_bits(), host[i].to_bits(), "{}", what());
            }
        }
    }
}

const AVERAGE: Tolerance = Tolerance {
    absolute: 6e-7,
    relative: 0.0,
    because: "of numbers below 1: a difference, a quotient within 2.5 units, a product and a sum",
};

fn average_weights(gpu: &Gpu) {
    let settings = [(0.0, false), (0.5, false), (0.999, false), (0.999, true), (0.9999, true)];
    for storage in WeightStorage::ALL {
        for quads in [1usize, 3, 64, 1009] {
            check_average(gpu, storage, quads, (0.99, true, 5));
        }
        for (decay, warms_up) in settings {
            for t in [1, 2, 40, 100_000, u32::MAX] {
                check_average(gpu, storage, 65, (decay, warms_up, t));
            }
        }
        check_average_of_nonfinite(gpu, storage);
    }
    check_average(gpu, WeightStorage::F32, 65_535 * 64 + 3, (0.99, true, 7));
}

/// Runs the kernel over weights in a storage.
fn average(
    gpu: &Gpu,
    storage: WeightStorage,
    weight: &wgpu::Buffer,
    average: &wgpu::Buffer,
    (params, verdict, t): (AverageWeightsParams, u32, u32),
) {
    let state = StepState { verdict, applied_total: t, ..StepState::default() };
    let state = gpu.upload("state", &[state]);
    let kernel = AverageWeights {
        params,
        state: state.as_entire_buffer_binding(),
        weight: weight.as_entire_buffer_binding(),
        average: average.as_entire_buffer_binding(),
    };
    gpu.run_as(&kernel, storage);
}

/// A step that is applied, and one that is skipped; behind the last quad nothing changes.
fn check_average(
    gpu: &Gpu,
    storage: WeightStorage,
    quads: usize,
    (decay, warms_up, t): (f64, bool, u32),
) {
    let count = 4 * quads;
    let weights = values(1, (count + 4).next_multiple_of(128));
    let weight = storage_buffer(gpu, storage, weights.len());
    store(gpu, storage, &weight, 0, &weights);
    let before = values(2, count + 4);
    let buffer = gpu.upload("average", &before);
    let share = (1.0 - decay) as f32;
    let params = AverageWeightsParams { quads: quads as u32, share, warms_up: u32::from(warms_up) };
    average(gpu, storage, &weight, &buffer, (params, SKIP, t));
    let what = format!("{storage}: {quads} quads, decay {decay}, step {t}");
    assert!(super::support::read(gpu, &buffer) == before, "{what}: skipped");

    average(gpu, storage, &weight, &buffer, (params, APPLY, t));
    let found = super::support::read(gpu, &buffer);
    let stored = decoded(storage, &bits(gpu, storage, &weight));
    let weights = reference::load_weights(storage, &stored);
    let old: Vec<_> = before.iter().map(|&x| f64::from(x)).collect();
    let expected = reference::average_weights(&old[..count], &weights, decay, warms_up, t);
    assert_close(&what, &found[..count], &expected, AVERAGE);
    assert_eq!(found[count..], before[count..], "{what}: behind the end");
}

/// The average of a weight that left f32 is what it was; its neighbours go on.
fn check_average_of_nonfinite(gpu: &Gpu, storage: WeightStorage) {
    let mut weights = vec![0.5f32; 128];
    for (index, x) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().enumerate() {
        weights[5 * index] = x;
    }
    let weight = storage_buffer(gpu, storage, weights.len());
    store(gpu, storage, &weight, 0, &weights);
    let buffer = gpu.upload("average", &[1.0f32; 128]);
    let params = AverageWeightsParams { quads: 32, share: 0.5, warms_up: 0 };
    average(gpu, storage, &weight, &buffer, (params, APPLY, 1));
    for (i, (found, weight)) in super::support::read(gpu, &buffer).iter().zip(weights).enumerate() {
        let expected = if weight.is_finite() { 0.75 } else { 1.0 };
        assert_eq!(*found, expected, "{storage}: {i}");
    }
}

/// Weights that SGD changes by -learning_rate * gradient, and nothing else happens.
struct Updates<'a> {
    gpu: &'a Gpu,
    storage: WeightStorage,
    weight: wgpu::Buffer,
    gradient: wgpu::Buffer,
    chunks: wgpu::Buffer,
    chunk_count: u32,
    tensors: wgpu::Buffer,
    state: wgpu::Buffer,
    unused: wgpu::Buffer,
    seed: u32,
    applied_total: u32,
}

impl<'a> Updates<'a> {
    fn new(gpu: &'a Gpu, storage: WeightStorage, seed: u32, start: &[f32]) -> Self {
        let weight = storage_buffer(gpu, storage, start.len());
        store(gpu, storage, &weight, 0, start);
        let chunks = chunks([(0, start.len() as u64)]);
        let settings = TensorSettings { weight_decay: 0.0, learning_rate: 1.0 };
        Self {
            gpu,
            storage,
            weight,
            gradient: gpu.buffer("gradient", 4 * start.len() as u64),
            chunk_count: chunks.len() as u32,
            chunks: gpu.upload("chunks", &chunks),
            tensors: gpu.upload("tensors", &[TensorState::from(settings)]),
            state: gpu.buffer("state", size_of::<StepState>() as u64),
            unused: gpu.buffer("unused", 16),
            seed,
            applied_total: 0,
        }
    }

    fn set_gradient(&self, gradient: &[f32]) {
        self.gpu.write(&self.gradient, 0, bytemuck::cast_slice(gradient));
    }

    fn step(&mut self, learning_rate: f32) {
        self.applied_total += 1;
        let state = StepState {
            verdict: APPLY,
            seed: self.seed,
            applied_total: self.applied_total,
            learning_rate,
            clip_coefficient: 1.0,
            gradient_scale: 1.0,
            gradient_prescale: 1.0,
            clip_value: f32::MAX,
            ..StepState::default()
        };
        self.gpu.write(&self.state, 0, bytemuck::bytes_of(&state));
        let bind = wgpu::Buffer::as_entire_buffer_binding;
        let sgd = Sgd {
            params: SgdParams {
                chunk_count: self.chunk_count,
                momentum: 0.0,
                dampening: 0.0,
                nesterov: 0,
                weight_decay: 0.0,
            },
            state: bind(&self.state),
            chunks: bind(&self.chunks),
            tensors: bind(&self.tensors),
            gradient: bind(&self.gradient),
            weight: bind(&self.weight),
            momentum_buffer: bind(&self.unused),
        };
        self.gpu.run_as(&sgd, self.storage);
    }

    fn stored(&self) -> Vec<Stored> {
        decoded(self.storage, &bits(self.gpu, self.storage, &self.weight))
    }

    /// The weights to compute with.
    fn weights(&self) -> Vec<f32> {
        self.stored().iter().map(|stored| stored.weight).collect()
    }

    /// What the stored values stand for.
    fn values(&self) -> Vec<f64> {
        reference::load_weights(self.storage, &self.stored())
    }
}

/// Weights and changes of sizes between 2^-12 and 4 times each other, both signs. Sums of f32 are
/// correctly rounded, and so the host knows them.
fn changes(seed: u64, count: usize) -> Vec<f32> {
    let size = |i: usize| 2f32.powi(i as i32 % 15 - 12);
    values(seed, count).iter().enumerate().map(|(i, x)| x * size(i)).collect()
}

/// The bits are those that the host gets, so they are the same on every adapter, and again.
fn stochastic_rounding_has_the_bits_of_the_reference() {
    let Some(gpu) = gpu() else { return };
    let storage = WeightStorage::Bf16Stochastic;
    let start = values(1, 8004);
    let run = |seed: u32| {
        let mut updates = Updates::new(&gpu, storage, seed, &start);
        let mut expected = updates.weights();
        for step in 1..=20 {
            let gradient = changes(10 + u64::from(step), start.len());
            updates.set_gradient(&gradient);
            updates.step(1.0);
            for (i, (w, g)) in expected.iter_mut().zip(gradient).enumerate() {
                let draw = reference::rounding_draw(seed, step, i, Use::Update);
                *w = reference::round_stochastically(*w - g, draw);
            }
            assert_eq!(updates.weights(), expected, "seed {seed}, step {step}");
        }
        expected
    };
    let first = run(7);
    assert_eq!(first, run(7));
    let other = run(8);
    let same = first.iter().zip(&other).filter(|(a, b)| a == b).count();
    assert!(same < first.len() / 2, "{same} of {} do not depend on the seed", first.len());
}

/// 32 values, each rounded a hundred thousand times, are right on average.
fn stochastic_rounding_has_no_bias() {
    let Some(gpu) = gpu() else { return };
    const DRAWS: usize = 100_000;
    let wanted: Vec<_> = values(5, 32).iter().map(|x| 50.0 * (x + 1.0)).collect();
    let exact: Vec<_> = wanted.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
    let all = wanted.iter().chain(&exact);
    let gradient: Vec<_> = all.flat_map(|x| std::iter::repeat_n(-x, DRAWS)).collect();
    let start = vec![0.0; gradient.len()];
    let mut updates = Updates::new(&gpu, WeightStorage::Bf16Stochastic, 3, &start);
    updates.set_gradient(&gradient);
    updates.step(1.0);
    let weights = updates.weights();
    let (rounded, unchanged) = weights.split_at(32 * DRAWS);
    for (draws, &x) in rounded.chunks(DRAWS).zip(&wanted) {
        let mean = draws.iter().map(|&w| f64::from(w)).sum::<f64>() / DRAWS as f64;
        let (x, error) = (f64::from(x), (mean - f64::from(x)).abs());
        assert!(error <= 3e-5 + 3e-5 * x, "{x}: mean {mean}");
        // The two neighbours are `unit` apart, and one is taken with probability `share`.
        let unit = 2f64.powi(x.log2().floor() as i32 - 7);
        let share = (x / unit).fract();
        let deviation = unit * (share * (1.0 - share) / DRAWS as f64).sqrt();
        assert!(error <= 4.0 * deviation, "{x}: mean {mean}, standard error {deviation}");
        let neighbours = [(x / unit).floor() * unit, (x / unit).ceil() * unit];
        assert!(draws.iter().all(|&w| neighbours.contains(&w.into())), "{x}: {neighbours:?}");
    }
    for (draws, &x) in unchanged.chunks(DRAWS).zip(&exact) {
        assert!(draws.iter().all(|&w| w.to_bits() == x.to_bits()), "{x} was changed");
    }
}

/// At the ends of the range: finite values stay finite, Inf and NaN what they are.
fn stochastic_rounding_at_the_ends() {
    let Some(gpu) = gpu() else { return };
    let largest = f32::from_bits(0x7f7f_0000);
    let ends = [f32::MAX, largest, f32::INFINITY, f32::NAN, f32::from_bits(0x7f80_0001), 1.0];
    let both = ends.iter().flat_map(|&x| [x, -x]).collect::<Vec<_>>();
    let gradient: Vec<_> = (0..1200).map(|i| -both[i % both.len()]).collect();
    // NaN and Inf come as weights: gradients that are not finite never get here.
    let start: Vec<_> = gradient.iter().map(|&g| if g.is_finite() { 0.0 } else { -g }).collect();
    let gradient: Vec<_> = gradient.iter().map(|&g| if g.is_finite() { g } else { 0.0 }).collect();
    let mut updates = Updates::new(&gpu, WeightStorage::Bf16Stochastic, 1, &start);
    updates.set_gradient(&gradient);
    updates.step(1.0);
    for (i, (&found, (start, g))) in
        updates.weights().iter().zip(start.iter().zip(&gradient)).enumerate()
    {
        if start.is_nan() {
            assert!(found.is_nan(), "{i}: NaN became {found}");
        } else if start.is_infinite() {
            // Decay takes part as well, and zero times Inf is NaN.
            assert!(!found.is_finite(), "{i}: {start} became {found}");
        } else {
            let draw = reference::rounding_draw(1, 1, i, Use::Update);
            let expected = reference::round_stochastically(-g, draw);
            assert_eq!(found, expected, "{i}: {}", -g);
            assert!(found.is_finite(), "{i}: {} became {found}", -g);
        }
    }
}

/// Weights and changes that are multiples of 2^-20 below 4: then all of it is exact in f32 until it
/// is rounded to bf16. A compiler that cancels the compensation is found out at once.
fn kahan_compensation_has_the_bits_of_the_reference() {
    let Some(gpu) = gpu() else { return };
    let fixed = |x: f32| (x * 2f32.powi(20)).round_ties_even() * 2f32.powi(-20);
    let start: Vec<_> = values(3, 2052).into_iter().map(fixed).collect();
    let mut updates = Updates::new(&gpu, WeightStorage::Bf16Kahan, 0, &start);
    let mut expected = updates.stored();
    let mut exact: Vec<_> = start.iter().map(|&w| f64::from(w)).collect();
    let mut compensated = 0;
    for step in 0..100 {
        let gradient: Vec<_> =
            values(100 + step, start.len()).into_iter().map(|x| fixed(x * 0.004)).collect();
        updates.set_gradient(&gradient);
        updates.step(1.0);
        for ((stored, exact), g) in expected.iter_mut().zip(&mut exact).zip(gradient) {
            *stored = reference::compensate(*stored, f64::from(-g));
            *exact -= f64::from(g);
            compensated += usize::from(stored.beside != 0.0);
        }
        assert_eq!(updates.stored(), expected, "step {step}");
    }
    assert!(compensated > 90 * start.len(), "only {compensated} compensations");
    // Each step rounds a compensation of at most 2^-8 to eight digits.
    for (value, exact) in updates.values().iter().zip(exact) {
        assert!((value - exact).abs() <= 100.0 * 2f64.powi(-17), "{value} instead of {exact}");
    }
}

/// 1 + 1000 * 0.001. In bf16 the neighbours of 1 are 2^-7 and 2^-8 away: rounding to nearest never
/// leaves it.
fn a_thousand_small_steps() {
    let Some(gpu) = gpu() else { return };
    let run = |storage| {
        let mut updates = Updates::new(&gpu, storage, 11, &[1.0; 256]);
        updates.set_gradient(&[-1.0; 256]);
        for _ in 0..1000 {
            updates.step(0.001);
        }
        (updates.values(), updates.weights())
    };
    let nearest = (0..1000).fold(half::bf16::ONE, |w, _| half::bf16::from_f32(w.to_f32() + 0.001));
    assert_eq!(nearest, half::bf16::ONE);

    let ulp = f64::from(half::bf16::EPSILON) * 2.0;
    let (values, weights) = run(WeightStorage::Bf16Kahan);
    assert!(weights.iter().all(|&w| (f64::from(w) - 2.0).abs() <= ulp), "{}", weights[0]);
    assert!(values.iter().all(|&w| (w - 2.0).abs() <= 0.005), "{}", values[0]);

    let (values, _) = run(WeightStorage::Bf16Stochastic);
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    // Each step goes up by 2^-7 with probability 0.128.
    let deviation = (1000.0 * 0.128 * 0.872f64).sqrt() * 2f64.powi(-7);
    assert!((mean - 2.0).abs() <= 0.1 && (mean - 2.0).abs() <= 4.0 * deviation / 16.0, "{mean}");
    assert!(values.iter().all(|w| (w - 2.0).abs() <= 4.5 * deviation), "{values:?}");

    let (single, _) = run(WeightStorage::F32);
    let (split, weights) = run(WeightStorage::Bf16Split);
    assert_eq!(single, split);
    assert!(single.iter().all(|w| (w - 2.0).abs() < 1e-4), "{}", single[0]);
    assert!(weights.iter().all(|&w| w == 2.0), "{}", weights[0]);
}

/// What QK-clip does: three quarters of all that is known of each weight of the queries, and all of it
/// of the keys.
fn scaled_weights() {
    let Some(gpu) = gpu() else { return };
    let (first, count) = (128, 2052);
    let (seed, applied_total) = (5, 17);
    for storage in WeightStorage::ALL {
        let start = values(2, 3 * count + 2 * first);
        let weight = storage_buffer(&gpu, storage, start.len().next_multiple_of(128));
        store(&gpu, storage, &weight, 0, &start);
        let before = decoded(storage, &bits(&gpu, storage, &weight));
        let verdict = APPLY;
        let state = StepState { verdict, seed, applied_total, ..StepState::default() };
        let (state, max_logit) =
            (gpu.upload("state", &[state]), gpu.upload("max_logit", &[4.0f32]));
        let clip = QkClip {
            params: QkClipParams {
                first: first as u32 / 4,
                heads: 1,
                kv_heads: 1,
                head_quads: count as u32 / 4,
                threshold: 3.0,
                alpha: 1.0,
            },
            state: state.as_entire_buffer_binding(),
            max_logit: max_logit.as_entire_buffer_binding(),
            weight: weight.as_entire_buffer_binding(),
        };
        gpu.run_as(&clip, storage);
        let after = decoded(storage, &bits(&gpu, storage, &weight));
        let known = reference::load_weights(storage, &before);
        for (i, (before, after)) in before.iter().zip(&after).take(start.len()).enumerate() {
            let head = i.checked_sub(first).map(|i| i / count);
            let scaled = known[i] as f32 * if head == Some(0) { 0.75 } else { 1.0 };
            let expected = if head.is_none() || head >= Some(2) {
                *before
            } else if storage == WeightStorage::Bf16Stochastic {
                let draw = reference::rounding_draw(seed, applied_total, i, Use::Scale);
                let weight = reference::round_stochastically(scaled, draw);
                Stored { weight, beside: 0.0 }
            } else {
                reference::store_weights(storage, &[scaled])[0]
            };
            assert_eq!(*after, expected, "{storage}: element {i}");
        }
    }
}
