//! Evenkeel beside its peers: the same work, in turn on one machine, as a table of ratios.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::drivers::{self, Kind};
use crate::steps::{self, Step};

#[derive(Args)]
pub struct Options {
    /// How often each program runs; figures are medians over the rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// What to compare with
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["burn", "pytorch"])]
    peers: Vec<Peer>,
    /// Take this driver instead of the graphics card or the fastest driver found
    #[arg(long)]
    driver: Option<Kind>,
    /// Burn's kernels as SPIR-V instead of WGSL: faster on hardware; lavapipe crashes on it
    #[arg(long)]
    burn_vulkan: bool,
    /// The Python that has PyTorch
    #[arg(long, default_value = "python3")]
    python: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Peer {
    /// Burn with wgpu on the same adapter; compiled on first use, and it tries its kernels for
    /// minutes on a software driver
    Burn,
    /// PyTorch on the GPU where it has one, else on the processor
    Pytorch,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Self::Burn => "Burn",
            Self::Pytorch => "PyTorch",
        }
    }
}

/// Work that all do, by the name that peers print.
struct Case {
    name: &'static str,
    /// The bench of evenkeel's and a part of the name of its benchmark.
    bench: (&'static str, &'static str),
    /// Where criterion keeps what it measured: its group and beginnings of the name. The fastest
    /// counts, since the library has one kernel for each kind of device.
    group: &'static str,
    starts: &'static [&'static str],
}

const CASES: [Case; 7] = [
    step("step 0.8 M"),
    step("step 10.8 M"),
    step("step 124 M"),
    product("matmul 512 x 512 x 512"),
    product("matmul 1024 x 1024 x 1024"),
    update("update 1 M in 148 tensors"),
    update("update 10 M in 148 tensors"),
];

/// Criterion cuts the names of its folders behind so many bytes.
const LONGEST_NAME: usize = 64;

/// Products of A and B as they are, of numbers that are not in blocks.
const PRODUCTS: &str = "^matmul/matmul(_direct)? [0-9x ]+(, tiles of 32)?, GFLOP";

const fn step(name: &'static str) -> Case {
    Case { name, bench: ("step", "tokens"), group: name, starts: &["tokens"] }
}

const fn product(name: &'static str) -> Case {
    let starts = &["matmul ", "matmul_direct "];
    Case { name, bench: ("kernels", PRODUCTS), group: "matmul", starts }
}

const fn update(name: &'static str) -> Case {
    let starts = &["gradient_scan + gradient_norm + verdict + adamw "];
    Case { name, bench: ("kernels", "update/"), group: "update", starts }
}

