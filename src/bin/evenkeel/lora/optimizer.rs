//! Optimizers by the names and settings that mlx has for them.

use evenkeel::nn::LanguageModel;
use evenkeel::run::warn;
use evenkeel::train::{Adafactor, Adam, AdamW, Muon, Schedule, Sgd, TrainerBuilder};
use evenkeel::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::settings::{Fields, OptimizerName, Settings};

/// The relative step that mlx's Adafactor takes at most, whatever its learning rate.
const RELATIVE_STEP: f64 = 1e-2;

/// `adam` and `adamw`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AdamConfig {
    betas: Option<[f64; 2]>,
    eps: Option<f64>,
    weight_decay: Option<f64>,
    bias_correction: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct MuonConfig {
    momentum: Option<f64>,
    weight_decay: Option<f64>,
    nesterov: Option<bool>,
    ns_steps: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SgdConfig {
    momentum: f64,
    weight_decay: f64,
    dampening: f64,
    nesterov: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AdafactorConfig {
    eps: Option<[f64; 2]>,
    clip_threshold: Option<f64>,
    decay_rate: Option<f64>,
    beta_1: Option<f64>,
    weight_decay: Option<f64>,
    scale_parameter: Option<bool>,
    relative_step: Option<bool>,
    warmup_init: Option<bool>,
}

const NAMES: [&str; 5] = ["adam", "adamw", "muon", "sgd", "adafactor"];

/// What `optimizer_config` says of the optimizer of this name.
fn config<T: Default + DeserializeOwned>(settings: &Settings, name: &str) -> Result<T> {
    let Some(fields) = settings.optimizer_config.get(name) else { return Ok(T::default()) };
    let fields: Fields = fields.clone().into_iter().filter(|(_, value)| !value.is_null()).collect();
    serde_json::from_value(Value::Object(fields)).map_err(|error| Error::Data {
        what: format!("optimizer_config of {name}"),
        reason: error.to_string(),
    })
}

fn refuse(what: &str, instead: &str) -> Error {
    Error::Unsupported { what: what.to_owned(), instead: instead.to_owned() }
}

/// Gives a builder its optimizer and its schedule.
///
/// # Errors
/// [`Error::Data`] for settings that are not known, [`Error::Unsupported`] for those that cannot be
/// had.
pub fn apply(
    builder: TrainerBuilder<LanguageModel>,
    settings: &Settings,
) -> Result<TrainerBuilder<LanguageModel>> {
    if let Some(name) = settings.optimizer_config.keys().find(|name| !NAMES.contains(&&***name)) {
        let reason = format!("{name} is no optimizer; there are {}", NAMES.join(", "));
        return Err(Error::Data { what: "optimizer_config".to_owned(), reason });
    }
    let (learning_rate, schedule) = match &settings.lr_schedule {
        Some(schedule) => schedule.over(settings.steps())?,
        None => (settings.learning_rate, Schedule::default()),
    };
    let builder = builder.schedule(schedule);
    Ok(match settings.optimizer {
        OptimizerName::Adam => builder.optimizer(adam(settings, learning_rate)?),
        OptimizerName::Adamw => builder.optimizer(adamw(settings, "adamw", learning_rate)?),
        OptimizerName::Muon => builder.optimizer(muon(settings, learning_rate)?),
        OptimizerName::Sgd => {
            let SgdConfig { momentum, weight_decay, dampening, nesterov } =
                config(settings, "sgd")?;
            builder.optimizer(Sgd { learning_rate, momentum, dampening, nesterov, weight_decay })
        }
        OptimizerName::Adafactor => adafactor(builder, settings, learning_rate)?,
    })
}

fn adam(settings: &Settings, learning_rate: f64) -> Result<Adam> {
    let AdamW { betas, eps, weight_decay, .. } = adamw(settings, "adam", learning_rate)?;
    if weight_decay != 0.0 {
        return Err(refuse(
            "a weight decay with adam",
            "take adamw, whose weights decay by themselves",
        ));
    }
    Ok(Adam { learning_rate, betas, eps, ..Adam::default() })
}

fn adamw(settings: &Settings, name: &str, learning_rate: f64) -> Result<AdamW> {
    let AdamConfig { betas, eps, weight_decay, bias_correction } = config(settings, name)?;
    if bias_correction == Some(false) {
        return Err(refuse(
            "bias_correction: false",
            "moments are always corrected, so that the first steps are no larger than the others; \
             leave it out",
        ));
    }
    let default = AdamW::default();
    let decay = if name == "adam" { 0.0 } else { default.weight_decay };
    Ok(AdamW {
        learning_rate,
        betas: betas.unwrap_or(default.betas),
        eps: eps.unwrap_or(default.eps),
        weight_decay: weight_decay.unwrap_or(decay),
        ..default
    })
}

fn muon(settings: &Settings, learning_rate: f64) -> Result<Muon> {
    let MuonConfig { momentum, weight_decay, nesterov, ns_steps } = config(settings, "muon")?;
    let default = Muon::default();
    let weight_decay = weight_decay.unwrap_or(0.01);
    Ok(Muon {
        learning_rate,
        momentum: momentum.unwrap_or(default.momentum),
        nesterov: nesterov.unwrap_or(default.nesterov),
        weight_decay,
        iterations: ns_steps.unwrap_or(default.iterations),
        adamw: AdamW { learning_rate, weight_decay, ..AdamW::default() },
        ..default
    })
}

fn adafactor(
    builder: TrainerBuilder<LanguageModel>,
    settings: &Settings,
    learning_rate: f64,
) -> Result<TrainerBuilder<LanguageModel>> {
    let config: AdafactorConfig = config(settings, "adafactor")?;
    if config.beta_1.is_some() {
        return Err(refuse("beta_1 of adafactor", "it keeps no first moment; leave it out"));
    }
    if config.scale_parameter == Some(false) || config.warmup_init == Some(true) {
        return Err(refuse(
            "adafactor with scale_parameter: false or warmup_init: true",
            "its steps are relative to the size of the weights; leave them out, or take adamw",
        ));
    }
    let is_relative = config.relative_step != Some(false);
    if is_relative
        && (settings.lr_schedule.is_some() || learning_rate != Settings::default().learning_rate)
    {
        warn(
            "adafactor sizes its steps by itself: the learning rate counts only with \
             relative_step: false in its optimizer_config, as in mlx-lm",
        );
    }
    let default = Adafactor::default();
    let optimizer = Adafactor {
        learning_rate: if is_relative { RELATIVE_STEP } else { learning_rate },
        beta2_decay: config.decay_rate.unwrap_or(default.beta2_decay),
        eps: config.eps.unwrap_or(default.eps),
        clip_threshold: config.clip_threshold.unwrap_or(default.clip_threshold),
        weight_decay: config.weight_decay.unwrap_or(default.weight_decay),
    };
    let builder = if is_relative { builder.schedule(Schedule::default()) } else { builder };
    Ok(builder.optimizer(optimizer))
}
