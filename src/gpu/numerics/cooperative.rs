//! Products by cooperative matrices, before they are used: whether they are exact where the result
//! is, whether the smallest halves are kept, and whether NaN and Inf reach the rows that hold them and
//! no other.

use super::products::integer;
use super::{Check, Gpu, Outcome, list, prepared, whole};
use crate::error::Result;
use crate::gpu::Dispatch;
use crate::kernel::{CooperativeMatrix, Precision, Variant};
use crate::kernels::{
    Matmul, MatmulParams, MatmulTransposedA, MatmulTransposedAParams, MatmulTransposedB,
    MatmulTransposedBParams,
};

/// Rows, columns and terms: more than one tile of each and more than a partial sum, and none full.
const SIZE: [usize; 3] = [68, 76, 300];
/// Where A holds a NaN, as row and term.
const NAN: (usize, usize) = (40, 7);
/// Where A holds an Inf.
const INFINITE: (usize, usize) = (66, 290);
/// The least half that is not zero.
const LEAST_HALF: f32 = 1.0 / (1u32 << 24) as f32;

/// What is wrong with products by such matrices on this device: the first wrong element, or what the
/// driver says of the kernels.
pub(in crate::gpu) async fn first_wrong(
    gpu: &Gpu,
    matrix: CooperativeMatrix,
) -> Result<Option<String>> {
    let (cases, refusal) = prepared(gpu, || cases(gpu, matrix));
    if let Some(reason) = refusal.await {
        return Ok(Some(reason));
    }
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    gpu.encode(&mut encoder, cases.iter().map(|case| &case.dispatch));
    gpu.submit(encoder);
    for case in &cases {
        let [rows, cols, _] = SIZE;
        let bytes = rows * cols / 4 * case.stored.quad_bytes() as usize;
        let bytes: Vec<u8> = gpu.read(&case.c, 0, bytes).await?;
        let found = case.stored.decode(&bytes);
        if let Some(wrong) = first_wrong_of(matrix.precision(), &found) {
            return Ok(Some(format!("{} is wrong {wrong}", case.dispatch.name)));
        }
    }
    Ok(None)
}

struct Case {
    dispatch: Dispatch,
    c: wgpu::Buffer,
    /// How C is stored.
    stored: Precision,
}

fn cases(gpu: &Gpu, matrix: CooperativeMatrix) -> [Case; 3] {
    let precision = matrix.precision();
    let variant = Variant { cooperative: Some(matrix), ..precision.into() };
    let [rows, cols, inner] = SIZE;
    let upload = |name, rows, cols, get: &dyn Fn(usize, usize) -> f32| {
        let values: Vec<_> = (0..rows * cols).map(|i: usize| get(i / cols, i % cols)).collect();
        gpu.upload(name, &precision.encode(&values))
    };
    let of_a = |row, k| a(precision, row, k);
    let plain_a = upload("a", rows, inner, &of_a);
    let transposed_a = upload("a transposed", inner, rows, &|k, row| of_a(row, k));
    let plain_b = upload("b", inner, cols, &b);
    let transposed_b = upload("b transposed", cols, inner, &|col, k| b(k, col));
    let [rows, cols, inner] = SIZE.map(|n| n as u32);
    macro_rules! case {
        ($Kernel:ident, $Params:ident, $a:ident, $b:ident, $stored:expr $(, $unused:ident)* $(; $($constant:ident)+)?) => {{
            let c = gpu.buffer("c", 4 * u64::from(rows * cols));
            $(let $unused = gpu.buffer("unused", 16);)*
            let params = $Params::dense(rows, cols, inner);
            let (a, b) = (whole(&$a), whole(&$b));
            let kernel = $Kernel {
                    params,
                    $($($constant: 0,)+)?
                    a,
                    b,
                    c: whole(&c),
                    $($unused: whole(&$unused),)*
                };
            Case { dispatch: gpu.prepare_as(&kernel, variant), c, stored: $stored }
        }};
    }
    [
        case!(Matmul, MatmulParams, plain_a, plain_b, precision, pre_activation; activation gated),
        case!(MatmulTransposedA, MatmulTransposedAParams, transposed_a, plain_b, Precision::F32),
        case!(
            MatmulTransposedB,
            MatmulTransposedBParams,
            plain_a,
            transposed_b,
            precision,
            bias,
            pre_activation;
            activation
        ),
    ]
}

/// From -4 to 3: sums of 300 products that a half holds.
fn small(seed: u32, i: usize) -> f32 {
    (integer(seed, i) / 32.0).floor()
}

