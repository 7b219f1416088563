//! `evenkeel train`: a language model from texts, from nothing or from a model that is there.
//!
//! [`options`] are what can be set, [`config`] brings those of a file and of the command line
//! together, [`place`] knows what is in the folder of the run, [`tokens`] makes tokens of the data,
//! [`settings`] (with [`optimizer`], [`presets`], or [`dial`] and [`budget`]) what trainers are built of;
//! [`attempt`] is the run on one device, [`session`] its steps, [`keep`] its older saves, [`sample`]
//! the text at its end.

mod attempt;
mod budget;
mod config;
mod describe;
mod dial;
mod keep;
mod optimizer;
mod options;
mod place;
mod presets;
mod probe;
mod progress;
mod replay;
mod sample;
mod session;
mod settings;
mod tokens;

use std::path::{Path, PathBuf};

use evenkeel::data::{Documents, Split};
use evenkeel::hugging_face::Config;
use evenkeel::nn::Gpt;
use evenkeel::run::{
    self, Ending, Fingerprint, Folder, OutputOptions, Outputs, Signals, Source, say,
};
use evenkeel::{Error, Gpu, Result};

use attempt::Attempt;
use budget::Budget;
use dial::Reason;
pub use options::Options;
use options::Storage;
use place::{About, Place};
pub use replay::Replay;
use settings::{Ground, Resolved, resolve};
use tokens::{Files, Kind, Tokens};

use crate::precision::{self, Choice};
use crate::regain::{self, Regain};

/// The settings of a run as they were resolved, in its folder.
const CONFIGURATION: &str = "config.yaml";

