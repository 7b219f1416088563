//! `evenkeel`: fine-tunes, trains and runs language models on any GPU.
//!
//! Each command is a module; exit codes are those of [`evenkeel::run::exit_code`].

mod chat;
mod completions;
mod convert;
mod device;
mod diff;
mod doctor;
mod evaluate;
mod fuse;
mod generate;
mod inspect;
mod loaded;
mod lora;
mod precision;
mod ranks;
mod regain;
mod replay;
mod report;
mod saving;
mod scores;
mod train;
mod why;
mod writing;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use evenkeel::Result;
use evenkeel::run::{self, Ending};
use ranks::Launched;

/// Fine-tunes, trains and runs language models on any GPU, and stays stable.
#[derive(Debug, Parser)]
#[command(name = "evenkeel", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    device: device::Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fine-tune a model with adapters, or all of it
    Lora(Box<lora::Options>),
    /// Train a model from scratch, or go on with one
    Train(Box<train::Options>),
    /// Let a model go on with a text
    Generate(generate::Options),
    /// Talk with a model
    Chat(chat::Options),
    /// Add an adapter to the weights of its model
    Fuse(fuse::Options),
    /// Write a model in another form: a folder, a GGUF file, other types, blocks
    Convert(convert::Options),
    /// Measure a model on a text, or on questions with choices
    Evaluate(evaluate::Options),
    /// Say what a model, an adapter, a checkpoint or a run holds
    Inspect(inspect::Options),
    /// Check the adapter and the kernels on it
    Doctor(doctor::Options),
    /// Write the report of a run as one page
    Report(report::Options),
    /// Find out why a step of a run went wrong
    Why(why::Options),
    /// Find where two runs part, or a run and this adapter
    Diff(diff::Options),
    /// Print completions for a shell
    Completions(completions::Options),
}

fn main() -> ExitCode {
    let launched = Launched::find().filter(|launched| launched.has_others());
    let is_first = launched.is_none_or(|launched| launched.rank == 0);
    let command = match Cli::try_parse() {
        Ok(cli) if is_first || cli.command.takes_ranks() => {
            cli.device.set();
            cli.command
        }
        Err(error) if is_first => error.exit(),
        // Rank 0 does it, or says what is wrong. Another code than 0 would have it ended.
        _ => return ExitCode::SUCCESS,
    };
    if launched.is_some() && !command.trains() {
        run::warn("several ranks were started, and rank 0 alone does this");
    }
    let result = pollster::block_on(command.run());
    run::finish_with(result, run::exit_code)
}

impl Command {
    /// Whether all processes that `mpirun` starts take part.
    fn takes_ranks(&self) -> bool {
        cfg!(feature = "mpi") && self.trains()
    }

    fn trains(&self) -> bool {
        matches!(self, Self::Train(_) | Self::Lora(_))
    }

    async fn run(self) -> Result<Ending> {
        match self {
            Self::Lora(options) => lora::run(*options).await,
            Self::Train(options) => train::run(*options).await,
            Self::Generate(options) => generate::run(options).await,
            Self::Chat(options) => chat::run(options).await,
            Self::Fuse(options) => fuse::run(options).await,
            Self::Convert(options) => convert::run(options).await,
            Self::Evaluate(options) => evaluate::run(options).await,
            Self::Inspect(options) => inspect::run(options).await,
            Self::Doctor(options) => doctor::run(options).await,
            Self::Report(options) => report::run(options).await,
            Self::Why(options) => why::run(options).await,
            Self::Diff(options) => diff::run(options).await,
            Self::Completions(options) => completions::run(options).await,
        }
    }
}
