//! Whether this machine's adapters are fit to train.

use evenkeel::Result;
use evenkeel::run::doctor::{self, Report};
use evenkeel::run::{Ending, say};

/// The last line is the verdict; the exit code is 1 where an adapter is not fit to train, and 6 where
/// there is none.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Check every adapter of this machine, not only the one that the environment selects
    #[arg(long)]
    all: bool,
    /// Do not measure speed
    #[arg(long)]
    quick: bool,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Print the verdict alone
    #[arg(long, conflicts_with = "json")]
    quiet: bool,
}

pub async fn run(options: Options) -> Result<Ending> {
    let quick = options.quick || options.quiet;
    let reports = if options.all {
        doctor::all(quick, crate::device::options()).await?
    } else {
        vec![Report::of(&crate::device::open().await?, quick).await?]
    };
    if options.json {
        say!("{}", serde_json::to_string_pretty(&reports).expect("strings and numbers"));
    } else {
        if !options.quiet {
            reports.iter().for_each(Report::print);
        }
        for report in &reports {
            say!("{} ({}): {}", report.name, report.backend, report.verdict());
        }
    }
    Ok(reports.iter().all(Report::is_fit).into())
}
