//! Norms over the whole range of f32. Those of any power are compared with f64. Exact ones are
//! compared bit by bit with big integers, and with bits written down here, which every adapter
//! must give.

use evenkeel::Gpu;
use evenkeel::kernels::*;
use evenkeel::reference::norm as reference;
use evenkeel::step::{Chunk, ScanPartial, StepState, TensorState};
use num_bigint::BigUint;

use super::step::NONFINITE;
use super::step::judge::{Flat, any_finite, flatten};
use super::support::{Tolerance, assert_close, block_on, values, wide};

rows! { gradient_scan_power, norm_fold, gradient_scan_exact, exact_fold, global_norm }

/// A norm of 0.
const ZERO: (f32, i32) = (0.0, -1024);

/// A gradient on the device, with the tables that divide it.
struct Setup<'g> {
    gpu: &'g Gpu,
    chunk_count: u32,
    chunks: wgpu::Buffer,
    gradient: wgpu::Buffer,
    /// The chunks of each tensor.
    segments: Vec<Segment>,
}

/// What a fold leaves: partials of segments, on the device and here, and their norms.
struct Folded<P> {
    buffer: wgpu::Buffer,
    sums: Vec<P>,
    norms: Vec<TensorNorm>,
}

impl<'g> Setup<'g> {
    fn new(gpu: &'g Gpu, flat: &Flat) -> Self {
        Self::with_chunks(gpu, &flat.elements, &flat.chunks, flat.table.len() as u32)
    }

    fn with_chunks(gpu: &'g Gpu, elements: &[f32], chunks: &[Chunk], tensors: u32) -> Self {
        Self {
            gpu,
            chunk_count: chunks.len() as u32,
            chunks: gpu.upload("chunks", chunks),
            gradient: gpu.upload("gradient", elements),
            segments: tensor_segments(chunks, tensors),
        }
    }

    fn exact(&self) -> wgpu::Buffer {
        let bytes = u64::from(self.chunk_count.max(1)) * size_of::<ExactSum>() as u64;
        let partials = self.gpu.buffer("partials", bytes);
        self.gpu.run(&GradientScanExact {
            params: GradientScanExactParams {
                chunk_count: self.chunk_count,
                overflow_bits: OVERFLOW_NONFINITE,
            },
            chunks: self.chunks.as_entire_buffer_binding(),
            gradient: self.gradient.as_entire_buffer_binding(),
            partials: partials.as_entire_buffer_binding(),
        });
        partials
    }

    fn powers(&self, power: f32) -> wgpu::Buffer {
        let partials = self.gpu.buffer("partials", 16 * u64::from(self.chunk_count));
        self.gpu.run(&GradientScanPower {
            params: GradientScanPowerParams {
                chunk_count: self.chunk_count,
                overflow_bits: OVERFLOW_NONFINITE,
                power,
            },
            chunks: self.chunks.as_entire_buffer_binding(),
            gradient: self.gradient.as_entire_buffer_binding(),
            partials: partials.as_entire_buffer_binding(),
        });
        partials
    }

    fn squares(&self) -> wgpu::Buffer {
        let partials = self.gpu.buffer("partials", 16 * u64::from(self.chunk_count));
        self.gpu.run(&GradientScan {
            params: GradientScanParams {
                chunk_count: self.chunk_count,
                overflow_bits: OVERFLOW_NONFINITE,
            },
            chunks: self.chunks.as_entire_buffer_binding(),
            gradient: self.gradient.as_entire_buffer_binding(),
            partials: partials.as_entire_buffer_binding(),
        });
        partials
    }
}

fn host<T: bytemuck::Pod>(gpu: &Gpu, buffer: &wgpu::Buffer, count: usize) -> Vec<T> {
    block_on(gpu.read(buffer, 0, count)).expect("readable")
}

/// Segments of parts, or of `members`.
fn exact_folded(
    gpu: &Gpu,
    parts: &wgpu::Buffer,
    segments: &[Segment],
    members: Option<&[u32]>,
) -> Folded<ExactSum> {
    let count = segments.len();
    let buffer = gpu.buffer("sums", (count.max(1) * size_of::<ExactSum>()) as u64);
    let norms = gpu.buffer("norms", (count.max(1) * size_of::<TensorNorm>()) as u64);
    let indirect = u32::from(members.is_some());
    gpu.run(&ExactFold {
        params: ExactFoldParams { segment_count: count as u32, indirect },
        segments: gpu.upload("segments", segments).as_entire_buffer_binding(),
        members: gpu.upload("members", members.unwrap_or(&[])).as_entire_buffer_binding(),
        parts: parts.as_entire_buffer_binding(),
        sums: buffer.as_entire_buffer_binding(),
        norms: norms.as_entire_buffer_binding(),
    });
    Folded { sums: host(gpu, &buffer, count), norms: host(gpu, &norms, count), buffer }
}

