//! `evenkeel why`: takes the steps of a run again, up to one that went wrong.
//!
//! [`history`] reads what the run recorded and finds the step, [`run`] is the run itself, of
//! whatever command, [`steps`] takes them again and compares them with the records ([`bits`]),
//! [`finding`] is what comes of it, [`told`] says it.

pub mod bits;
mod finding;
pub mod history;
pub mod run;
pub mod steps;
mod told;

use std::path::PathBuf;

use evenkeel::run::{Ending, Signals, say, warn};
use evenkeel::{Error, Result};

use crate::replay::Moved;
use finding::{Bits, Finding};
use history::History;
use run::Run;
use steps::{Replayed, Steps};

/// Goes back to the newest save before the step, takes the steps up to it again with the batches
/// that they had, and compares each with the records, bit by bit. The same bits: data or
/// mathematics are the cause, and the first value that is not finite is named, or the gradients
/// that stand out, with the records of the batch. Other bits: the driver, the hardware, or another
/// adapter.
///
/// The exit code is 0 where the cause was found or nothing went wrong, and 1 where the bits are
/// others.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The folder of a run of evenkeel lora or evenkeel train
    #[arg(value_name = "RUN_DIR")]
    run: PathBuf,
    /// The step, as metrics.jsonl counts them; if not given, the first of the last ones in a row
    /// that were skipped, spiked, or made the run give up
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    #[command(flatten)]
    moved: Moved,
    /// Print one object of JSON
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(long)]
    quiet: bool,
    /// For tests: before this step, each time that it is taken, another bit of a weight is turned
    /// over, as faulty memory does
    #[arg(long, hide = true, value_name = "STEP")]
    flip_bits_at: Option<u64>,
}

pub async fn run(options: Options) -> Result<Ending> {
    let signals = Signals::listen()?;
    let (folder, _) = crate::report::folder_and_records(&options.run)?;
    let folder = std::path::absolute(&folder).unwrap_or(folder);
    let history = History::read(&options.run)?;
    let Some(step) = history.find(options.step)? else {
        match options.json {
            true => say!("{}", told::nothing_as_json(&history)),
            false => say!("{}", told::nothing(&history)),
        }
        return Ok(Ending::Done);
    };
    let mut run = Run::open(&folder, step, &options.moved)?;
    if run.save().is_none() {
        warn(format!(
            "there is no save before step {step}: all steps are taken again from the beginning of \
             the run; saves that are nearer come with --save-every"
        ));
    }
    let gpu = crate::device::open().await?;
    let trouble = history.trouble(step);
    let mut begun = match run.begin(&gpu, 1).await {
        // What the run had room for fits without a look at the tensors.
        Err(Error::OutOfMemory { .. }) => run.begin(&gpu, 0).await?,
        begun => begun?,
    };
    begun.flip_bits_at(options.flip_bits_at);
    let steps = Steps { run: &run, history: &history, signals: &signals, quiet: options.quiet };
    let Some(replayed) = steps.take(&mut begun, step, true).await? else {
        return Ok(signals.received().map_or(Ending::Done, Ending::Stopped));
    };
    let is = crate::device::name(&gpu);
    let bits = match &replayed.difference {
        None => Bits::Same,
        Some(_) if run.device().is_some_and(|was| was != is) => {
            Bits::OtherAdapter { was: run.device().unwrap_or_default().to_owned(), is }
        }
        Some(difference) => {
            let until = difference.step;
            let own = replayed.history();
            let again = Steps { history: &own, ..steps };
            begun.go_back().await?;
            match again.take(&mut begun, until, false).await? {
                None => return Ok(signals.received().map_or(Ending::Done, Ending::Stopped)),
                Some(Replayed { difference: Some(difference), .. }) => {
                    let operation = steps.unsteady_operation(&mut begun, difference.step).await?;
                    Bits::Unsteady { difference, operation }
                }
                Some(_) => Bits::Others,
            }
        }
    };
    let finding = Finding { step, per_step: run.per_step(), run: &run, trouble, bits, replayed };
    match options.json {
        true => say!("{}", told::as_json(&finding, &history)),
        false => told::print(&finding, &history),
    }
    Ok((finding.bits == Bits::Same).into())
}
