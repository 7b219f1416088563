//! What files of models and runs hold.

mod kinds;
mod statistics;
mod tensors;

use std::path::PathBuf;

use evenkeel::run::{Ending, Signals, amount, say};
use evenkeel::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Map, Value};

use kinds::open;
use statistics::Statistics;
use tensors::{Files, Tensor};

/// The exit code is 1 where --statistics finds numbers that are NaN or Inf.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A folder with a model, an adapter or a run, or a .safetensors or .gguf file
    path: PathBuf,
    /// Read all numbers: smallest, largest, mean, root mean square, and how many are NaN or Inf
    #[arg(long)]
    statistics: bool,
    /// Say nothing of single tensors
    #[arg(long)]
    brief: bool,
    /// Print one object of JSON
    #[arg(long)]
    json: bool,
}

/// What is at a path.
#[derive(Debug)]
struct Found {
    kind: &'static str,
    /// Names and values, in the order in which they are said.
    facts: Vec<(&'static str, Value)>,
    files: Files,
}

/// A tensor as it is said.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    tensor: Tensor,
    #[serde(skip_serializing_if = "Option::is_none")]
    statistics: Option<Statistics>,
}

pub async fn run(options: Options) -> Result<Ending> {
    let found = open(&options.path)?;
    let signals = Signals::listen()?;
    let tensors = found.files.tensors();
    let bytes: u64 = tensors.iter().map(|tensor| tensor.bytes).sum();
    let (mut rows, bar) = (Vec::with_capacity(tensors.len()), bar(bytes, options.statistics));
    for tensor in tensors {
        if let Some(signal) = signals.received() {
            return Ok(Ending::Stopped(signal));
        }
        let statistics = if options.statistics { found.files.statistics(&tensor)? } else { None };
        bar.inc(tensor.bytes);
        rows.push(Row { tensor, statistics });
    }
    bar.finish_and_clear();
    let bad = |row: &&Row| row.statistics.as_ref().is_some_and(|found| found.nonfinite > 0);
    let bad: Vec<_> = rows.iter().filter(bad).map(|row| row.tensor.name.clone()).collect();
    if options.json {
        say!("{}", described(&options, &found, &rows, bytes, &bad)?);
    } else {
        print(&options, &found, &rows, bytes, &bad);
    }
    Ok(bad.is_empty().into())
}

fn described(
    options: &Options,
    found: &Found,
    rows: &[Row],
    bytes: u64,
    bad: &[String],
) -> Result<Value> {
    let mut all = Map::from_iter([
        ("path".to_owned(), options.path.display().to_string().into()),
        ("kind".to_owned(), found.kind.into()),
        ("tensor_count".to_owned(), rows.len().into()),
        ("numbers".to_owned(), count(rows).into()),
        ("bytes".to_owned(), bytes.into()),
    ]);
    all.extend(found.facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    if !options.brief {
        let list = serde_json::to_value(rows).map_err(|error| Error::Data {
            what: "the tensors".to_owned(),
            reason: error.to_string(),
        })?;
        all.insert("tensors".to_owned(), list);
    }
    if options.statistics {
        all.insert("nonfinite".to_owned(), bad.into());
    }
    Ok(Value::Object(all))
}

fn print(options: &Options, found: &Found, rows: &[Row], bytes: u64, bad: &[String]) {
    say!("{:<18} {}", found.kind, options.path.display());
    for (name, value) in &found.facts {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        say!("{:<18} {text}", name.replace('_', " "));
    }
    if rows.is_empty() {
        return;
    }
    let numbers = count(rows);
    say!("{:<18} {} of {numbers} numbers in {}", "tensors", rows.len(), amount(bytes));
    if !options.brief {
        let width = rows.iter().map(|row| row.tensor.name.chars().count()).max().unwrap_or(0);
        let names = ["min", "max", "mean", "rms"].map(|name| format!("{name:>11}"));
        let heading =
            if options.statistics { names.join(" ") + "  NaN or Inf" } else { String::new() };
        say!(
            "\n{}",
            format!("{:<width$}  {:<5} {:<18} {heading}", "name", "type", "shape").trim_end()
        );
        for Row { tensor, statistics } in rows {
            let shape = format!("{:?}", tensor.shape);
            let numbers = match statistics {
                Some(statistics) => statistics.to_string(),
                None if options.statistics => "not looked at".to_owned(),
                None => String::new(),
            };
            let line =
                format!("{:<width$}  {:<5} {shape:<18} {numbers}", tensor.name, tensor.dtype);
            say!("{}", line.trim_end());
        }
    }
    if !bad.is_empty() {
        say!("\nNaN or Inf in {} of {} tensors: {}", bad.len(), rows.len(), bad.join(", "));
    } else if options.statistics {
        say!("\nall numbers are finite");
    }
}

fn count(rows: &[Row]) -> usize {
    rows.iter().map(|row| row.tensor.shape.iter().product::<usize>()).sum()
}

/// Shown on the error output where that is a terminal, and there is something to wait for.
fn bar(bytes: u64, is_shown: bool) -> ProgressBar {
    if !is_shown {
        return ProgressBar::hidden();
    }
    let template = "reading {bar:40} {bytes}/{total_bytes}, {eta} left";
    ProgressBar::new(bytes).with_style(ProgressStyle::with_template(template).expect("a template"))
}