/// The same for sums of p-th powers; an infinite p stands for the largest magnitude.
fn folded(
    gpu: &Gpu,
    partials: &wgpu::Buffer,
    segments: &[Segment],
    members: Option<&[u32]>,
    power: f32,
) -> Folded<ScanPartial> {
    let count = segments.len();
    let buffer = gpu.buffer("sums", 16 * count as u64);
    let norms = gpu.buffer("norms", (count.max(1) * size_of::<TensorNorm>()) as u64);
    gpu.run(&NormFold {
        params: NormFoldParams {
            segment_count: count as u32,
            indirect: u32::from(members.is_some()),
            largest: u32::from(power.is_infinite()),
            power: if power.is_infinite() { 2.0 } else { power },
        },
        segments: gpu.upload("segments", segments).as_entire_buffer_binding(),
        members: gpu.upload("members", members.unwrap_or(&[])).as_entire_buffer_binding(),
        partials: partials.as_entire_buffer_binding(),
        sums: buffer.as_entire_buffer_binding(),
        norms: norms.as_entire_buffer_binding(),
    });
    Folded { sums: host(gpu, &buffer, count), norms: host(gpu, &norms, count), buffer }
}

fn everything(parts: usize) -> [Segment; 1] {
    [Segment { first: 0, count: parts as u32 }]
}

const POWERS: [f32; 9] = [0.1, 0.5, 1.0, 1.5, 2.0, 3.5, 4.0, 100.0, f32::INFINITY];

/// Each term is off by p times the errors of two logarithms and one of 2^y; a sum by up to 80
/// additions; the root divides the sum's error by p and has a logarithm of its own.
fn norm_tolerance(power: f32) -> Tolerance {
    let power = f64::from(power);
    let because = "logarithms, powers, additions of the sum and their share in its p-th root";
    let relative = if power.is_infinite() { 1.2e-7 } else { 4e-7 + 1.2e-6 / power };
    Tolerance { absolute: 0.0, relative, because }
}

#[track_caller]
fn assert_norm(what: &str, norm: &TensorNorm, expected: f64, power: f32) {
    if expected == 0.0 {
        assert_eq!((norm.significand, norm.exponent), ZERO, "{what}");
    } else if expected.is_infinite() {
        let pair = (norm.significand, norm.exponent);
        assert_eq!(pair, (1.0, NONFINITE_EXPONENT), "{what}");
        assert!(norm.nonfinite_count > 0, "{what}");
    } else {
        assert!((1.0..2.0).contains(&norm.significand), "{what}: {norm:?}");
        let ratio = norm.value() / expected;
        assert_close(what, &[ratio as f32], &[1.0], norm_tolerance(power));
    }
}

fn largest_bits(elements: &[f32]) -> u32 {
    elements.iter().map(|g| g.to_bits() & 0x7fff_ffff).max().unwrap_or(0)
}

/// The norm of each tensor, of three groups (one of them empty) and of everything.
#[track_caller]
fn check_norms(gpu: &Gpu, what: &str, tensors: &[Vec<f32>], power: f32) -> f64 {
    let flat = flatten(tensors);
    let setup = Setup::new(gpu, &flat);
    let scans: Vec<_> =
        tensors.iter().map(|t| reference::gradient_scan_power(&wide(t), power.into())).collect();
    let mut partials = vec![];
    if power == 2.0 || power.is_infinite() {
        partials.push(setup.squares());
    }
    if power.is_finite() {
        partials.push(setup.powers(power));
    }
    let mut norm = 0.0;
    for partials in partials {
        let each = folded(gpu, &partials, &setup.segments, None, power);
        for (t, (tensor, norm)) in tensors.iter().zip(&each.norms).enumerate() {
            let what = format!("{what}, p = {power}, tensor {t}");
            assert_norm(&what, norm, reference::norm_fold(&scans[t..=t], power.into()), power);
            assert_eq!(norm.max_bits, largest_bits(tensor), "{what}");
            assert_eq!(norm.nonfinite_count, scans[t].nonfinite_count, "{what}");
            assert_eq!(norm.zero_count, scans[t].zero_count, "{what}");
        }
        let groups: Vec<_> = (0..tensors.len() as u32).map(|t| t % 2 * 2).collect();
        let (segments, members) = group_segments(&groups, 3);
        let by_group = folded(gpu, &each.buffer, &segments, Some(&members), power);
        for (g, norm) in (0..).zip(&by_group.norms) {
            let what = format!("{what}, p = {power}, group {g}");
            let share = scans.iter().zip(&groups).filter(|&(_, &group)| group == g);
            let share: Vec<_> = share.map(|(scan, _)| *scan).collect();
            assert_norm(&what, norm, reference::norm_fold(&share, power.into()), power);
        }
        let total = folded(gpu, &by_group.buffer, &everything(3), None, power).norms[0];
        let what = format!("{what}, p = {power}, all");
        assert_norm(&what, &total, reference::norm_fold(&scans, power.into()), power);
        assert_eq!(total.max_bits, largest_bits(&tensors.concat()), "{what}");
        norm = total.value();
    }
    norm
}

fn gradient_scan_power(gpu: &Gpu) {
    check_power_accuracy(gpu);
    for power in [0.5, 1.0, 3.5] {
        for size in [1, 3, 4, 255, 256, 257, 1009, 2047, 2048, 2049, 65_537] {
            let mut gradient = values(size as u64, size);
            gradient.iter_mut().step_by(7).for_each(|g| *g = 0.0);
            gradient.iter_mut().skip(3).step_by(11).for_each(|g| *g = -0.0);
            check_norms(gpu, &format!("{size} elements"), &[gradient], power);
        }
    }
    // A sum of magnitudes is plain: integers add up exactly.
    let integers: Vec<_> = (0..2048).map(|i| (i % 64 + 64) as f32).collect();
    let sum: f32 = integers.iter().sum();
    let partials = Setup::new(gpu, &flatten(&[integers])).powers(1.0);
    let partial: ScanPartial = host(gpu, &partials, 1)[0];
    assert_eq!(partial.scaled_sum * 64.0, sum);
}

