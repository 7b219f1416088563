//! A run on one of the other ranks: it takes the steps of rank 0 with its own part of each, and writes
//! nothing but a log. What is exchanged stands here in the order in which rank 0 has it (`lead` in
//! `lora.rs`, `session.rs`), and the steps are those of a [`Follower`].

use std::path::{Path, PathBuf};

use evenkeel::data::Prefetch;
use evenkeel::run::{Ending, Signals};
use evenkeel::train::Batch;
use evenkeel::{Error, Result};
use serde::{Deserialize, Serialize};

use super::session::AHEAD;
use super::settings::Settings;
use super::setup::Setup;
use crate::ranks::learner::Learner;
use crate::ranks::{Follower, Log, Ranks, process};

/// What rank 0 trains, and on which data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    pub settings: Settings,
    pub folder: PathBuf,
    /// Fingerprint of the data.
    pub data: String,
}

impl Told {
    pub fn of(setup: &Setup) -> Self {
        let (settings, data) = (setup.settings.clone(), setup.data.fingerprint());
        Self { folder: settings.adapter_path.clone(), settings, data }
    }
}

/// Takes part in a run until its end; where there is nothing to train it is over at once.
///
/// # Errors
/// What goes wrong on this rank, and [`Error::Rank`] for what does elsewhere.
pub async fn follow(signals: &Signals, ranks: &Ranks) -> Result<Ending> {
    ranks.agree(Ok(()))?;
    if !ranks.broadcast::<bool>(Ok(None))? {
        return Ok(Ending::Done);
    }
    let (gpu, devices) = ranks.devices(true).await?;
    // Rank 0 reads, and chooses.
    ranks.patiently(|| Ok(()))?;
    ranks.agree(Ok(()))?;
    let told: Told = ranks.broadcast(Ok(None))?;
    let rank = ranks.rank();
    let mut log = Log::of_rank(rank, &told.folder);
    log.say(format_args!("rank {rank} of {}: {}, on {}", ranks.size(), process(), devices[rank]));
    let setup = ranks.patiently(|| read(&told)).and_then(|read| {
        ranks.agree(Setup::with(told.settings.clone(), read, (&gpu, ranks), true))
    });
    let followed = match setup {
        Ok(setup) => train((&setup, &told.folder), &gpu, signals, &mut log).await,
        Err(error) => Err(error),
    };
    match &followed {
        Ok(steps) => log.say(format_args!("ended after {steps} steps")),
        Err(error) => log.say(format_args!("ended: {error}")),
    }
    followed.map(|_| signals.received().map_or(Ending::Done, Ending::Stopped))
}

/// The model and the data, which are those of rank 0.
fn read(told: &Told) -> Result<super::setup::Read> {
    let read = super::setup::read(&told.settings)?;
    if read.1.fingerprint() == told.data {
        return Ok(read);
    }
    let what = told.settings.data.as_deref().unwrap_or_else(|| "--data".as_ref());
    Err(Error::Data {
        what: what.display().to_string(),
        reason:
            "these are other records than those that rank 0 finds under this name; copy them to \
                 every machine, or to a file system that all of them see"
                .to_owned(),
    })
}

async fn train(
    (setup, folder): (&Setup, &Path),
    gpu: &evenkeel::Gpu,
    signals: &Signals,
    log: &mut Log,
) -> Result<u64> {
    let (ranks, settings) = (&setup.ranks, &setup.settings);
    let trainer = setup.trainer(gpu).await?;
    let frozen = trainer.fingerprint_of_frozen().await;
    let (steps, report_every) = (settings.steps(), settings.steps_per_report);
    let mut follower = Follower {
        ranks,
        gpu,
        signals,
        learner: Learner::Together(Box::new(trainer)),
        frozen: None,
        steps,
        report_every,
        saves: &|after, until| settings.passes(settings.save_every, after, until),
        saved_at: 0,
    };
    follower.catch_up(frozen.map(Some)).await?;
    let mut follower = follower.part(setup.diloco, folder).await?;
    let start = follower.learner.trainer().steps();
    log.say(format_args!("from step {start} of {steps}"));
    let Some(training) = &setup.data.training else {
        return follower.stay(Ok(())).await.map(|()| start);
    };
    let batches = Prefetch::new(training.training(settings.seed), start, AHEAD);
    let own = |next: Result<(u64, Batch)>| {
        next.and_then(|(_, batch)| batch.of_rank(ranks.rank(), ranks.size()))
    };
    let batches = batches.map(|batches| batches.map(own));
    let followed = follower.follow(batches, log).await;
    followed.map(|()| follower.learner.trainer().steps())
}
