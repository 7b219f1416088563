//! Runs the bench `exchange` over several networks, and keeps its figures in a file.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Options;
use super::measured::{self, Link, Measured};
use super::tables;
use crate::hosts;
use crate::mpi;
use crate::steps::{self, Step};

/// Networks that this machine can carry, and the numbers of ranks on each.
const RUNS: [(Link, &[u32]); 4] = [
    (Link { delay_us: 0, rate_mbit: None }, &[1, 2, 3, 4, 8]),
    (Link { delay_us: 1000, rate_mbit: Some(1000) }, &[2, 3, 4, 8]),
    (Link { delay_us: 5000, rate_mbit: Some(100) }, &[2, 3, 4]),
    (Link { delay_us: 50_000, rate_mbit: Some(1000) }, &[2, 4]),
];

/// Measures all, or what the options name; what else the file has stays.
pub fn run(options: &Options) -> Result<()> {
    mpi::find_or_install()?;
    let program = program(&options.profile)?;
    let mut measured = Measured::load().unwrap_or_default();
    for (link, counts) in RUNS {
        let name = tables::named(link);
        if options.only.as_ref().is_some_and(|only| !name.contains(only)) {
            continue;
        }
        for &ranks in counts {
            let network = hosts::Network::new(ranks as usize, hosts_link(link))?;
            println!("==> {network}");
            let launch = hosts::mpirun(&network, std::slice::from_ref(&program))?;
            let lines = launch.output()?;
            print!("{lines}");
            measured.forget(link, ranks);
            lines.lines().for_each(|line| measured.take(link, ranks, line));
            // After each run, since all of them take minutes.
            save(&measured, &options.note)?;
        }
    }
    Ok(())
}

fn save(measured: &Measured, note: &str) -> Result<()> {
    let file = measured::file();
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&file, measured.to_text(note))?;
    Ok(())
}

fn hosts_link(link: Link) -> hosts::Link {
    let rate = link.rate_mbit.map(|rate| hosts::Rate(rate * 1_000_000));
    hosts::Link { delay: Duration::from_micros(link.delay_us), rate }
}

/// The bench, which is built first.
fn program(profile: &str) -> Result<String> {
    let arguments = ["--package", "evenkeel", "--bench", "exchange", "--profile", profile];
    let built = Step::cargo("bench").args(arguments).args(hosts::check::FEATURES);
    let built = built.args(["--no-run", "--message-format=json"]);
    let mut program = None;
    let success = built.run_reading(|line| {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { return };
        if message["target"]["name"] == "exchange" {
            program = message["executable"].as_str().map(str::to_owned).or(program.take());
        }
    })?;
    ensure!(success, "the bench does not build");
    program.with_context(|| format!("no bench was built under {}", steps::target().display()))
}