/// One element of 1 and 2,047 of x sum to 1 + 2047 x^p with no rounding to speak of but the
/// power's own: equal terms are doubled exactly.
fn check_power_accuracy(gpu: &Gpu) {
    let mut bits: Vec<_> = (0..64).map(|i| 0x3f7f_ffff - i * i * i * 29).collect();
    bits.extend((1..60).map(|i| 0x3f80_0000 - i * 0x1_4321));
    let tensors = bits.iter().map(|&x| {
        let mut tensor = vec![f32::from_bits(x); 2048];
        tensor[1777] = 1.0;
        tensor
    });
    let tensors: Vec<_> = tensors.collect();
    let setup = Setup::new(gpu, &flatten(&tensors));
    for power in [0.1f32, 0.5, 1.5, 3.5, 7.0] {
        let partials: Vec<ScanPartial> = host(gpu, &setup.powers(power), tensors.len());
        for (partial, &x) in partials.iter().zip(&bits) {
            let x = f64::from(f32::from_bits(x));
            let exact = x.powf(power.into());
            let measured = (f64::from(partial.scaled_sum) - 1.0) / 2047.0;
            let logarithm = f64::from(power) * (1.0 + x.log2().abs());
            let because = "log2 and its product with p, 2^y, and the rounding of the sum";
            let sum = 6e-8 * (1.0 + 1.0 / (2047.0 * exact));
            let relative = 6e-8 * (2.0 + logarithm) + sum;
            let tolerance = Tolerance { absolute: 0.0, relative, because };
            let ratio = (measured / exact) as f32;
            assert_close(&format!("{x}^{power}"), &[ratio], &[1.0], tolerance);
        }
    }
}

fn norm_fold(gpu: &Gpu) {
    let mix: Vec<_> = (0..3000).map(|i| if i % 2 == 0 { 1e38 } else { -1e-45 }).collect();
    let mut apart = vec![1e-30; 5000];
    apart[4999] = 1e30;
    let spread: Vec<_> = (-140..120).map(|e| 1.4 * 2f64.powi(e)).map(|x| x as f32).collect();
    let cases = [
        ("1000 x 1e20", vec![vec![1e20; 1000]]),
        ("1000 x 1e-25 and none", vec![vec![-1e-25; 1000], vec![]]),
        ("1000 x 1e-42", vec![vec![1e-42; 1000], vec![0.0]]),
        ("one smallest subnormal", vec![vec![f32::from_bits(1)]]),
        ("5000 x f32::MAX", vec![vec![f32::MAX; 5000], vec![f32::MAX; 3]]),
        ("1e38 and 1e-45", vec![mix]),
        ("1e30 in another chunk than 1e-30", vec![apart]),
        ("every exponent", vec![spread]),
        ("subnormals", vec![(0..3000).map(|i| f32::from_bits(i * i % 0x80_0000)).collect()]),
        ("subnormals apart", vec![(0..30).map(|i| f32::from_bits(1 << i)).collect()]),
        ("any finite", vec![any_finite(5, 3000), any_finite(6, 7), any_finite(7, 2500)]),
        ("zeros", vec![vec![0.0; 10], vec![-0.0; 2049]]),
        ("no elements", vec![vec![], vec![]]),
        ("no tensor", vec![]),
        ("lengths 1 to 9", (1..=9).map(|n| values(n, n as usize)).collect()),
        ("none first", vec![vec![], values(1, 5), values(2, 2050)]),
        ("none in the middle", vec![values(1, 5), vec![], values(2, 2050)]),
        ("none last", vec![values(1, 5), values(2, 2050), vec![]]),
    ];
    for power in POWERS {
        for (what, tensors) in &cases {
            check_norms(gpu, what, tensors, power);
        }
    }
    for power in [0.5, 1.0, 2.0] {
        check_norms(gpu, "2,000 tensors", &singles(2000), power);
    }
    check_nonfinite_norms(gpu);
    check_pytorch_norms(gpu);
    check_constant_lists(gpu);
    check_many_partials(gpu);
    check_repeated_norms(gpu);
}

/// Tensors of one element.
fn singles(count: usize) -> Vec<Vec<f32>> {
    values(3, count).into_iter().map(|g| vec![g]).collect()
}

/// Counted in its tensor, its group and the whole, and nowhere else; bits of other norms stay.
fn check_nonfinite_norms(gpu: &Gpu) {
    let tensors = vec![values(1, 5), values(2, 3000), values(3, 2)];
    for (tensor, place) in [(0, 0), (0, 4), (1, 1500), (1, 2999), (2, 1)] {
        for (n, bits) in NONFINITE.into_iter().enumerate() {
            let power = POWERS[(n + place) % POWERS.len()];
            let mut bad = tensors.clone();
            bad[tensor][place] = f32::from_bits(bits);
            let what = format!("{bits:#x} at {place} of tensor {tensor}");
            assert_eq!(check_norms(gpu, &what, &bad, power), f64::INFINITY);
        }
    }
}

