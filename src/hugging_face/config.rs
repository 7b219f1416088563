//! A `config.json`, and the model that it describes.

use serde_json::{Map, Value, json};

use super::describe::describe;
use super::fields::Fields;
use super::read_config::read;
use super::{CONFIG, Family, all_or_none, invalid};
use crate::error::Result;
use crate::kernel::Precision;
use crate::nn::{GptConfig, Positions};

/// A model as a `config.json` describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The model. Dropout is 0, whatever the file says: that is a setting of training, as are the
    /// loss and what is watched. A shorter context needs less memory to generate with; with rotary
    /// positions it is not written back.
    pub gpt: GptConfig,
    family: Family,
    /// The file it was read from.
    text: String,
    fields: Map<String, Value>,
}

impl Config {
    /// Reads the contents of a `config.json`. Of a `gemma3` it takes the text part, and becomes a
    /// `gemma3_text`.
    ///
    /// # Errors
    /// [`Error::ModelFile`](crate::Error::ModelFile) that names each field and its value that asks
    /// for what is not here, does not fit, is missing, or is not known.
    pub fn from_json(text: &str) -> Result<Self> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| invalid(CONFIG, error.to_string()))?;
        let Value::Object(fields) = value else {
            return Err(invalid(CONFIG, "it is no JSON object"));
        };
        let model_type = fields.get("model_type").unwrap_or(&Value::Null);
        if model_type == "gemma3" {
            let fields = text_part(&fields)?;
            let text = pretty(&fields);
            return Self::from_fields(Family::Gemma3, text, fields);
        }
        let family = Family::ALL.into_iter().find(|family| model_type == family.model_type());
        let Some(family) = family else {
            let known = Family::ALL.map(Family::model_type).join(", ");
            let reason = format!("model_type is {model_type}; supported are {known} and gemma3");
            return Err(invalid(CONFIG, reason));
        };
        Self::from_fields(family, text.to_owned(), fields)
    }

    fn from_fields(family: Family, text: String, fields: Map<String, Value>) -> Result<Self> {
        let gpt = checked(family, &fields)?;
        Ok(Self { gpt, family, text, fields })
    }

    /// A configuration for a model that comes from no file.
    ///
    /// # Errors
    /// [`Error::ModelFile`](crate::Error::ModelFile) that names what no model of this family has,
    /// and those of [`GptConfig::validate`].
    pub fn new(family: Family, gpt: GptConfig) -> Result<Self> {
        gpt.validate()?;
        let fields = fields_of(family, describe(family, &gpt, false));
        check_same(family, &gpt, &fields)?;
        let text = pretty(&fields);
        Ok(Self { gpt, family, text, fields })
    }

    /// One with these fields, which come from a file of another kind.
    ///
    /// # Errors
    /// What is wrong with them, in words.
    pub(crate) fn described(
        family: Family,
        described: Vec<(&'static str, Value)>,
    ) -> Result<Self, Vec<String>> {
        let fields = fields_of(family, described);
        let gpt = read_checked(family, &fields)?;
        let text = pretty(&fields);
        Ok(Self { gpt, family, text, fields })
    }

    /// The kind of model.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The model as it is written: a shorter context than the file's is one of its use, not its own.
    pub(crate) fn written(&self) -> Result<GptConfig> {
        let before = checked(self.family, &self.fields)?;
        let mut gpt = self.gpt.clone();
        if gpt.positions != Positions::Learned {
            gpt.context = gpt.context.max(before.context);
        }
        Ok(gpt)
    }

    /// The contents of a `config.json`: those it was read from, in which only what has become
    /// different is changed; with nothing different, byte for byte. `dtype`, where there is one, is
    /// the type that all tensors beside it have.
    ///
    /// # Errors
    /// [`Error::ModelFile`](crate::Error::ModelFile) that names what [`gpt`](Self::gpt) has and no
    /// model of this family.
    pub fn to_json(&self, dtype: Option<Precision>) -> Result<String> {
        let before = checked(self.family, &self.fields)?;
        let gpt = self.written()?;
        let has_rope_parameters = self.fields.contains_key("rope_parameters");
        let [old, new] = [&before, &gpt].map(|gpt| describe(self.family, gpt, has_rope_parameters));
        let mut fields = self.fields.clone();
        for ((name, new), (_, old)) in new.into_iter().zip(old) {
            if new != old {
                fields.insert(name.to_owned(), new);
            }
        }
        if let Some(dtype) = dtype {
            let key = if fields.contains_key("dtype") { "dtype" } else { "torch_dtype" };
            fields.insert(key.to_owned(), json!(dtype_name(dtype)));
        }
        check_same(self.family, &gpt, &fields)?;
        if fields == self.fields {
            return Ok(self.text.clone());
        }
        Ok(pretty(&fields))
    }
}

const fn dtype_name(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "float32",
        Precision::F16 => "float16",
        Precision::Bf16 => "bfloat16",
    }
}