/// Even rows hold small integers. Odd ones, in f16, the same times the least half, which a device that
/// flushes subnormals has for zero; in f32 one number of 17 bits, which a device that multiplies in
/// tf32 or bf16 rounds.
fn a(precision: Precision, row: usize, k: usize) -> f32 {
    if (row, k) == NAN {
        return f32::NAN;
    }
    if (row, k) == INFINITE {
        return f32::INFINITY;
    }
    let plain = small(109, row * SIZE[2] + k);
    match precision {
        _ if row.is_multiple_of(2) => plain,
        Precision::F32 => f32::from(u8::from(k == row)) * 65_537.0,
        Precision::F16 | Precision::Bf16 => plain * LEAST_HALF,
    }
}

fn b(k: usize, col: usize) -> f32 {
    small(110, k * SIZE[1] + col)
}

/// The exact element, or `None` where it is not finite.
fn exact(precision: Precision, row: usize, col: usize) -> Option<f64> {
    let terms = (0..SIZE[2]).map(|k| f64::from(a(precision, row, k)) * f64::from(b(k, col)));
    (row != NAN.0 && row != INFINITE.0).then(|| terms.sum())
}

fn first_wrong_of(precision: Precision, found: &[f32]) -> Option<String> {
    let cols = SIZE[1];
    found.iter().enumerate().find_map(|(at, &found)| {
        let (row, col) = (at / cols, at % cols);
        let place = format!("in row {row}, column {col}");
        match exact(precision, row, col) {
            Some(exact) if f64::from(found) == exact => None,
            Some(exact) => Some(format!("({found:e} for {exact:e} {place})")),
            None if !found.is_finite() => None,
            None => Some(format!("({found:e} for NaN or Inf {place})")),
        }
    })
}

/// What came of it, where it was asked.
pub(super) fn check(gpu: &Gpu) -> Option<Check> {
    let found = gpu.cooperative_matrices();
    if found.admitted.is_empty() && found.refused.is_empty() {
        return None;
    }
    let (outcome, consequence) = match found.admitted.is_empty() {
        true => (Outcome::Degraded, "products go without them, as on a device that was not asked"),
        false if found.refused.is_empty() => {
            (Outcome::Pass, "products of tensors in that storage multiply by them, sums are f32")
        }
        false => (Outcome::Pass, "those that passed are used, and the others are not"),
    };
    let admitted = (!found.admitted.is_empty())
        .then(|| format!("{}: passed the self-test", list(&found.admitted)));
    let words: Vec<_> = admitted.iter().chain(&found.refused).map(String::as_str).collect();
    Some(Check {
        name: "cooperative matrices",
        outcome,
        found: words.join("; "),
        consequence: consequence.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(precision: Precision) -> Vec<f32> {
        let [rows, cols, _] = SIZE;
        let element =
            |i: usize| exact(precision, i / cols, i % cols).map_or(f32::NAN, |x| x as f32);
        (0..rows * cols).map(element).collect()
    }

    #[test]
    fn the_exact_product_is_one_that_storage_holds() {
        for precision in [Precision::F16, Precision::F32] {
            let right = right(precision);
            assert_eq!(precision.decode(&precision.encode(&right)).len(), right.len());
            assert_eq!(
                first_wrong_of(precision, &precision.decode(&precision.encode(&right))),
                None
            );
        }
    }

    #[test]
    fn each_fault_is_seen() {
        let cols = SIZE[1];
        let wrong = |precision, at: usize, value: f32| {
            let mut found = right(precision);
            found[at] = value;
            first_wrong_of(precision, &found)
        };
        for precision in [Precision::F16, Precision::F32] {
            for row in [0, 1, 66, 67] {
                let at = row * cols + 75;
                let off = right(precision)[at] + 1.0;
                let off = if row == INFINITE.0 { 1.0 } else { off };
                let what = wrong(precision, at, off).expect("a wrong element");
                assert!(what.contains(&format!("in row {row}, column 75")), "{what}");
            }
            assert!(wrong(precision, 5, f32::NAN).is_some(), "a NaN where there is none");
            assert!(wrong(precision, NAN.0 * cols, 0.0).is_some(), "a NaN that is lost");
        }
        // Flushed halves, and operands in tf32, give a whole odd row another sum.
        let odd = right(Precision::F16)[cols..2 * cols].to_vec();
        assert!(odd.iter().filter(|x| **x != 0.0).count() > 60);
        let col = (0..cols).find(|&col| b(1, col) != 0.0).expect("not all zero");
        let rounded = 65_536.0 * b(1, col);
        assert!(wrong(Precision::F32, cols + col, rounded).is_some());
    }
}
