//! What would be done.

use evenkeel::Result;
use evenkeel::hugging_face::Config;
use evenkeel::run::{self, Ending, Signals, say};

use super::budget::Budget;
use super::describe;
use super::kind::Kind;
use super::options::Options;
use super::place::Place;
use super::prepared::{Beginning, check_same};
use super::settings::{Ground, Resolved, resolve};
use super::tokens::{Count, Source as Data};
use super::with_precision;
use crate::ranks::Ranks;

/// Says what would be done. A vocabulary that would be learned has the size that was asked for.
///
/// # Errors
/// What is wrong with options and data.
pub async fn say(place: &Place, ranks: &Ranks, signals: &Signals) -> Result<Ending> {
    let kind = Kind::of(&place.options)?;
    let learned = match kind {
        Kind::Bpe(size) if place.saved.is_none() => Some(size),
        _ => None,
    };
    let about = place.saved.as_ref().map(|saved| &saved.about);
    let Beginning { base, files, .. } = Beginning::of(&place.options, &kind, &place.out, about)?;
    let data = Data::find(&place.options, &kind, &place.out, Some(signals))?;
    let (vocabulary, name) = match learned {
        Some(size) => {
            let (bytes, texts) = (data.documents.bytes(), data.texts()?);
            (size, format!("{bytes} bytes in {texts} texts"))
        }
        None => {
            let lexicon = data.lexicon(files, false)?;
            place.options.prompt.as_deref().map_or(Ok(()), |one| lexicon.prompt(one).map(drop))?;
            let Count { fingerprint, documents } = data.count(&lexicon)?;
            if let Some(about) = about {
                check_same("the data", &fingerprint, &about.tokens)?;
            }
            let size = base.as_ref().map_or(lexicon.size, |base: &Config| base.gpt.vocabulary);
            (size, format!("{} tokens in {documents} texts", fingerprint.tokens))
        }
    };
    let gpu = crate::device::open().await?;
    let on = Ground { is_software: gpu.is_software(), vocabulary, base: base.as_ref() };
    let (options, stored) = with_precision(place.options.clone(), on, &gpu).await?;
    let Resolved { settings, options, mut reasons } = resolve(&options, on)?;
    reasons.extend(stored);
    let share = settings.share(ranks.size())?;
    if settings.shard_optimizer {
        ranks.warn_of_no_shards();
    }
    let builder = settings.builder_of(share);
    let together = if settings.diloco.is_some() { builder } else { ranks.over(builder) };
    let plan = together.memory(&gpu)?;
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
    if ranks.are_several() {
        say!("# {}", describe::share(&settings, share, ranks.size()));
    }
    describe::memory(&plan);
    say!("# dry run: nothing was started");
    Ok(Ending::Done)
}
