//! How a run begins: anew, or where one was saved.

use std::path::{Path, PathBuf};

use evenkeel::run::{Folder, Saved, warn};
use evenkeel::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::data::Data;
use super::options::Options;
use super::settings::{Fields, Settings, over};
use super::sources;

/// Settings that make what is trained, its data or its random numbers: a run that goes on cannot
/// change them.
const FIXED: [&str; 11] = [
    "fine_tune_type",
    "optimizer",
    "mask_prompt",
    "num_layers",
    "batch_size",
    "grad_accumulation_steps",
    "max_seq_length",
    "seed",
    "lora_parameters",
    "quantize",
    "resume_adapter_file",
];

/// Settings whose change leaves the bits of what is trained alone, up to where the run ended before.
const WITHOUT_TRACE: [&str; 19] = [
    "model",
    "tokenizer",
    "data",
    "adapter_path",
    "train",
    "test",
    "iters",
    "test_batches",
    "val_batches",
    "steps_per_report",
    "steps_per_eval",
    "save_every",
    "grad_checkpoint",
    "adapter_format",
    "memory_limit",
    "shard_optimizer",
    "tensorboard",
    "report",
    "give_up_after",
];

/// The lowest validation loss so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub iteration: u64,
    pub loss: f64,
}

/// What a run is beside the state of its trainer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct About {
    pub settings: Settings,
    /// Fingerprint of what is learned and validated on.
    pub data: String,
    /// Name of the adapter and its driver.
    pub device: String,
    pub best: Option<Best>,
    /// Tokens that counted so far.
    pub trained_tokens: u64,
}

/// Where the state of a run lies in its folder, and the one before.
pub fn state_files(folder: &Path) -> [PathBuf; 2] {
    ["state.safetensors", "state.previous.safetensors"].map(|name| folder.join(name))
}

fn read(folder: &Path) -> Result<Option<Saved<About>>> {
    let [last, previous] = state_files(folder);
    Saved::read(&last, &previous)
}

/// The settings of a run, and the save that it goes on from.
pub struct Start {
    settings: Settings,
    /// The folder of the run, where there is something to train.
    pub folder: Option<Folder>,
    /// Where it goes on from, until that was done.
    pub saved: Option<Saved<About>>,
    /// Whether the newest save in the folder is one of this run.
    has_begun: bool,
}

impl Start {
    /// Puts the settings together, claims the folder of a run, and looks for a save in it where one
    /// is asked for.
    ///
    /// # Errors
    /// What is wrong with options, configuration and save; [`Error::File`] where a run that has not
    /// come to its end would be written over.
    pub fn find(options: &Options) -> Result<Self> {
        let mut given = given(options)?;
        let folder = match given.get("adapter_path").and_then(Value::as_str) {
            Some(path) => PathBuf::from(path),
            None => Settings::default().adapter_path,
        };
        Settings::from_fields(&given, "the settings")?.validate()?;
        let trains = options.resume.is_some() || given.get("train") == Some(&Value::Bool(true));
        let claims = trains && !options.dry_run;
        let claimed = claims.then(|| Folder::claim(&folder, "--adapter-path")).transpose()?;
        let saved = if options.resume.is_some() { read(&folder)? } else { None };
        if options.resume.is_some() && saved.is_none() {
            warn(format!("{} has no save to go on from: a run begins", folder.display()));
        }
        let before = saved.as_ref().map(|saved| saved.about.settings.to_fields());
        if before.is_some() && given.get("precision") == Some(&Value::from("auto")) {
            // What was chosen stays.
            given.remove("precision");
        }
        let all = over([given].into_iter().chain(before));
        let settings = with_absolute_paths(Settings::from_fields(&all, "the settings")?)?;
        if claims && options.resume.is_none() && !options.restart {
            refuse_unfinished(&folder)?;
        }
        if let Some(saved) = &saved {
            say_changes(&saved.about.settings, &settings)?;
        }
        Ok(Self { settings, folder: claimed, has_begun: saved.is_some(), saved })
    }

    /// The run has begun, and the newest save in its folder is its own from now on.
    pub fn has_begun(&mut self) {
        self.has_begun = true;
        self.saved = None;
    }

