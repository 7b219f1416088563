//! From parameters to a GGUF file, tensor by tensor.

mod describe;
mod write;

use std::collections::BTreeMap;

use super::config::config;
use super::container::{Container, TensorInfo};
use super::format::Format;
use super::names::{EMBEDDING, FACTORS, HEAD, POSITIONS, is_derived, rows};
use super::rope::factors_of;
use super::tokenizer::{Tokenizer, tokenizer};
use super::value::Value;
use crate::error::Result;
#[cfg(not(target_arch = "wasm32"))]
use crate::file::Replacement;
#[cfg(not(target_arch = "wasm32"))]
use crate::hugging_face::Told;
use crate::hugging_face::{
    Config, Family, Values, differences, invalid, parameters_of, tensors_by,
};
use crate::kernel::{BlockFormat, Precision};
use crate::nn::{GptConfig, Lora, Positions, RotaryScaling};
use crate::plan::Parameters;
use describe::{architecture, describe};
use write::{Numbers, Planned, bytes, header, write};

/// What errors call the file.
const FILE: &str = "as a GGUF file";

/// How a model is written as a GGUF file: version 3 of the format, little-endian, with the metadata
/// and the names of llama.cpp.
///
/// ```no_run
/// use evenkeel::BlockFormat;
/// use evenkeel::gguf::Export;
/// use evenkeel::hugging_face::Folder;
/// use evenkeel::plan::Parameters;
///
/// # #[cfg(not(target_arch = "wasm32"))]
/// # async fn write(folder: &Folder, parameters: &Parameters) -> evenkeel::Result<()> {
/// let export = Export::new(folder.config().clone()).blocks(BlockFormat::Q8_0);
/// for name in export.not_in_blocks(parameters)? {
///     println!("{name} is in F16: its rows are no multiple of 32");
/// }
/// export.save(parameters, "tuned.gguf").await?;
/// # Ok(())
/// # }
/// ```
///
/// | tensors | format |
/// |---|---|
/// | vectors (norms, biases), learned positions | F32 always |
/// | matrices | the one type, F32 unless [`precision`](Self::precision) says another, or the [`blocks`](Self::blocks) |
/// | with blocks, matrices whose rows are no multiple of 32 | F16 |
/// | with blocks of 4 bits, the head, or the embedding where that is the head | Q8_0 |
///
/// llama.cpp's llama-quantize has Q6_K in the last case. The metadata are read again before
/// anything is written: a model that would come out as another is refused, with what is not the
/// same.
#[derive(Clone, Debug)]
pub struct Export {
    config: Config,
    stored: Stored,
    tokenizer: Option<Tokenizer>,
    /// The adapter that becomes a part of the weights.
    merged: Option<Lora>,
}

/// What matrices are stored in.
#[derive(Clone, Copy, Debug)]
enum Stored {
    Plain(Precision),
    Blocks(BlockFormat),
}

/// A file of which no numbers were written.
struct Plan {
    header: Vec<u8>,
    tensors: Vec<Planned>,
}

impl Plan {
    fn bytes(&self) -> u64 {
        self.header.len() as u64 + bytes(&self.tensors)
    }
}

impl Export {
    /// A model with its matrices in F32, and without a tokenizer.
    pub fn new(config: Config) -> Self {
        let stored = Stored::Plain(Precision::F32);
        Self { config, stored, tokenizer: None, merged: None }
    }

