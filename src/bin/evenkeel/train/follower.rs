//! A run on one of the other ranks: it takes the steps of rank 0 with its own part of each, and has
//! neither the folder of the run nor a word to say, but for a log of its own.
//!
//! What is exchanged stands here in the order in which rank 0 has it: what was opened (`lead` in
//! `train.rs`), tokens, devices, options ([`resolved`](super::resolved)), the state of the run and its
//! steps (`attempt.rs`, `session.rs`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use evenkeel::data::{CacheKey, CachedWindows, Prefetch, TokenCache};
use evenkeel::hugging_face::Config;
use evenkeel::nn::LanguageModel;
use evenkeel::run::{Ending, Signals};
use evenkeel::train::{Batch, Checkpoint, Trainer};
use evenkeel::{Error, Gpu, Result};
use serde::{Deserialize, Serialize};

use super::batch_of::batch_of;
use super::kind::Kind;
use super::lexicon::{Files, Lexicon};
use super::options::Options;
use super::place::Place;
use super::prepared::Prepared;
use super::session::AHEAD;
use super::settings::{Ground, Settings};
use super::tokens::Source as Data;
use super::{resolved, split};
use crate::ranks::{Log, Ranks, Share, process};

/// What rank 0 has opened, and what it takes to have the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    options: Options,
    out: PathBuf,
    /// The config.json of the model that is gone on with.
    base: Option<String>,
    /// The files of the tokenizer.
    files: BTreeMap<String, String>,
    /// Of the model.
    vocabulary: usize,
    /// What the data are called.
    name: String,
    /// Where rank 0 has their tokens.
    path: PathBuf,
    /// What these are known again by: tokenizer, source, vocabulary, whether prompts are masked.
    key: (String, String, usize, bool),
}

impl Told {
    /// # Errors
    /// [`Error::Data`] for a tokenizer that is no text.
    pub fn of(place: &Place, ground: &Prepared) -> Result<Self> {
        let Prepared { tokens, base, .. } = ground;
        let CacheKey { tokenizer, source, vocabulary, masked } = tokens.key.clone();
        let text = |(name, contents): (&String, &Vec<u8>)| match std::str::from_utf8(contents) {
            Ok(text) => Ok((name.clone(), text.to_owned())),
            Err(error) => {
                Err(Error::Data { what: name.clone(), reason: format!("it is no UTF-8: {error}") })
            }
        };
        Ok(Self {
            options: place.options.clone(),
            out: place.out.clone(),
            base: base.as_ref().map(|base| base.to_json(None)).transpose()?,
            files: tokens.lexicon.files.iter().map(text).collect::<Result<_>>()?,
            vocabulary: ground.vocabulary(),
            name: tokens.name.clone(),
            path: tokens.cache.path().to_owned(),
            key: (tokenizer, source, vocabulary, masked),
        })
    }

    fn key(&self) -> CacheKey {
        let (tokenizer, source, vocabulary, masked) = self.key.clone();
        CacheKey { tokenizer, source, vocabulary, masked }
    }

    /// The tokens of rank 0, where its file is seen from here; else those of the data that are here.
    fn tokens(&self, signals: &Signals, rank: usize) -> Result<TokenCache> {
        let key = self.key();
        if let Ok(cache) = TokenCache::open(&self.path, &key) {
            return Ok(cache);
        }
        let options = Options { quiet: true, ..self.options.clone() };
        let kind = Kind::of(&options)?;
        let files = self.files.iter().map(|(name, text)| (name.clone(), text.clone().into_bytes()));
        let lexicon = Lexicon::new(&kind, files.collect::<Files>(), options.mask_prompt)?;
        let data = Data::find(&options, &kind, &self.out, Some(signals))?;
        data.tokens_of_rank(&lexicon, &key, rank)
    }
}

/// Takes part in a run until its end.
///
/// # Errors
/// What goes wrong on this rank, and [`Error::Rank`] for what does elsewhere.
pub async fn follow(signals: &Signals, ranks: &Ranks) -> Result<Ending> {
    ranks.patiently(|| Ok(()))?;
    let told: Told = ranks.broadcast(Ok(None))?;
    let rank = ranks.rank();
    let mut log = Log::of_rank(rank, &told.out);
    let followed = go(&told, signals, ranks, &mut log).await;
    match &followed {
        Ok(steps) => log.say(format_args!("ended after {steps} steps")),
        Err(error) => log.say(format_args!("ended: {error}")),
    }
    followed.map(|_| signals.received().map_or(Ending::Done, Ending::Stopped))
}

