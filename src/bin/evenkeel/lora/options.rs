//! The command line. What is given on it stands in the place of what a configuration file says.

use std::path::PathBuf;

use clap::Args;
use evenkeel::{Error, Result};
use serde::Serialize;

use crate::ranks::rounds::DifferenceFormat;

use super::settings::{AdapterFormat, FineTuneType, OptimizerName, PrecisionName, SpikeReaction};

/// Fine-tunes a model on JSON lines. Names that mlx_lm.lora knows mean what they mean there.
#[derive(Clone, Debug, Default, Args, Serialize)]
pub struct Options {
    /// A folder with config.json, model.safetensors and tokenizer.json, or a .gguf file.
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// A folder with another tokenizer than the model's own.
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Trains.
    #[arg(long)]
    #[serde(skip_serializing_if = "is_false")]
    pub train: bool,
    /// A folder with train.jsonl, valid.jsonl and test.jsonl, or one file of JSON lines.
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// What is trained.
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fine_tune_type: Option<FineTuneType>,
    /// How it is trained.
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<OptimizerName>,
    /// Lets only the answers count for the loss: the completion, or the last message.
    #[arg(long)]
    #[serde(skip_serializing_if = "is_false")]
    pub mask_prompt: bool,
    /// How many of the last blocks are tuned; -1 for all.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_layers: Option<i64>,
    /// Records in a batch.
    #[arg(long, value_name = "B")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// Batches to train on.
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iters: Option<u64>,
    /// Batches that the validation loss is measured on; -1 for all.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_batches: Option<i64>,
    /// Learning rate, where no schedule says otherwise.
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Iterations between two lines about the training loss.
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps_per_report: Option<u64>,
    /// Iterations between two validations.
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps_per_eval: Option<u64>,
    /// Batches that make one step of the optimizer.
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_accumulation_steps: Option<usize>,
    /// An adapter to begin with: a file or folder of PEFT's or mlx-lm's.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume_adapter_file: Option<PathBuf>,
    /// The folder of the run, and of the adapter.
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter_path: Option<PathBuf>,
    /// Iterations between two saves.
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_every: Option<u64>,
    /// Measures the loss on test.jsonl, of what was trained last.
    #[arg(long)]
    #[serde(skip_serializing_if = "is_false")]
    pub test: bool,
    /// Batches that the test loss is measured on; -1 for all.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_batches: Option<i64>,
    /// The most tokens of a record; what is longer is cut.
    #[arg(long, value_name = "T")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_seq_length: Option<usize>,
    /// A file with settings, in YAML or TOML.
    #[arg(short, long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Computes activations again in the backward pass instead of keeping them.
    #[arg(long)]
    #[serde(skip_serializing_if = "is_false")]
    pub grad_checkpoint: bool,
    /// Seed of initial values, dropout and the order of the data.
    #[arg(long, value_name = "S")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u32>,

    /// Keeps the model's own weights in blocks: q4_0, q4_1 or q8_0.
    #[arg(long, value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantize: Option<String>,
    /// Storage of activations; auto measures whether half precision is worth it here [default: auto]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<PrecisionName>,
    /// Keeps an average of what is trained with this decay, such as 0.999, which is what is
    /// validated, tested and saved as adapter; 0 keeps none.
    #[arg(long, value_name = "DECAY", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Gradients with a larger norm are scaled to it; 0 for no clip.
    #[arg(long, value_name = "NORM", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f32>,
    /// What is done about a step whose loss or norm is far above those before.
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spike_guard: Option<SpikeReaction>,
    /// Standard deviations above the mean from which it is one.
    #[arg(long, value_name = "Z", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spike_threshold: Option<f32>,
    /// Skipped steps in a row after which training gives up; 0 for never.
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub give_up_after: Option<u32>,
    /// Whose layout the adapter is written in.
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter_format: Option<AdapterFormat>,
    /// Memory of the device that the run may take, in GiB.
    #[arg(long, value_name = "GIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<f64>,
    /// Of several ranks, each keeps the optimizer's moments of a part of what is trained: less
    /// memory, the same bits.
    #[arg(long)]
    #[serde(skip_serializing_if = "is_false")]
    pub shard_optimizer: bool,
    /// Ranks take so many steps by themselves, each with its part of every step, and meet then
    /// (DiLoCo): for slow networks.
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diloco_steps: Option<u64>,
    /// Learning rate of DiLoCo's outer optimizer [default: 0.7]
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diloco_lr: Option<f64>,
    /// Nesterov momentum of DiLoCo's outer optimizer [default: 0.9]
    #[arg(long, value_name = "M", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diloco_momentum: Option<f64>,
    /// How DiLoCo's differences go over the network [default: f16]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diloco_format: Option<DifferenceFormat>,
    /// A folder for TensorBoard.
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensorboard: Option<PathBuf>,
    /// A page with the charts of the run.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<PathBuf>,

