//! An `adapter_config.json`, and the adapter that it describes.

use serde_json::{Map, Value, json};

use super::super::fields::Fields;
use super::super::{Config, Family, all_or_none, decimal, invalid};
use super::CONFIG;
use crate::error::Result;
use crate::nn::{GptConfig, Lora, Targets};

/// Fields that say nothing of the function: where an adapter comes from, how it was made.
const HARMLESS: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    // Which way the base has its weights follows from its family.
    "fan_in_fan_out",
    "inference_mode",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
];

/// Fields of which anything but nothing asks for what is not here.
const EMPTY: &[&str] = &[
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "kasa_config",
    "layer_replication",
    "loftq_config",
    "lora_bias",
    "lora_ga_config",
    "megatron_config",
    "modules_to_save",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
];

/// The fields of a file, and its text.
#[derive(Clone, Debug)]
pub(super) struct AdapterConfig {
    pub lora: Lora,
    text: String,
    fields: Map<String, Value>,
}

impl AdapterConfig {
    /// Reads the contents of a file, for a model with this configuration.
    pub fn from_json(text: &str, gpt: &GptConfig) -> Result<Self> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| invalid(CONFIG, error.to_string()))?;
        let Value::Object(fields) = value else {
            return Err(invalid(CONFIG, "it is no JSON object"));
        };
        let lora = read(&fields)?;
        let misfit = |error: crate::Error| invalid(CONFIG, format!("for this model, {error}"));
        lora.validate(gpt).map_err(misfit)?;
        Ok(Self { lora, text: text.to_owned(), fields })
    }

    /// That of an adapter that comes from no file.
    pub fn new(base: &Config, lora: Lora) -> Self {
        let mut fields = Map::from_iter([
            ("alpha_pattern".to_owned(), json!({})),
            ("base_model_name_or_path".to_owned(), Value::Null),
            ("bias".to_owned(), json!("none")),
            ("fan_in_fan_out".to_owned(), json!(base.family() == Family::Gpt2)),
            ("inference_mode".to_owned(), json!(true)),
            ("init_lora_weights".to_owned(), json!(true)),
            ("modules_to_save".to_owned(), Value::Null),
            ("peft_type".to_owned(), json!("LORA")),
            ("rank_pattern".to_owned(), json!({})),
            ("task_type".to_owned(), json!("CAUSAL_LM")),
        ]);
        let described = describe(&lora).into_iter();
        fields.extend(described.map(|(name, value)| (name.to_owned(), value)));
        let text = pretty(&fields);
        Self { lora, text, fields }
    }

    /// With the name of the model that it belongs to.
    pub fn set_base_model(&mut self, name: &str) {
        self.fields.insert("base_model_name_or_path".to_owned(), json!(name));
        self.text = pretty(&self.fields);
    }

    /// That name, if there is one.
    pub fn base_model(&self) -> Option<&str> {
        self.fields.get("base_model_name_or_path")?.as_str()
    }

    /// The contents of the file: as they were, but for what has become different.
    pub fn to_json(&self) -> Result<String> {
        let mut fields = self.fields.clone();
        let before = read(&self.fields)?;
        for ((name, new), (_, old)) in describe(&self.lora).into_iter().zip(describe(&before)) {
            if new != old {
                fields.insert(name.to_owned(), new);
            }
        }
        Ok(if fields == self.fields { self.text.clone() } else { pretty(&fields) })
    }
}

/// In the form that PEFT writes: names in order, two spaces for each level.
fn pretty(fields: &Map<String, Value>) -> String {
    format!("{:#}", Value::Object(fields.clone()))
}

fn of_targets(targets: &Targets) -> Value {
    match targets {
        Targets::Named(names) => json!(names),
        Targets::Pattern(pattern) => json!(pattern),
        Targets::AllLinear => json!(ALL_LINEAR),
    }
}

const ALL_LINEAR: &str = "all-linear";

