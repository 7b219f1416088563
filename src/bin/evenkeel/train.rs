//! `evenkeel train`: a language model from texts, from nothing or from a model that is there.
//!
//! [`options`] are what can be set, [`config`] brings those of a file and of the command line
//! together, [`place`] knows what is in the folder of the run, [`prepared`] is what is read before a
//! device is asked for: [`tokens`] of the data (with [`kind`], [`lexicon`] and [`learned`]: which).
//! [`settings`] (with [`optimizer`], [`presets`], or [`dial`] and [`budget`]) what trainers are built of;
//! [`attempt`] is the run on one device, [`session`] its steps, [`keep`] its older saves, [`sample`]
//! the text at its end. Of several ranks, each takes its part of a step ([`batch_of`]), and all but
//! the first are [`follower`]s.

mod attempt;
mod batch_of;
mod budget;
mod config;
mod describe;
mod dial;
mod dry_run;
mod follower;
mod keep;
mod kind;
mod learned;
mod lexicon;
mod optimizer;
mod options;
mod place;
mod prepared;
mod presets;
mod probe;
mod progress;
mod replay;
mod result;
mod sample;
mod session;
mod settings;
mod tokens;

use std::sync::Arc;

use evenkeel::data::{CachedWindows, Documents, TokenCache};
use evenkeel::nn::Gpt;
use evenkeel::run::{self, Ending, Folder, OutputOptions, Outputs, Signals};
use evenkeel::text::vocabulary;
use evenkeel::train::Batch;
use evenkeel::{Error, Gpu, Result};
use serde::{Deserialize, Serialize};

use attempt::Attempt;
use budget::Budget;
use dial::Reason;
use follower::Told;
use kind::Kind;
pub use options::Options;
use options::Storage;
use place::Place;
use prepared::Prepared;
pub use replay::Replay;
use settings::{Ground, Resolved, resolve};

use crate::precision::{self, Choice};
use crate::ranks::Ranks;
use crate::regain::{self, Regain};

/// The settings of a run as they were resolved, in its folder.
const CONFIGURATION: &str = "config.yaml";

/// Everything that can be wrong with options, data, tokenizer and folders is found before training
/// starts.
///
/// # Errors
/// The first of it, and what goes wrong in the run.
pub async fn run(options: Options) -> Result<Ending> {
    if options.json {
        run::say_aside();
    }
    let signals = Signals::listen()?;
    let stopped = |error| signals.received().map(Ending::Stopped).ok_or(error);
    Ranks::together(async |ranks| match (ranks.is_first(), options.dry_run) {
        (true, true) => {
            let place = place_of(options, ranks.size())?;
            dry_run::say(&place, ranks, &signals).await.or_else(stopped)
        }
        (true, false) => lead(options, &signals, ranks).await,
        (false, true) => Ok(Ending::Done),
        (false, false) => follower::follow(&signals, ranks).await,
    })
    .await
}

/// What is there once nothing was found wrong with what the run reads and writes.
struct Opened {
    place: Place,
    ground: Prepared,
    files: (Outputs, OutputOptions),
    _folder: Folder,
}

/// A run, as rank 0 has it; each run by itself is one.
async fn lead(options: Options, signals: &Signals, ranks: &Ranks) -> Result<Ending> {
    let size = ranks.size();
    match ranks.patiently(|| open(options, size, signals)) {
        Ok(opened) => learn(opened, signals, ranks).await,
        Err(error) => signals.received().map(Ending::Stopped).ok_or(error),
    }
}

fn place_of(options: Options, ranks: usize) -> Result<Place> {
    let place = Place::find(gathered(options)?)?;
    let refuse = |what: &str, instead: &str| {
        Err(Error::Unsupported { what: what.to_owned(), instead: instead.to_owned() })
    };
    if place.options.data.is_empty() {
        return refuse(
            "a run without data",
            "give text files, folders, .jsonl or .parquet files with --data",
        );
    }
    if ranks > 1 && place.options.profile.is_some() {
        return refuse("--profile on several ranks", "profile the run on one rank, without mpirun");
    }
    if place.options.diloco_steps.is_some() && place.options.profile.is_some() {
        return refuse("--profile with --diloco-steps", "profile the run without rounds");
    }
    check_share(&place.options, ranks)?;
    Ok(place)
}

