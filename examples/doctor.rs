//! Is this GPU fit to train? Asks the adapter what it does with numbers, and how fast it is.
//!
//! ```text
//! cargo run --release --example doctor
//! cargo run --release --example doctor -- --all
//! cargo run --release --example doctor -- --json
//! ```
//!
//! Each line is a question, how it ended, what was found, and what the library does about it. The
//! exit code is 1 if a check fails. All of it is [`Gpu::numerics`] and [`Gpu::speed`], which a
//! program can call for itself before it trains. `evenkeel doctor` is the same as a command.

use std::process::ExitCode;

use clap::Parser;
use evenkeel::gpu::GpuOptions;
use evenkeel::run::doctor::{self, Report};
use evenkeel::run::{finish, say};
use evenkeel::{Gpu, Result};

/// Checks whether an adapter is fit to train.
#[derive(Debug, Parser)]
#[command(name = "doctor")]
struct Options {
    /// Check every adapter of this machine, not only the one that the environment selects.
    #[arg(long)]
    all: bool,
    /// Do not measure speed.
    #[arg(long)]
    quick: bool,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    finish(pollster::block_on(run(&options)))
}

/// True if every adapter that was asked for is fit to train.
async fn run(options: &Options) -> Result<bool> {
    let reports = if options.all {
        doctor::all(options.quick, GpuOptions::default()).await?
    } else {
        vec![Report::of(&Gpu::new().await?, options.quick).await?]
    };
    if options.json {
        let text = serde_json::to_string_pretty(&reports).expect("strings and numbers");
        say!("{text}");
    } else {
        reports.iter().for_each(Report::print);
    }
    Ok(reports.iter().all(Report::is_fit))
}
