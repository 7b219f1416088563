//! A run on one of the other ranks: it takes the steps of rank 0 with its own part of each, and has
//! neither the folder of the run nor a word to say, but for a log of its own.
//!
//! What is exchanged stands here in the order in which rank 0 has it: what was opened (`lead` in
//! `train.rs`), tokens, devices, options ([`resolved`](super::resolved)), the state of the run and its
//! steps ([`Follower`], and `attempt.rs`, `session.rs`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use evenkeel::data::{CacheKey, Prefetch, TokenCache};
use evenkeel::hugging_face::Config;
use evenkeel::run::{Ending, Signals};
use evenkeel::{Error, Result};
use serde::{Deserialize, Serialize};

use super::batch_of::batch_of;
use super::kind::Kind;
use super::lexicon::{Files, Lexicon};
use super::options::Options;
use super::place::Place;
use super::prepared::Prepared;
use super::session::AHEAD;
use super::settings::Ground;
use super::tokens::Source as Data;
use super::{resolved, split};
use crate::ranks::learner::Learner;
use crate::ranks::{Follower, Log, Ranks, process};

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
    let trainer = settings.build_of(share, &gpu, ranks).await?;
    let saves = |before, steps| settings.saves(before, steps);
    let mut follower = Follower {
        ranks,
        gpu: &gpu,
        signals,
        learner: Learner::Together(Box::new(trainer)),
        frozen: None,
        steps: settings.steps as u64,
        report_every: settings.report_every as u64,
        saves: &saves,
        saved_at: 0,
    };
    follower.catch_up(Ok(None)).await?;
    let mut follower = follower.part(settings.diloco, &told.out).await?;
    let learner = &follower.learner;
    let (seed, start) = (learner.seed(), learner.trainer().steps());
    log.say(format_args!(
        "{} x {} sequences of each step, from step {start} of {}",
        share.accumulation, share.batch, settings.steps
    ));
    let (own, all) = (share.sequences(rank), settings.batch * settings.accumulation);
    let source = move |step| batch_of(&training, seed, step, (&own, all));
    let batches = Prefetch::new(source, start, AHEAD);
    let followed = follower.follow(batches, log).await;
    followed.map(|()| follower.learner.trainer().steps())
}