/// test_clip_grad_norm of PyTorch: norms and what is left after a clip to 2.
fn check_pytorch_norms(gpu: &Gpu) {
    let tensors = [(1..=100).map(|i| i as f32).collect(), vec![1e-3; 10]];
    let norms = [
        (0.5, 451_287.26),
        (1.5, 1_179.357_4),
        (2.0, 581.678_605),
        (4.0, 212.792_402),
        (f32::INFINITY, 100.0),
    ];
    for (power, expected) in norms {
        let norm = check_norms(gpu, "1..100", &tensors, power);
        let tolerance = norm_tolerance(power);
        assert_close("1..100", &[(norm / expected) as f32], &[1.0], tolerance);
        let clipped: Vec<_> = tensors.concat().iter().map(|&g| f64::from(g) * 2.0 / norm).collect();
        let after = reference::gradient_scan_power(&clipped, power.into());
        let after = reference::norm_fold(&[after], power.into());
        assert_close("clipped", &[after as f32], &[2.0], tolerance);
    }
    let small: Vec<_> = values(4, 100).iter().map(|g| (g + 1.0) / 2e4).collect();
    for power in [1.5, 2.0, 4.0, f32::INFINITY] {
        let norm = check_norms(gpu, "below", &[small.clone(), vec![0.002; 10]], power);
        assert!(norm < 2.0, "p = {power}: {norm}");
    }
}

/// Lists of fours as in test_multi_tensor_l2norm of Transformer Engine: sums are exact.
const CONSTANT_LISTS: [(usize, usize, usize, f64); 5] = [
    (777, 555, 55, 1_082.663_38),
    (555, 65_537, 1, 1_028.334_576),
    (65_537, 555, 55, 7_626.333_33),
    (33_333, 555, 55, 5_460.901_02),
    (555 * 555, 7777 * 77, 1, 3_809.155_024),
];

fn constant_list(first: usize, second: usize, repeats: usize) -> Vec<Vec<f32>> {
    let list = [vec![4.0; first], vec![4.0; second]];
    list.iter().cycle().take(2 * repeats).cloned().collect()
}

fn check_constant_lists(gpu: &Gpu) {
    for (first, second, repeats, expected) in CONSTANT_LISTS {
        let tensors = constant_list(first, second, repeats);
        let what = format!("({first}, {second}) x {repeats}");
        let norm = check_norms(gpu, &what, &tensors, 2.0);
        assert_close(&what, &[(norm / expected) as f32], &[1.0], norm_tolerance(2.0));
    }
}

/// More partials in one segment, and more segments, than a dimension of a grid takes.
fn check_many_partials(gpu: &Gpu) {
    let count = 70_001;
    let bits = |i: usize| 0x3f80_0000 + (i as u32).wrapping_mul(0x9e37_79b9) % 0x0300_0000;
    let partials: Vec<_> = (0..count)
        .map(|i| ScanPartial {
            max_bits: bits(i),
            scaled_sum: 1.0,
            nonfinite_count: 0,
            zero_count: 3,
        })
        .collect();
    let buffer = gpu.upload("partials", &partials);
    let largest = |p: &ScanPartial| f64::from(f32::from_bits(p.max_bits));
    let norm = folded(gpu, &buffer, &everything(count), None, 3.5).norms[0];
    let sum: f64 = partials.iter().map(|p| largest(p).powf(3.5)).sum();
    assert_norm("70,001 partials", &norm, sum.powf(1.0 / 3.5), 3.5);
    assert_eq!(norm.zero_count, 3 * count as u32);
    let each: Vec<_> = (0..65_537).map(|first| Segment { first, count: 1 }).collect();
    let norms = folded(gpu, &buffer, &each, None, 3.5).norms;
    for (i, (partial, norm)) in partials.iter().zip(&norms).enumerate() {
        assert_eq!(norm.value(), largest(partial), "segment {i}");
    }
}

fn check_repeated_norms(gpu: &Gpu) {
    let tensors: Vec<_> = (0..20).map(|i| values(i, 97 * i as usize)).collect();
    let setup = Setup::new(gpu, &flatten(&tensors));
    let run = || {
        let partials = setup.powers(1.5);
        let each = folded(gpu, &partials, &setup.segments, None, 1.5);
        let total = folded(gpu, &each.buffer, &everything(tensors.len()), None, 1.5);
        (each.norms, total.norms)
    };
    let first = run();
    (0..100).for_each(|_| assert_eq!(run(), first));
}

/// The sum of squares in units of 2^-298, from the definition of f32: elements of one exponent
/// share a power of two.
fn oracle_sum(elements: &[f32]) -> BigUint {
    let mut by_exponent = vec![0u128; 255];
    for bits in elements.iter().filter(|g| g.is_finite()).map(|g| g.abs().to_bits()) {
        let exponent = (bits >> 23) as usize;
        let significand = u128::from(bits & 0x7f_ffff | u32::from(exponent > 0) << 23);
        by_exponent[exponent] += significand * significand;
    }
    let terms = (0usize..).zip(by_exponent);
    terms.map(|(e, sum)| BigUint::from(sum) << (2 * e.max(1) - 2)).sum()
}