/// The fields for the function of an adapter, always the same in the same order.
fn describe(lora: &Lora) -> [(&'static str, Value); 9] {
    let is_whole = lora.alpha.fract() == 0.0 && lora.alpha < 1e15;
    let patterns = &lora.layers_pattern;
    [
        ("r", json!(lora.rank)),
        ("lora_alpha", if is_whole { json!(lora.alpha as u64) } else { json!(lora.alpha) }),
        ("lora_dropout", decimal(lora.dropout)),
        ("use_rslora", json!(lora.rs_lora)),
        ("use_dora", json!(lora.dora)),
        ("target_modules", of_targets(&lora.targets)),
        ("exclude_modules", lora.exclude.as_ref().map_or(Value::Null, of_targets)),
        ("layers_to_transform", json!(lora.layers)),
        ("layers_pattern", if patterns.is_empty() { Value::Null } else { json!(patterns) }),
    ]
}

/// The adapter of these fields, if nothing is wrong with them.
fn read(map: &Map<String, Value>) -> Result<Lora> {
    let mut fields = Fields::new(map);
    if fields.text("peft_type") != Some("LORA") {
        fields.problem("peft_type", ", and only LORA is supported");
    }
    fields.only("task_type", "CAUSAL_LM");
    fields.only("bias", "none");
    for name in EMPTY {
        only_empty(&mut fields, name);
    }
    let starts = fields.value("init_lora_weights");
    // Others change the base, or are about what it is made of.
    if !starts.is_none_or(|value| value.is_boolean() || *value == "gaussian") {
        fields
            .problem("init_lora_weights", ", and only true, false and \"gaussian\" are supported");
    }
    let rank = fields.required_count("r");
    let targets = targets(&mut fields, "target_modules");
    if targets.is_none() && fields.value("target_modules").is_none() {
        fields.problem("target_modules", "");
    }
    let lora = Lora {
        alpha: fields.real("lora_alpha").unwrap_or(8.0),
        rs_lora: fields.flag("use_rslora", false),
        dora: fields.flag("use_dora", false),
        dropout: fields.real("lora_dropout").unwrap_or(0.0) as f32,
        exclude: targets_or_none(&mut fields, "exclude_modules"),
        layers: layers(&mut fields),
        layers_pattern: texts(&mut fields, "layers_pattern").unwrap_or_default(),
        ..Lora::new(rank, 8.0, targets.unwrap_or(Targets::AllLinear))
    };
    all_or_none(CONFIG, fields.finish(HARMLESS))?;
    Ok(lora)
}

fn only_empty(fields: &mut Fields<'_>, name: &str) {
    let is_empty = match fields.value(name) {
        None | Some(Value::Bool(false)) => true,
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        Some(_) => false,
    };
    if !is_empty {
        fields.problem(name, ", which is not supported");
    }
}

/// A list of texts, or one alone.
fn texts(fields: &mut Fields<'_>, name: &str) -> Option<Vec<String>> {
    let found = match fields.value(name)? {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(list) => list.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    if found.is_none() {
        fields.problem(name, ", not texts");
    }
    found
}

fn targets(fields: &mut Fields<'_>, name: &str) -> Option<Targets> {
    if let Some(Value::String(text)) = fields.value(name) {
        let is_short = text.eq_ignore_ascii_case(ALL_LINEAR);
        let pattern = || Targets::Pattern(text.clone());
        return Some(if is_short { Targets::AllLinear } else { pattern() });
    }
    texts(fields, name).map(Targets::Named)
}

/// An empty list is none.
fn targets_or_none(fields: &mut Fields<'_>, name: &str) -> Option<Targets> {
    targets(fields, name).filter(|found| *found != Targets::Named(Vec::new()))
}

fn layers(fields: &mut Fields<'_>) -> Option<Vec<usize>> {
    let name = "layers_to_transform";
    let number = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
    let found = match fields.value(name)? {
        Value::Array(list) => list.iter().map(number).collect(),
        value => number(value).map(|layer| vec![layer]),
    };
    if found.is_none() {
        fields.problem(name, ", not numbers of blocks");
    }
    found
}