/// A step that has no equal parts for all ranks shows before the data are read, where its size is
/// known by then.
fn check_share(options: &Options, ranks: usize) -> Result<()> {
    if options.model.is_some() || options.depth.is_some() {
        return Ok(());
    }
    let vocabulary = vocabulary::SMALLEST;
    let of = |is_software| {
        resolve(options, Ground { is_software, vocabulary, base: None })?.settings.share(ranks)
    };
    of(true).or_else(|error| of(false).map_err(|_| error)).map(drop)
}

fn open(options: Options, ranks: usize, signals: &Signals) -> Result<Opened> {
    let place = place_of(options, ranks)?;
    let folder = Folder::claim(&place.out, "--out")?;
    let library = library_options(&place);
    // It may take long to make all tokens: what is wrong with outputs shows before.
    let outputs = |documents: &Documents| {
        let read = documents.files().iter();
        let named: Vec<_> = read.map(|path| ("--data".to_owned(), path.clone())).collect();
        Outputs::prepare(&library, &folder, &named)
    };
    let (ground, outputs) = Prepared::read(&place, signals, outputs)?;
    Ok(Opened { place, ground, files: (outputs, library), _folder: folder })
}

/// The options of the command line over those of the file, with paths that mean the same from
/// every folder.
fn gathered(options: Options) -> Result<Options> {
    let options = match &options.config {
        Some(path) => config::over(&options, &config::read(path)?),
        None => options,
    };
    let refuse = |what: &str, instead: &str| {
        Err(Error::Unsupported { what: what.to_owned(), instead: instead.to_owned() })
    };
    if options.steps.is_some() && options.budget.is_some() {
        return refuse("--steps with --budget, which sets them,", "give one of them");
    }
    if options.depth.is_some() && options.preset.is_some() {
        return refuse("--depth with --preset", "both set all sizes; give one of them");
    }
    let of_form = [options.layers, options.heads, options.kv_heads, options.width, options.depth];
    let has_form =
        of_form.iter().any(Option::is_some) || options.preset.is_some() || options.family.is_some();
    if options.model.is_some() && has_form {
        return refuse(
            "a depth, preset, family, layers, heads or width with --model",
            "the model has its form; leave them out",
        );
    }
    absolute(options)
}

fn absolute(mut options: Options) -> Result<Options> {
    let Options { data, cache, model, metrics, csv, tensorboard, report, profile, .. } =
        &mut options;
    let named = [cache, model, metrics, csv, tensorboard, report].into_iter().flatten();
    for path in named.chain(data).chain(profile.iter_mut().flatten()) {
        let absolute = std::path::absolute(&*path);
        *path = absolute.map_err(|error| Error::File {
            path: path.clone(),
            reason: format!("this is no path: {error}"),
        })?;
    }
    if let Kind::Path(path) = Kind::of(&options)?
        && let Ok(path) = std::path::absolute(path)
    {
        options.tokenizer = path.to_str().map(str::to_owned).or(options.tokenizer);
    }
    Ok(options)
}

/// What the library is told of the files of a run.
fn library_options(place: &Place) -> OutputOptions {
    let Options { metrics, csv, tensorboard, report, profile, dashboard, quiet, .. } =
        place.options.clone();
    OutputOptions { metrics, csv, tensorboard, report, profile, dashboard, quiet }
}

async fn learn(opened: Opened, signals: &Signals, ranks: &Ranks) -> Result<Ending> {
    let Opened { place, ground, files, _folder } = opened;
    if ranks.are_several() {
        ranks.broadcast(Told::of(&place, &ground).map(Some))?;
    }
    // The others look for the tokens.
    ranks.patiently(|| Ok(()))?;
    let Prepared { tokens, base, .. } = &ground;
    let quiet = place.options.quiet;
    let (gpu, devices) = ranks.devices(quiet).await?;
    if !quiet {
        describe::ground(&gpu, tokens);
        describe::devices(&devices);
    }
    let is_software = gpu.is_software();
    let on = Ground { is_software, vocabulary: ground.vocabulary(), base: base.as_ref() };
    let named = (&tokens.cache, &*tokens.name);
    let resolved = resolved(Some(&place.options), named, on, (&gpu, ranks), quiet).await?;
    crate::device::warn_unless_used(&gpu, resolved.settings.precision);
    let share = resolved.settings.share(ranks.size())?;
    let faults = place.options.lose_device_at.clone();
    let together = (ranks, share);
    let mut attempt = Attempt::new(place, &ground, resolved, files, signals, together);
    let once = async |regain: &mut Regain| attempt.run(regain).await;
    if ranks.are_several() {
        regain::once(gpu, &faults, once).await
    } else {
        regain::trying(gpu, &faults, signals, once).await
    }
}