    /// Reads the newest save of a run that has begun before and is to go on.
    ///
    /// # Errors
    /// [`Error::File`] for one that cannot be read.
    pub fn read_again(&mut self) -> Result<()> {
        match &self.folder {
            Some(folder) if self.has_begun && self.saved.is_none() => {
                self.saved = read(folder.path())?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub fn settings(&self) -> Settings {
        self.settings.clone()
    }

    /// Makes sure that a run goes on with the data that it had.
    ///
    /// # Errors
    /// [`Error::Data`] for others.
    pub fn check_data(&self, data: &Data) -> Result<()> {
        match &self.saved {
            Some(saved) => check_data(&self.settings, &saved.about, data),
            None => Ok(()),
        }
    }
}

/// Makes sure that data are those of a run.
///
/// # Errors
/// [`Error::Data`] for others.
pub fn check_data(settings: &Settings, about: &About, data: &Data) -> Result<()> {
    if about.data == data.fingerprint() {
        return Ok(());
    }
    let what = settings.data.as_deref().unwrap_or(Path::new("--data"));
    Err(Error::Data {
        what: what.display().to_string(),
        reason: "these are not the records that the run has learned from so far; give \
                 those with --data, or begin another run with --adapter-path"
            .to_owned(),
    })
}

/// What the command line says, and where it does not, the configuration file.
fn given(options: &Options) -> Result<Fields> {
    let Ok(Value::Object(mut given)) = serde_json::to_value(options) else {
        let reason = "a path on it is no UTF-8; rename the file".to_owned();
        return Err(Error::Data { what: "the command line".to_owned(), reason });
    };
    if let Some(folder) = options.resume.iter().flatten().next() {
        if options.adapter_path.as_ref().is_some_and(|path| path != folder) {
            return Err(Error::Unsupported {
                what: "--resume with another folder than --adapter-path".to_owned(),
                instead: "name it once: a run goes on in its own folder".to_owned(),
            });
        }
        let folder = folder.to_string_lossy().into_owned();
        given.insert("adapter_path".to_owned(), Value::String(folder));
    }
    let file = options.config.as_deref().map(sources::read).transpose()?;
    if let (Some(file), Some(path)) = (&file, &options.config) {
        // What is wrong in the file is said of the file.
        Settings::from_fields(&over([file.clone()]), &path.display().to_string())?;
    }
    Ok(over([given].into_iter().chain(file)))
}

/// A run that did not come to its end is not written over by accident.
fn refuse_unfinished(folder: &Path) -> Result<()> {
    let Ok(Some(saved)) = read(folder) else { return Ok(()) };
    let (steps, settings) = (saved.checkpoint.steps(), &saved.about.settings);
    if steps >= settings.steps() {
        return Ok(());
    }
    let done = steps * settings.grad_accumulation_steps as u64;
    Err(Error::File {
        path: folder.to_owned(),
        reason: format!(
            "there is a run that has come to iteration {done} of {}; --resume goes on with it, \
             --restart begins anew in its place, --adapter-path takes another folder",
            settings.iters
        ),
    })
}

/// Says which settings are others than those that the run had.
///
/// # Errors
/// [`Error::Unsupported`] for one that cannot be.
fn say_changes(before: &Settings, now: &Settings) -> Result<()> {
    let (before, now) = (before.to_fields(), now.to_fields());
    let mut leaves_trace = false;
    for (name, value) in &now {
        let old = before.get(name).unwrap_or(&Value::Null);
        if old == value {
            continue;
        }
        if FIXED.contains(&name.as_str()) {
            return Err(Error::Unsupported {
                what: format!("{name} {value} in a run that has {old}"),
                instead: "leave it out, or begin another run with --adapter-path".to_owned(),
            });
        }
        leaves_trace |= !WITHOUT_TRACE.contains(&name.as_str());
        warn(format!("from here on {name} is {value}; it was {old}"));
    }
    if leaves_trace {
        warn("the run is no longer, bit by bit, the one without a break");
    }
    Ok(())
}

/// With paths that mean the same from every folder.
fn with_absolute_paths(mut settings: Settings) -> Result<Settings> {
    let Settings { model, tokenizer, data, resume_adapter_file, tensorboard, report, .. } =
        &mut settings;
    let named = [model, tokenizer, data, resume_adapter_file, tensorboard, report];
    for path in named.into_iter().flatten() {
        let absolute = std::path::absolute(&*path);
        *path = absolute.map_err(|error| {
            let reason = format!("this is no path: {error}");
            Error::File { path: path.clone(), reason }
        })?;
    }
    Ok(settings)
}
