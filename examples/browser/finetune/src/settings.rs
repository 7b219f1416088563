//! What a visitor can set.

use evenkeel::nn::{GptConfig, Lora, Targets};
use evenkeel::{BlockFormat, Error, Result};
use serde_json::{Map, Value, json};

/// Which linear layers have an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modules {
    /// Those of attention.
    Attention,
    /// All of the blocks.
    All,
}

/// How the weights of the model itself lie on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// As f32.
    F32,
    /// In blocks.
    Blocks(BlockFormat),
}

/// Settings of a run. A run is a function of these, the model and the data.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Rank of the adapters.
    pub rank: usize,
    /// What adapters count: alpha / rank times their product.
    pub alpha: f64,
    /// Probability of dropout in front of adapters.
    pub dropout: f32,
    /// Which layers have one.
    pub modules: Modules,
    /// How many of the last blocks have one; 0 for all.
    pub layers: usize,
    /// Highest learning rate: after a warm-up it falls to a tenth along a cosine.
    pub learning_rate: f64,
    /// Steps of the whole run.
    pub steps: usize,
    /// Lines in a batch.
    pub batch: usize,
    /// Tokens of a line at most; what is longer is cut.
    pub context: usize,
    /// How the model's own weights lie on the device; `None` for as they are stored.
    pub base: Option<Base>,
    /// Learns the last answer of a conversation and completions only, and not what they answer.
    pub mask_prompt: bool,
    /// Computes activations again in the backward pass instead of keeping them.
    pub recompute: bool,
    /// Gradients are clipped to this norm; 0 for none.
    pub clip: f32,
    /// Seed of the adapter, of dropout and of the order of lines.
    pub seed: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            modules: Modules::All,
            layers: 0,
            learning_rate: 2e-4,
            steps: 100,
            batch: 1,
            context: 256,
            base: None,
            mask_prompt: true,
            recompute: false,
            clip: 1.0,
            seed: 0,
        }
    }
}

impl Base {
    /// Its name: `f32`, `q8_0`, `q4_0` or `q4_1`.
    pub fn name(self) -> String {
        match self {
            Self::F32 => "f32".to_owned(),
            Self::Blocks(format) => format.name().to_lowercase(),
        }
    }

    /// The blocks, if there are any.
    pub const fn blocks(self) -> Option<BlockFormat> {
        match self {
            Self::F32 => None,
            Self::Blocks(format) => Some(format),
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        let blocks = BlockFormat::ALL.into_iter().map(Self::Blocks);
        [Self::F32].into_iter().chain(blocks).find(|base| base.name() == name)
    }
}

impl Modules {
    const fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::All => "all",
        }
    }
}

impl Settings {
    /// Reads an object of JSON. What is missing or null is as by [default](Self::default).
    ///
    /// # Errors
    /// [`Error::Setting`] for a value that is out of its range, [`Error::Data`] for what is no such
    /// object.
    pub fn from_json(text: &str) -> Result<Self> {
        let mut fields = Fields::read("the settings", text)?;
        let default = Self::default();
        let modules = fields.choice("targets", "attention or all", |name| {
            [Modules::Attention, Modules::All].into_iter().find(|modules| modules.name() == name)
        })?;
        let settings = Self {
            rank: fields.count("rank")?.unwrap_or(default.rank),
            alpha: fields.number("alpha")?.unwrap_or(default.alpha),
            dropout: fields.number("dropout")?.map_or(default.dropout, |number| number as f32),
            modules: modules.unwrap_or(default.modules),
            layers: fields.count("layers")?.unwrap_or(default.layers),
            learning_rate: fields.number("learningRate")?.unwrap_or(default.learning_rate),
            steps: fields.count("steps")?.unwrap_or(default.steps),
            batch: fields.count("batch")?.unwrap_or(default.batch),
            context: fields.count("context")?.unwrap_or(default.context),
            base: fields.choice("base", "f32, q8_0, q4_0 or q4_1", Base::from_name)?,
            mask_prompt: fields.switch("maskPrompt")?.unwrap_or(default.mask_prompt),
            recompute: fields.switch("recompute")?.unwrap_or(default.recompute),
            clip: fields.number("clip")?.map_or(default.clip, |number| number as f32),
            seed: fields.count("seed")?.map_or(default.seed, |seed| seed as u32),
        };
        fields.finish()?;
        settings.validate()?;
        Ok(settings)
    }

