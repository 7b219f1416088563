//! What a model makes of texts, and of questions with choices.

mod choices;
mod texts;

use std::path::{Path, PathBuf};

use evenkeel::data::{self, Sequence, decode};
use evenkeel::nn::Gpt;
use evenkeel::run::{Ending, Signals, say, warn};
use evenkeel::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};

use crate::loaded::{Loaded, ModelOptions};
use crate::scores::{Scored, score};

/// Tokens of a piece where nobody says and the model takes more.
const CONTEXT: usize = 2048;

/// Texts are a .txt file, a file of JSON lines ({"text": ..}, {"prompt": .., "completion": ..} or
/// {"messages": [..]}), or a folder: its test.jsonl, otherwise all such files in it. Longer texts are
/// cut into pieces, in which each token counts once. Questions with choices are lines
/// {"question": "..", "choices": ["..", ".."], "answer": 0}; the answer is an index from 0, a letter
/// from A, or one of the choices.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    model: ModelOptions,
    /// Texts: prints loss, perplexity and bits per byte
    #[arg(long, value_name = "FILE|DIR", required_unless_present = "choices")]
    data: Option<PathBuf>,
    /// Questions with choices: prints the share that is answered rightly
    #[arg(long, value_name = "FILE.jsonl")]
    choices: Option<PathBuf>,
    /// Tokens that the model sees at most; 2048 or what it takes if not given
    #[arg(long, value_name = "N")]
    max_seq_length: Option<usize>,
    /// Positions between the beginnings of two pieces of a text: less than their length gives each token
    /// more before it, and costs more
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    /// Pieces that are computed at once
    #[arg(long, value_name = "B", default_value_t = 4)]
    batch_size: usize,
    /// Count answers and completions only, and not what they answer
    #[arg(long)]
    mask_prompt: bool,
    /// Take this many lines or questions of each file at most
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print one object of JSON
    #[arg(long)]
    json: bool,
}

/// What of the options is checked against the model.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    context: usize,
    stride: usize,
    rows: usize,
    limit: usize,
}

pub async fn run(options: Options) -> Result<Ending> {
    let opened = options.model.open()?;
    let sizes = sizes(&options, opened.gpt.config().context)?;
    let tokenizer = &opened.source.tokenizer;
    let texts = options
        .data
        .as_deref()
        .map(|data| texts::read(data, tokenizer, sizes, options.mask_prompt));
    let texts = texts.transpose()?;
    let questions = options.choices.as_deref().map(|file| choices::read(file, tokenizer, sizes));
    let questions = questions.transpose()?;
    let signals = Signals::listen()?;
    let loaded = opened.load().await?;
    let measuring = Measuring { loaded: &loaded, gpt: &opened.gpt, sizes, signals: &signals };
    let (mut found, mut lines) = (Map::new(), Vec::new());
    let mut note = |name: &str, result: Measured| {
        found.insert(name.to_owned(), result.values);
        lines.push(result.line);
    };
    if let Some(texts) = &texts {
        note("texts", texts.measure(&measuring).await?);
    }
    if let Some(questions) = questions.as_ref().filter(|_| signals.received().is_none()) {
        note("choices", questions.measure(&measuring).await?);
    }
    match options.json {
        true => say!("{}", Value::Object(found)),
        false => lines.iter().for_each(|line| say!("{line}")),
    }
    Ok(signals.received().map_or(Ending::Done, Ending::Stopped))
}

/// What measures, and who may stop it.
struct Measuring<'a> {
    loaded: &'a Loaded,
    gpt: &'a Gpt,
    sizes: Sizes,
    signals: &'a Signals,
}

impl Measuring<'_> {
    /// Scores sequences, so many at once, or until a signal comes.
    async fn score(
        &self,
        what: &'static str,
        sequences: &[Sequence],
        rows: usize,
    ) -> Result<Vec<Scored>> {
        let Self { loaded, gpt, sizes, signals } = *self;
        let bar = bar(sequences.len(), what);
        let progress = |done| bar.set_position(done as u64);
        let shape = (rows, sizes.context);
        let scored = score(loaded, gpt, sequences, shape, signals, progress).await?;
        bar.finish_and_clear();
        Ok(scored)
    }
}

/// Says that a result is one of a part.
fn say_partial(done: usize, all: usize, what: &str) {
    if done < all {
        warn(format!("a signal came: this is of {done} of {all} {what}"));
    }
}

/// A file of text, and what it is called in errors.
fn text_of(path: &Path) -> Result<(String, String)> {
    let name = path.display().to_string();
    let text = decode(&name, &data::read(path)?)?;
    Ok((name, text))
}

/// What is wrong with a line of a file, of which the first has the index 0.
fn wrong_line(name: &str, index: usize, reason: String) -> Error {
    Error::Data { what: format!("{name}, line {}", index + 1), reason }
}

/// A result for programs and for people.
struct Measured {
    values: Value,
    line: String,
}

fn sizes(options: &Options, longest: usize) -> Result<Sizes> {
    let context = options.max_seq_length.unwrap_or(longest.min(CONTEXT));
    let (stride, rows) = (options.stride.unwrap_or(context), options.batch_size);
    let limit = options.limit.unwrap_or(usize::MAX);
    for (setting, value, fits, range) in [
        (
            "--max-seq-length",
            context,
            (1..=longest).contains(&context),
            "at least 1, at most the model's context",
        ),
        (
            "--stride",
            stride,
            (1..=context).contains(&stride),
            "at least 1, at most a piece's length",
        ),
        ("--batch-size", rows, rows > 0, "at least 1"),
        ("--limit", limit, limit > 0, "at least 1"),
    ] {
        if !fits {
            return Err(Error::Setting { setting, value: value.to_string(), range });
        }
    }
    Ok(Sizes { context, stride, rows, limit })
}

/// Shown on the error output where that is a terminal.
fn bar(count: usize, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len}, {eta} left");
    ProgressBar::new(count as u64).with_style(style.expect("a template")).with_message(what)
}
