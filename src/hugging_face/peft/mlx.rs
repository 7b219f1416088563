//! The same adapters as mlx-lm has them: `adapters.safetensors` with A and B transposed, and an
//! `adapter_config.json` of other fields.

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use super::super::{Config, all_or_none, invalid};
use super::config::AdapterConfig;
use super::names::PREFIX;
use super::{Adapter, AdapterExport, CONFIG, MODEL};
use crate::error::{Error, Result};
use crate::nn::{GptConfig, Lora, Targets};
use crate::plan::Parameters;

/// The file of the tensors.
const TENSORS: &str = "adapters.safetensors";

/// An adapter in the words of mlx-lm's configurations.
#[derive(Clone, Debug, PartialEq)]
pub struct MlxLora {
    /// Whether its `fine_tune_type` is `dora` and not `lora`.
    pub dora: bool,
    /// How many of the last blocks have one: all for 0, for less, and for more than there are.
    pub num_layers: i64,
    /// `lora_parameters`: rows of A.
    pub rank: usize,
    /// The factor on the product of A and B, which is not divided by the rank: PEFT's
    /// `lora_alpha` / `r`.
    pub scale: f64,
    /// Probability of dropout in front of A.
    pub dropout: f32,
    /// Names of modules in a block (`self_attn.q_proj`), or of the whole model
    /// (`model.embed_tokens`); `None` for all linear layers of the blocks.
    pub keys: Option<Vec<String>>,
}

/// What stands behind the number of its block in the name of a module, and that number.
fn in_block(name: &str) -> Option<(usize, &str)> {
    let rest = name.strip_prefix("model.layers.").or_else(|| name.strip_prefix("transformer.h."));
    let (number, rest) = rest?.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// GPT-2's parts have another name in front of them there.
fn to_mlx(name: &str) -> String {
    name.strip_prefix("transformer.")
        .map_or_else(|| name.to_owned(), |rest| format!("model.{rest}"))
}

fn from_mlx(name: &str, is_gpt2: bool) -> String {
    let rest = name.strip_prefix("model.").filter(|_| is_gpt2);
    rest.map_or_else(|| name.to_owned(), |rest| format!("transformer.{rest}"))
}

/// Names of modules, or of their places in blocks, each once.
fn keys_of(lora: &Lora, gpt: &GptConfig) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for module in lora.modules(gpt) {
        let key = in_block(&module.name).map_or(&*module.name, |(_, rest)| rest);
        if !keys.iter().any(|known| known == key) {
            keys.push(key.to_owned());
        }
    }
    keys
}

impl MlxLora {
    /// The adapter of a model with this configuration.
    ///
    /// # Errors
    /// [`Error::Setting`] for a key that no module answers to, and as [`Lora::validate`].
    pub fn lora(&self, gpt: &GptConfig) -> Result<Lora> {
        let all = Lora::new(1, 1.0, Targets::AllLinear);
        let is_gpt2 = all.modules(gpt).iter().any(|m| m.name.starts_with("transformer."));
        let keys = match &self.keys {
            Some(keys) => keys.iter().map(|key| from_mlx(key, is_gpt2)).collect(),
            None => keys_of(&all, gpt),
        };
        let count = usize::try_from(self.num_layers).unwrap_or(0);
        let some = (1..gpt.layers).contains(&count);
        let lora = Lora {
            dora: self.dora,
            dropout: self.dropout,
            layers: some.then(|| (gpt.layers - count..gpt.layers).collect()),
            ..Lora::new(self.rank, self.scale * self.rank as f64, Targets::Named(keys.clone()))
        };
        lora.validate(gpt)?;
        for key in keys {
            let targets = Targets::Named(vec![key.clone()]);
            if (Lora { targets, ..lora.clone() }).modules(gpt).is_empty() {
                return Err(Error::Setting {
                    setting: "a key of lora_parameters",
                    value: key,
                    range: "a module of the blocks that have adapters; with num_layers -1 it may be \
                            one of the whole model",
                });
            }
        }
        Ok(lora)
    }