    /// Goes on with the run in the folder, or in --adapter-path.
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub resume: Option<Option<PathBuf>>,
    /// Begins anew in a folder whose run has not come to its end.
    #[arg(long, conflicts_with = "resume")]
    #[serde(skip)]
    pub restart: bool,
    /// Prints the settings as they were resolved and what the run takes, and ends.
    #[arg(long)]
    #[serde(skip)]
    pub dry_run: bool,
    /// Prints only what went wrong.
    #[arg(long)]
    #[serde(skip)]
    pub quiet: bool,
    /// Prints the result as one JSON object, and all else to the error output.
    #[arg(long, conflicts_with = "dry_run")]
    #[serde(skip)]
    pub json: bool,

    /// For tests: destroys the device before each of these steps, one after the other.
    #[arg(long, hide = true, value_name = "STEP", value_delimiter = ',')]
    #[serde(skip)]
    pub lose_device_at: Vec<u64>,

    /// Code of a model is not run here.
    #[arg(long, hide = true)]
    #[serde(skip)]
    pub trust_remote_code: bool,
    /// Nothing is sent anywhere.
    #[arg(long, hide = true)]
    #[serde(skip)]
    pub report_to: Option<String>,
    /// As `report_to`.
    #[arg(long, hide = true)]
    #[serde(skip)]
    pub project_name: Option<String>,
    /// There is no cache that grows.
    #[arg(long, hide = true)]
    #[serde(skip)]
    pub clear_cache_threshold: Option<String>,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Options {
    /// Says what of mlx_lm.lora cannot be had, and what is no number that a file could hold.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with what to do instead, [`Error::Setting`].
    pub fn check(&self) -> Result<()> {
        for (setting, value) in [
            ("learning_rate", self.learning_rate),
            ("ema", self.ema),
            ("clip", self.clip.map(f64::from)),
            ("spike_threshold", self.spike_threshold.map(f64::from)),
            ("memory_limit", self.memory_limit),
            ("diloco_lr", self.diloco_lr),
            ("diloco_momentum", self.diloco_momentum),
        ] {
            if let Some(value) = value.filter(|value| !value.is_finite()) {
                return Err(Error::Setting { setting, value: value.to_string(), range: "finite" });
            }
        }
        if self.trust_remote_code {
            return Err(unsupported("trust_remote_code"));
        }
        if self.report_to.is_some() || self.project_name.is_some() {
            return Err(unsupported("report_to"));
        }
        Ok(())
    }
}

/// What a setting of mlx_lm.lora asks for that is not here.
pub fn unsupported(name: &str) -> Error {
    let instead = match name {
        "trust_remote_code" => {
            "no code of a model is run; leave it out, and take a model of a family that is known"
        }
        "report_to" | "project_name" => {
            "nothing is sent to other services; leave it out: metrics.jsonl has every step, \
             --tensorboard DIR and --report FILE show them"
        }
        "hf_dataset" => {
            "data sets are not fetched; write the records you want as train.jsonl and valid.jsonl \
             into a folder and name it with --data"
        }
        _ => {
            "the fields of a record are prompt and completion, messages, or text; rename them in \
             the data"
        }
    };
    Error::Unsupported { what: name.to_owned(), instead: instead.to_owned() }
}
