//! What can be set on the command line of a program that trains a language model.

use std::path::PathBuf;

use clap::Parser;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::Preset;
use crate::error::{Error, Result};

/// Options that make the model, its data or its random numbers: a run that goes on cannot change
/// them.
const FIXED: [&str; 9] =
    ["preset", "seed", "bytes", "context", "layers", "heads", "width", "llama", "kv_heads"];

/// Trains a character-level GPT, then samples from it.
///
/// All of it but the last group is kept with the run's saves: a run that is resumed has the options
/// that it had, and those given anew in their place.
#[derive(Clone, Debug, Default, Parser, Serialize, Deserialize)]
#[command(name = "gpt", args_override_self = true)]
#[serde(default)]
pub struct Options {
    /// Text to learn: UTF-8, or UTF-16 or UTF-32 with a byte-order mark; the sources and documents of this repository if not given.
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "utf8_path")]
    pub text: Option<PathBuf>,
    /// Learns bytes instead of characters, of any file.
    #[arg(long)]
    pub bytes: bool,
    /// Sizes of model and run; tiny on a software adapter, small on a GPU if not given.
    #[arg(long)]
    pub preset: Option<Preset>,
    /// Steps.
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Sequences in a microbatch.
    #[arg(long, value_name = "B")]
    pub batch: Option<usize>,
    /// Microbatches whose gradients are averaged in a step.
    #[arg(long, value_name = "N")]
    pub accumulation: Option<usize>,
    /// Tokens in a sequence.
    #[arg(long, value_name = "T")]
    pub context: Option<usize>,
    /// Transformer blocks.
    #[arg(long, value_name = "L")]
    pub layers: Option<usize>,
    /// Attention heads.
    #[arg(long, value_name = "H")]
    pub heads: Option<usize>,
    /// Columns of the residual stream.
    #[arg(long, value_name = "D")]
    pub width: Option<usize>,
    /// Probability of dropout.
    #[arg(long, allow_negative_numbers = true, value_name = "P")]
    pub dropout: Option<f32>,
    /// Llama's form: rotary positions, RMSNorm, SwiGLU, grouped-query attention.
    #[arg(long)]
    pub llama: bool,
    /// Key and value heads; half of the heads if not given.
    #[arg(long, value_name = "H", requires = "llama")]
    pub kv_heads: Option<usize>,
    /// Highest learning rate, after the warm-up.
    #[arg(long, allow_negative_numbers = true, value_name = "X")]
    pub lr: Option<f64>,
    /// Storage of activations and compute weights, f32 if not given; f16 brings a dynamic loss scale.
    #[arg(long, value_name = "P", value_parser = ["f32", "f16", "bf16"])]
    pub precision: Option<String>,
    /// Largest norm of the gradients, 1 if not given; 0 for no clipping.
    #[arg(long, allow_negative_numbers = true, value_name = "X")]
    pub clip: Option<f32>,
    /// Weight decay of matrices; 0.1 if not given.
    #[arg(long, allow_negative_numbers = true, value_name = "X")]
    pub weight_decay: Option<f64>,
    /// Seed of the parameters, the batches and the sample; 0 if not given.
    #[arg(long, value_name = "S")]
    pub seed: Option<u32>,
    /// Steps between two readings of the telemetry; 10 if not given.
    #[arg(long, value_name = "N")]
    pub report_every: Option<usize>,
    /// Steps between two validation losses; a tenth of the run if not given.
    #[arg(long, value_name = "N")]
    pub evaluate_every: Option<usize>,
    /// Steps between two saves; a tenth of the run if not given. 0 saves at the beginning and the end.
    #[arg(long, value_name = "N")]
    pub save_every: Option<usize>,
    /// One line of JSON per step; DIR/metrics.jsonl if not given.
    #[arg(long, value_name = "FILE.jsonl")]
    #[serde(serialize_with = "utf8_path")]
    pub metrics: Option<PathBuf>,
    /// The same as a table.
    #[arg(long, value_name = "FILE.csv")]
    #[serde(serialize_with = "utf8_path")]
    pub csv: Option<PathBuf>,
    /// An event file for TensorBoard in this folder.
    #[arg(long, value_name = "DIR")]
    #[serde(serialize_with = "utf8_path")]
    pub tensorboard: Option<PathBuf>,
    /// The run as one page, written at its end.
    #[arg(long, value_name = "FILE.html")]
    #[serde(serialize_with = "utf8_path")]
    pub report: Option<PathBuf>,
    /// Tokens to generate at the end; 500 if not given.
    #[arg(long, value_name = "N")]
    pub sample: Option<usize>,
    /// What the sample starts with; the beginning of the text if not given.
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Below 1 the sample keeps to what is likely, 0.8 if not given; 0 always takes the most likely
    /// token.
    #[arg(long, allow_negative_numbers = true, value_name = "X")]
    pub temperature: Option<f64>,
    /// Samples among the N most likely tokens only.
    #[arg(long, value_name = "N")]
    pub top_k: Option<usize>,
    /// Folder of the run: its saves, metrics, plot and sample.
    #[arg(long, value_name = "DIR", default_value = "target/gpt")]
    #[serde(skip)]
    pub out: PathBuf,
    /// Goes on from the last save in the folder, bit by bit as if it had never ended.
    #[arg(long, conflicts_with = "restart")]
    #[serde(skip)]
    pub resume: bool,
    /// Begins anew in the folder of a run that did not come to its end.
    #[arg(long)]
    #[serde(skip)]
    pub restart: bool,
    /// Profiles some of the first steps: what the device takes for one by kernel and by module, and
    /// in FILE.json, if given, as a timeline that ui.perfetto.dev shows.
    #[arg(long, value_name = "FILE.json")]
    #[serde(skip)]
    pub profile: Option<Option<PathBuf>>,
    /// Live charts in the terminal, where q stops the run; needs --features dashboard.
    #[arg(long)]
    #[serde(skip)]
    pub dashboard: bool,
    /// Shows no description and no progress.
    #[arg(long)]
    #[serde(skip)]
    pub quiet: bool,
}

