//! Every kernel against its f64 reference. One module per family, one row per kernel.

#[path = "../support/mod.rs"]
mod support;

/// Makes one test per kernel, each a function `fn name(gpu: &Gpu)` in the same module, and the
/// list of them.
macro_rules! rows {
    ($($name:ident),* $(,)?) => {
        pub const ROWS: &[&str] = &[$(stringify!($name)),*];
        mod row {
            $(#[test]
            fn $name() {
                if let Some(gpu) = crate::support::gpu() {
                    super::$name(&gpu);
                }
            })*
        }
    };
}

mod attention;
mod elementwise;
mod embedding;
mod logits;
mod loss;
mod matmul;
mod norm;
mod normalization;
mod optimizer;
mod optimizer_runs;
mod policy;
mod probe;
mod random;
mod reduce;
mod softmax;
mod step;
mod weights;

const FAMILIES: &[(&str, &[&str])] = &[
    ("attention", attention::ROWS),
    ("elementwise", elementwise::ROWS),
    ("embedding", embedding::ROWS),
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

#[test]
fn every_kernel_has_a_row() {
    for (family, kernels) in evenkeel::kernels::FAMILIES {
        let (_, rows) = FAMILIES.iter().find(|(name, _)| name == family).expect("a test module");
        let names: Vec<_> = kernels.iter().map(|kernel| kernel.name).collect();
        for name in &names {
            assert!(rows.contains(name), "kernel {name} has no row in tests/kernels/{family}.rs");
        }
        for row in *rows {
            assert!(names.contains(row), "row {row} tests no kernel of family {family}");
        }
    }
}
