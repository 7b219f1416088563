//! Matrix products: whether each kernel that training takes on this adapter gives an exact product.
//!
//! The fastest kernels lean on a driver the most, and a wrong one trains all the same, only worse.

use super::{Check, Gpu, Outcome, list, random_words, whole};
use crate::error::Result;
use crate::gpu::Dispatch;
use crate::kernel::{Kernel, ProductTile};
use crate::kernels::{
    Matmul, MatmulDirect, MatmulDirectParams, MatmulParams, MatmulTransposedA,
    MatmulTransposedADirect, MatmulTransposedADirectParams, MatmulTransposedAParams,
    MatmulTransposedB, MatmulTransposedBDirect, MatmulTransposedBDirectParams,
    MatmulTransposedBParams,
};

/// Rows, columns and terms: more than one tile of each, and none full. Rows of all operands are
/// quads.
const SIZE: [usize; 3] = [132, 140, 84];

/// Whether the matrix products that training takes here are exact where the result is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Products {
    /// How many kernels were asked.
    pub kernels: usize,
    /// Those that gave a wrong element, each with the first.
    pub wrong: Vec<String>,
}

struct Case {
    name: String,
    dispatch: Dispatch,
    c: wgpu::Buffer,
}

pub(super) struct Probe(Vec<Case>);

impl Probe {
    pub(super) fn prepare(gpu: &Gpu) -> Self {
        let [rows, cols, inner] = SIZE.map(|n| n as u32);
        let operands = Operands::upload(gpu);
        let ab = operands.ab();
        let at_b = operands.at_b();
        let ab_t = operands.ab_t();
        let mut cases = Vec::new();
        macro_rules! product {
            ($Kernel:ident, $Params:ident, $operands:ident $(, $unused:ident)* $(; $($constant:ident)+)?) => {{
                let params = $Params::dense(rows, cols, inner);
                for &tile in tiles(gpu) {
                    let c = gpu.buffer("c", 4 * (rows * cols) as u64);
                    $(let $unused = gpu.buffer("unused", 16);)*
                    let [a, b] = $operands.map(whole);
                    let kernel =
                        $Kernel {
                    params,
                    $($($constant: 0,)+)?
                    a,
                    b,
                    c: whole(&c),
                    $($unused: whole(&$unused),)*
                };
                    let name = match gpu.is_software() {
                        true => $Kernel::DECLARATION.name.to_owned(),
                        false => format!("{} in tiles of {}", $Kernel::DECLARATION.name, tile.size()),
                    };
                    let dispatch = gpu.prepare_as(&kernel, tile);
                    cases.push(Case { name, dispatch, c });
                }
            }};
        }
        if gpu.is_software() {
            product!(MatmulDirect, MatmulDirectParams, ab, pre_activation; activation gated);
            product!(MatmulTransposedADirect, MatmulTransposedADirectParams, at_b);
            product!(
                MatmulTransposedBDirect,
                MatmulTransposedBDirectParams,
                ab_t,
                bias,
                pre_activation;
                activation
            );
        } else {
            product!(Matmul, MatmulParams, ab, pre_activation; activation gated);
            product!(MatmulTransposedA, MatmulTransposedAParams, at_b);
            product!(MatmulTransposedB, MatmulTransposedBParams, ab_t, bias, pre_activation; activation);
        }
        Self(cases)
    }

    pub(super) fn dispatches(&self) -> impl Iterator<Item = &Dispatch> {
        self.0.iter().map(|case| &case.dispatch)
    }

    pub(super) async fn read(&self, gpu: &Gpu) -> Result<Products> {
        let exact = exact();
        let mut wrong = Vec::new();
        for case in &self.0 {
            let found: Vec<f32> = gpu.read(&case.c, 0, exact.len()).await?;
            wrong.extend(first_wrong(&found, &exact).map(|what| format!("{} {what}", case.name)));
        }
        Ok(Products { kernels: self.0.len(), wrong })
    }
}

/// On software drivers one kernel fits every matrix.
fn tiles(gpu: &Gpu) -> &'static [ProductTile] {
    if gpu.is_software() { &[ProductTile::Of64] } else { &ProductTile::ALL }
}

