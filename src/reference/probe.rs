//! The probe family as IEEE 754 with round-to-nearest has it.

use half::f16;

use crate::kernels::ProbeOperation;

/// Bits as [`ProbeBits`](crate::kernels::ProbeBits) numbers them.
pub fn probe_bits(words: &[u32]) -> Vec<u32> {
    let tests = |word: u32| {
        let x = f32::from_bits(word);
        let (non_finite, nan) = (!x.is_finite(), x.is_nan());
        [non_finite, nan, non_finite, nan, nan, x.is_infinite(), non_finite, non_finite]
    };
    let number = |flags: [bool; 8]| (0..8).map(|bit| u32::from(flags[bit]) << bit).sum();
    words.iter().map(|&word| number(tests(word))).collect()
}

/// z = f(x, y). The operands must be values of f32, so that a product of two is exact.
pub fn probe_arithmetic(operation: ProbeOperation, x: &[f64], y: &[f64]) -> Vec<f64> {
    use ProbeOperation as Operation;
    let f = |x: f64, y: f64| match operation {
        Operation::Copy => x,
        Operation::Add => x + y,
        Operation::Multiply => x * y,
        Operation::Divide => x / y,
        Operation::ProductError => x * y - f64::from((x * y) as f32),
        Operation::Exp => x.exp(),
        Operation::Exp2 => x.exp2(),
        Operation::Log => x.ln(),
        Operation::Log2 => x.log2(),
        Operation::LogOnePlus => x.ln_1p(),
        Operation::Tanh | Operation::TanhAccurate => x.tanh(),
        Operation::Sqrt => x.sqrt(),
        Operation::InverseSqrt => 1.0 / x.sqrt(),
    };
    x.iter().zip(y).map(|(&x, &y)| f(x, y)).collect()
}

/// The sum of each row.
pub fn probe_compensation(cols: usize, x: &[f64]) -> Vec<f64> {
    x.chunks_exact(cols).map(|row| row.iter().sum()).collect()
}

/// What [`probe_conversion`] gives.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeConversions {
    /// (count): pairs in f16, the first in the lower half.
    pub packed: Vec<u32>,
    /// (count, 2): the halves of each word.
    pub unpacked: Vec<[f32; 2]>,
    /// (count): the numbers that the words are.
    pub numbers: Vec<f32>,
}

/// Conversions to the nearest, ties to even.
pub fn probe_conversion(pairs: &[[f32; 2]], words: &[u32]) -> ProbeConversions {
    let pack = |[low, high]: [f32; 2]| {
        u32::from(f16::from_f32(low).to_bits()) | u32::from(f16::from_f32(high).to_bits()) << 16
    };
    let half = |bits: u32| f16::from_bits(bits as u16).to_f32();
    ProbeConversions {
        packed: pairs.iter().map(|&pair| pack(pair)).collect(),
        unpacked: words.iter().map(|&word| [half(word & 0xffff), half(word >> 16)]).collect(),
        numbers: words.iter().map(|&word| word as f32).collect(),
    }
}

/// What [`probe_reduction`] gives.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeReductions {
    /// Sum modulo 2³² and largest of each 256 words.
    pub words: Vec<[u32; 2]>,
    /// Sum and largest of each 256 values.
    pub values: Vec<[f64; 2]>,
    /// Sum modulo 2³² and largest of all words.
    pub totals: [u32; 2],
}

/// Sums and largest of blocks of 256, the last of which may be shorter.
pub fn probe_reduction(words: &[u32], values: &[f64]) -> ProbeReductions {
    let sum = |words: &[u32]| words.iter().fold(0u32, |sum, &word| sum.wrapping_add(word));
    let largest = |words: &[u32]| words.iter().copied().max().unwrap_or(0);
    ProbeReductions {
        words: words.chunks(256).map(|block| [sum(block), largest(block)]).collect(),
        values: values
            .chunks(256)
            .map(|block| [block.iter().sum(), block.iter().copied().fold(0.0, f64::max)])
            .collect(),
        totals: [sum(words), largest(words)],
    }
}

/// Quads of pairs of chains x ← factor x + addend.
pub fn probe_multiply_add(quads: usize, rounds: u32, factor: f64, addend: f64) -> Vec<f64> {
    let chain = |index: usize| {
        let first = (index % 64) as f64 / 64.0;
        (0..rounds).fold(first, |x, _| factor * x + addend)
    };
    let pair = |i: usize| move |j: usize| chain(8 * i + j) + chain(8 * i + j + 4);
    (0..quads).flat_map(|i| (0..4).map(pair(i))).collect()
}

/// Words shuffled and mixed: y, and its sum, xor and largest. The length is a power of two, at
/// least 256; blocks of 256 exchange within themselves.
pub fn probe_race(rounds: u32, stride: u32, x: &[u32]) -> (Vec<u32>, [u32; 3]) {
    let mask = x.len() - 1;
    let from = |i: usize| (i as u32).wrapping_mul(stride) as usize & mask;
    let mut y: Vec<_> = (0..x.len()).map(|i| x[from(i)]).collect();
    for block in y.chunks_exact_mut(256) {
        for round in 0..rounds as usize {
            let before = block.to_vec();
            for (lane, word) in block.iter_mut().enumerate() {
                let partner = before[(lane + 37 * round + 1) & 255];
                *word = scramble(word.wrapping_add(partner.wrapping_mul(31)));
            }
        }
    }
    let totals = y.iter().fold([0u32; 3], |[sum, xor, largest], &word| {
        [sum.wrapping_add(word), xor ^ word, largest.max(word)]
    });
    (y, totals)
}

/// The finaliser of MurmurHash3.
fn scramble(word: u32) -> u32 {
    let h = (word ^ (word >> 16)).wrapping_mul(0x85eb_ca6b);
    let h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}