    /// With matrices in this type, rounded to nearest.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.stored = Stored::Plain(precision);
        self
    }

    /// With matrices in blocks, as ggml makes them.
    #[must_use]
    pub fn blocks(mut self, format: BlockFormat) -> Self {
        self.stored = Stored::Blocks(format);
        self
    }

    /// With this tokenizer. Ids that the model has and the tokenizer has not become tokens that are
    /// not in use.
    #[must_use]
    pub fn tokenizer(mut self, tokenizer: Tokenizer) -> Self {
        self.tokenizer = Some(tokenizer);
        self
    }

    /// With the configuration of a model that was changed after it was read.
    #[must_use]
    pub fn gpt(mut self, gpt: GptConfig) -> Self {
        self.config.gpt = gpt;
        self
    }

    /// With an adapter as a part of the weights, as
    /// [`hugging_face::Export::merged`](crate::hugging_face::Export::merged) has it.
    #[must_use]
    pub fn merged(mut self, lora: &Lora) -> Self {
        self.merged = Some(lora.clone());
        self
    }

    /// Writes the file beside the one that is there, and puts it in its place. Waits for the device.
    ///
    /// # Errors
    /// [`Error::ModelFile`](crate::Error::ModelFile) for parameters that are not those of the
    /// configuration, for what llama.cpp's models of this kind do not have, and for numbers that are
    /// not finite in the format they are to have; [`Error::File`](crate::Error::File);
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn save(
        &self,
        parameters: &Parameters,
        path: impl AsRef<std::path::Path>,
    ) -> Result<()> {
        self.save_with(parameters, path, |_, _| Ok(())).await
    }

    /// The same, and `tell` hears how many bytes of how many were written so far. Where it fails,
    /// the old file is as it was.
    ///
    /// # Errors
    /// As [`save`](Self::save), and what `tell` gives.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn save_with(
        &self,
        parameters: &Parameters,
        path: impl AsRef<std::path::Path>,
        mut tell: impl FnMut(u64, u64) -> Result<()>,
    ) -> Result<()> {
        let (plan, values) = (self.plan(parameters)?, self.values(parameters)?);
        let mut file = Replacement::create(path.as_ref())?;
        let (mut written, total) = (0, plan.bytes());
        let sink = &mut file;
        let mut told = Told { sink, written: &mut written, total, tell: &mut tell };
        write(&plan.header, &plan.tensors, &values, &mut told).await?;
        file.put_in_place()
    }

    /// The contents of the file. Waits for the device.
    ///
    /// # Errors
    /// As `Export::save`, without files.
    pub async fn to_bytes(&self, parameters: &Parameters) -> Result<Vec<u8>> {
        let (plan, values) = (self.plan(parameters)?, self.values(parameters)?);
        let mut contents = Vec::new();
        write(&plan.header, &plan.tensors, &values, &mut contents).await?;
        Ok(contents)
    }

    /// Bytes of the whole file.
    ///
    /// # Errors
    /// [`Error::ModelFile`](crate::Error::ModelFile) as `Export::save`, but for single numbers.
    pub fn bytes(&self, parameters: &Parameters) -> Result<u64> {
        Ok(self.plan(parameters)?.bytes())
    }

    /// The matrices that are to be in blocks and are in F16, since their rows are no multiple of 32.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    pub fn not_in_blocks(&self, parameters: &Parameters) -> Result<Vec<String>> {
        let Stored::Blocks(_) = self.stored else { return Ok(Vec::new()) };
        let tensors = self.plan(parameters)?.tensors.into_iter();
        let others = tensors.filter(|tensor| tensor.format == Format::F16);
        Ok(others.map(|tensor| tensor.name).collect())
    }

    fn values<'a>(&self, parameters: &'a Parameters) -> Result<Values<'a>> {
        Values::new(&self.config.gpt, self.merged.as_ref(), parameters)
    }

    /// All of the file but numbers, which was read again and is the same model.
    fn plan(&self, parameters: &Parameters) -> Result<Plan> {
        let family = self.config.family();
        let gpt = self.config.written()?;
        check_is_run(family, &gpt)?;
        let tensors = self.tensors(parameters)?;
        let infos = tensors.iter().map(|tensor| (tensor.name.clone(), tensor.info(0)));
        let container = Container { metadata: self.metadata(&gpt)?, tensors: infos.collect() };
        check_same(family, &gpt, &container, &tensors)?;
        if tokenizer(FILE, &container.metadata)?.map(|found| found.tokens.len())
            != self.tokenizer.as_ref().map(|_| gpt.vocabulary)
        {
            return Err(invalid(FILE, "the tokenizer does not come back as it is"));
        }
        Ok(Plan { header: header(&container, &tensors), tensors })
    }

    fn metadata(&self, gpt: &GptConfig) -> Result<BTreeMap<String, Value>> {
        let mut metadata = describe(self.config.family(), gpt);
        metadata.insert("general.file_type".to_owned(), Value::U32(self.file_type()));
        if let Stored::Blocks(_) = self.stored {
            metadata.insert("general.quantization_version".to_owned(), Value::U32(2));
        }
        if let Some(tokenizer) = &self.tokenizer {
            let (tokens, rows) = (tokenizer.tokens.len(), gpt.vocabulary);
            if tokens > rows {
                let reason = format!(
                    "the tokenizer has {tokens} tokens, and the model a row for {rows} of them; \
                     llama.cpp wants as many rows as tokens"
                );
                return Err(invalid(FILE, reason));
            }
            metadata.extend(tokenizer.metadata(rows));
        }
        Ok(metadata)
    }

    /// llama.cpp's number (`llama_ftype`) for what most tensors are stored in.
    fn file_type(&self) -> u32 {
        match self.stored {
            Stored::Plain(Precision::F32) => 0,
            Stored::Plain(Precision::F16) => 1,
            Stored::Plain(Precision::Bf16) => 32,
            Stored::Blocks(BlockFormat::Q4_0) => 2,
            Stored::Blocks(BlockFormat::Q4_1) => 3,
            Stored::Blocks(BlockFormat::Q8_0) => 7,
        }
    }

    fn tensors(&self, parameters: &Parameters) -> Result<Vec<Planned>> {
        let mut config = self.config.clone();
        config.gpt.lora = None;
        let family = config.family();
        let tensors = tensors_by(rows(family), &config, &config.parameters()?, FILE)?;
        let found = parameters_of(&tensors, parameters, self.merged.is_some(), FILE)?;
        let mut planned: Vec<_> = factors(family, &config.gpt).into_iter().collect();
        for (tensor, index) in tensors.iter().zip(found) {
            let whole = &parameters.specs()[index].shape;
            planned.extend(tensor.theirs.iter().map(|theirs| Planned {
                name: theirs.name.clone(),
                format: self.format_of(&theirs.name, &theirs.shape),
                shape: theirs.shape.clone(),
                numbers: Numbers::Parameter { index, whole: whole.clone(), theirs: theirs.clone() },
            }));
        }
        Ok(planned)
    }

    fn format_of(&self, name: &str, shape: &[usize]) -> Format {
        let &[_, columns] = shape else { return Format::F32 };
        if name == POSITIONS {
            return Format::F32;
        }
        let is_head = name == HEAD || name == EMBEDDING && self.config.gpt.tied_head;
        match self.stored {
            Stored::Plain(precision) => Format::of_precision(precision),
            Stored::Blocks(_) if !columns.is_multiple_of(BlockFormat::ELEMENTS) => Format::F16,
            Stored::Blocks(_) if is_head => Format::Q8_0,
            Stored::Blocks(format) => Format::of_blocks(format),
        }
    }
}

