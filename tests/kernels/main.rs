//! Every kernel against its f64 reference. One module per family, one row per kernel.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

/// Makes one test per kernel, each a function `fn name(gpu: &Gpu)` in the same module, and the
/// list of them.
macro_rules! rows {
    ($($name:ident),* $(,)?) => {
        pub const ROWS: &[super::Test] = &[$((stringify!($name), row::$name)),*];

        mod row {
            $(#[cfg_attr(test, test)]
            pub fn $name() {
                super::super::run_row(stringify!($name), super::$name);
            })*
        }
    };
}

use evenkeel::kernel::{Declaration, Variant};
use evenkeel::{Gpu, kernels};

/// Name and function of a test.
pub type Test = (&'static str, fn());

mod attention;
mod attention_extremes;
mod attention_run;
mod attention_subgroups;
mod attention_windows;
mod blocks;
#[cfg(not(target_arch = "wasm32"))]
mod cooperative;
mod elementwise;
mod embedding;
mod generation;
mod halves;
mod logits;
mod loss;
mod matmul;
mod norm;
mod norm_extremes;
mod normalization;
mod optimizer;
mod policy;
mod probe;
mod random;
mod reduce;
mod register_tiles;
mod softmax;
mod step;
mod weights;

/// Tests by family that are no rows.
pub const OTHERS: &[(&str, &[Test])] = &[
    ("attention_extremes", attention_extremes::TESTS),
    ("attention_subgroups", attention_subgroups::TESTS),
    ("attention_windows", attention_windows::TESTS),
    ("blocks", blocks::TESTS),
    ("elementwise", elementwise::TESTS),
    ("halves", halves::TESTS),
    ("matmul", matmul::TESTS),
    ("norm_extremes", norm_extremes::TESTS),
    ("random", random::TESTS),
    ("register_tiles", register_tiles::TESTS),
    ("softmax", softmax::TESTS),
    ("weights", weights::TESTS),
];

tests! {
    every_kernel_has_a_row,
}

/// Rows by family.
pub const FAMILIES: &[(&str, &[Test])] = &[
    ("attention", attention::ROWS),
    ("elementwise", elementwise::ROWS),
    ("embedding", embedding::ROWS),
    ("generation", generation::ROWS),
    ("logits", logits::ROWS),
    ("loss", loss::ROWS),
    ("matmul", matmul::ROWS),
    ("norm", norm::ROWS),
    ("normalization", normalization::ROWS),
    ("optimizer", optimizer::ROWS),
    ("policy", policy::ROWS),
    ("probe", probe::ROWS),
    ("random", random::ROWS),
    ("reduce", reduce::ROWS),
    ("softmax", softmax::ROWS),
    ("step", step::ROWS),
    ("weights", weights::ROWS),
];

/// Runs a row. Software adapters have variants of their own of some kernels: there a row runs for
/// both.
fn run_row(name: &str, row: fn(&Gpu)) {
    let Some(gpu) = support::gpu() else { return };
    row(&gpu);
    let is_of_software = |v: &Variant| v.few_lanes || v.subgroups_of_8 || v.large_register_tiles;
    let has_variants = |kernel: &Declaration| kernel.variants().iter().any(is_of_software);
    if gpu.is_software() && kernels::all().any(|k| k.name == name && has_variants(k)) {
        row(&support::gpu_with_hardware_kernels().expect("the same adapter"));
    }
}

fn every_kernel_has_a_row() {
    for (family, kernels) in kernels::FAMILIES {
        let (_, rows) = FAMILIES.iter().find(|(name, _)| name == family).expect("a test module");
        let names: Vec<_> = kernels.iter().map(|kernel| kernel.name).collect();
        for name in &names {
            assert!(
                rows.iter().any(|row| row.0 == *name),
                "kernel {name} has no row in tests/kernels/{family}.rs"
            );
        }
        for (row, _) in *rows {
            assert!(names.contains(row), "row {row} tests no kernel of family {family}");
        }
    }
}
