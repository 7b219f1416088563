//! Everything a fresh machine needs, in one command. Each step is printed before it runs, and
//! nothing is installed without being named.
//!
//! [`drivers`] finds Vulkan drivers, [`install`] gets a software one where there is none, [`mesa26`] a
//! newer one for some tests, [`tests`] runs all tests, [`browser`] those of them that run in a page, [`backends`] the compilers of other
//! platforms, [`web`] builds and serves the demo, [`wasm`] compiles for browsers, [`npm`] brings tools
//! that run under Node, [`mpi`] what starts processes of a cluster, [`real_model`] a model to compare with,
//! [`book`] builds the book, [`hosts`] makes several hosts of this one, [`scaling`] computes how long
//! steps of many ranks take, [`steps`] runs programs.

mod backends;
mod book;
mod browser;
mod chromium;
mod drivers;
#[cfg(target_os = "linux")]
mod hosts;
mod install;
mod mesa26;
mod mpi;
mod npm;
mod peers;
mod real_model;
mod scaling;
mod steps;
mod tests;
mod wasm;
mod web;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use drivers::Kind;
use steps::Step;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Trains, tests and checks evenkeel on any machine")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a model with `evenkeel train`, on the graphics card or on a software driver
    Train(Train),
    /// Run all tests, the GPU tests on every driver that this machine has
    Test(tests::Options),
    /// Build the page that trains in a browser, and serve it on this machine
    Web(web::Options),
    /// Train the same models with evenkeel, TensorFlow.js and jax-js in Chromium
    BenchBrowser {
        /// Leave out evenkeel without a browser, which takes minutes to compile
        #[arg(long)]
        pages_only: bool,
        /// Arguments of benches/browser/run.mjs, such as --cases mlp,gpt or --rounds 3
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Do the same work with evenkeel, Burn and PyTorch in turn, and print a table of ratios
    BenchPeers(peers::Options),
    /// Run a program of MPI on several hosts, which are network namespaces of this one; takes root
    #[cfg(target_os = "linux")]
    Hosts(hosts::Options),
    /// Compute how long steps of many ranks take, and write the plots and tables of docs/scaling.md
    Scaling(scaling::Options),
    /// Build the book into target/book, and follow its links
    Book,
    /// Check that the library, the page and the tests that run in a page compile for browsers
    CheckWasm,
}

#[derive(Args)]
struct Train {
    /// Take this driver instead of the fastest one found
    #[arg(long)]
    driver: Option<Kind>,
    /// Arguments of `evenkeel train`; this repository's documents and sources are the data where
    /// none are given
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// What there is to learn without a download.
const OWN_DATA: [&str; 6] =
    ["--data", "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "shaders", "src"];
/// Where the run goes that nobody named a folder for.
const OWN_OUT: [&str; 2] = ["--out", "target/train"];

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Train(train) => train.run(),
        Command::Test(options) => tests::run(&options),
        Command::Web(options) => web::run(&options),
        Command::BenchBrowser { pages_only, arguments } => web::bench(pages_only, &arguments),
        Command::BenchPeers(options) => peers::run(&options),
        #[cfg(target_os = "linux")]
        Command::Hosts(options) => hosts::run(&options),
        Command::Scaling(options) => scaling::run(&options),
        Command::Book => book::build(),
        Command::CheckWasm => wasm::Compiler::find_or_install().and_then(wasm::Compiler::check),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Train {
    fn run(&self) -> Result<()> {
        let drivers = drivers::find_or_install(self.driver.as_slice())?;
        let driver = &drivers[0];
        println!("==> using {driver}");
        let names = |names: &[&str]| {
            let is = |argument: &String| {
                names
                    .iter()
                    .any(|name| argument == name || argument.starts_with(&format!("{name}=")))
            };
            self.arguments.iter().any(is)
        };
        let has_run = names(&["--config", "-c", "--resume", "--help", "-h"]);
        let (has_data, has_out) = (names(&["--data", "--text"]), names(&["--out"]));
        let own_data: &[&str] = if has_run || has_data { &[] } else { &OWN_DATA };
        let own_out: &[&str] = if has_run || has_out { &[] } else { &OWN_OUT };
        Step::cargo("run")
            .args(["--release", "--features", "cli", "--bin", "evenkeel", "--", "train"])
            .args(own_data)
            .args(own_out)
            .args(&self.arguments)
            .envs(driver.environment())
            .run()
    }
}
