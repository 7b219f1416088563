//! What can be set, on the command line or in a file.

use std::path::PathBuf;

use clap::ValueEnum;
use evenkeel::Precision;
use evenkeel::data::BadRecords;
use evenkeel::hugging_face::Family;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::budget::Budget;
use super::presets::Preset;
use crate::ranks::rounds::{Asked, DifferenceFormat};

/// Text files, folders of them, JSON lines and columns of Parquet become a model of text: from
/// nothing, or from a model that is there. All options but those of the last group can stand in a
/// file of --config, and are kept with the run: one that goes on has those that it had.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Texts to learn: files, folders, .jsonl files with a text in a field of each line, .parquet
    /// files with one in a column
    #[arg(long, alias = "text", value_name = "PATH", num_args = 1.., help_heading = "Data")]
    #[serde(deserialize_with = "one_or_many")]
    pub data: Vec<PathBuf>,
    /// The field of a JSON line, or the column, that has the text [default: text; of a JSON line
    /// with prompt and completion, or with messages, those]
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    pub field: Option<String>,
    /// Leaves prompts out of the loss: of JSON lines with prompt and completion the completion
    /// counts, of those with messages the last answer
    #[arg(long, help_heading = "Data")]
    pub mask_prompt: bool,
    /// How files of text and JSON lines are encoded, such as windows-1252 [default: UTF-8, or what a
    /// byte-order mark says]
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    pub encoding: Option<String>,
    /// The most bytes of a record; longer ones are damaged [default: 67108864]
    #[arg(long, value_name = "BYTES", help_heading = "Data")]
    pub longest_record: Option<usize>,
    /// Folder for the tokens of the data, which several runs can share [default: that of the run]
    #[arg(long, value_name = "DIR", help_heading = "Data")]
    #[serde(serialize_with = "utf8_path")]
    pub cache: Option<PathBuf>,
    /// What to do about damaged or empty files and lines [default: fail]
    #[arg(long, value_name = "WHAT", help_heading = "Data")]
    pub bad_records: Option<BadRecords>,
    /// characters, bytes, bpe:SIZE (learned from the data), or a tokenizer.json or its folder
    /// [default: characters, or what --model has]
    #[arg(long, value_name = "WHICH", help_heading = "Data")]
    pub tokenizer: Option<String>,
    /// Share of the tokens at the end that is measured on, and not learned [default: 0.1]
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Data")]
    pub validation_share: Option<f64>,

    /// Goes on with all weights of a Hugging Face folder or a .gguf file
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    #[serde(serialize_with = "utf8_path")]
    pub model: Option<PathBuf>,
    /// Sizes of model and run [default: tiny on a software adapter, small on a GPU]
    #[arg(long, help_heading = "Model")]
    pub preset: Option<Preset>,
    /// One dial instead of a preset: layers, from which all other sizes follow
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub depth: Option<usize>,
    /// What the run may take: a time (90s, 30m, 2h, 1d) or tokens (20000000, 20M, 1B)
    #[arg(long, value_name = "TIME|TOKENS", help_heading = "Model")]
    pub budget: Option<Budget>,
    /// Form of the model [default: gpt2, with --depth llama]
    #[arg(long, value_name = "FORM", help_heading = "Model")]
    pub family: Option<Form>,
    /// Transformer blocks
    #[arg(long, value_name = "L", help_heading = "Model")]
    pub layers: Option<usize>,
    /// Attention heads
    #[arg(long, value_name = "H", help_heading = "Model")]
    pub heads: Option<usize>,
    /// Key and value heads of a llama [default: half of the heads, with --depth all]
    #[arg(long, value_name = "H", help_heading = "Model")]
    pub kv_heads: Option<usize>,
    /// Columns of the residual stream
    #[arg(long, value_name = "D", help_heading = "Model")]
    pub width: Option<usize>,
    /// Tokens in a sequence
    #[arg(long, value_name = "T", help_heading = "Model")]
    pub context: Option<usize>,
    /// Probability of dropout
    #[arg(long, value_name = "P", allow_negative_numbers = true, help_heading = "Model")]
    pub dropout: Option<f32>,

    /// Steps
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub steps: Option<usize>,
    /// Sequences in a microbatch
    #[arg(long, value_name = "B", help_heading = "Training")]
    pub batch: Option<usize>,
    /// Microbatches whose gradients are averaged in a step
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub accumulation: Option<usize>,
    /// Highest learning rate, after the warm-up
    #[arg(long, alias = "learning-rate", value_name = "X", allow_negative_numbers = true)]
    #[arg(help_heading = "Training")]
    #[serde(alias = "learning_rate")]
    pub lr: Option<f64>,
    /// The rule of the update [default: adamw]
    #[arg(long, value_name = "RULE", help_heading = "Training")]
    pub optimizer: Option<Rule>,
    /// How the learning rate falls [default: cosine]
    #[arg(long, value_name = "SHAPE", help_heading = "Training")]
    pub schedule: Option<Shape>,
    /// Steps at the end in which the learning rate of wsd falls [default: a fifth]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub decay: Option<usize>,
    /// Steps in which the learning rate rises [default: a twentieth, at most 200]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub warmup: Option<usize>,
    /// Share of the highest learning rate at the end [default: 0.1]
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Training")]
    pub final_lr: Option<f64>,
    /// Keeps an average of the weights with this decay, such as 0.999, which is what is validated,
    /// sampled and written as a model; 0 keeps none [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Training")]
    pub ema: Option<f64>,
    /// Weight decay of matrices
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Training")]
    pub weight_decay: Option<f64>,
    /// Largest norm of the gradients; 0 for no clipping [default: 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Training")]
    pub clip: Option<f32>,
    /// Storage of activations and compute weights; f16 brings a dynamic loss scale, and auto takes
    /// bf16 where that is clearly faster than f32 [default: auto]
    #[arg(long, value_name = "P", help_heading = "Training")]
    pub precision: Option<Storage>,
    /// Computes activations again in the backward pass: less memory, a third more time
    #[arg(long, help_heading = "Training")]
    pub recompute: bool,
    /// Of several ranks, each keeps the optimizer's moments of a part of the weights: less memory,
    /// the same bits
    #[arg(long, help_heading = "Training")]
    pub shard_optimizer: bool,
    /// Seed of the parameters, the batches and the sample [default: 0]
    #[arg(long, value_name = "S", help_heading = "Training")]
    pub seed: Option<u32>,

    /// Ranks take so many steps by themselves, each with its part of every step, and meet then
    /// (DiLoCo): for slow networks
    #[arg(long, value_name = "N", help_heading = "Slow networks")]
    pub diloco_steps: Option<u64>,
    /// Learning rate of the outer optimizer [default: 0.7]
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Slow networks")]
    pub diloco_lr: Option<f64>,
    /// Nesterov momentum of the outer optimizer [default: 0.9]
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Slow networks")]
    pub diloco_momentum: Option<f64>,
    /// How the differences of ranks go over the network [default: f16]
    #[arg(long, value_name = "FORMAT", help_heading = "Slow networks")]
    pub diloco_format: Option<DifferenceFormat>,

    /// Steps between two readings of the telemetry [default: 10]
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub report_every: Option<usize>,
    /// Steps between two validation losses [default: a tenth of the run]
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub evaluate_every: Option<usize>,
    /// Steps between two saves; 0 saves at the beginning and the end [default: a tenth of the run]
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub save_every: Option<usize>,
    /// Saves that stay, the last ones [default: 2]
    #[arg(long, value_name = "K", help_heading = "Run")]
    pub keep: Option<usize>,
    /// Steps whose saves stay whatever follows, such as 1000,5000
    #[arg(long, value_name = "STEPS", value_delimiter = ',', help_heading = "Run")]
    #[serde(deserialize_with = "one_or_many_steps")]
    pub milestones: Vec<u64>,
    /// Tokens to generate at the end [default: 500]
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub sample: Option<usize>,
    /// What the sample starts with [default: the beginning of the data]
    #[arg(long, value_name = "TEXT", help_heading = "Run")]
    pub prompt: Option<String>,
    /// Below 1 the sample keeps to what is likely; 0 takes the most likely token [default: 0.8]
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Run")]
    pub temperature: Option<f64>,
    /// Samples among the N most likely tokens only
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub top_k: Option<usize>,
    /// One line of JSON per step [default: DIR/metrics.jsonl]
    #[arg(long, value_name = "FILE.jsonl", help_heading = "Run")]
    #[serde(serialize_with = "utf8_path")]
    pub metrics: Option<PathBuf>,
    /// The same as a table
    #[arg(long, value_name = "FILE.csv", help_heading = "Run")]
    #[serde(serialize_with = "utf8_path")]
    pub csv: Option<PathBuf>,
    /// An event file for TensorBoard in this folder
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    #[serde(serialize_with = "utf8_path")]
    pub tensorboard: Option<PathBuf>,
    /// The run as one page, written at its end
    #[arg(long, value_name = "FILE.html", help_heading = "Run")]
    #[serde(serialize_with = "utf8_path")]
    pub report: Option<PathBuf>,
    /// Folder of the run: its saves, models, metrics, plot and sample [default: evenkeel-run]
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    #[serde(serialize_with = "utf8_path")]
    pub out: Option<PathBuf>,

    /// Options in a .yaml, .yml or .toml file; those of the command line come before them
    #[arg(long, short = 'c', value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Goes on with the run in this folder from its last save, bit by bit as if it had never ended
    #[arg(long, value_name = "DIR", conflicts_with_all = ["restart", "out"])]
    #[serde(skip)]
    pub resume: Option<PathBuf>,
    /// Begins anew in the folder of a run that did not come to its end
    #[arg(long)]
    #[serde(skip)]
    pub restart: bool,
    /// Says what would be done, with the memory that it takes, and does nothing
    #[arg(long)]
    #[serde(skip)]
    pub dry_run: bool,
    /// Profiles some of the first steps, by kernel and by module, and as a timeline in FILE.json
    #[arg(long, value_name = "FILE.json")]
    #[serde(skip)]
    pub profile: Option<Option<PathBuf>>,
    /// Live charts in the terminal, where q stops the run; needs the feature dashboard
    #[arg(long)]
    #[serde(skip)]
    pub dashboard: bool,
    /// Shows no description and no progress
    #[arg(long)]
    #[serde(skip)]
    pub quiet: bool,
    /// Prints the result as one JSON object, and all else to the error output
    #[arg(long, conflicts_with = "dry_run")]
    #[serde(skip)]
    pub json: bool,
    /// For tests: destroys the device before each of these steps, one after the other
    #[arg(long, hide = true, value_name = "STEP", value_delimiter = ',')]
    #[serde(skip)]
    pub lose_device_at: Vec<u64>,
}