    /// The same object, of all fields.
    pub fn to_json(&self) -> String {
        json!({
            "rank": self.rank,
            "alpha": self.alpha,
            "dropout": self.dropout,
            "targets": self.modules.name(),
            "layers": self.layers,
            "learningRate": self.learning_rate,
            "steps": self.steps,
            "batch": self.batch,
            "context": self.context,
            "base": self.base.map(Base::name),
            "maskPrompt": self.mask_prompt,
            "recompute": self.recompute,
            "clip": self.clip,
            "seed": self.seed,
        })
        .to_string()
    }

    fn validate(&self) -> Result<()> {
        let (alpha, rate, clip) = (self.alpha, self.learning_rate, self.clip);
        for (setting, value, fits, range) in [
            ("rank", self.rank.to_string(), (1..=1024).contains(&self.rank), "1 to 1,024"),
            ("alpha", alpha.to_string(), alpha > 0.0, "above 0"),
            (
                "dropout",
                self.dropout.to_string(),
                (0.0..1.0).contains(&self.dropout),
                "at least 0, below 1",
            ),
            ("learningRate", rate.to_string(), rate > 0.0 && rate <= 1.0, "above 0, at most 1"),
            (
                "steps",
                self.steps.to_string(),
                (1..=1_000_000).contains(&self.steps),
                "1 to 1,000,000",
            ),
            ("batch", self.batch.to_string(), (1..=256).contains(&self.batch), "1 to 256"),
            (
                "context",
                self.context.to_string(),
                (1..=1 << 20).contains(&self.context),
                "1 to 1,048,576, at most that of the model",
            ),
            ("clip", clip.to_string(), clip >= 0.0 && clip.is_finite(), "finite, and 0 for none"),
        ] {
            if !fits {
                return Err(Error::Setting { setting, value, range });
            }
        }
        Ok(())
    }

    /// The adapter beside a model with this configuration.
    ///
    /// # Errors
    /// As [`Lora::validate`].
    pub(crate) fn lora(&self, gpt: &GptConfig) -> Result<Lora> {
        let all = Lora::new(1, 1.0, Targets::AllLinear).modules(gpt);
        let mut names: Vec<String> = Vec::new();
        for module in all {
            let is_wanted = self.modules == Modules::All || module.weight.contains(".attention.");
            // `self_attn.q_proj` of `model.layers.0.self_attn.q_proj`.
            let name = module.name.splitn(4, '.').last().unwrap_or(&module.name).to_owned();
            if is_wanted && !names.contains(&name) {
                names.push(name);
            }
        }
        let is_part = (1..gpt.layers).contains(&self.layers);
        let lora = Lora {
            dropout: self.dropout,
            layers: is_part.then(|| (gpt.layers - self.layers..gpt.layers).collect()),
            ..Lora::new(self.rank, self.alpha, Targets::Named(names))
        };
        lora.validate(gpt)?;
        Ok(lora)
    }
}

/// Fields of an object that are asked for one by one.
pub(crate) struct Fields {
    what: &'static str,
    fields: Map<String, Value>,
    known: Vec<&'static str>,
}

impl Fields {
    pub fn read(what: &'static str, text: &str) -> Result<Self> {
        let refuse = |reason: String| Error::Data { what: what.to_owned(), reason };
        match serde_json::from_str(text).map_err(|error| refuse(error.to_string()))? {
            Value::Object(fields) => Ok(Self { what, fields, known: Vec::new() }),
            Value::Null => Ok(Self { what, fields: Map::new(), known: Vec::new() }),
            _ => Err(refuse("it is no object of names and values".to_owned())),
        }
    }