/// Its root to the nearest 24 bits, ties to even: of 2^400 sum / 2^698 by Newton's method.
fn oracle_root(sum: &BigUint) -> (f32, i32) {
    if *sum == BigUint::ZERO {
        return ZERO;
    }
    let scaled: BigUint = sum << 400;
    let root = scaled.sqrt();
    let dropped = root.bits() - 24;
    let mut significand = &root >> dropped;
    let rest = &root - (&significand << dropped);
    let half = BigUint::from(1u8) << (dropped - 1);
    let above_half = rest > half || (rest == half && &root * &root != scaled);
    if above_half || (rest == half && significand.bit(0)) {
        significand += 1u8;
    }
    // At most 2^24, so exact as f32.
    let significand = significand.to_u32_digits()[0] as f32 / 2f32.powi(23);
    let exponent = dropped as i32 + 23 - 349;
    if significand == 2.0 { (1.0, exponent + 1) } else { (significand, exponent) }
}

fn limbs(sum: &BigUint) -> [u32; 20] {
    let mut limbs = [0; 20];
    limbs[..sum.to_u32_digits().len()].copy_from_slice(&sum.to_u32_digits());
    limbs
}

/// Everything that is known of elements, for comparison bit by bit.
fn expected(elements: &[f32]) -> (ExactSum, TensorNorm) {
    let sum = oracle_sum(elements);
    let max_bits = largest_bits(elements);
    let nonfinite_count = elements.iter().filter(|g| !g.is_finite()).count() as u32;
    let zero_count = elements.iter().filter(|&&g| g == 0.0).count() as u32;
    let (significand, exponent) =
        if nonfinite_count > 0 { (1.0, NONFINITE_EXPONENT) } else { oracle_root(&sum) };
    (
        ExactSum { limbs: limbs(&sum), max_bits, nonfinite_count, zero_count, padding: 0 },
        TensorNorm { significand, exponent, max_bits, nonfinite_count, zero_count },
    )
}

/// Chunks, tensors, groups and the whole, all bit by bit. Returns the norm.
#[track_caller]
fn check_exact(gpu: &Gpu, what: &str, tensors: &[Vec<f32>]) -> TensorNorm {
    let flat = flatten(tensors);
    let setup = Setup::new(gpu, &flat);
    let partials = setup.exact();
    for (chunk, partial) in flat.chunks.iter().zip(host(gpu, &partials, flat.chunks.len())) {
        assert_eq!(expected(flat.share(chunk)).0, partial, "{what}, {chunk:?}");
    }
    let each = exact_folded(gpu, &partials, &setup.segments, None);
    for (t, tensor) in tensors.iter().enumerate() {
        assert_eq!((each.sums[t], each.norms[t]), expected(tensor), "{what}, tensor {t}");
    }
    let groups: Vec<_> = (0..tensors.len() as u32).map(|t| t % 2 * 2).collect();
    let (segments, members) = group_segments(&groups, 3);
    let by_group = exact_folded(gpu, &each.buffer, &segments, Some(&members));
    for g in 0..3 {
        let share: Vec<_> = tensors.iter().skip(g / 2).step_by(2).cloned().collect();
        let share = if g == 1 { vec![] } else { share.concat() };
        assert_eq!((by_group.sums[g], by_group.norms[g]), expected(&share), "{what}, group {g}");
    }
    let total = exact_folded(gpu, &by_group.buffer, &everything(3), None);
    let all = exact_folded(gpu, &partials, &everything(flat.chunks.len()), None);
    let elements = tensors.concat();
    for total in [&total, &all] {
        assert_eq!((total.sums[0], total.norms[0]), expected(&elements), "{what}, all");
    }
    let (reference, root) = reference::exact_fold(&[reference::gradient_scan_exact(&elements)]);
    assert_eq!(reference, total.sums[0].limbs, "{what}, reference");
    if total.norms[0].nonfinite_count == 0 {
        assert_eq!(root, (total.norms[0].significand, total.norms[0].exponent), "{what}");
    }
    total.norms[0]
}

fn gradient_scan_exact(gpu: &Gpu) {
    for size in [1, 3, 4, 255, 256, 257, 1009, 2047, 2048, 2049, 65_535, 65_536, 65_537] {
        let mut gradient = values(size as u64, size);
        gradient.iter_mut().step_by(7).for_each(|g| *g = 0.0);
        gradient.iter_mut().skip(3).step_by(11).for_each(|g| *g = -0.0);
        check_exact(gpu, &format!("{size} elements"), &[gradient]);
    }
    let subnormal = |bits: f32| f32::from_bits(bits.to_bits() & 0x807f_ffff);
    let mix = |i| if i % 3 == 0 { 1e38 } else { -1e-45 };
    check_exact(gpu, "any finite", &[any_finite(1, 40_000)]);
    check_exact(gpu, "subnormal", &[any_finite(2, 5000).into_iter().map(subnormal).collect()]);
    check_exact(gpu, "smallest", &[vec![f32::from_bits(1); 2048], vec![f32::from_bits(1)]]);
    check_exact(gpu, "largest", &[vec![f32::MAX; 70_000], vec![-f32::MAX; 2049]]);
    check_exact(gpu, "1e38 and 1e-45", &[(0..5000).map(mix).collect()]);
    check_exact(gpu, "ones but for the last bit", &[vec![f32::from_bits(0x3fff_ffff); 2048]]);
    check_exact(gpu, "carries through 17 limbs", &[ones_and_one()]);
    check_exact(gpu, "around the window", &around_windows());
    check_order(gpu);
    check_division(gpu);
}