async fn go(told: &Told, signals: &Signals, ranks: &Ranks, log: &mut Log) -> Result<u64> {
    let rank = ranks.rank();
    let (cache, base) = ranks.patiently(|| {
        let base = told.base.as_deref().map(Config::from_json).transpose()?;
        Ok((told.tokens(signals, rank)?, base))
    })?;
    let cache = Arc::new(cache);
    let (gpu, devices) = ranks.devices(true).await?;
    log.say(format_args!(
        "rank {rank} of {}: {}, on {}; tokens {}",
        ranks.size(),
        process(),
        devices[rank],
        cache.path().display()
    ));
    let ground =
        Ground { is_software: gpu.is_software(), vocabulary: told.vocabulary, base: base.as_ref() };
    let tokens = (&cache, &*told.name);
    let resolved = resolved(None, tokens, ground, (&gpu, ranks), true).await?;
    let settings = resolved.settings;
    let share = settings.share(ranks.size())?;
    let (training, _) = split(tokens, &settings)?;
    let builder = ranks.over(settings.builder_of(share));
    let mut trainer = builder.build(&gpu).await?;
    // Rank 0 loads or restores, and saves.
    ranks.agree(Ok(()))?;
    let state = ranks.broadcast_bytes(Ok(Vec::new()))?;
    ranks.agree(restored(&mut trainer, &state).await)?;
    drop(state);
    log.say(format_args!(
        "{} x {} sequences of each step, from step {} of {}",
        share.accumulation,
        share.batch,
        trainer.steps(),
        settings.steps
    ));
    let batches = Batches { training, settings: &settings, share, rank };
    let followed = batches.take(&mut trainer, (&gpu, signals), ranks, log).await;
    followed.map(|()| trainer.steps())
}

async fn restored(trainer: &mut Trainer<LanguageModel>, state: &[u8]) -> Result<()> {
    trainer.restore(&Checkpoint::from_bytes(state)?).await
}

/// What this rank has of the steps.
struct Batches<'a> {
    training: CachedWindows,
    settings: &'a Settings,
    share: Share,
    rank: usize,
}

impl Batches<'_> {
    /// Takes steps as long as all ranks do.
    async fn take(
        &self,
        trainer: &mut Trainer<LanguageModel>,
        (gpu, signals): (&Gpu, &Signals),
        ranks: &Ranks,
        log: &mut Log,
    ) -> Result<()> {
        let steps = self.settings.steps as u64;
        let (mut loader, mut looked) = match self.loader(trainer) {
            Ok(loader) => (Some(loader), Ok(())),
            Err(error) => (None, Err(error)),
        };
        loop {
            let is_over = trainer.steps() >= steps || signals.received().is_some();
            let next = match looked {
                Err(error) => Err(error),
                Ok(()) if is_over => Ok(None),
                Ok(()) => {
                    let mut next = || loader.as_mut().and_then(Iterator::next).transpose();
                    gpu.check().and_then(|()| next())
                }
            };
            let Some(batch) = ranks.take_together(next)? else { return Ok(()) };
            ranks.step(trainer, &batch).await?;
            let is_due = trainer.steps().is_multiple_of(self.settings.report_every as u64);
            looked = if is_due { look(trainer, log).await } else { Ok(()) };
        }
    }

    fn loader(&self, trainer: &Trainer<LanguageModel>) -> Result<Prefetch<Batch>> {
        let (training, seed) = (self.training.clone(), trainer.seed());
        let of = self.settings.batch * self.settings.accumulation;
        let own = self.share.sequences(self.rank);
        let source = move |step| batch_of(&training, seed, step, (&own, of));
        Prefetch::new(source, trainer.steps(), AHEAD)
    }
}

/// Reads the telemetry, which is that of all ranks: a run that gives up does so on each.
async fn look(trainer: &mut Trainer<LanguageModel>, log: &mut Log) -> Result<()> {
    if let Some(last) = trainer.telemetry().await?.last() {
        log.say(format_args!("step {}: loss {}", last.step + 1, last.loss));
    }
    Ok(())
}