    /// The words for an adapter.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where there are none: other blocks than the last ones, other modules
    /// in one block than in the next.
    pub fn of(lora: &Lora, gpt: &GptConfig) -> Result<Self> {
        let modules = lora.modules(gpt);
        let blocks = modules.iter().filter_map(|module| in_block(&module.name));
        let first = blocks.map(|(block, _)| block).min().unwrap_or(0);
        let mlx = Self {
            dora: lora.dora,
            num_layers: (gpt.layers - first) as i64,
            rank: lora.rank,
            scale: lora.scale(),
            dropout: lora.dropout,
            keys: Some(keys_of(lora, gpt)),
        };
        match mlx.lora(gpt) {
            Ok(same) if same.modules(gpt) == modules => Ok(mlx),
            _ => Err(Error::Unsupported {
                what: "an adapter of these modules in mlx-lm's layout".to_owned(),
                instead:
                    "there the last blocks have one, all of them of the same modules; write it \
                          in PEFT's"
                        .to_owned(),
            }),
        }
    }

    /// The words of an `adapter_config.json` that mlx-lm wrote.
    ///
    /// # Errors
    /// [`Error::ModelFile`] for what is missing or is no adapter of this kind.
    pub fn from_json(text: &str) -> Result<Self> {
        let fields: Value =
            serde_json::from_str(text).map_err(|error| invalid(CONFIG, error.to_string()))?;
        let missing = |name: &str| invalid(CONFIG, format!("it has no {name} as mlx-lm writes it"));
        let dora = match fields["fine_tune_type"].as_str().unwrap_or("lora") {
            "lora" => false,
            "dora" => true,
            other => {
                let reason = format!("its fine_tune_type is {other:?}: that is no adapter");
                return Err(invalid(CONFIG, reason));
            }
        };
        let parameters = &fields["lora_parameters"];
        let keys = parameters["keys"].as_array().map(|keys| {
            keys.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
        });
        let rank = parameters["rank"].as_u64().ok_or_else(|| missing("rank"))?;
        Ok(Self {
            dora,
            num_layers: fields["num_layers"].as_i64().ok_or_else(|| missing("num_layers"))?,
            rank: rank as usize,
            scale: parameters["scale"].as_f64().ok_or_else(|| missing("scale"))?,
            dropout: parameters["dropout"].as_f64().unwrap_or(0.0) as f32,
            keys,
        })
    }

    fn to_json(&self, base_model: Option<&str>) -> String {
        let Self { dora, num_layers, rank, scale, dropout, keys } = self;
        let dropout = super::super::decimal(*dropout);
        let parameters = json!({"rank": rank, "scale": scale, "dropout": dropout, "keys": keys});
        let fine_tune_type = if *dora { "dora" } else { "lora" };
        let all = json!({
            "fine_tune_type": fine_tune_type,
            "lora_parameters": parameters,
            "model": base_model,
            "num_layers": num_layers,
        });
        format!("{all:#}")
    }
}

/// A tensor with its name, shape and bytes, on its way from one layout to the other.
struct Moved {
    name: String,
    shape: Vec<usize>,
    dtype: safetensors::Dtype,
    bytes: Vec<u8>,
}

impl Moved {
    /// With another name; a matrix is transposed.
    fn new(name: String, view: &TensorView<'_>) -> Self {
        let (mut shape, data) = (view.shape().to_vec(), view.data());
        let mut bytes = data.to_vec();
        if let [rows, columns] = shape[..] {
            let size = data.len() / (rows * columns).max(1);
            let element = |index: usize| &data[index * size..][..size];
            let column = |column| (0..rows).map(move |row| row * columns + column);
            bytes =
                (0..columns).flat_map(column).flat_map(|index| element(index).to_vec()).collect();
            shape.reverse();
        }
        Self { name, shape, dtype: view.dtype(), bytes }
    }
}

/// The contents of a file of these tensors.
fn file_of(tensors: &[Moved], file: &str) -> Result<Vec<u8>> {
    let failed = |error: safetensors::SafeTensorError| invalid(file, error.to_string());
    let views = tensors.iter().map(|Moved { name, shape, dtype, bytes }| {
        Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).map_err(failed)?))
    });
    let about = BTreeMap::from([("format".to_owned(), "mlx".to_owned())]);
    let views = views.collect::<Result<Vec<_>>>()?;
    safetensors::serialize(views, Some(about.into_iter().collect())).map_err(failed)
}

/// Ends of the names of tensors: here and there.
const ENDS: [[&str; 2]; 5] = [
    [".lora_A.weight", ".lora_a"],
    [".lora_B.weight", ".lora_b"],
    [".lora_embedding_A", ".lora_a"],
    [".lora_embedding_B", ".lora_b"],
    [".lora_magnitude_vector", ".m"],
];