/// 3 * 4^k summed from the lowest bit up is nothing but ones, and one more carries through them.
fn ones_and_one() -> Vec<f32> {
    let powers = (0..277).map(|k: u32| match k {
        0..23 => f32::from_bits(1 << k),
        _ => f32::from_bits((k - 22) << 23),
    });
    let mut elements: Vec<_> = powers.flat_map(|x| [x; 3]).collect();
    let ones = oracle_sum(&elements);
    assert_eq!(ones, (BigUint::from(1u8) << 554) - 1u8);
    elements.push(f32::from_bits(1));
    elements
}

/// Quads, each the share of an invocation, whose elements lie as far apart as an invocation's own
/// sum reaches, a little less and a little more, at every place of the largest.
fn around_windows() -> Vec<Vec<f32>> {
    let noise: Vec<_> = values(9, 4 * 254).iter().map(|x| x.to_bits() & 0x7f_ffff).collect();
    let quad = |top: u32| {
        (0..4).flat_map(move |less| {
            let apart = [0, 30, 32, 34].map(|apart| top.saturating_sub(apart + less));
            apart.map(|exponent| exponent << 23)
        })
    };
    let quads = (1..=254).map(|top| {
        let bits = quad(top).zip(noise.iter().cycle().skip(3 * top as usize));
        bits.map(|(exponent, fraction)| f32::from_bits(exponent | fraction)).collect()
    });
    quads.collect()
}

/// Neither the order of elements nor that of tensors changes a bit.
fn check_order(gpu: &Gpu) {
    let elements = any_finite(3, 6000);
    let folded_sum = |elements: &[f32]| {
        let setup = Setup::new(gpu, &flatten(&[elements.to_vec()]));
        let folded = exact_folded(gpu, &setup.exact(), &setup.segments, None);
        (folded.sums, folded.norms)
    };
    let expected = folded_sum(&elements);
    for stride in [5999, 7, 1013, 4801, 2999] {
        let permuted: Vec<_> = (0..6000).map(|i| elements[i * stride % 6000]).collect();
        let mut sorted = permuted.clone();
        sorted.sort_by(f32::total_cmp);
        assert_eq!(folded_sum(&permuted), expected, "stride {stride}");
        assert_eq!(folded_sum(&sorted), expected, "stride {stride}, sorted");
    }
    let tensors: Vec<_> = elements.chunks(777).map(<[f32]>::to_vec).collect();
    let reversed: Vec<_> = tensors.iter().rev().cloned().collect();
    let norm = check_exact(gpu, "in order", &tensors);
    assert_eq!(check_exact(gpu, "reversed", &reversed), norm);
    assert_eq!(vec![norm], expected.1);
}

/// Chunks of any size give the same total, as 100 runs do.
fn check_division(gpu: &Gpu) {
    let elements = any_finite(4, 2400);
    let expected = expected(&elements);
    let quads = elements.len() as u32 / 4;
    let total = |setup: &Setup<'_>| {
        let folded = exact_folded(gpu, &setup.exact(), &setup.segments, None);
        (folded.sums[0], folded.norms[0])
    };
    let mut repeated = None;
    for size in (1..=512).step_by(7).chain([2, 3, 4, 63, 64, 65, 511, 512]) {
        let chunks: Vec<_> = (0..quads)
            .step_by(size as usize)
            .map(|offset| {
                let quads = size.min(quads - offset);
                Chunk { offset, quads, tensor: 0, elements: 4 * quads, kept: offset }
            })
            .collect();
        let setup = Setup::with_chunks(gpu, &elements, &chunks, 1);
        assert_eq!(total(&setup), expected, "chunks of {size} quads");
        repeated = Some(setup);
    }
    let setup = repeated.expect("a size");
    (0..100).for_each(|_| assert_eq!(total(&setup), expected));
}

fn exact_fold(gpu: &Gpu) {
    check_roots(gpu);
    check_known_bits(gpu);
    check_exact(gpu, "no tensor", &[]);
    check_exact(gpu, "no elements", &[vec![], vec![]]);
    check_exact(gpu, "zeros", &[vec![0.0; 10], vec![-0.0; 2049]]);
    check_exact(gpu, "1 to 9", &(1..=9).map(|n| values(n, n as usize)).collect::<Vec<_>>());
    for empty in [0, 1, 2] {
        let mut tensors = vec![values(1, 5), values(2, 2050)];
        tensors.insert(empty, Vec::new());
        check_exact(gpu, &format!("tensor {empty} is empty"), &tensors);
    }
    for (first, second, repeats, expected) in CONSTANT_LISTS {
        let what = format!("({first}, {second}) x {repeats}");
        let norm = check_exact(gpu, &what, &constant_list(first, second, repeats));
        let rounding = Tolerance { absolute: 0.0, relative: 1.2e-7, because: "one rounding" };
        assert_close(&what, &[norm.value() as f32], &[expected], rounding);
    }
    check_sticky_bits(gpu);
    check_nonfinite_sums(gpu);
    check_carries(gpu);
    check_many_parts(gpu);
}