/// Everything that can be wrong with options, data, tokenizer and folders is found before training
/// starts.
///
/// # Errors
/// The first of it, and what goes wrong in the run.
pub async fn run(options: Options) -> Result<Ending> {
    let signals = Signals::listen()?;
    let place = Place::find(gathered(options)?)?;
    if place.options.data.is_empty() {
        return Err(Error::Unsupported {
            what: "a run without data".to_owned(),
            instead: "give text files, folders or .jsonl files with --data".to_owned(),
        });
    }
    if place.options.dry_run {
        return dry_run(&place).await;
    }
    let folder = Folder::claim(&place.out, "--out")?;
    let ground = Prepared::read(&place)?;
    learn(place, &folder, ground, &signals).await
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
    let Options { data, model, metrics, csv, tensorboard, report, profile, .. } = &mut options;
    let named = [model, metrics, csv, tensorboard, report].into_iter().flatten();
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

/// What is read before a device is asked for.
struct Prepared {
    documents: Documents,
    /// The model that is gone on with: with its weights where the run begins, and what it is.
    source: Option<Source>,
    base: Option<Config>,
    tokens: Tokens,
    prompt: Vec<u32>,
}

impl Prepared {
    fn read(place: &Place) -> Result<Self> {
        Self::of(&place.options, &place.out, place.saved.as_ref().map(|saved| &saved.about))
    }

    /// Of the run in the folder `out`, of which `about` says what it is where it has begun.
    fn of(options: &Options, out: &Path, about: Option<&About>) -> Result<Self> {
        let quiet = options.quiet;
        let kind = Kind::of(options)?;
        if about.is_none() {
            kind.check()?;
        }
        let documents = tokens::documents(options, &kind, quiet)?;
        let (mut source, mut base, mut files) = (None, None, None);
        match about {
            // The folder of the run has all that its beginning was made of.
            Some(about) => {
                base = about.model.as_deref().map(Config::from_json).transpose()?;
                files = Some(tokens::files_in(out)?);
            }
            None if options.model.is_some() => {
                let opened = open_model(options, &kind)?;
                (base, files) = (Some(opened.0.config().clone()), Some(opened.1));
                source = Some(opened.0);
            }
            None => {}
        }
        let tokens = Tokens::encode(&kind, &documents, files, quiet)?;
        if let Some(about) = about {
            check_same(&tokens, &about.tokens)?;
        }
        let prompt = tokens.prompt(options.prompt.as_deref())?;
        Ok(Self { documents, source, base, tokens, prompt })
    }
}

/// A model, and the files of the tokenizer that is taken: its own, or another one.
fn open_model(options: &Options, kind: &Kind) -> Result<(Source, Files)> {
    let path = options.model.clone().unwrap_or_default();
    let other = match kind {
        Kind::Path(path) if path.is_dir() => Some(path.clone()),
        Kind::Path(path) => path.parent().map(PathBuf::from),
        _ => None,
    };
    let source = Source::open(&path, other.as_deref())?;
    let files = match &other {
        Some(folder) => tokens::files_in(folder)?,
        None if path.is_dir() => tokens::files_in(&path)?,
        // A GGUF file describes its tokenizer.
        None => {
            let tokenizer = &source.tokenizer;
            let token = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
            let config = serde_json::json!({
                "bos_token": token(tokenizer.special().bos),
                "eos_token": token(tokenizer.special().eos),
            });
            Files::from([
                ("tokenizer.json".to_owned(), tokenizer.to_json()?),
                ("tokenizer_config.json".to_owned(), config.to_string().into_bytes()),
            ])
        }
    };
    Ok((source, files))
}

/// The adapter and its driver, as saves name them.
fn device_of(gpu: &Gpu) -> String {
    format!("{} ({})", gpu.info.name, gpu.info.driver_info)
}

/// Makes sure that these are the data of a run that goes on.
fn check_same(tokens: &Tokens, saved: &Fingerprint) -> Result<()> {
    let found = Fingerprint::of(&tokens.ids);
    if found == *saved {
        return Ok(());
    }
    let reason = format!(
        "these are not the data that the run has learned so far ({} tokens here, {} there); give \
         those with --data, or begin another run with --out",
        found.tokens, saved.tokens
    );
    Err(Error::Data { what: tokens.name.clone(), reason })
}

/// What the library is told of the files of a run.
fn library_options(place: &Place) -> OutputOptions {
    let Options { metrics, csv, tensorboard, report, profile, dashboard, quiet, .. } =
        place.options.clone();
    OutputOptions { metrics, csv, tensorboard, report, profile, dashboard, quiet }
}

async fn learn(
    place: Place,
    folder: &Folder,
    ground: Prepared,
    signals: &Signals,
) -> Result<Ending> {
    let library = library_options(&place);
    let Prepared { tokens, base, .. } = &ground;
    let named: Vec<_> =
        tokens.read.iter().map(|path| ("--data".to_owned(), path.clone())).collect();
    let outputs = Outputs::prepare(&library, folder, &named)?;
    let gpu = Gpu::new().await?;
    let quiet = place.options.quiet;
    if !quiet {
        describe::ground(&gpu, &tokens.name, Some(tokens));
    }
    let vocabulary = base.as_ref().map_or(tokens.size, |base| base.gpt.vocabulary);
    let on = Ground { is_software: gpu.is_software(), vocabulary, base: base.as_ref() };
    let Resolved { settings, options, reasons } = timed(&place, tokens, on, &gpu).await?;
    let faults = place.options.lose_device_at.clone();
    let resolved = (settings, options, reasons);
    let mut attempt = Attempt::new(place, &ground, resolved, (outputs, library), signals);
    let once = async |regain: &mut Regain| attempt.run(regain).await;
    regain::trying(gpu, &faults, signals, once).await
}

fn split<'a>(tokens: &'a Tokens, settings: &settings::Settings) -> Result<Split<'a>> {
    Split::of(&tokens.name, &tokens.ids, settings.validation_share, settings.context)
}

