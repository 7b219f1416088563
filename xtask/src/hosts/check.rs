//! Ranks on several hosts have the bits of threads of one process.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::launch::mpirun;
use super::network::{Link, Network};
use super::rate::Rate;
use crate::drivers::Driver;
use crate::mpi;
use crate::steps::{self, Step};

/// A slow network: what goes wrong with time goes wrong here.
const LINK: Link = Link { delay: Duration::from_millis(5), rate: Some(Rate(100_000_000)) };
/// Those of other tests, so that nothing is built twice.
pub const FEATURES: [&str; 2] =
    ["--features", "evenkeel/contract,evenkeel/dashboard,evenkeel/cli,evenkeel/mpi"];
const HOSTS: [usize; 3] = [2, 3, 4];
const STEPS: [&str; 2] = ["--steps", "12"];

/// The example `ranks` on two, three and four hosts, beside as many threads.
pub fn run(driver: &Driver) -> Result<()> {
    mpi::find_or_install()?;
    let build = ["--package", "evenkeel", "--example", "ranks"];
    Step::cargo("build").args(build).args(FEATURES).run()?;
    let program = steps::target().join("debug/examples/ranks");
    let program = program.to_str().context("a path in UTF-8")?;
    let environment = driver.environment();
    for hosts in HOSTS {
        let alone = Step::new(program).args(["--local", &hosts.to_string()]).args(STEPS);
        let alone = alone.envs(environment.clone()).output();
        let alone = one_line_of_all(hosts, &alone.context("the threads did not end well")?)?;

        let network = Network::new(hosts, LINK)?;
        println!("==> {network}");
        let command: Vec<_> = [program].iter().chain(&STEPS).map(|part| part.to_string()).collect();
        let start = Instant::now();
        let launch = mpirun(&network, &command)?.envs(environment.clone());
        let together = one_line_of_all(hosts, &launch.output()?)?;
        let seconds = start.elapsed().as_secs_f64();
        ensure!(
            together == alone,
            "{hosts} hosts end with {together}, as many threads with {alone}"
        );
        let sent = network.carried().join("; ");
        println!("==> ok: {together}, as threads; {seconds:.2} s, sent: {sent}");
    }
    Ok(())
}

/// What all ranks print behind their number, which has to be one thing.
fn one_line_of_all(ranks: usize, output: &str) -> Result<String> {
    let mut lines: Vec<_> = output.lines().filter(|line| line.starts_with("rank ")).collect();
    lines.sort_unstable();
    let parts: Option<Vec<_>> = lines
        .iter()
        .enumerate()
        .map(|(rank, line)| line.strip_prefix(&format!("rank {rank} of {ranks}: ")))
        .collect();
    let parts = parts
        .filter(|parts| parts.len() == ranks)
        .with_context(|| format!("a line of each of {ranks} ranks was expected, not {output:?}"))?;
    ensure!(parts.iter().all(|part| *part == parts[0]), "ranks differ: {output}");
    Ok(parts[0].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_print_one_thing() {
        let line = one_line_of_all(2, "noise\nrank 1 of 2: x\nrank 0 of 2: x\n").unwrap();
        assert_eq!(line, "x");
        for wrong in ["rank 0 of 2: x\n", "rank 0 of 2: x\nrank 1 of 2: y\n", "rank 0 of 1: x\n"] {
            assert!(one_line_of_all(2, wrong).is_err(), "{wrong}");
        }
    }
}