    fn take<T>(
        &mut self,
        setting: &'static str,
        range: &'static str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        self.known.push(setting);
        match self.fields.remove(setting) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(&value) {
                Some(read) => Ok(Some(read)),
                None => Err(Error::Setting { setting, value: value.to_string(), range }),
            },
        }
    }

    pub fn number(&mut self, setting: &'static str) -> Result<Option<f64>> {
        self.take(setting, "a finite number", Value::as_f64)
    }

    /// JavaScript has one kind of numbers: 8 may come as 8.0.
    pub fn count(&mut self, setting: &'static str) -> Result<Option<usize>> {
        let whole = |value: &Value| {
            let number = value.as_f64()?;
            let fits = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
            fits.then_some(number as usize)
        };
        self.take(setting, "a whole number, at least 0", whole)
    }

    pub fn switch(&mut self, setting: &'static str) -> Result<Option<bool>> {
        self.take(setting, "true or false", Value::as_bool)
    }

    fn choice<T>(
        &mut self,
        setting: &'static str,
        range: &'static str,
        named: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        self.take(setting, range, |value| named(value.as_str()?))
    }

    /// Fails where there is something that nobody asked for.
    pub fn finish(self) -> Result<()> {
        let Some(name) = self.fields.keys().next() else { return Ok(()) };
        let reason = format!("{name} is not known; there are {}", self.known.join(", "));
        Err(Error::Data { what: self.what.to_owned(), reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_go_there_and_back() {
        assert_eq!(Settings::from_json("{}").unwrap(), Settings::default());
        let settings = Settings {
            rank: 4,
            modules: Modules::Attention,
            base: Some(Base::Blocks(BlockFormat::Q4_1)),
            mask_prompt: false,
            seed: u32::MAX,
            ..Settings::default()
        };
        assert_eq!(Settings::from_json(&settings.to_json()).unwrap(), settings);
        let given = r#"{"rank": 4.0, "layers": null, "base": "f32"}"#;
        let given = Settings::from_json(given).unwrap();
        assert_eq!((given.rank, given.layers, given.base), (4, 0, Some(Base::F32)));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, words) in [
            (r#"{"rank": 0}"#, ["rank is 0", "1 to 1,024"]),
            (r#"{"rank": 1.5}"#, ["rank is 1.5", "whole number"]),
            (r#"{"targets": "head"}"#, ["targets is", "attention or all"]),
            (r#"{"base": "q5_0"}"#, ["base is", "q8_0"]),
            (r#"{"learningRate": -1}"#, ["learningRate is -1", "above 0"]),
            (r#"{"dropout": 1}"#, ["dropout is 1", "below 1"]),
            (r#"{"maskPrompt": "yes"}"#, ["maskPrompt is", "true or false"]),
            (r#"{"lr": 1}"#, ["lr is not known", "learningRate"]),
            ("[]", ["the settings", "no object"]),
        ] {
            let error = Settings::from_json(text).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{text}: {error}");
        }
    }

    #[test]
    fn modules_and_blocks_are_chosen() {
        let names = |settings: Settings, gpt: &GptConfig| {
            let modules = settings.lora(gpt).unwrap().modules(gpt);
            modules.into_iter().map(|module| module.name).collect::<Vec<_>>()
        };
        let attention = Settings { modules: Modules::Attention, ..Settings::default() };
        let llama = GptConfig::llama(64, 32, 2, [2, 1], 32);
        let found = names(Settings { layers: 1, ..attention.clone() }, &llama);
        let expected = ["q_proj", "k_proj", "v_proj", "o_proj"];
        assert_eq!(found, expected.map(|name| format!("model.layers.1.self_attn.{name}")));
        assert_eq!(names(Settings::default(), &llama).len(), 14);
        let gpt2 = GptConfig::gpt2(64, 32, 2, 2, 32);
        let found = names(attention, &gpt2);
        assert!(found.iter().all(|name| name.contains(".attn.")), "{found:?}");
        assert_eq!((found.len(), names(Settings::default(), &gpt2).len()), (4, 8));
    }
}