impl Options {
    /// The options of a run that goes on: those it had, and those given now in their place.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for one that cannot change.
    pub(super) fn over(&self, saved: &Self) -> Result<Self> {
        let (mut fields, had) = (fields(saved), fields(saved));
        for (name, value) in fields_given(self) {
            let before = had.get(&name).unwrap_or(&Value::Null);
            if FIXED.contains(&&*name) && *before != value {
                let option = name.replace('_', "-");
                return Err(Error::Unsupported {
                    what: format!("--{option} {value} in a run that has {before}"),
                    instead: format!("leave --{option} out, or begin another run with --out"),
                });
            }
            fields.insert(name, value);
        }
        let merged: Self = serde_json::from_value(Value::Object(fields)).expect("its own fields");
        let &Self { resume, restart, dashboard, quiet, .. } = self;
        let Self { out, text, metrics, csv, tensorboard, report, profile, .. } = self.clone();
        Ok(Self {
            out,
            text: text.or(merged.text),
            metrics: metrics.or(merged.metrics),
            csv: csv.or(merged.csv),
            tensorboard: tensorboard.or(merged.tensorboard),
            report: report.or(merged.report),
            profile,
            resume,
            restart,
            dashboard,
            quiet,
            ..merged
        })
    }

    /// With paths that mean the same file from every folder.
    ///
    /// # Errors
    /// [`Error::File`] for a path that is empty.
    pub(super) fn with_absolute_paths(mut self) -> Result<Self> {
        let Self { text, metrics, csv, tensorboard, report, profile, .. } = &mut self;
        let named = [text, metrics, csv, tensorboard, report].into_iter().flatten();
        for path in named.chain(profile.iter_mut().flatten()) {
            let absolute = std::path::absolute(&*path);
            *path = absolute.map_err(|error| {
                let reason = format!("this is no path: {error}");
                Error::File { path: path.clone(), reason }
            })?;
        }
        Ok(self)
    }
}

/// A path that JSON cannot hold is to be given again.
fn utf8_path<S: Serializer>(path: &Option<PathBuf>, to: S) -> std::result::Result<S::Ok, S::Error> {
    path.as_ref().and_then(|path| path.to_str()).serialize(to)
}

type Fields = serde_json::Map<String, Value>;

fn fields(options: &Options) -> Fields {
    match serde_json::to_value(options) {
        Ok(Value::Object(fields)) => fields,
        other => unreachable!("options are {other:?}"),
    }
}

fn fields_given(options: &Options) -> impl Iterator<Item = (String, Value)> {
    let absent = |value: &Value| matches!(value, Value::Null | Value::Bool(false));
    fields(options).into_iter().filter(move |(_, value)| !absent(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Options {
        Options::try_parse_from(["gpt"].iter().chain(arguments)).expect("options")
    }

    #[test]
    fn what_is_given_stands_in_the_place_of_what_was() {
        let saved = parse(&["--width", "16", "--llama", "--lr", "0.1", "--csv", "a.csv"]);
        let given = parse(&["--lr", "0.2", "--steps", "9", "--resume", "--out", "here"]);
        let merged = given.over(&saved).expect("they fit");
        assert_eq!((merged.width, merged.lr, merged.steps), (Some(16), Some(0.2), Some(9)));
        assert!(merged.llama && merged.resume);
        assert_eq!(merged.out, PathBuf::from("here"));
        assert_eq!(merged.csv, Some(PathBuf::from("a.csv")));
        // The same again is no change.
        assert!(parse(&["--width", "16"]).over(&saved).is_ok());
        let error = parse(&["--width", "32"]).over(&saved).expect_err("another").to_string();
        assert!(error.contains("--width 32 in a run that has 16"), "{error}");
        let error = parse(&["--seed", "1"]).over(&saved).expect_err("another").to_string();
        assert!(error.contains("--seed 1"), "{error}");
    }
}
