//! `evenkeel diff`: where two runs part, or a run and this adapter, or two adapters.
//!
//! [`parted`] compares records, [`adapters`] takes steps again and looks into the first that parts,
//! [`settings`] is what the runs were told, [`page`] draws the distance.

mod adapters;
mod page;
mod parted;
mod settings;

use std::path::{Path, PathBuf};

use evenkeel::run::{Ending, Signals, say};
use evenkeel::{Error, Result, file};
use serde_json::{Value, json};

use crate::replay::Moved;
use crate::why::bits::{Difference, json_number};
use crate::why::history::History;
use adapters::{PartedValue, Side};
use parted::Parted;
use settings::Changed;

/// Differences of a step that are listed, at most.
const LISTED: usize = 20;

/// Compares the records of two runs step by step, bit by bit: the same settings on two adapters,
/// drivers, precisions or versions. With one run, its last steps are taken again on this adapter,
/// from the newest save before them, and compared with what it recorded; with --on that is done on
/// another adapter, and with two of these on both, which are compared with each other, down to the
/// first operation whose result has other bits. Says the first number that parts, and how far apart
/// it is, in units in the last place of f32.
///
/// The exit code is 0 where nothing parts, and 1 where something does.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The folder of a run, or a file with its records
    #[arg(value_name = "RUN_DIR")]
    first: PathBuf,
    /// Another one; if not given, this adapter takes steps of the first one again
    #[arg(value_name = "RUN_DIR")]
    second: Option<PathBuf>,
    /// An adapter with this in its name takes steps of the first one again; twice, to compare two
    /// adapters of this machine, whose names evenkeel doctor and WGPU_ADAPTER_NAME know
    #[arg(long, value_name = "ADAPTER", conflicts_with = "second")]
    on: Vec<String>,
    /// The last step that is taken again [default: that of the run]
    #[arg(long, value_name = "N", conflicts_with = "second")]
    step: Option<u64>,
    #[command(flatten)]
    moved: Moved,
    /// Write it as one page
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// Print one object of JSON
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(long)]
    quiet: bool,
}

/// What is compared with what, and what came of it.
pub struct Compared {
    pub names: [String; 2],
    /// Settings that are others.
    pub settings: Vec<Changed>,
    pub parted: Parted,
    /// Whether two adapters took the steps.
    pub are_adapters: bool,
    /// The first operation with another result on these.
    pub value: Option<PartedValue>,
}

impl Compared {
    /// What is said of the first operation with another result, where two adapters part.
    pub fn operation(&self) -> Option<String> {
        match (&self.value, self.parted.first()) {
            (Some(value), _) => Some(value.in_words()),
            (None, Some(step)) if self.are_adapters => Some(format!(
                "none: from the same bits all values of step {} are the same on both, so they part \
                 in an update before it",
                step.step
            )),
            _ => None,
        }
    }
}

pub async fn run(options: Options) -> Result<Ending> {
    let signals = Signals::listen()?;
    if let Some(page) = &options.html {
        file::check_writable(page)?;
    }
    if options.on.len() > 2 {
        return Err(Error::Unsupported {
            what: format!("--on {} times", options.on.len()),
            instead: "name one adapter, or two that are compared".to_owned(),
        });
    }
    let Some((names, parted, value)) = compare(&options, &signals).await? else {
        return Ok(signals.received().map_or(Ending::Done, Ending::Stopped));
    };
    parted.check(&names)?;
    let settings = match &options.second {
        Some(other) => settings::changed(&options.first, other)?,
        None => Vec::new(),
    };
    let are_adapters = options.on.len() == 2;
    let compared = Compared { names, settings, parted, are_adapters, value };
    if let Some(page) = &options.html {
        file::replace(page, page::of(&compared).as_bytes())?;
    }
    match options.json {
        true => say!("{}", as_json(&compared)),
        false => print(&compared, options.html.as_deref()),
    }
    Ok(compared.parted.first().is_none().into())
}

