//! Every kernel at realistic sizes, with the bandwidth or the arithmetic it reaches and, beside
//! it, what `copy_quads` reaches with as many bytes at the same time on the same adapter.
//!
//! `cargo bench --bench kernels`, or `cargo bench --bench kernels -- FILTER` with a part of
//! "family/kernel size"; the table at the end holds what ran. One module per kernel family, and
//! [`update`]: gradient scan, verdict and AdamW over one number of parameters in 1, 148 and 5,000
//! tensors, which should take the same time and reach at least half of the copy kernel's bandwidth.

#![allow(missing_docs, reason = "criterion's macros make public functions without docs")]

mod attention;
mod bench;
mod cooperative;
mod elementwise;
mod embedding;
mod generation;
mod halves;
mod logits;
mod loss;
mod matmul;
mod norm;
mod normalization;
mod optimizer;
mod random;
mod reduce;
mod softmax;
mod step;
mod table;
mod update;
mod weights;

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use evenkeel::Precision;
use evenkeel::gpu::{Gpu, GpuOptions};
use pollster::block_on;

use bench::{Family, SAMPLES};
use table::Table;

/// Runs the benchmarks of a family.
type Run = fn(&mut Family<'_>);

const FAMILIES: &[(&str, Run)] = &[
    ("elementwise", elementwise::run),
    ("random", random::run),
    ("embedding", embedding::run),
    ("normalization", normalization::run),
    ("softmax", softmax::run),
    ("loss", loss::run),
    ("reduce", reduce::run),
    ("matmul", matmul::run),
    ("attention", attention::run),
    ("generation", generation::run),
    ("logits", logits::run),
    ("optimizer", optimizer::run),
    ("step", step::run),
    ("norm", norm::run),
    ("update", update::run),
    ("weights", weights::run),
];

/// Families that are not timed: probes run once, and policies do a few operations per tensor.
const NOT_TIMED: [&str; 2] = ["policy", "probe"];

fn kernels(criterion: &mut Criterion) {
    let gpu = block_on(Gpu::new()).expect("an adapter");
    let mut table = Table::new(&gpu);
    for (name, run) in FAMILIES {
        run(&mut Family::new(&gpu, criterion.benchmark_group(*name), &mut table));
    }
    let converting = block_on(Gpu::new()).expect("an adapter");
    let begun = Instant::now();
    let found = block_on(converting.admit_half_conversions()).expect("an answer");
    println!("conversions of f16, asked for in {:.0?}: {found:?}", begun.elapsed());
    for gpu in [&gpu, &converting] {
        halves::run(&mut Family::new(gpu, criterion.benchmark_group("halves"), &mut table));
    }
    let options = GpuOptions { cooperative_matrices: true, ..GpuOptions::default() };
    let with_matrices = block_on(Gpu::with(options)).expect("an adapter");
    if with_matrices.cooperative_matrices().of(Precision::F16).is_some() {
        for gpu in [&gpu, &with_matrices] {
            let group = criterion.benchmark_group("matmul");
            cooperative::run(&mut Family::new(gpu, group, &mut table));
        }
    }
    let families = evenkeel::kernels::FAMILIES.iter();
    let timed = families.filter(|(family, _)| !NOT_TIMED.contains(family));
    let mut names = timed.flat_map(|(_, kernels)| kernels.iter()).map(|kernel| kernel.name);
    let missing: Vec<_> = names.by_ref().filter(|name| !table.covers(name)).collect();
    print!("{table}");
    assert!(missing.is_empty(), "kernels without a benchmark: {missing:?}");
}

/// Some 130 benchmarks, so each is short: three to four minutes in all.
fn settings() -> Criterion {
    Criterion::default()
        .without_plots()
        .sample_size(SAMPLES)
        .nresamples(2000)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! { name = benches; config = settings(); targets = kernels }
criterion_main!(benches);