/// Both operands, each as it is and transposed.
struct Operands {
    a: wgpu::Buffer,
    a_transposed: wgpu::Buffer,
    b: wgpu::Buffer,
    b_transposed: wgpu::Buffer,
}

impl Operands {
    fn upload(gpu: &Gpu) -> Self {
        let [rows, cols, inner] = SIZE;
        let upload = |name, rows, cols, get: &dyn Fn(usize, usize) -> f32| {
            let values: Vec<_> = (0..rows * cols).map(|i: usize| get(i / cols, i % cols)).collect();
            gpu.upload(name, &values)
        };
        Self {
            a: upload("a", rows, inner, &a),
            a_transposed: upload("a transposed", inner, rows, &|k, row| a(row, k)),
            b: upload("b", inner, cols, &b),
            b_transposed: upload("b transposed", cols, inner, &|col, k| b(k, col)),
        }
    }

    fn ab(&self) -> [&wgpu::Buffer; 2] {
        [&self.a, &self.b]
    }

    fn at_b(&self) -> [&wgpu::Buffer; 2] {
        [&self.a_transposed, &self.b]
    }

    fn ab_t(&self) -> [&wgpu::Buffer; 2] {
        [&self.a, &self.b_transposed]
    }
}

/// Integers from -128 to 127: a product of 84 of them is below 2^21, and exact in any order.
pub(super) fn integer(seed: u32, i: usize) -> f32 {
    (random_words(seed, i)[0] >> 24) as f32 - 128.0
}

fn a(row: usize, k: usize) -> f32 {
    integer(107, row * SIZE[2] + k)
}

fn b(k: usize, col: usize) -> f32 {
    integer(108, k * SIZE[1] + col)
}

fn exact() -> Vec<i64> {
    let [rows, cols, inner] = SIZE;
    let element = |i: usize| -> i64 {
        (0..inner).map(|k| a(i / cols, k) as i64 * b(k, i % cols) as i64).sum()
    };
    (0..rows * cols).map(element).collect()
}

/// The first element that is not exact, as words.
fn first_wrong(found: &[f32], exact: &[i64]) -> Option<String> {
    let same = |(found, exact): (&f32, &i64)| f64::from(*found) == *exact as f64;
    let at = found.iter().zip(exact).position(|pair| !same(pair))?;
    let (row, col) = (at / SIZE[1], at % SIZE[1]);
    Some(format!("({} for {} in row {row}, column {col})", found[at], exact[at]))
}

impl Products {
    pub(super) fn check(&self) -> Check {
        let (outcome, found, consequence) = match self.wrong.as_slice() {
            [] => {
                let found = format!("{} kernels equal the exact results", self.kernels);
                (Outcome::Pass, found, "layers and their gradients are such products")
            }
            wrong => {
                let consequence =
                    "layers and gradients would be wrong: do not train here; another driver may do";
                (Outcome::Fail, format!("wrong: {}", list(wrong)), consequence)
            }
        };
        Check { name: "matrix products", outcome, found, consequence: consequence.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_wrong_element_fails() {
        let exact = exact();
        assert!(exact.iter().all(|x| x.unsigned_abs() < 1 << 24), "f32 holds them");
        let right: Vec<_> = exact.iter().map(|&x| x as f32).collect();
        assert_eq!(first_wrong(&right, &exact), None);
        for (at, wrong) in [(0, 0.5), (SIZE[1] + 3, f32::NAN), (exact.len() - 1, 0.0)] {
            let mut found = right.clone();
            found[at] = wrong;
            let what = first_wrong(&found, &exact).expect("a wrong element");
            let place = format!("in row {}, column {})", at / SIZE[1], at % SIZE[1]);
            assert!(what.ends_with(&place), "{what}");
            let check = Products { kernels: 1, wrong: vec![format!("matmul {what}")] }.check();
            assert_eq!(check.outcome, Outcome::Fail);
            assert!(check.found.starts_with("wrong: matmul ("), "{}", check.found);
        }
        let check = Products { kernels: 3, wrong: Vec::new() }.check();
        assert_eq!(
            (check.outcome, check.found.as_str()),
            (Outcome::Pass, "3 kernels equal the exact results")
        );
    }
}