/// Roots that are exact, halfway between two numbers, or next to halfway.
fn check_roots(gpu: &Gpu) {
    // The norm of one element is its magnitude.
    let elements = any_finite(8, 2000);
    let tensors: Vec<_> = elements.iter().map(|&g| vec![g]).collect();
    let setup = Setup::new(gpu, &flatten(&tensors));
    let norms = exact_folded(gpu, &setup.exact(), &setup.segments, None).norms;
    for (g, norm) in elements.iter().zip(&norms) {
        assert_eq!(norm.value(), f64::from(g.abs()), "{g:e}");
    }
    // a^2 + b^2 = c^2 with c of 25 bits, once next to an even and once to an odd number of 24.
    let halfway = [(8_192.0, 16_777_215.0, 8_388_608.0), (9_758_731.0, 13_647_060.0, 8_388_610.0)];
    for (a, b, even) in halfway {
        for power in [-149, -126, -20, 0, 40, 103] {
            let scale = 2f32.powi(power.max(-126)) * 2f32.powi(power.min(-126) + 126);
            let (a, b, even) = (a * scale, b * scale, 2.0 * even * f64::from(scale));
            let what = format!("{a} and {b}");
            assert_eq!(check_exact(gpu, &what, &[vec![a, b]]).value(), even, "{what}");
            let up = check_exact(gpu, &what, &[vec![a, b, f32::from_bits(1)]]).value();
            let unit = 2.0 * f64::from(scale);
            let c = f64::from(a).hypot(f64::from(b));
            assert_eq!(up, if even < c { even + unit } else { even }, "{what} and a little");
        }
    }
    // Just below a power of two: rounds up to it, which takes one bit more.
    let norm = check_exact(gpu, "up to 2^24", &[vec![16_777_215.0, 4096.0, 4095.0, 64.0]]);
    assert_eq!((norm.significand, norm.exponent), (1.0, 24));
}

/// Sums whose root is halfway, or off by one bit anywhere below the bits that the root is made of.
fn check_sticky_bits(gpu: &Gpu) {
    let mut sums = Vec::new();
    for root in [(1u64 << 24) + 1, (1 << 24) + 3, (1 << 25) - 1] {
        for pairs in [0, 1, 2, 5, 15, 16, 17, 31, 130, 295] {
            let halfway = BigUint::from(root).pow(2) << (2 * pairs);
            for bit in
                [0, 1, 2, 30, 31, 32, 33, 63, 64, 260, 589].into_iter().filter(|&b| b < 2 * pairs)
            {
                sums.push(&halfway + (BigUint::from(1u8) << bit));
                sums.push(&halfway - (BigUint::from(1u8) << bit));
            }
            sums.push(halfway);
        }
    }
    let part = |sum| ExactSum { limbs: limbs(sum), ..Default::default() };
    let parts = gpu.upload("parts", &sums.iter().map(part).collect::<Vec<_>>());
    let each: Vec<_> = (0..sums.len() as u32).map(|first| Segment { first, count: 1 }).collect();
    let folded = exact_folded(gpu, &parts, &each, None);
    for (sum, norm) in sums.iter().zip(&folded.norms) {
        let expected = oracle_root(sum);
        assert_eq!((norm.significand, norm.exponent), expected, "{sum:x}");
        assert_eq!(reference::exact_fold(&[limbs(sum)]).1, expected, "{sum:x}");
    }
}

/// Bits that every adapter must give.
fn check_known_bits(gpu: &Gpu) {
    let tensors: Vec<_> = (0..7).map(|t| any_finite(100 + t, 1000 * t as usize)).collect();
    let norm = check_exact(gpu, "known bits, any finite", &tensors);
    assert_eq!((norm.significand.to_bits(), norm.exponent), KNOWN_ANY);
    let tensors: Vec<_> = (0..7).map(|t| values(200 + t, 1000 * t as usize)).collect();
    let norm = check_exact(gpu, "known bits, uniform", &tensors);
    assert_eq!((norm.significand.to_bits(), norm.exponent), KNOWN_UNIFORM);
}

const KNOWN_ANY: (u32, i32) = (0x3f89a1fa, 131);
const KNOWN_UNIFORM: (u32, i32) = (0x3fa5b870, 6);

/// NaN and Inf are counted where they are and leave the sum of the others as it is.
fn check_nonfinite_sums(gpu: &Gpu) {
    let tensors = vec![values(1, 5), any_finite(2, 3000), vec![], values(3, 2)];
    for (tensor, place) in [(0, 0), (1, 1500), (1, 2999), (3, 1)] {
        for bits in NONFINITE {
            let mut bad = tensors.clone();
            bad[tensor][place] = f32::from_bits(bits);
            let what = format!("{bits:#x} at {place} of tensor {tensor}");
            let norm = check_exact(gpu, &what, &bad);
            assert_eq!((norm.nonfinite_count, norm.value()), (1, f64::INFINITY), "{what}");
        }
    }
    let all: Vec<_> = NONFINITE.into_iter().map(f32::from_bits).chain([3.0, 4.0]).collect();
    let norm = check_exact(gpu, "all at once", &[all.repeat(300)]);
    assert_eq!(norm.nonfinite_count, 300 * NONFINITE.len() as u32);
}

