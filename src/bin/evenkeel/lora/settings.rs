//! All settings of a run. They are put together by name: what the command line says, what a
//! configuration file says, what the run had that goes on, and what is so by default.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use evenkeel::run::block_format;
use evenkeel::{BlockFormat, Error, Precision, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::schedule::LrSchedule;
use crate::ranks::Share;
use crate::ranks::rounds::{Asked, DifferenceFormat};

pub type Fields = Map<String, Value>;

/// What is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FineTuneType {
    /// Low-rank adapters.
    #[default]
    Lora,
    /// Adapters with magnitudes apart from directions.
    Dora,
    /// The weights of the last blocks themselves.
    Full,
}

/// How it is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    #[default]
    Adam,
    Adamw,
    Muon,
    Sgd,
    Adafactor,
}

/// Storage of activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionName {
    /// Chosen before the run begins, which then has one of the others.
    #[default]
    Auto,
    F32,
    Bf16,
    F16,
}

/// What is done about spikes of the loss and of the norm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpikeReaction {
    /// Such a step changes nothing.
    #[default]
    Skip,
    /// First that, then a lower learning rate, then back to a snapshot.
    Rollback,
    /// Nothing.
    Off,
}

/// Whose layout adapters are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterFormat {
    #[default]
    Peft,
    Mlx,
    /// PEFT's, and mlx-lm's in the folder `mlx`.
    Both,
}

/// The size of adapters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraParameters {
    pub rank: usize,
    /// The factor on the product of A and B; 20 where alpha is not given either.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// PEFT's: scale times rank.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    pub dropout: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<String>>,
}

impl Default for LoraParameters {
    fn default() -> Self {
        Self { rank: 8, scale: None, alpha: None, dropout: 0.0, keys: None }
    }
}

impl LoraParameters {
    /// The factor on the product of A and B.
    pub fn scale(&self) -> f64 {
        let from_alpha = self.alpha.map(|alpha| alpha / self.rank as f64);
        self.scale.or(from_alpha).unwrap_or(20.0)
    }
}

/// All of them, by the names that mlx_lm.lora has for them and a few more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub model: Option<PathBuf>,
    pub tokenizer: Option<PathBuf>,
    pub train: bool,
    pub data: Option<PathBuf>,
    pub fine_tune_type: FineTuneType,
    pub optimizer: OptimizerName,
    pub optimizer_config: BTreeMap<String, Fields>,
    pub mask_prompt: bool,
    pub num_layers: i64,
    pub batch_size: usize,
    pub iters: u64,
    pub val_batches: i64,
    pub learning_rate: f64,
    pub lr_schedule: Option<LrSchedule>,
    pub steps_per_report: u64,
    pub steps_per_eval: u64,
    pub grad_accumulation_steps: usize,
    pub resume_adapter_file: Option<PathBuf>,
    pub adapter_path: PathBuf,
    pub save_every: u64,
    pub test: bool,
    pub test_batches: i64,
    pub max_seq_length: usize,
    pub grad_checkpoint: bool,
    pub seed: u32,
    pub lora_parameters: LoraParameters,
    pub quantize: Option<String>,
    pub precision: PrecisionName,
    pub ema: f64,
    pub clip: f32,
    pub spike_guard: SpikeReaction,
    pub spike_threshold: f32,
    pub give_up_after: u32,
    pub adapter_format: AdapterFormat,
    pub memory_limit: Option<f64>,
    pub shard_optimizer: bool,
    pub diloco_steps: Option<u64>,
    pub diloco_lr: Option<f64>,
    pub diloco_momentum: Option<f64>,
    pub diloco_format: Option<DifferenceFormat>,
    pub tensorboard: Option<PathBuf>,
    pub report: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: None,
            tokenizer: None,
            train: false,
            data: None,
            fine_tune_type: FineTuneType::Lora,
            optimizer: OptimizerName::Adam,
            optimizer_config: BTreeMap::new(),
            mask_prompt: false,
            num_layers: 16,
            batch_size: 4,
            iters: 1000,
            val_batches: 25,
            learning_rate: 1e-5,
            lr_schedule: None,
            steps_per_report: 10,
            steps_per_eval: 200,
            grad_accumulation_steps: 1,
            resume_adapter_file: None,
            adapter_path: "adapters".into(),
            save_every: 100,
            test: false,
            test_batches: 500,
            max_seq_length: 2048,
            grad_checkpoint: false,
            seed: 0,
            lora_parameters: LoraParameters::default(),
            quantize: None,
            precision: PrecisionName::Auto,
            ema: 0.0,
            clip: 1.0,
            spike_guard: SpikeReaction::Skip,
            spike_threshold: 6.0,
            give_up_after: 100,
            adapter_format: AdapterFormat::Peft,
            memory_limit: None,
            shard_optimizer: false,
            diloco_steps: None,
            diloco_lr: None,
            diloco_momentum: None,
            diloco_format: None,
            tensorboard: None,
            report: None,
        }
    }
}