/// What is compared, and the first value that parts; `None` where a signal asked to stop.
async fn compare(
    options: &Options,
    signals: &Signals,
) -> Result<Option<([String; 2], Parted, Option<PartedValue>)>> {
    let recorded = History::read(&options.first)?;
    let first = options.first.display().to_string();
    if let Some(path) = &options.second {
        let parted = Parted::of(&recorded, &History::read(path)?);
        return Ok(Some(([first, path.display().to_string()], parted, None)));
    }
    let (folder, _) = crate::report::folder_and_records(&options.first)?;
    let folder = std::path::absolute(&folder).unwrap_or(folder);
    let step = match options.step {
        Some(step) => recorded.find(Some(step))?,
        None => recorded.last(),
    };
    let until = (folder.as_path(), step.unwrap_or(0));
    let mut sides = Vec::new();
    let adapters: Vec<_> = options.on.iter().map(|name| Some(name.as_str())).collect();
    let adapters = if adapters.is_empty() { vec![None] } else { adapters };
    for adapter in adapters {
        match Side::take(adapter, until, options, &recorded, signals).await? {
            Some(side) => sides.push(side),
            None => return Ok(None),
        }
    }
    let [one, other] = &mut sides[..] else {
        let parted = Parted::of(&recorded, &sides[0].history);
        return Ok(Some(([first, sides[0].name.clone()], parted, None)));
    };
    let parted = Parted::of(&one.history, &other.history);
    let value = adapters::first_value(one, other, &parted).await?;
    Ok(Some(([one.name.clone(), other.name.clone()], parted, value)))
}

fn print(compared: &Compared, page: Option<&Path>) {
    let Compared { names, settings, parted, .. } = compared;
    say!("first     {}", names[0]);
    say!("second    {}", names[1]);
    for changed in settings {
        say!("setting   {changed}");
    }
    say!("steps     {}", parted.extent());
    match parted.first() {
        None => say!("bits      the same in all of them"),
        Some(step) => {
            say!("bits      part in step {}: {}", step.step, in_words(&step.differences[0]));
            for difference in step.differences.iter().skip(1).take(LISTED) {
                say!("          {}", in_words(difference));
            }
            let more = step.differences.len().saturating_sub(LISTED + 1);
            if more > 0 {
                say!("          and {more} more numbers of that step");
            }
            say!("          in {} of {} steps", parted.steps.len(), parted.common);
            if let Some(words) = compared.operation() {
                say!("operation {words}");
            }
            if let Some(farthest) = parted.farthest_loss() {
                say!("farthest  in step {}: {}", farthest.step, in_words(farthest));
            }
        }
    }
    if let Some(page) = page {
        say!("wrote     {}", page.display());
    }
}

/// A difference as it stands in a list.
fn in_words(difference: &Difference) -> String {
    let Difference { field, then, now, ulps, .. } = difference;
    let number = |value: &Option<f64>| match value {
        Some(value) => (*value as f32).to_string(),
        None => "nothing".to_owned(),
    };
    let apart = match ulps {
        Some(1) => ", 1 unit in the last place".to_owned(),
        Some(ulps) => format!(", {ulps} units in the last place"),
        None => String::new(),
    };
    format!("{field} {} and {}{apart}", number(then), number(now))
}

fn as_json(compared: &Compared) -> Value {
    let Compared { names, settings, parted, value, .. } = compared;
    let changed = settings.iter().map(|changed| json!(changed)).collect::<Vec<_>>();
    let loss = parted.steps.iter().map(|step| {
        let loss = step.differences.iter().find(|difference| difference.field == "loss");
        let numbers = loss.map(|loss| [loss.then, loss.now].map(|value| value.map(json_number)));
        json!({ "step": step.step, "loss": numbers, "ulps": loss.and_then(|loss| loss.ulps) })
    });
    json!({
        "first": names[0],
        "second": names[1],
        "settings": changed,
        "common_steps": parted.common,
        "different_steps": parted.steps.len(),
        "first_step": parted.first().map(|step| step.step),
        "differences": parted.first().map(|step| &step.differences),
        "farthest_loss": parted.farthest_loss(),
        "first_operation": value,
        "steps": loss.collect::<Vec<_>>(),
    })
}
