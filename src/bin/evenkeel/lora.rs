//! `evenkeel lora`: fine-tunes a model with adapters, or all of it. Options, configuration files and
//! data are those of `mlx_lm.lora`.
//!
//! The folder of a run (`--adapter-path`) holds:
//!
//! | | |
//! |---|---|
//! | `adapter_config.json`, `adapter_model.safetensors` | the last adapter, as PEFT has it; or mlx-lm's files; or, where all is trained, the folder of a model. With `--ema` here and below it is the average |
//! | `best/` | the one with the lowest validation loss |
//! | `0000100/` | the one after iteration 100 (`--save-every`) |
//! | `mlx/` | the last one as mlx-lm has it, where both layouts are asked for |
//! | `settings.yaml` | all settings, as they were resolved |
//! | `metrics.jsonl` | a line for every step, with whatever happened in it |
//! | `log.rank-1.txt`, ... | on several ranks, what each but the first says |
//! | `diloco.rank-0.safetensors`, ... | with `--diloco-steps`, what each rank alone has at the last save, and in `diloco.rank-0.previous.safetensors` at the one before |
//! | `state.safetensors`, `state.previous.safetensors` | what `--resume` goes on from: trained weights, moments, counters, position in the data |

mod adapter;
mod data;
mod follower;
mod memory;
mod optimizer;
mod options;
mod progress;
mod reactions;
mod records;
mod replay;
mod result;
mod resume;
mod schedule;
mod session;
mod settings;
mod setup;
mod sources;
mod storage;

use evenkeel::run::{self, Ending, Signals};
use evenkeel::{Error, Result};

use follower::Told;
pub use options::Options;
pub use replay::Replay;
use resume::Start;
use session::Session;
use setup::Setup;

use crate::ranks::Ranks;
use crate::regain::{self, Regain};

pub async fn run(options: Options) -> Result<Ending> {
    if options.json {
        run::say_aside();
    }
    let signals = Signals::listen()?;
    Ranks::together(async |ranks| match ranks.is_first() {
        true => lead(options, &signals, ranks).await,
        false => follower::follow(&signals, ranks).await,
    })
    .await
}

/// The settings of a run, checked as far as they can be by themselves.
fn begun(options: &Options, ranks: usize) -> Result<Start> {
    options.check()?;
    let start = Start::find(options)?;
    let settings = start.settings();
    settings.validate()?;
    if !settings.train && !settings.test {
        return Err(Error::Unsupported {
            what: "neither training nor testing".to_owned(),
            instead: "give at least one of --train and --test".to_owned(),
        });
    }
    settings.model()?;
    if settings.train {
        settings.share(ranks)?;
    }
    Ok(start)
}

/// What takes no step, and is done without the others.
async fn alone(start: &Start, options: &Options, ranks: &Ranks) -> Result<Ending> {
    let (settings, gpu) = (start.settings(), crate::device::open().await?);
    let read = setup::read(&settings)?;
    // What would be done is done on all of them.
    let ranks = if options.dry_run { ranks.clone() } else { Ranks::default() };
    let setup = Setup::choosing(settings, read, (&gpu, &ranks), options.quiet).await?;
    start.check_data(&setup.data)?;
    if options.dry_run {
        setup.print(&gpu)?;
        return Ok(Ending::Done);
    }
    let loss = setup::test_saved(&setup, &gpu).await?;
    if options.json {
        let result = serde_json::json!({ "test": loss.map(result::test) });
        run::print_result(format_args!("{result}"));
    }
    Ok(Ending::Done)
}

/// A run, as rank 0 has it; each run by itself is one.
async fn lead(options: Options, signals: &Signals, ranks: &Ranks) -> Result<Ending> {
    let mut start = ranks.agree(begun(&options, ranks.size()))?;
    let settings = start.settings();
    if !ranks.broadcast(Ok(Some(settings.train && !options.dry_run)))? {
        return alone(&start, &options, ranks).await;
    }
    let (gpu, _) = ranks.devices(options.quiet).await?;
    let read = ranks.patiently(|| setup::read(&settings))?;
    let setup = Setup::choosing(settings, read, (&gpu, ranks), options.quiet).await;
    let checked = setup.and_then(|setup| start.check_data(&setup.data).map(|()| setup));
    let setup = ranks.agree(checked)?;
    if ranks.are_several() {
        ranks.broadcast(Ok(Some(Told::of(&setup))))?;
    }
    // The others read, and find what they have to find.
    ranks.patiently(|| Ok(()))?;
    ranks.agree(Ok(()))?;
    crate::device::warn_unless_used(&gpu, setup.settings.precision());
    if !options.quiet {
        setup.say_what_is_trained();
    }
    let once = async |regain: &mut Regain| {
        start.read_again()?;
        let resumed = start.saved.as_ref().filter(|_| ranks.are_several());
        let resumed = resumed.map(|saved| saved.checkpoint.to_bytes());
        let begun = match Session::begin(&setup, regain, signals, &start).await {
            // The others are not where it was saved yet.
            Ok(session) if ranks.are_several() && resumed.is_none() => {
                let state = session.state().await;
                state.map(|state| (session, state.checkpoint().to_bytes()))
            }
            begun => begun.map(|session| (session, resumed.unwrap_or_default())),
        };
        let (session, state) = ranks.agree(begun)?;
        start.has_begun();
        if ranks.are_several() {
            ranks.broadcast_bytes(Ok(state))?;
            // The others are where this one is.
            ranks.agree(Ok(()))?;
        }
        let mut session = session.part().await?;
        let trained = session.train().await;
        // Until here the others were there for its checkpoints.
        let ending = ranks.agree(trained)?;
        if ending == Ending::Done && setup.settings.test {
            session.test().await?;
        }
        if options.json {
            run::print_result(format_args!("{}", session.result()));
        }
        Ok(ending)
    };
    let faults = &options.lose_device_at;
    match ranks.are_several() {
        true => regain::once(gpu, faults, once).await,
        false => regain::trying(gpu, faults, signals, once).await,
    }
}
