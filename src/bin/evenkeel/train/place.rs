//! The folder of a run, and what is there of an earlier part of it.

use std::path::{Path, PathBuf};

use evenkeel::run::{Fingerprint, Saved};
use evenkeel::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config;
use super::options::{Options, Storage};

/// The last save, in the folder.
pub const LAST: &str = "checkpoint.safetensors";
/// The one before.
pub const PREVIOUS: &str = "previous.safetensors";
/// Where nothing else was given.
const OUT: &str = "evenkeel-run";

/// What a run is beside its state: what its saves say of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct About {
    /// All options, as they were resolved.
    pub options: Options,
    /// The data, to know them again.
    pub tokens: Fingerprint,
    /// The config.json of the model that the run has gone on with.
    pub model: Option<String>,
    /// The lowest validation loss so far.
    pub best: Option<Best>,
    /// Name of the adapter and its driver; older saves do not say.
    #[serde(default)]
    pub device: Option<String>,
}

/// A validation loss, and the steps until then.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub step: u64,
    pub loss: f64,
}

/// Options that a run that goes on cannot change, and why.
const FIXED: [(&str, &[&str]); 4] = [
    (
        "its weights have that form",
        &["model", "preset", "depth", "family", "layers", "heads", "kv_heads", "width", "context"],
    ),
    (
        "its batches have been drawn with it so far",
        &["field", "mask_prompt", "encoding", "tokenizer", "validation_share", "seed"],
    ),
    ("what it keeps of each weight belongs to that rule", &["optimizer"]),
    ("its steps were set when it began; give --steps", &["budget"]),
];
/// Those that are no setting of the training.
const ASIDE: [&str; 16] = [
    "data",
    "bad_records",
    "longest_record",
    "cache",
    "out",
    "metrics",
    "csv",
    "tensorboard",
    "report",
    "sample",
    "prompt",
    "temperature",
    "top_k",
    "keep",
    "milestones",
    "shard_optimizer",
];

/// Where a run is, and where it was.
pub struct Place {
    pub options: Options,
    pub out: PathBuf,
    pub saved: Option<Saved<About>>,
    /// What is another setting than before, in words.
    pub changes: Vec<String>,
}

impl Place {
    /// Reads what there is. Nothing is made or changed.
    ///
    /// # Errors
    /// [`Error::File`] where a run is to go on that is not there, or one is there that has not come
    /// to its end; [`Error::Unsupported`] for a setting that cannot change.
    pub fn find(options: Options) -> Result<Self> {
        let out = options.resume.clone().or(options.out.clone());
        let out = out.unwrap_or_else(|| PathBuf::from(OUT));
        let out = std::path::absolute(&out).map_err(|error| Error::File {
            path: out.clone(),
            reason: format!("this is no path: {error}"),
        })?;
        let read = || Saved::<About>::read(&out.join(LAST), &out.join(PREVIOUS));
        if options.resume.is_none() {
            if !options.restart {
                refuse_unfinished(&read(), &out)?;
            }
            let options = Options { out: Some(out.clone()), ..options };
            return Ok(Self { options, out, saved: None, changes: Vec::new() });
        }
        let Some(saved) = read()? else {
            let reason = "there is no save of a run in this folder to go on from; begin one with \
                          --out"
                .to_owned();
            return Err(Error::File { path: out, reason });
        };
        let (options, changes) = resumed(&options, &saved)?;
        let options = Options { out: Some(out.clone()), ..options };
        Ok(Self { options, out, saved: Some(saved), changes })
    }
}

/// The options that the run had, and those given now in their place.
fn resumed(given: &Options, saved: &Saved<About>) -> Result<(Options, Vec<String>)> {
    // What was chosen when the run began stays.
    let precision = given.precision.filter(|precision| *precision != Storage::Auto);
    let given = &Options { precision, ..given.clone() };
    let had = config::fields_of(&saved.about.options);
    let mut changes = Vec::new();
    for (name, value) in config::given(given) {
        let before = had.get(&name).unwrap_or(&Value::Null);
        if *before == value || ASIDE.contains(&name.as_str()) {
            continue;
        }
        let option = name.replace('_', "-");
        let fixed = FIXED.iter().find(|(_, names)| names.contains(&name.as_str()));
        if let Some((why, _)) = fixed {
            return Err(Error::Unsupported {
                what: format!("--{option} {value} in a run that has {before}"),
                instead: format!("{why}; leave --{option} out, or begin another run with --out"),
            });
        }
        changes.push(format!("{option} {before} -> {value}"));
    }
    let options = config::over(given, &saved.about.options);
    let (done, steps) = (saved.checkpoint.steps(), options.steps.unwrap_or(0));
    if done > steps as u64 {
        return Err(Error::Unsupported {
            what: format!("--steps {steps} in a run that has come to step {done}"),
            instead: "give as many or more".to_owned(),
        });
    }
    Ok((options, changes))
}

/// The weights of a run that did not come to its end are not written over by accident; those of one
/// that did are the previous save of the new one. What cannot be read is no run's.
fn refuse_unfinished(found: &Result<Option<Saved<About>>>, out: &Path) -> Result<()> {
    let Ok(Some(saved)) = found else { return Ok(()) };
    let (done, steps) = (saved.checkpoint.steps(), saved.about.options.steps.unwrap_or(0));
    if done >= steps as u64 {
        return Ok(());
    }
    Err(Error::File {
        path: out.to_owned(),
        reason: format!(
            "there is a run that has come to step {done} of {steps}; --resume {} goes on with it, \
             --restart begins anew in its place, --out takes another folder",
            out.display()
        ),
    })
}