/// Carries that run through all limbs, and through none, and counts that would wrap.
fn check_carries(gpu: &Gpu) {
    let part = |limbs| ExactSum { limbs, ..Default::default() };
    let single = |i: usize| part(std::array::from_fn(|k| u32::from(k == i)));
    let ones = part(std::array::from_fn(|k| if k < 19 { u32::MAX } else { 0 }));
    let mut parts = vec![ones];
    parts.extend((0..19).map(single));
    let fewer = part(std::array::from_fn(|k| if k < 19 { u32::MAX - 1 } else { 0 }));
    parts.extend([fewer, fewer]);
    let count = ExactSum { nonfinite_count: 1 << 31, zero_count: u32::MAX, ..Default::default() };
    parts.extend([count, count, ExactSum { max_bits: 7, ..Default::default() }]);
    let buffer = gpu.upload("parts", &parts);

    let lists: Vec<Vec<u32>> = (0..20)
        .map(|i| if i == 0 { vec![0] } else { vec![0, i] })
        .chain([vec![20, 21], (0..20).collect(), vec![0, 0, 20, 1, 21, 5, 0]])
        .collect();
    for list in &lists {
        let folded = exact_folded(gpu, &buffer, &everything(list.len()), Some(list));
        let big = |&i: &u32| BigUint::from_slice(&parts[i as usize].limbs);
        let sum: BigUint = list.iter().map(big).sum();
        assert_eq!(folded.sums[0].limbs, limbs(&sum), "{list:?}");
        let norm = folded.norms[0];
        assert_eq!((norm.significand, norm.exponent), oracle_root(&sum), "{list:?}");
        let parts: Vec<_> = list.iter().map(|&i| parts[i as usize].limbs).collect();
        let reference = reference::exact_fold(&parts);
        assert_eq!(reference, (folded.sums[0].limbs, oracle_root(&sum)), "{list:?}");
    }
    let norm = exact_folded(gpu, &buffer, &everything(3), Some(&[22, 23, 24])).norms[0];
    let counts = (norm.max_bits, norm.nonfinite_count, norm.zero_count);
    assert_eq!(counts, (7, u32::MAX, u32::MAX));
}

/// More parts in one segment than 16-bit digits could add up, and more segments than a dimension
/// of a grid takes.
fn check_many_parts(gpu: &Gpu) {
    let count = 70_001;
    let part = ExactSum {
        limbs: std::array::from_fn(|k| if k < 19 { u32::MAX } else { 0 }),
        max_bits: 5,
        nonfinite_count: 0,
        zero_count: 2,
        padding: 0,
    };
    let buffer = gpu.upload("parts", &vec![part; count]);
    let folded = exact_folded(gpu, &buffer, &everything(count), None);
    let sum = BigUint::from_slice(&part.limbs) * count;
    let (significand, exponent) = oracle_root(&sum);
    let counts = ExactSum { zero_count: 2 * count as u32, ..part };
    assert_eq!(folded.sums[0], ExactSum { limbs: limbs(&sum), ..counts });
    let norm = folded.norms[0];
    assert_eq!((norm.significand, norm.exponent), (significand, exponent));

    let each: Vec<_> = (0..65_537).map(|first| Segment { first, count: 1 }).collect();
    let folded = exact_folded(gpu, &buffer, &each, None);
    assert!(folded.sums.iter().all(|sum| *sum == part));
    assert!(folded.norms.iter().all(|norm| *norm == folded.norms[0]));
    let (significand, exponent) = oracle_root(&BigUint::from_slice(&part.limbs));
    assert_eq!((folded.norms[0].significand, folded.norms[0].exponent), (significand, exponent));
}

/// The state that a step opens with, from a norm inside and outside f32's range.
fn global_norm(gpu: &Gpu) {
    let before =
        StepState { veto: 3, events: 5, learning_rate_factor: 0.5, ..StepState::new(4.0, 1) };
    let tensor = TensorState { clip_coefficient: 0.25, steps: 2, ..Default::default() };
    let rounding =
        Tolerance { absolute: 1e-45, relative: 1e-7, because: "division by a power of two" };
    for (significand, exponent, bad) in [
        (1.5, 3, 0),
        (0.0, -1024, 0),
        (1.25, 130, 0),
        (1.25, -160, 0),
        (1.0, NONFINITE_EXPONENT, 7),
    ] {
        let norm =
            TensorNorm { significand, exponent, nonfinite_count: bad, zero_count: 9, max_bits: 1 };
        let tensors = gpu.upload("tensors", &[tensor; 70]);
        let state = gpu.upload("state", &[before]);
        gpu.run(&GlobalNorm {
            params: GlobalNormParams { tensor_count: 70, max_norm: 2.5 },
            norm: gpu.upload("norm", &[norm]).as_entire_buffer_binding(),
            tensors: tensors.as_entire_buffer_binding(),
            state: state.as_entire_buffer_binding(),
        });
        let found: StepState = host(gpu, &state, 1)[0];
        let expected = reference::global_norm(norm.value(), 4.0).min(f64::from(f32::MAX));
        if bad > 0 {
            assert_eq!(found.gradient_norm, f32::INFINITY);
        } else {
            assert_close("norm", &[found.gradient_norm], &[expected], rounding);
            let shifted = (significand, exponent - 2);
            let wide = (found.norm_significand, found.norm_exponent);
            assert!(wide == shifted || significand == 0.0 && wide.0 == 0.0, "{wide:?}");
        }
        let rest = StepState {
            gradient_norm: found.gradient_norm,
            norm_significand: found.norm_significand,
            norm_exponent: found.norm_exponent,
            nonfinite_count: bad,
            zero_count: 9,
            max_norm: 2.5,
            ..StepState::new(4.0, 1)
        };
        assert_eq!(found, rest);
        let tensors: Vec<TensorState> = host(gpu, &tensors, 70);
        assert_eq!(tensors, [TensorState { clip_coefficient: 1.0, ..tensor }; 70]);
    }
}