impl Options {
    /// What they say of rounds.
    pub fn rounds(&self) -> Asked {
        Asked {
            steps: self.diloco_steps,
            learning_rate: self.diloco_lr,
            momentum: self.diloco_momentum,
            format: self.diloco_format,
            shards_optimizer: self.shard_optimizer,
        }
    }
}

/// The form of a model that begins from nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Learned positions, LayerNorm, GELU, biases, tied head
    Gpt2,
    /// Rotary positions, RMSNorm, SwiGLU, grouped-query attention
    Llama,
}

impl Form {
    pub fn family(self) -> Family {
        match self {
            Self::Gpt2 => Family::Gpt2,
            Self::Llama => Family::Llama,
        }
    }
}

/// The optimizers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    Adamw,
    Adam,
    AdamAtan2,
    StableAdamw,
    Lion,
    Adafactor,
    Muon,
    Sgd,
}

/// The shapes of schedules; `Settings::schedule` makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Stays as it is after the warm-up
    Constant,
    /// Falls evenly
    Linear,
    /// Falls as half a cosine
    Cosine,
    /// Stays, and falls as 1 - sqrt in the last steps: how many is --decay
    Wsd,
    /// Stays, and falls evenly in the last steps
    WsdLinear,
    /// Falls with the square root of the steps, and has no end
    InverseSqrt,
}

/// What activations are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// Measured before the run begins, which then has one of the others
    Auto,
    F32,
    F16,
    Bf16,
}

impl From<Precision> for Storage {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::F16 => Self::F16,
            Precision::Bf16 => Self::Bf16,
        }
    }
}

/// A list, or one that stands without it.
fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a path or a list of paths")]
    enum Paths {
        One(PathBuf),
        Many(Vec<PathBuf>),
    }
    Ok(match Paths::deserialize(from)? {
        Paths::One(path) => vec![path],
        Paths::Many(paths) => paths,
    })
}

/// The same of steps.
fn one_or_many_steps<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a step or a list of steps")]
    enum Steps {
        One(u64),
        Many(Vec<u64>),
    }
    Ok(match Steps::deserialize(from)? {
        Steps::One(step) => vec![step],
        Steps::Many(steps) => steps,
    })
}

/// A path that JSON cannot hold is to be given again.
fn utf8_path<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
    path.as_ref().and_then(|path| path.to_str()).serialize(to)
}