impl Settings {
    /// The settings with these names and values, and the others as they are by default. `source` is
    /// named where a value is none for its setting.
    ///
    /// # Errors
    /// [`Error::Data`] with the setting.
    pub fn from_fields(fields: &Fields, source: &str) -> Result<Self> {
        // One by one, so that the message has the name.
        for (name, value) in fields {
            let one = Value::Object(Map::from_iter([(name.clone(), value.clone())]));
            if let Err(error) = serde_json::from_value::<Self>(one) {
                let reason =
                    if error.to_string().starts_with("unknown field") && !name_is_known(name) {
                        format!("{name} is no setting that is known here; see evenkeel lora --help")
                    } else {
                        format!("{name}: {error}")
                    };
                return Err(Error::Data { what: source.to_owned(), reason });
            }
        }
        let all = serde_json::from_value(Value::Object(fields.clone()));
        all.map_err(|error| Error::Data { what: source.to_owned(), reason: error.to_string() })
    }

    /// The same by name.
    pub fn to_fields(&self) -> Fields {
        match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => fields,
            other => unreachable!("settings are {other:?}"),
        }
    }

    /// What each of several ranks has of a step.
    ///
    /// # Errors
    /// As [`Share::of`].
    pub fn share(&self, ranks: usize) -> Result<Share> {
        let batch = ("--batch-size", self.batch_size);
        let accumulation = ("--grad-accumulation-steps", self.grad_accumulation_steps);
        Share::of(batch, accumulation, ranks)
    }

    /// What they say of rounds of DiLoCo.
    pub fn rounds(&self) -> Asked {
        Asked {
            steps: self.diloco_steps,
            learning_rate: self.diloco_lr,
            momentum: self.diloco_momentum,
            format: self.diloco_format,
            shards_optimizer: self.shard_optimizer,
        }
    }

    /// Whether a multiple of `every` iterations lies after one step and up to another.
    pub fn passes(&self, every: u64, after: u64, until: u64) -> bool {
        let per_step = self.grad_accumulation_steps as u64;
        until * per_step / every != after * per_step / every
    }

    /// With the sizes of a rank in the place of those of the run.
    pub fn of_rank(&self, share: Share) -> Self {
        let Share { batch: batch_size, accumulation: grad_accumulation_steps } = share;
        Self { batch_size, grad_accumulation_steps, ..self.clone() }
    }

    /// Steps of the optimizer.
    pub fn steps(&self) -> u64 {
        self.iters / self.grad_accumulation_steps as u64
    }

    pub fn is_adapter(&self) -> bool {
        self.fine_tune_type != FineTuneType::Full
    }

    pub fn block_format(&self) -> Option<BlockFormat> {
        block_format(self.quantize.as_deref()?).ok()
    }

    pub fn precision(&self) -> Precision {
        match self.precision {
            PrecisionName::Auto | PrecisionName::F32 => Precision::F32,
            PrecisionName::Bf16 => Precision::Bf16,
            PrecisionName::F16 => Precision::F16,
        }
    }

    /// # Errors
    /// [`Error::Unsupported`] where none is named.
    pub fn model(&self) -> Result<&Path> {
        self.model.as_deref().ok_or_else(|| Error::Unsupported {
            what: "a run without a model".to_owned(),
            instead: "give one with --model: a folder with config.json, model.safetensors and \
                      tokenizer.json, or a .gguf file"
                .to_owned(),
        })
    }

    /// # Errors
    /// [`Error::Setting`] for what is out of its range, [`Error::Unsupported`] for what does not go
    /// together.
    pub fn validate(&self) -> Result<()> {
        let check = |fits: bool, setting, value: String, range| {
            if fits { Ok(()) } else { Err(Error::Setting { setting, value, range }) }
        };
        for (setting, value) in [
            ("batch_size", self.batch_size as u64),
            ("grad_accumulation_steps", self.grad_accumulation_steps as u64),
            ("steps_per_report", self.steps_per_report),
            ("steps_per_eval", self.steps_per_eval),
            ("save_every", self.save_every),
            ("max_seq_length", self.max_seq_length as u64),
        ] {
            check(value > 0, setting, value.to_string(), "at least 1")?;
        }
        let range = "at least grad_accumulation_steps, of which one step of the optimizer is made";
        check(self.steps() > 0, "iters", self.iters.to_string(), range)?;
        for (setting, value) in
            [("val_batches", self.val_batches), ("test_batches", self.test_batches)]
        {
            check(
                value == -1 || value > 0,
                setting,
                value.to_string(),
                "at least 1, or -1 for all",
            )?;
        }
        let ema = self.ema;
        check((0.0..1.0).contains(&ema), "ema", ema.to_string(), "at least 0 and below 1")?;
        let clip = self.clip;
        check(clip >= 0.0 && clip.is_finite(), "clip", clip.to_string(), "finite, and 0 for none")?;
        let range = "one of q8_0, q4_0 and q4_1";
        let format = self.quantize.clone().unwrap_or_default();
        check(self.quantize.is_none() || self.block_format().is_some(), "quantize", format, range)?;
        let gib = self.memory_limit.unwrap_or(1.0);
        check(gib > 0.0 && gib.is_finite(), "memory_limit", gib.to_string(), "finite and above 0")?;
        let LoraParameters { scale, alpha, .. } = self.lora_parameters;
        let both = scale.is_some() && alpha.is_some();
        let value = format!("both scale {scale:?} and alpha {alpha:?}");
        check(!both, "lora_parameters", value, "one of the two: alpha is scale times rank")?;
        if self.rounds().settings()?.is_some() && self.spike_guard == SpikeReaction::Rollback {
            return Err(Error::Unsupported {
                what: "--spike-guard rollback with --diloco-steps".to_owned(),
                instead: "take --spike-guard skip: it would go back behind a round".to_owned(),
            });
        }
        self.validate_full()
    }

    fn validate_full(&self) -> Result<()> {
        if self.is_adapter() {
            return Ok(());
        }
        let refuse = |what: &str, instead: &str| {
            let [what, instead] = [what, instead].map(str::to_owned);
            Err(Error::Unsupported { what, instead })
        };
        if self.quantize.is_some() {
            return refuse(
                "training weights that lie in blocks",
                "leave --quantize out, or tune adapters beside them (--fine-tune-type lora)",
            );
        }
        if self.adapter_format != AdapterFormat::Peft {
            return refuse(
                "the whole model in mlx-lm's layout of adapters",
                "leave --adapter-format out: it comes out as a folder that mlx-lm and transformers \
                 open as a model",
            );
        }
        if self.resume_adapter_file.is_some() {
            return refuse(
                "an adapter to begin with, where the weights themselves are trained,",
                "name the tuned model with --model",
            );
        }
        Ok(())
    }
}

fn name_is_known(name: &str) -> bool {
    Settings::default().to_fields().contains_key(name)
}

/// Puts the first in the place of what the others have of the same name. What is null is not there.
pub fn over(layers: impl IntoIterator<Item = Fields>) -> Fields {
    let mut all = Fields::new();
    for (name, value) in layers.into_iter().flatten() {
        if !value.is_null() && !all.contains_key(&name) {
            all.insert(name, value);
        }
    }
    all
}