impl AdapterExport {
    /// The contents of the files as mlx-lm has them, by their names: for `mlx_lm.generate
    /// --adapter-path`, which knows the modules of Llama, Mistral, Qwen, Gemma and GPT-2 by these
    /// names. Waits for the device.
    ///
    /// # Errors
    /// As [`to_files`](Self::to_files), and [`MlxLora::of`].
    pub async fn to_mlx_files(&self, parameters: &Parameters) -> Result<BTreeMap<String, Vec<u8>>> {
        let mlx = MlxLora::of(self.lora(), self.gpt())?;
        let mut files = self.to_files(parameters).await?;
        let theirs = files.remove(MODEL).unwrap_or_default();
        let read = SafeTensors::deserialize(&theirs);
        let read = read.map_err(|error| invalid(MODEL, error.to_string()))?;
        let moved = read.tensors().into_iter().filter_map(|(name, view)| {
            let [end, other] = ENDS.into_iter().find(|[end, _]| name.ends_with(end))?;
            let module = name.strip_prefix(PREFIX)?.strip_suffix(end)?;
            Some(Moved::new(to_mlx(module) + other, &view))
        });
        let tensors = file_of(&moved.collect::<Vec<_>>(), TENSORS)?;
        let config = mlx.to_json(self.base_model_name()).into_bytes();
        Ok(BTreeMap::from([(CONFIG.to_owned(), config), (TENSORS.to_owned(), tensors)]))
    }
}

impl Adapter {
    /// Opens a folder with an adapter as PEFT or mlx-lm writes it, whichever it is.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open_any(path: impl AsRef<std::path::Path>, base: &Config) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path.join(CONFIG)).unwrap_or_default();
        let fields: Value = serde_json::from_str(&text).unwrap_or_default();
        if fields.get("lora_parameters").is_none() {
            return Self::open(path, base);
        }
        let lora = MlxLora::from_json(&text)?.lora(&super::folder::without_adapter(base))?;
        let file = path.join(TENSORS);
        let tensors = std::fs::read(&file).map_err(|error| Error::File {
            path: file,
            reason: format!("cannot be read: {error}"),
        })?;
        Self::from_tensors(tensors, &lora, base)
    }

    /// The tensors of a file in either layout, as those of this adapter: where there is a file alone,
    /// and its configuration is known otherwise.
    ///
    /// # Errors
    /// As [`from_files`](Self::from_files).
    pub fn from_tensors(contents: Vec<u8>, lora: &Lora, base: &Config) -> Result<Self> {
        let gpt = super::folder::without_adapter(base);
        lora.validate(&gpt)?;
        let read = SafeTensors::deserialize(&contents);
        let read = read.map_err(|error| invalid(TENSORS, error.to_string()))?;
        let is_mlx = read.names().iter().any(|name| name.ends_with(".lora_a"));
        let tensors = if is_mlx { from_mlx_layout(&read, lora, &gpt)? } else { contents };
        let config = AdapterConfig::new(base, lora.clone()).to_json()?.into_bytes();
        let files = [(CONFIG.to_owned(), config), (MODEL.to_owned(), tensors)];
        Self::from_files(files.into(), base)
    }
}

/// The contents of PEFT's file with the tensors of mlx-lm's.
fn from_mlx_layout(read: &SafeTensors<'_>, lora: &Lora, gpt: &GptConfig) -> Result<Vec<u8>> {
    let modules = lora.modules(gpt);
    let is_gpt2 = modules.iter().any(|module| module.name.starts_with("transformer."));
    let (mut moved, mut problems) = (Vec::new(), Vec::new());
    for (name, view) in read.tensors() {
        let split = name.rsplit_once('.').map(|(module, end)| (from_mlx(module, is_gpt2), end));
        let (module, end) = split.unwrap_or_default();
        let is_embedding = modules.iter().any(|known| known.is_embedding && known.name == module);
        let end = ENDS.into_iter().find(|[ours, theirs]| {
            theirs.strip_prefix('.') == Some(end) && ours.contains("embedding") == is_embedding
        });
        match end {
            Some([end, _]) => moved.push(Moved::new(format!("{PREFIX}{module}{end}"), &view)),
            None => problems.push(format!("{name} {:?} is not known", view.shape())),
        }
    }
    all_or_none(TENSORS, problems)?;
    file_of(&moved, MODEL)
}
