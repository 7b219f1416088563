//! Sums: whether compensation survives the compiler, and whether exact sums are exact.

use super::{Check, Gpu, Outcome, list, random_words, whole};
use crate::error::Result;
use crate::gpu::Dispatch;
use crate::kernels::{
    ProbeCompensation, ProbeCompensationParams, ProbeReduction, ProbeReductionParams,
};
use crate::reference::{self, probe::ProbeReductions};

/// Rows whose sum needs compensation.
const ROWS: usize = 32;
const COLS: usize = 512;
/// Elements that are reduced: many workgroups, the last not full.
const COUNT: usize = 256 * 96 + 77;

/// Whether what rounding takes from a sum or product can be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compensation {
    /// Kahan's sum is accurate.
    pub kahan: bool,
    /// A sum with Knuth's TwoSum is accurate.
    pub two_sum: bool,
    /// So is one whose every result passes through an integer operation.
    pub guarded: bool,
    /// fma rounds once, so that it gives what rounding took from a product.
    pub fma_is_fused: bool,
}

/// Whether sums and largest elements with an exact result are exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reductions {
    /// Of integers, through workgroup memory.
    pub integers: bool,
    /// Of f32 numbers whose partial sums all fit its significand, through workgroup memory.
    pub floats: bool,
    /// Of integers, through atomics.
    pub atomics: bool,
}

pub(super) struct Probe {
    sums: wgpu::Buffer,
    word_results: wgpu::Buffer,
    value_results: wgpu::Buffer,
    totals: wgpu::Buffer,
    dispatches: [Dispatch; 2],
}

impl Probe {
    pub(super) fn prepare(gpu: &Gpu) -> Self {
        let x = gpu.upload("rows", &rows());
        let sums = gpu.buffer("sums", 16 * ROWS as u64);
        let (rows, cols) = (ROWS as u32, COLS as u32);
        let compensation = gpu.prepare(&ProbeCompensation {
            params: ProbeCompensationParams { rows, cols, zero: 0 },
            x: whole(&x),
            sums: whole(&sums),
        });
        let (words, values) = (gpu.upload("words", &words()), gpu.upload("values", &values()));
        let bytes = 8 * COUNT.div_ceil(256) as u64;
        let word_results = gpu.buffer("word results", bytes);
        let value_results = gpu.buffer("value results", bytes);
        let totals = gpu.buffer("totals", 8);
        let reduction = gpu.prepare(&ProbeReduction {
            params: ProbeReductionParams { count: COUNT as u32 },
            words: whole(&words),
            values: whole(&values),
            word_results: whole(&word_results),
            value_results: whole(&value_results),
            totals: whole(&totals),
        });
        let dispatches = [compensation, reduction];
        Self { sums, word_results, value_results, totals, dispatches }
    }

    pub(super) fn dispatches(&self) -> impl Iterator<Item = &Dispatch> {
        self.dispatches.iter()
    }

    pub(super) async fn read(
        &self,
        gpu: &Gpu,
        fma_is_fused: bool,
    ) -> Result<(Compensation, Reductions)> {
        let sums: Vec<[f32; 4]> = gpu.read(&self.sums, 0, ROWS).await?;
        let blocks = COUNT.div_ceil(256);
        let words = gpu.read(&self.word_results, 0, blocks).await?;
        let values = gpu.read(&self.value_results, 0, blocks).await?;
        let totals: Vec<u32> = gpu.read(&self.totals, 0, 2).await?;
        let compensation = Compensation::judge(&exact_rows(), &sums, fma_is_fused);
        let reductions =
            Reductions::judge(&exact_reductions(), &words, &values, [totals[0], totals[1]]);
        Ok((compensation, reductions))
    }
}

/// Rows of one number and many that are below half a unit in its last place: a plain sum loses all
/// of them, which is a hundred units or more.
fn rows() -> Vec<f32> {
    let row = |r: usize| {
        let scale = 2f32.powi(r as i32 - 16) * if r.is_multiple_of(3) { -1.0 } else { 1.0 };
        (0..COLS).map(move |c| match c {
            0 => scale,
            _ => {
                scale
                    * 2f32.powi(-26)
                    * (1.0 + (random_words(102, r * COLS + c)[0] >> 9) as f32 * 2f32.powi(-24))
            }
        })
    };
    (0..ROWS).flat_map(row).collect()
}

/// Words whose sums wrap around.
fn words() -> Vec<u32> {
    (0..COUNT).map(|i| random_words(103, i)[0]).collect()
}