/// The tensor that llama.cpp has in the place of Llama 3's scaling.
fn factors(family: Family, gpt: &GptConfig) -> Option<Planned> {
    let Positions::Rotary(rotary) = gpt.positions else { return None };
    let is_scaled = matches!(rotary.scaling, RotaryScaling::Llama3 { .. });
    (is_scaled && is_derived(family, FACTORS)).then(|| {
        let factors = factors_of(rotary, gpt.head_dim());
        let (name, shape) = (FACTORS.to_owned(), vec![factors.len()]);
        Planned { name, format: Format::F32, shape, numbers: Numbers::Derived(factors) }
    })
}

/// Fails for what a file can say, and llama.cpp does not do.
fn check_is_run(family: Family, gpt: &GptConfig) -> Result<()> {
    if family == Family::Gemma2 && !gpt.tied_head {
        let reason = "llama.cpp's gemma2 has its embedding for a head, and this model has a head of \
                      its own; write a folder";
        return Err(invalid(FILE, reason));
    }
    match gpt.window {
        Some(window) if family == Family::Mistral && window < gpt.context => {
            let reason = format!(
                "llama.cpp lets each position of a Mistral see all before it, and in this model it \
                 sees {window} of {}; write a folder, or shorten its max_position_embeddings to \
                 {window}, up to which both are the same",
                gpt.context
            );
            Err(invalid(FILE, reason))
        }
        _ => Ok(()),
    }
}

/// Fails unless what the file says is this model.
fn check_same(
    family: Family,
    gpt: &GptConfig,
    container: &Container,
    tensors: &[Planned],
) -> Result<()> {
    let derived = |_: &TensorInfo| {
        let found = tensors.iter().find_map(|tensor| match &tensor.numbers {
            Numbers::Derived(numbers) => Some(numbers.clone()),
            Numbers::Parameter { .. } => None,
        });
        Ok(found.unwrap_or_default())
    };
    let read = config(FILE, container, derived)?;
    let differences = differences(gpt, &read.gpt);
    if differences.is_empty() {
        return Ok(());
    }
    let (name, list) = (architecture(family), differences.join(", "));
    let reason = format!("llama.cpp's models of the architecture {name} have not: {list}");
    Err(invalid(FILE, reason))
}