/// The windows to learn from, and those to validate on, of tokens with this name.
fn split(
    (cache, name): (&Arc<TokenCache>, &str),
    settings: &settings::Settings,
) -> Result<(CachedWindows, CachedWindows)> {
    CachedWindows::split(cache, name, settings.validation_share, settings.context)
}

/// What rank 0 has chosen for all.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Chosen {
    options: Options,
    is_software: bool,
}

/// Settings, with the precision and the steps that nobody gave: the same on all ranks, of the options
/// that rank 0 has.
async fn resolved(
    given: Option<&Options>,
    tokens: (&Arc<TokenCache>, &str),
    on: Ground<'_>,
    (gpu, ranks): (&Gpu, &Ranks),
    quiet: bool,
) -> Result<Resolved> {
    let (chosen, stored) = match given {
        Some(given) => match chosen(given, on, gpu).await {
            Ok((chosen, stored)) => (Ok(Some(chosen)), stored),
            Err(error) => (Err(error), None),
        },
        None => (Ok(None), None),
    };
    let Chosen { options, is_software } = ranks.broadcast(chosen)?;
    let on = Ground { is_software, ..on };
    let mut resolved = resolve(&options, on)?;
    resolved.reasons.extend(stored);
    let share = resolved.settings.share(ranks.size())?;
    let Some(Budget::Time(time)) = options.budget.filter(|_| options.steps.is_none()) else {
        return Ok(resolved);
    };
    let (training, _) = split(tokens, &resolved.settings)?;
    let part = (&resolved.settings, share);
    let (steps, reason) = probe::steps_within(time, part, &training, (gpu, ranks), quiet).await?;
    let with_steps = Options { steps: Some(steps), ..options };
    let mut timed = resolve(&with_steps, on)?;
    timed.reasons = [resolved.reasons, vec![reason]].concat();
    Ok(timed)
}

async fn chosen(given: &Options, on: Ground<'_>, gpu: &Gpu) -> Result<(Chosen, Option<Reason>)> {
    let mut options = given.clone();
    if options.tokenizer.is_none() && options.model.is_none() {
        options.tokenizer = Some("characters".to_owned());
    }
    let (options, stored) = with_precision(options, on, gpu).await?;
    Ok((Chosen { options, is_software: on.is_software }, stored))
}

/// Options with a precision, and why it is that one where nobody said.
async fn with_precision(
    options: Options,
    on: Ground<'_>,
    gpu: &Gpu,
) -> Result<(Options, Option<Reason>)> {
    if options.precision.is_some_and(|precision| precision != Storage::Auto) {
        return Ok((options, None));
    }
    let resolved = resolve(&options, on)?.settings;
    let few = Gpt::new(precision::first_blocks(resolved.gpt.config()))?;
    let probe = |precision| {
        Ok(settings::Settings { precision, gpt: few.clone(), ..resolved.clone() }.builder())
    };
    // The time of a step does not depend on which tokens they are.
    let count = resolved.tokens_per_step() as u32;
    let ids = |first: u32| (first..first + count).map(|id| id % on.vocabulary as u32);
    let batch = Batch::new()
        .with("tokens", ids(0).collect::<Vec<_>>())
        .with("targets", ids(1).collect::<Vec<_>>());
    // No option says what it may take.
    let Choice { precision, why } = precision::choose(gpu, |_| Ok(true), probe, &batch).await?;
    let reason = Reason { setting: "precision", value: precision.to_string(), why };
    Ok((Options { precision: Some(precision.into()), ..options }, Some(reason)))
}