/// Multiples of 1/8 below 512: 256 of them add up to less than 2^20 eighths.
fn values() -> Vec<f32> {
    (0..COUNT).map(|i| (random_words(103, i)[1] >> 20) as f32 / 8.0).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

fn exact_rows() -> Vec<f64> {
    reference::probe::probe_compensation(COLS, &wide(&rows()))
}

fn exact_reductions() -> ProbeReductions {
    reference::probe::probe_reduction(&words(), &wide(&values()))
}

impl Compensation {
    fn judge(exact: &[f64], sums: &[[f32; 4]], fma_is_fused: bool) -> Self {
        // 2 ULP of at least 2^-24 each; what a plain sum loses is 2^-18 or more.
        let accurate = |kind: usize| {
            let near = |(sum, exact): (&[f32; 4], &f64)| {
                (f64::from(sum[kind]) - exact).abs() <= 2f64.powi(-22) * exact.abs()
            };
            sums.iter().zip(exact).all(near)
        };
        Self { kahan: accurate(1), two_sum: accurate(2), guarded: accurate(3), fma_is_fused }
    }

    pub(super) fn check(&self) -> Check {
        let kinds = [
            (self.kahan, "Kahan's sum"),
            (self.two_sum, "TwoSum"),
            (self.guarded, "TwoSum behind integers"),
            (self.fma_is_fused, "the error of a product by fma"),
        ];
        let lost: Vec<_> = kinds.iter().filter(|kind| !kind.0).map(|kind| kind.1).collect();
        let (outcome, found) = match lost.as_slice() {
            [] => {
                (Outcome::Pass, "Kahan's sum, TwoSum and fma keep what rounding takes".to_owned())
            }
            lost if self.guarded => {
                let found =
                    format!("lost: {}; TwoSum behind integer operations is kept", list(lost));
                (Outcome::Degraded, found)
            }
            lost => (Outcome::Degraded, format!("lost: {}", list(lost))),
        };
        let consequence = "sums do not rely on it: they are trees in fixed order".to_owned();
        Check { name: "compensation", outcome, found, consequence }
    }
}

impl Reductions {
    fn judge(
        exact: &ProbeReductions,
        words: &[[u32; 2]],
        values: &[[f32; 2]],
        totals: [u32; 2],
    ) -> Self {
        let same = |(a, b): (&[f32; 2], &[f64; 2])| a.map(f64::from) == *b;
        Self {
            integers: words == exact.words,
            floats: values.len() == exact.values.len()
                && values.iter().zip(&exact.values).all(same),
            atomics: totals == exact.totals,
        }
    }

    pub(super) fn check(&self) -> Check {
        let kinds = [
            (self.integers, "integers in workgroup memory"),
            (self.floats, "f32 in workgroup memory"),
            (self.atomics, "integers through atomics"),
        ];
        let wrong: Vec<_> = kinds.iter().filter(|kind| !kind.0).map(|kind| kind.1).collect();
        let (outcome, found, consequence) = match wrong.as_slice() {
            [] => {
                let consequence = "norms, losses and statistics are such sums";
                (Outcome::Pass, "equal the exact results".to_owned(), consequence)
            }
            wrong => {
                let consequence = "norms and losses would be wrong: do not train here";
                (Outcome::Fail, format!("wrong: {}", list(wrong)), consequence)
            }
        };
        Check { name: "reductions", outcome, found, consequence: consequence.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The four sums on a CPU, whose compiler reassociates nothing.
    fn sums() -> Vec<[f32; 4]> {
        let add = |row: &[f32]| {
            let (mut plain, mut kahan, mut kept) = (0f32, 0f32, 0f32);
            let (mut sum, mut error) = (0f32, 0f32);
            for &x in row {
                plain += x;
                let corrected = x - kept;
                let next = kahan + corrected;
                (kept, kahan) = ((next - kahan) - corrected, next);
                let next = sum + x;
                let part = next - sum;
                error += (sum - (next - part)) + (x - part);
                sum = next;
            }
            [plain, kahan, sum + error, sum + error]
        };
        rows().chunks_exact(COLS).map(add).collect()
    }

    #[test]
    fn the_rows_need_compensation() {
        let (exact, right) = (exact_rows(), sums());
        let all = Compensation { kahan: true, two_sum: true, guarded: true, fma_is_fused: true };
        assert_eq!(Compensation::judge(&exact, &right, true), all);
        assert_eq!(all.check().outcome, Outcome::Pass);
        // A compiler that removes compensation leaves the plain sum; one row is enough to tell.
        for (row, sums) in right.iter().enumerate() {
            for kind in 1..4 {
                let mut answers = right.clone();
                answers[row][kind] = sums[0];
                let found = Compensation::judge(&exact, &answers, true);
                let kept = [found.kahan, found.two_sum, found.guarded];
                assert_eq!(kept, [kind != 1, kind != 2, kind != 3], "row {row}");
                assert_eq!(found.check().outcome, Outcome::Degraded);
            }
        }
        assert_eq!(Compensation::judge(&exact, &right, false).check().outcome, Outcome::Degraded);
    }

    #[test]
    fn any_wrong_sum_fails() {
        let exact = exact_reductions();
        let floats: Vec<_> = exact.values.iter().map(|pair| pair.map(|x| x as f32)).collect();
        let right = Reductions::judge(&exact, &exact.words, &floats, exact.totals);
        assert_eq!(right, Reductions { integers: true, floats: true, atomics: true });
        assert_eq!(right.check().outcome, Outcome::Pass);

        let mut wrong = exact.words.clone();
        wrong[96][0] ^= 1;
        let found = Reductions::judge(&exact, &wrong, &floats, exact.totals);
        assert_eq!(found, Reductions { integers: false, ..right });
        let mut wrong = floats.clone();
        wrong[0][1] += 0.125;
        let found = Reductions::judge(&exact, &exact.words, &wrong, exact.totals);
        assert_eq!(found, Reductions { floats: false, ..right });
        let found = Reductions::judge(&exact, &exact.words, &floats, [exact.totals[0], 0]);
        assert_eq!(found, Reductions { atomics: false, ..right });
        assert_eq!(found.check().outcome, Outcome::Fail);
        assert_eq!(found.check().found, "wrong: integers through atomics");
    }
}
