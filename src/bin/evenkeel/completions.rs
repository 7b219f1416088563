//! Completions for shells.

use clap::CommandFactory;
use clap_complete::{Shell, generate};
use evenkeel::Result;
use evenkeel::run::{Ending, print_bytes};

/// For bash: `evenkeel completions bash > ~/.local/share/bash-completion/completions/evenkeel`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The shell that reads them
    shell: Shell,
}

pub async fn run(options: Options) -> Result<Ending> {
    let (mut command, mut script) = (crate::Cli::command(), Vec::new());
    generate(options.shell, &mut command, "evenkeel", &mut script);
    print_bytes(&script);
    Ok(Ending::Done)
}