/// What chooses the driver.
type Environment = Vec<(&'static str, OsString)>;

/// Milliseconds by case.
type Times = BTreeMap<String, f64>;

pub fn run(options: &Options) -> Result<()> {
    if options.rounds == 0 {
        bail!("--rounds 0 measures nothing: give at least 1");
    }
    let environment = environment(options.driver)?;
    let mut rounds: BTreeMap<&str, Vec<Times>> = BTreeMap::new();
    for _ in 0..options.rounds {
        rounds.entry("evenkeel").or_default().push(evenkeel(&environment)?);
        for &peer in &options.peers {
            rounds.entry(peer.name()).or_default().push(measure(peer, options, &environment)?);
        }
    }
    print!("{}", table(&rounds, &options.peers));
    Ok(())
}

fn environment(driver: Option<Kind>) -> Result<Environment> {
    let Some(kind) = driver else { return Ok(Vec::new()) };
    let found = drivers::find_or_install(&[kind])?;
    Ok(found[0].environment())
}

/// Runs the benches that the cases name, and reads what criterion wrote.
fn evenkeel(environment: &Environment) -> Result<Times> {
    let criterion = steps::target().join("criterion");
    if criterion.exists() {
        // A figure of an earlier run is no figure of this one.
        fs::remove_dir_all(&criterion)
            .with_context(|| format!("cannot remove {}", criterion.display()))?;
    }
    let mut benches: Vec<_> = CASES.iter().map(|case| case.bench).collect();
    benches.dedup();
    for (bench, filter) in benches {
        Step::cargo("bench")
            .args(["--bench", bench, "--", filter])
            .envs(environment.clone())
            .run()?;
    }
    let mut times = Times::new();
    for case in &CASES {
        if let Some(milliseconds) = case.fastest(&criterion)? {
            times.insert(case.name.to_owned(), milliseconds);
        }
    }
    Ok(times)
}

impl Case {
    /// What the name of a benchmark has in it besides its beginning.
    fn size(&self) -> &str {
        self.name.split_once(' ').map_or("", |(_, size)| size)
    }

    fn is_of(&self, benchmark: &str) -> bool {
        let size = self.size();
        self.starts.iter().any(|start| {
            let whole = format!("{start}{size}");
            if whole.len() > LONGEST_NAME {
                return benchmark == &whole[..LONGEST_NAME];
            }
            let rest = benchmark.strip_prefix(start);
            // Behind the size only the tile and the unit may follow: blocks are other work.
            rest.is_some_and(|rest| {
                rest.is_empty() || rest.strip_prefix(size).is_some_and(|rest| !rest.contains("Q"))
            })
        })
    }

    fn fastest(&self, criterion: &Path) -> Result<Option<f64>> {
        let group = criterion.join(self.group);
        let Ok(benchmarks) = fs::read_dir(&group) else { return Ok(None) };
        let mut fastest = None::<f64>;
        for benchmark in benchmarks {
            let benchmark = benchmark?;
            let estimates = benchmark.path().join("new/estimates.json");
            let name = benchmark.file_name().to_string_lossy().into_owned();
            if !self.is_of(&name) || !estimates.exists() {
                continue;
            }
            let milliseconds = median_of(&estimates)?;
            fastest = Some(fastest.map_or(milliseconds, |known| known.min(milliseconds)));
        }
        Ok(fastest)
    }
}

/// The median that criterion wrote, in milliseconds.
fn median_of(estimates: &Path) -> Result<f64> {
    let text = fs::read_to_string(estimates)?;
    let json: Value = serde_json::from_str(&text)?;
    let nanoseconds = json["median"]["point_estimate"].as_f64();
    let nanoseconds =
        nanoseconds.with_context(|| format!("no median in {}", estimates.display()))?;
    Ok(nanoseconds / 1e6)
}

fn measure(peer: Peer, options: &Options, environment: &Environment) -> Result<Times> {
    let step = match peer {
        Peer::Burn => {
            let manifest = ["--release", "--manifest-path", "benches/peers/burn/Cargo.toml"];
            let features = options.burn_vulkan.then_some(["--features", "vulkan"]);
            Step::cargo("run").args(manifest).args(features.into_iter().flatten())
        }
        Peer::Pytorch => Step::new(&options.python).args(["benches/peers/pytorch.py"]),
    };
    let mut times = Times::new();
    let succeeded = step.envs(environment.clone()).run_watching(|line| {
        times.extend(case_in(line));
    })?;
    if !succeeded {
        bail!("{} did not come to its end; --peers leaves it out", peer.name());
    }
    Ok(times)
}

/// A line `name = 1.5 ms (and more)`.
fn case_in(line: &str) -> Option<(String, f64)> {
    let (name, rest) = line.split_once(" = ")?;
    let milliseconds = rest.split_once(" ms")?.0.parse().ok()?;
    Some((name.to_owned(), milliseconds))
}

fn median(rounds: &[Times], case: &str) -> Option<f64> {
    let mut times: Vec<f64> = rounds.iter().filter_map(|times| times.get(case).copied()).collect();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}

/// Milliseconds, and how many times as long as evenkeel each peer takes.
fn table(rounds: &BTreeMap<&str, Vec<Times>>, peers: &[Peer]) -> String {
    let mut lines = vec!["| | evenkeel, ms |".to_owned(), "|---|---|".to_owned()];
    for peer in peers {
        lines[0] += &format!(" {}, ms | of evenkeel's |", peer.name());
        lines[1] += "---|---|";
    }
    for case in &CASES {
        let Some(own) = median(&rounds["evenkeel"], case.name) else { continue };
        let mut line = format!("| {} | {own:.3} |", case.name);
        for peer in peers {
            line += &match median(&rounds[peer.name()], case.name) {
                Some(time) => format!(" {time:.3} | {:.2} |", time / own),
                None => " | |".to_owned(),
            };
        }
        lines.push(line);
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_peers_are_read() {
        let (name, time) = case_in("step 0.8 M = 12.5 ms (41 tokens/s)").unwrap();
        assert_eq!((&*name, time), ("step 0.8 M", 12.5));
        assert_eq!(case_in("    (first run 12 ms)"), None);
        assert_eq!(case_in("PyTorch 2.11: CPU, 2 threads"), None);
    }

    #[test]
    fn benchmarks_are_told_apart() {
        let product = product("matmul 512 x 512 x 512");
        assert!(product.is_of("matmul_direct 512 x 512 x 512, GFLOP_s"));
        assert!(product.is_of("matmul 512 x 512 x 512, tiles of 32, GFLOP_s"));
        assert!(!product.is_of("matmul 512 x 512 x 512, Q4_0, GFLOP_s"));
        assert!(!product.is_of("matmul_direct 512 x 512 x 128, GFLOP_s"));
        assert!(!product.is_of("matmul_transposed_a 512 x 512 x 512, GFLOP_s"));
        let update = update("update 1 M in 148 tensors");
        assert!(update.is_of("gradient_scan + gradient_norm + verdict + adamw 1 M in 148 tenso"));
        assert!(!update.is_of("gradient_scan + gradient_norm + verdict + adamw 10 M in 1 tensor"));
        assert!(step("step 0.8 M").is_of("tokens"));
        assert!(!step("step 0.8 M").is_of("host"));
    }

    #[test]
    fn ratios_are_of_medians() {
        let times = |ms: f64| Times::from([("step 0.8 M".to_owned(), ms)]);
        let rounds = BTreeMap::from([
            ("evenkeel", vec![times(2.0), times(9.0), times(1.0)]),
            ("Burn", vec![times(8.0), times(7.0), times(100.0)]),
        ]);
        let table = table(&rounds, &[Peer::Burn]);
        assert!(table.ends_with("| step 0.8 M | 2.000 | 8.000 | 4.00 |\n"), "{table}");
    }
}
