//! A folder with an adapter: what is in its files, and whether it belongs to a model.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::super::files::{Source, TensorFile};
use super::super::{Config, Tensor, TheirTensor, all_or_none, invalid};
use super::config::AdapterConfig;
use super::names::{copies, full_name, tensors};
use super::{AdapterExport, AdapterReader, CONFIG, MODEL};
use crate::error::Result;
use crate::kernel::Precision;
use crate::nn::{GptConfig, Lora};

/// A tensor in the file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub precision: Precision,
    pub shape: Vec<usize>,
    start: u64,
}

/// An open folder with an adapter as PEFT writes it, for a model with a certain configuration.
///
/// ```no_run
/// use evenkeel::hugging_face::{Adapter, Folder};
/// use evenkeel::nn::{Gpt, LanguageModel};
/// use evenkeel::train::Trainer;
///
/// # #[cfg(not(target_arch = "wasm32"))]
/// # async fn tune(gpu: &evenkeel::Gpu) -> evenkeel::Result<()> {
/// let folder = Folder::open("SmolLM2-135M")?;
/// let adapter = Adapter::open("adapter", folder.config())?;
/// let model = LanguageModel { gpt: Gpt::new(adapter.gpt())?, batch: 1, time: 512 };
/// let mut trainer = Trainer::builder(model).build(gpu).await?;
/// trainer.load_weights(&mut folder.reader(|_| {})).await?;
/// trainer.load_weights(&mut adapter.reader()).await?;
/// // ... steps ...
/// adapter.export().save(trainer.parameters(), "tuned-adapter").await?;
/// folder.export().merged(adapter.lora()).save(trainer.parameters(), "tuned").await?;
/// # Ok(())
/// # }
/// ```
///
/// The configuration is read strictly: what asks for something that is not here, or is not known, is
/// an error that names the field and its value.
#[derive(Debug)]
pub struct Adapter {
    base: Config,
    config: AdapterConfig,
    file: TensorFile,
    entries: BTreeMap<String, Entry>,
    /// What is in front of the names of all modules but the head.
    body: &'static str,
}

impl Adapter {
    /// Opens a folder with `adapter_config.json` and `adapter_model.safetensors`, for this model.
    /// Reads what is in them, but no numbers.
    ///
    /// # Errors
    /// [`Error::ModelFile`](crate::Error::ModelFile) for files that are missing or damaged, for
    /// fields that ask for what is not here, and for tensors that are missing, of another shape or
    /// type, or not known: it names all of them.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: impl AsRef<std::path::Path>, base: &Config) -> Result<Self> {
        let path = path.as_ref();
        Self::assemble(base, |name| match std::fs::File::open(path.join(name)) {
            Ok(file) => Ok(Some(Source::file(file))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(crate::Error::File {
                path: path.join(name),
                reason: format!("cannot be read: {error}"),
            }),
        })
    }

    /// The same with the contents of the files, by their names.
    ///
    /// # Errors
    /// As `Adapter::open`.
    pub fn from_files(mut files: BTreeMap<String, Vec<u8>>, base: &Config) -> Result<Self> {
        Self::assemble(base, |name| Ok(files.remove(name).map(Source::new)))
    }

    fn assemble(
        base: &Config,
        mut open: impl FnMut(&str) -> Result<Option<Source>>,
    ) -> Result<Self> {
        let mut found = |name: &str, advice: &str| {
            open(name)?.ok_or_else(|| invalid(name, format!("there is none in the folder{advice}")))
        };
        let text = found(CONFIG, "")?.text(CONFIG)?;
        let advice =
            "; where there is a .bin file, save_pretrained of a newer PEFT makes one of it";
        let (file, metadata) = TensorFile::new(MODEL, found(MODEL, advice)?)?;
        let config = AdapterConfig::from_json(&text, &without_adapter(base))?;
        let mut problems = Vec::new();
        let entries = entries(&metadata, &mut problems);
        let bodies = base.family().bodies();
        let has_some = |body: &&str| {
            let all = tensors(base, &base.gpt, &config.lora);
            let mut names = all.iter().flat_map(|tensor| &tensor.theirs);
            names.any(|theirs| entries.contains_key(&full_name(theirs, body)))
        };
        let body = bodies.iter().copied().find(has_some).unwrap_or(bodies[0]);
        let adapter = Self { base: base.clone(), config, file, entries, body };
        problems.extend(adapter.misfits());
        all_or_none(MODEL, problems)?;
        Ok(adapter)
    }

