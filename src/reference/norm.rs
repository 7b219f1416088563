//! The norm family: powers as plain f64 loops, exact sums as integers.

/// What a gradient, or a part of it, holds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PowerScan {
    /// Largest magnitude of the finite elements.
    pub largest: f64,
    /// Sum of (|g| / largest)^p over the finite elements, so that no power overflows.
    pub sum: f64,
    /// Elements that are NaN or Inf.
    pub nonfinite_count: u32,
    /// Elements that are zero.
    pub zero_count: u32,
}

/// Largest magnitude, sum of p-th powers and counts.
pub fn gradient_scan_power(gradient: &[f64], power: f64) -> PowerScan {
    let mut scan = PowerScan::default();
    for g in gradient.iter().map(|g| g.abs()) {
        if g.is_finite() {
            scan.largest = scan.largest.max(g);
            scan.zero_count += u32::from(g == 0.0);
        } else {
            scan.nonfinite_count += 1;
        }
    }
    if scan.largest > 0.0 {
        let ratios = gradient.iter().filter(|g| g.is_finite()).map(|g| g.abs() / scan.largest);
        scan.sum = ratios.map(|ratio| ratio.powf(power)).sum();
    }
    scan
}

/// The p-norm of parts together, their largest magnitude for an infinite p; Inf if an element is
/// not finite.
pub fn norm_fold(parts: &[PowerScan], power: f64) -> f64 {
    if parts.iter().any(|part| part.nonfinite_count > 0) {
        return f64::INFINITY;
    }
    let largest = parts.iter().map(|part| part.largest).fold(0.0, f64::max);
    if largest == 0.0 || power.is_infinite() {
        return largest;
    }
    let sum: f64 = parts.iter().map(|part| part.sum * (part.largest / largest).powf(power)).sum();
    largest * sum.powf(power.recip())
}

/// The norm of the unscaled gradient.
pub fn global_norm(scaled_norm: f64, loss_scale: f64) -> f64 {
    scaled_norm / loss_scale
}

/// An integer of 640 bits, lowest word first.
pub type Wide = [u32; 20];

/// Adds `value * 2^shift`.
fn add_shifted(sum: &mut Wide, value: u64, shift: u32) {
    let mut carry = u128::from(value) << (shift % 32);
    for word in &mut sum[shift as usize / 32..] {
        carry += u128::from(*word);
        *word = carry as u32;
        carry >>= 32;
    }
    assert_eq!(carry, 0, "640 bits hold every sum");
}

/// Sum of the squares of the finite elements, in units of 2^-298: |x| is m * 2^(e - 150) with
/// integers m and e >= 1.
pub fn gradient_scan_exact(gradient: &[f32]) -> Wide {
    let mut sum = Wide::default();
    for bits in gradient.iter().filter(|g| g.is_finite()).map(|g| g.abs().to_bits()) {
        let fraction = u64::from(bits & 0x7f_ffff);
        match bits >> 23 {
            0 => add_shifted(&mut sum, fraction * fraction, 0),
            e => add_shifted(&mut sum, (fraction + (1 << 23)).pow(2), 2 * e - 2),
        }
    }
    sum
}

/// Sum of parts and its root, (significand, exponent), to the nearest 24 bits with ties to even.
pub fn exact_fold(parts: &[Wide]) -> (Wide, (f32, i32)) {
    let mut sum = Wide::default();
    for part in parts {
        for (i, &word) in (0..).zip(part) {
            add_shifted(&mut sum, word.into(), 32 * i);
        }
    }
    (sum, exact_root(&sum))
}

/// The largest m * 2^k with m of 25 bits and a square up to the sum, rounded by its last bit.
fn exact_root(sum: &Wide) -> (f32, i32) {
    let Some(top) = (0..640).rev().find(|&i| sum[i / 32] >> (i % 32) & 1 == 1) else {
        return (0.0, -1024);
    };
    // Shifted so that the root has 25 bits: a sum below 2^49 is multiplied by a power of 4.
    let k = (top as i32 - 48).div_euclid(2);
    let square = |m: u64| {
        let mut square = Wide::default();
        add_shifted(&mut square, m * m, 2 * k.max(0) as u32);
        square
    };
    let mut scaled = *sum;
    if k < 0 {
        let small = u64::from(sum[1]) << 32 | u64::from(sum[0]);
        scaled = Wide::default();
        add_shifted(&mut scaled, small, 2 * k.unsigned_abs());
    }
    let below = |a: &Wide, b: &Wide| a.iter().rev().lt(b.iter().rev());
    let (mut low, mut high) = (1 << 24, 1 << 25);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if below(&scaled, &square(middle)) { high = middle } else { low = middle }
    }
    let exact = scaled == square(low);
    let rounds_up = low % 2 == 1 && (!exact || low % 4 == 3);
    let significand = low / 2 + u64::from(rounds_up);
    // An f32 holds 24 bits, so this is exact; 2^24 becomes 2 and then 1.
    let (significand, exponent) = (significand as f32 / (1 << 23) as f32, k - 125);
    if significand == 2.0 { (1.0, exponent + 1) } else { (significand, exponent) }
}