/// Settings, with the steps that a budget of time has room for.
async fn timed(place: &Place, tokens: &Tokens, on: Ground<'_>, gpu: &Gpu) -> Result<Resolved> {
    let mut options = place.options.clone();
    if options.tokenizer.is_none() && options.model.is_none() {
        options.tokenizer = Some("characters".to_owned());
    }
    let (options, stored) = with_precision(options, tokens, on, gpu).await?;
    let mut resolved = resolve(&options, on)?;
    resolved.reasons.extend(stored);
    let Some(Budget::Time(time)) = options.budget.filter(|_| options.steps.is_none()) else {
        return Ok(resolved);
    };
    let split = split(tokens, &resolved.settings)?;
    let (settings, quiet) = (&resolved.settings, options.quiet);
    let (steps, reason) = probe::steps_within(time, settings, &split, gpu, quiet).await?;
    let with_steps = Options { steps: Some(steps), ..options };
    let mut timed = resolve(&with_steps, on)?;
    timed.reasons = [resolved.reasons, vec![reason]].concat();
    Ok(timed)
}

/// Options with a precision, and why it is that one where nobody said.
async fn with_precision(
    options: Options,
    tokens: &Tokens,
    on: Ground<'_>,
    gpu: &Gpu,
) -> Result<(Options, Option<Reason>)> {
    if options.precision.is_some_and(|precision| precision != Storage::Auto) {
        return Ok((options, None));
    }
    let resolved = resolve(&options, on)?.settings;
    let windows = resolved.batch * resolved.accumulation;
    let batch = split(tokens, &resolved)?.training.batch(resolved.seed, 0, windows);
    let few = Gpt::new(precision::first_blocks(resolved.gpt.config()))?;
    let probe = |precision| {
        Ok(settings::Settings { precision, gpt: few.clone(), ..resolved.clone() }.builder())
    };
    // No option says what it may take.
    let Choice { precision, why } = precision::choose(gpu, |_| Ok(true), probe, &batch).await?;
    let reason = Reason { setting: "precision", value: precision.to_string(), why };
    Ok((Options { precision: Some(precision.into()), ..options }, Some(reason)))
}

/// Says what would be done. A vocabulary that would be learned has the size that was asked for.
async fn dry_run(place: &Place) -> Result<Ending> {
    let kind = Kind::of(&place.options)?;
    let learned = match kind {
        Kind::Bpe(size) if place.saved.is_none() => Some(size),
        _ => None,
    };
    let mut encoded = None;
    let (vocabulary, base, name) = match learned {
        Some(size) => {
            let documents = tokens::documents(&place.options, &kind, place.options.quiet)?;
            let name =
                format!("{} bytes in {} texts", documents.bytes(), documents.documents().len());
            (size, None, name)
        }
        None => {
            let Prepared { base, tokens, documents, .. } = Prepared::read(place)?;
            let size = base.as_ref().map_or(tokens.size, |base: &Config| base.gpt.vocabulary);
            let texts = documents.documents().len();
            let name = format!("{} tokens in {texts} texts", tokens.ids.len());
            encoded = Some(tokens);
            (size, base, name)
        }
    };
    let gpu = Gpu::new().await?;
    let on = Ground { is_software: gpu.is_software(), vocabulary, base: base.as_ref() };
    let (options, stored) = match &encoded {
        Some(tokens) => with_precision(place.options.clone(), tokens, on, &gpu).await?,
        None => (place.options.clone(), None),
    };
    let Resolved { settings, options, mut reasons } = resolve(&options, on)?;
    reasons.extend(stored);
    let plan = settings.builder().memory(&gpu)?;
    say!("# adapter {}; {name}, vocabulary of {vocabulary}", gpu.info.name);
    for reason in &reasons {
        say!("# {} {}: {}", reason.setting, reason.value, reason.why);
    }
    match options.budget.filter(|_| place.options.steps.is_none()) {
        Some(Budget::Time(_)) => {
            say!("# steps follow from --budget, once the time of a step is measured");
            let Options { warmup, decay, evaluate_every, save_every, .. } = place.options;
            let unknown =
                Options { steps: None, warmup, decay, evaluate_every, save_every, ..options };
            run::print_bytes(describe::options(&unknown).as_bytes());
        }
        // They are set.
        _ => run::print_bytes(describe::options(&Options { budget: None, ..options }).as_bytes()),
    }
    place.changes.iter().for_each(|change| say!("# changed {change}"));
    describe::memory(&plan);
    say!("# dry run: nothing was started");
    Ok(Ending::Done)
}