    /// What is wrong with the tensors in the file, in words.
    fn misfits(&self) -> Vec<String> {
        let (mut problems, mut used) = (Vec::new(), BTreeSet::new());
        for (theirs, is_wanted) in self.all_theirs() {
            let name = full_name(&theirs, self.body);
            match self.entries.get(&name) {
                None if is_wanted => problems.push(format!("{name} {:?} is missing", theirs.shape)),
                Some(entry) if entry.shape != theirs.shape => problems.push(format!(
                    "{name} has the shape {:?}, and the model wants {:?}",
                    entry.shape, theirs.shape
                )),
                _ => {}
            }
            used.insert(name);
        }
        let others = self.entries.iter().filter(|(name, _)| !used.contains(*name));
        problems.extend(others.map(|(name, e)| format!("{name} {:?} is not known", e.shape)));
        problems
    }

    /// Tensors that may be in the file, and whether each must be.
    fn all_theirs(&self) -> Vec<(TheirTensor, bool)> {
        let of = |tensors: Vec<Tensor>, is_wanted: bool| {
            tensors.into_iter().flat_map(|tensor| tensor.theirs).map(move |t| (t, is_wanted))
        };
        of(self.own_tensors(), true).chain(of(self.base_copies(), false)).collect()
    }

    /// What the adapter's parameters are made of.
    pub(super) fn own_tensors(&self) -> Vec<Tensor> {
        tensors(&self.base, &self.base.gpt, &self.config.lora)
    }

    /// Weights of the model that may be in the file.
    fn base_copies(&self) -> Vec<Tensor> {
        copies(&self.base, &self.base.gpt, &self.config.lora)
    }

    /// Weights of the model that are in the file.
    pub(super) fn given_copies(&self) -> Vec<Tensor> {
        let mut copies = self.base_copies();
        copies.retain(|copy| self.entry(&copy.theirs[0]).is_some());
        copies
    }

    /// What the adapter is.
    pub fn lora(&self) -> &Lora {
        &self.config.lora
    }

    /// The model with the adapter: all but the adapter is frozen in it.
    pub fn gpt(&self) -> GptConfig {
        GptConfig { lora: Some(self.config.lora.clone()), ..self.base.gpt.clone() }
    }

    /// The tensors as a source for [`Trainer::load_weights`] or [`Parameters::load`], which leaves the
    /// model's own weights as they are; but where PEFT wrote those of an adapted embedding or head
    /// too, these are taken, as PEFT does.
    ///
    /// [`Trainer::load_weights`]: crate::train::Trainer::load_weights
    /// [`Parameters::load`]: crate::plan::Parameters::load
    pub fn reader(&self) -> AdapterReader<'_> {
        AdapterReader::new(self)
    }

    /// To write an adapter as this one: its configuration, and tensors with the same names and types.
    pub fn export(&self) -> AdapterExport {
        let precisions = self.entries.iter().map(|(name, entry)| (name.clone(), entry.precision));
        AdapterExport::of_folder(
            self.base.clone(),
            self.config.clone(),
            self.body,
            precisions.collect(),
            self.given_copies(),
        )
    }

    pub(super) fn entry(&self, theirs: &TheirTensor) -> Option<&Entry> {
        self.entries.get(&full_name(theirs, self.body))
    }

    pub(super) fn name_of(&self, theirs: &TheirTensor) -> String {
        full_name(theirs, self.body)
    }

    /// Some elements of a tensor.
    pub(super) fn values(&self, entry: &Entry, elements: Range<usize>) -> Result<Vec<f32>> {
        let size = entry.precision.quad_bytes() / 4;
        let [start, end] =
            [elements.start, elements.end].map(|element| entry.start + element as u64 * size);
        Ok(entry.precision.decode(&self.file.read(start..end)?))
    }
}

/// The model alone.
pub(super) fn without_adapter(base: &Config) -> GptConfig {
    GptConfig { lora: None, ..base.gpt.clone() }
}

/// The tensors of a file, of types that are read.
fn entries(metadata: &Metadata, problems: &mut Vec<String>) -> BTreeMap<String, Entry> {
    let mut entries = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let TensorInfo { dtype, shape, data_offsets: (start, _) } = info.clone();
        let precision = match dtype {
            Dtype::F32 => Precision::F32,
            Dtype::F16 => Precision::F16,
            Dtype::BF16 => Precision::Bf16,
            _ => {
                problems.push(format!("{name} is {dtype}, and F32, F16 and BF16 are read"));
                Precision::F32
            }
        };
        entries.insert(name, Entry { precision, shape, start: start as u64 });
    }
    entries
}