/// In the form that transformers writes: names in order, two spaces for each level.
fn pretty(fields: &Map<String, Value>) -> String {
    format!("{:#}\n", Value::Object(fields.clone()))
}

/// All fields of a configuration that no `config.json` was before.
fn fields_of(family: Family, described: Vec<(&'static str, Value)>) -> Map<String, Value> {
    let first = [
        ("architectures", json!([family.architecture()])),
        ("model_type", json!(family.model_type())),
        ("torch_dtype", json!("float32")),
    ];
    let all = first.into_iter().chain(described);
    all.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The model of these fields, if nothing is wrong with them.
fn checked(family: Family, map: &Map<String, Value>) -> Result<GptConfig> {
    read_checked(family, map).map_err(|problems| invalid(CONFIG, problems.join("; ")))
}

/// The same, or all that is wrong in words.
fn read_checked(family: Family, map: &Map<String, Value>) -> Result<GptConfig, Vec<String>> {
    let mut fields = Fields::new(map);
    let gpt = read(family, &mut fields);
    let problems = fields.finish_config();
    if !problems.is_empty() {
        return Err(problems);
    }
    gpt.validate().map_err(|error| vec![format!("as a model, {error}")])?;
    Ok(gpt)
}

/// The text part of a model of text and images, as a configuration of its own.
fn text_part(map: &Map<String, Value>) -> Result<Map<String, Value>> {
    let mut fields = Fields::new(map);
    fields.harmless(&[
        "boi_token_id",
        "boi_token_index",
        "eoi_token_id",
        "eoi_token_index",
        "image_token_id",
        "image_token_index",
        "mm_tokens_per_image",
        "text_config",
        "tie_word_embeddings",
        "vision_config",
    ]);
    all_or_none(CONFIG, fields.finish_config())?;
    let Some(Value::Object(text)) = map.get("text_config") else {
        return Err(invalid(CONFIG, "there is no text_config"));
    };
    let mut text = text.clone();
    for name in ["tie_word_embeddings", "torch_dtype", "dtype", "transformers_version"] {
        if let Some(value) = map.get(name).filter(|_| !text.contains_key(name)) {
            text.insert(name.to_owned(), value.clone());
        }
    }
    text.insert("architectures".to_owned(), json!([Family::Gemma3.architecture()]));
    text.insert("model_type".to_owned(), json!(Family::Gemma3.model_type()));
    Ok(text)
}

/// Fails unless these fields describe this model.
fn check_same(family: Family, gpt: &GptConfig, fields: &Map<String, Value>) -> Result<()> {
    let differences = differences(gpt, &checked(family, fields)?);
    if differences.is_empty() {
        return Ok(());
    }
    let list = differences.join(", ");
    Err(invalid(CONFIG, format!("a model of the family {family} has not: {list}")))
}

/// What of the function of one model is not that of another: names and values of the first.
pub(crate) fn differences(gpt: &GptConfig, other: &GptConfig) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |name: &str, value: String, is_same: bool| {
        if !is_same {
            found.push(format!("{name} {value}"));
        }
    };
    macro_rules! compare {
        ($($name:ident),*) => {
            $(compare(stringify!($name), format!("{:?}", gpt.$name), gpt.$name == other.$name);)*
        };
    }
    compare!(vocabulary, context, layers, heads, kv_heads, width, hidden, positions, rms_norm);
    compare!(norm_weight_offset, post_norms, feed_forward, bias, tied_head, norm_eps);
    compare!(soft_cap, logit_soft_cap, qk_norm);
    let [ours, theirs] = [gpt, other].map(|gpt| gpt.bias || gpt.qkv_bias);
    compare("qkv_bias", gpt.qkv_bias.to_string(), ours == theirs);
    let [ours, theirs] = [gpt, other].map(GptConfig::head_dim);
    compare("head_dim", ours.to_string(), ours == theirs);
    // A rounded one is the same in another precision.
    let near = |a: f32, b: f32, share: f32| (a - b).abs() <= share * b.abs();
    let [ours, theirs] = [gpt, other].map(|gpt| gpt.embedding_scale.unwrap_or(1.0));
    compare("embedding_scale", ours.to_string(), near(ours, theirs, 0.004));
    let scale = |gpt: &GptConfig| {
        gpt.attention_scale.unwrap_or_else(|| (gpt.head_dim() as f32).sqrt().recip())
    };
    let [ours, theirs] = [gpt, other].map(scale);
    compare("attention_scale", ours.to_string(), near(ours, theirs, 1e-6));
    let layers = 0..gpt.layers.min(other.layers);
    if let Some(layer) = layers.clone().find(|&l| gpt.window_of(l) != other.window_of(l)) {
        let window = gpt.window_of(layer);
        compare("window", format!("{window:?} in layer {layer}"), false);
    }
    if let Some(layer) = layers.clone().find(|&l| gpt.rotary_of(l) != other.rotary_of(l)) {
        let rotary = gpt.rotary_of(layer);
        compare("rotation", format!("{rotary:?} in layer {layer}"), false);
    }
    found
}
