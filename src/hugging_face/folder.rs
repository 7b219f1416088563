//! A folder with a model: what is in its files, and whether that is what a model is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde_json::Value;

use super::files::{Source, TensorFile};
use super::names::{Tensor, head_name, misfit};
use super::reader::{Size, TensorFiles, ranges};
use super::{
    CONFIG, Config, Export, Family, Progress, ReadAt, Reader, TheirTensor, all_or_none, invalid,
};
use crate::error::Result;
use crate::graph::ParameterSpec;
use crate::kernel::Precision;

/// The one file of a model's tensors.
pub(super) const SINGLE: &str = "model.safetensors";
/// Which of several files has which tensor.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// What is in front of names of what is no part of a text model.
const VISION: [&str; 4] = [
    "vision_tower.",
    "multi_modal_projector.",
    "model.vision_tower.",
    "model.multi_modal_projector.",
];

/// A tensor in one of the files.
#[derive(Debug)]
pub(super) struct Stored {
    file: usize,
    dtype: Dtype,
    pub shape: Vec<usize>,
    start: u64,
}

impl Stored {
    /// The type of its numbers, where it is one of those that are read.
    pub fn precision(&self) -> Option<Precision> {
        match self.dtype {
            Dtype::F32 => Some(Precision::F32),
            Dtype::F16 => Some(Precision::F16),
            Dtype::BF16 => Some(Precision::Bf16),
            _ => None,
        }
    }

    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn bytes(&self) -> u64 {
        (self.count() * self.dtype.bitsize() / 8) as u64
    }
}

/// An open folder with a model. Its files are read when the numbers are asked for.
#[derive(Debug)]
pub struct Folder {
    config: Config,
    files: Vec<TensorFile>,
    tensors: BTreeMap<String, Stored>,
    /// What is in front of the names of all tensors but the head's.
    body: &'static str,
}

impl Folder {
    /// Opens a folder with a `config.json` and a `model.safetensors`, or several files of tensors
    /// with `model.safetensors.index.json`. Reads what is in them, but no numbers.
    ///
    /// # Errors
    /// [`Error::ModelFile`](crate::Error::ModelFile) for files that are missing, damaged, or do not
    /// belong together, and those of [`Config::from_json`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::assemble(|name| match std::fs::File::open(path.join(name)) {
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
    /// As `Folder::open`.
    pub fn from_files(mut files: BTreeMap<String, Vec<u8>>) -> Result<Self> {
        Self::assemble(|name| Ok(files.remove(name).map(Source::new)))
    }

    /// The same with files that are read piece by piece, by their names. Those that are no part of
    /// the model are passed over.
    ///
    /// # Errors
    /// As `Folder::open`.
    pub fn from_sources(mut files: BTreeMap<String, Box<dyn ReadAt>>) -> Result<Self> {
        Self::assemble(|name| Ok(files.remove(name).map(Source::new)))
    }

    fn assemble(mut open: impl FnMut(&str) -> Result<Option<Source>>) -> Result<Self> {
        let Some(config) = open(CONFIG)? else {
            return Err(invalid(CONFIG, "there is none in the folder"));
        };
        let config = Config::from_json(&config.text(CONFIG)?)?;
        let mut contents = Contents::default();
        if let Some(source) = open(SINGLE)? {
            contents.add(SINGLE, source)?;
        } else if let Some(index) = open(INDEX)? {
            let index = read_index(&index.text(INDEX)?)?;
            for name in index.values().collect::<BTreeSet<_>>() {
                let source = open(name)?.ok_or_else(|| {
                    invalid(name, format!("it is missing in the folder, and {INDEX} names it"))
                })?;
                contents.add(name, source)?;
            }
            contents.check_index(&index)?;
        } else {
            let reason = format!(
                "there is none in the folder, and no {INDEX}; where there is a .bin or .pth file, \
                 save_pretrained of a newer transformers makes one of it"
            );
            return Err(invalid(SINGLE, reason));
        }
        let Contents { files, tensors } = contents;
        let family = config.family();
        let has_embedding =
            |body: &&str| tensors.contains_key(&format!("{body}{}", family.embedding()));
        let bodies = family.bodies();
        let body = bodies.iter().copied().find(has_embedding).unwrap_or(bodies[0]);
        Ok(Self { config, files, tensors, body })
    }

    /// What `config.json` says.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Bytes of all tensors in the files.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(Stored::bytes).sum()
    }

    /// The tensors as a source for [`Trainer::load_weights`] or [`Parameters::load`]. It reports
    /// its progress as it reads.
    ///
    /// [`Trainer::load_weights`]: crate::train::Trainer::load_weights
    /// [`Parameters::load`]: crate::plan::Parameters::load
    pub fn reader<F: FnMut(&Progress<'_>)>(&self, progress: F) -> Reader<'_, F> {
        Reader::new(self, progress)
    }

    /// To write a model as this one: its configuration, and tensors with the same names and types.
    pub fn export(&self) -> Export {
        let precision =
            |(name, stored): (&String, &Stored)| Some((name.clone(), stored.precision()?));
        let precisions = self.tensors.iter().filter_map(precision).collect();
        // A text model out of one of text and images is a model of its own.
        let body = if self.has_vision() { self.config.family().bodies()[0] } else { self.body };
        Export::of_folder(self.config.clone(), self.body, body, precisions)
    }

    fn has_vision(&self) -> bool {
        self.body.contains("language_model.")
    }

    fn stored(&self, tensor: &TheirTensor) -> Result<(String, &Stored)> {
        let name = tensor.full_name(self.body);
        match self.tensors.get(&name) {
            Some(stored) => Ok((name, stored)),
            None => Err(invalid(SINGLE, format!("{name} is missing"))),
        }
    }

    /// The head of a tied model and the embedding, where both are there.
    fn tied_copy(&self) -> Option<[(String, &Stored); 2]> {
        let embedding = format!("{}{}", self.body, self.config.family().embedding());
        let [head, embedding] = [head_name(self.body), embedding].map(|name| {
            let stored = self.tensors.get(&name)?;
            Some((name, stored))
        });
        Some([head?, embedding?]).filter(|_| self.config.gpt.tied_head)
    }

    /// Some elements of a tensor of a type that is read.
    fn values(&self, stored: &Stored, elements: Range<usize>) -> Result<Vec<f32>> {
        let precision = stored.precision().expect("a type that was checked");
        let size = precision.quad_bytes() / 4;
        let [start, end] =
            [elements.start, elements.end].map(|element| stored.start + element as u64 * size);
        Ok(precision.decode(&self.files[stored.file].read(start..end)?))
    }

    fn is_passed_over(&self, name: &str) -> bool {
        let family: Family = self.config.family();
        let is_image = VISION.iter().any(|prefix| name.starts_with(prefix));
        name.strip_prefix(self.body).is_some_and(|name| family.is_derived(name))
            || self.has_vision() && is_image
    }
}

impl TensorFiles for Folder {
    fn file(&self) -> &str {
        SINGLE
    }

    fn tensors_of(&self, parameters: &[ParameterSpec]) -> Result<Vec<Tensor>> {
        let tensors = self.config.tensors_of(parameters)?;
        let (mut problems, mut used) = (Vec::new(), BTreeSet::new());
        for tensor in tensors.iter().flat_map(|tensor| &tensor.theirs) {
            let name = tensor.full_name(self.body);
            let stored = self.tensors.get(&name);
            let misfit = misfit(&name, &tensor.shape, stored.map(|stored| &stored.shape[..]));
            let other_type = stored.filter(|stored| stored.precision().is_none());
            let other_type = other_type.map(|stored| {
                format!("{name} is {}, and F32, F16 and BF16 are read", stored.dtype)
            });
            problems.extend(misfit.or(other_type));
            used.insert(name);
        }
        let head = head_name(self.body);
        if !self.tensors.contains_key(&head) && used.contains(&head) {
            problems.push("(with tie_word_embeddings the head is the embedding)".to_owned());
        }
        for (name, stored) in &self.tensors {
            let is_copy = *name == head && self.config.gpt.tied_head;
            if is_copy && stored.precision().is_none() {
                problems
                    .push(format!("{name} is {}, and F32, F16 and BF16 are read", stored.dtype));
            } else if !used.contains(name) && !is_copy && !self.is_passed_over(name) {
                problems.push(format!("{name} {:?} is not known", stored.shape));
            }
        }
        all_or_none(SINGLE, problems)?;
        Ok(tensors)
    }

    fn size_of(&self, tensor: &TheirTensor) -> Result<Size> {
        let (name, stored) = self.stored(tensor)?;
        Ok(Size { name, elements: stored.count(), bytes: stored.bytes() })
    }

    fn values_of(&self, tensor: &TheirTensor, elements: Range<usize>) -> Result<Vec<f32>> {
        self.values(self.stored(tensor)?.1, elements)
    }

    /// What is wrong with a second copy of the embedding, in words.
    fn fault(&self) -> Result<Option<String>> {
        let Some([(head, copy), (embedding, stored)]) = self.tied_copy() else {
            return Ok(None);
        };
        let is_same = copy.shape == stored.shape && {
            let mut is_same = true;
            for elements in ranges(stored.count()) {
                let [ours, theirs] =
                    [self.values(stored, elements.clone())?, self.values(copy, elements)?];
                // As bits, since zeros of both signs are equal.
                let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits);
                is_same = is_same && bits(ours).eq(bits(theirs));
            }
            is_same
        };
        let reason = format!(
            "{head} is not the same as {embedding}, and the configuration has one table for both; \
             set tie_word_embeddings to false for a head of its own"
        );
        Ok((!is_same).then_some(reason))
    }
}

/// What is in the files so far.
#[derive(Default)]
struct Contents {
    files: Vec<TensorFile>,
    tensors: BTreeMap<String, Stored>,
}

impl Contents {
    fn add(&mut self, name: &str, source: Source) -> Result<()> {
        let (file, metadata) = TensorFile::new(name, source)?;
        let index = self.files.len();
        for (tensor, info) in metadata.tensors() {
            let TensorInfo { dtype, shape, data_offsets: (start, _) } = info.clone();
            let stored = Stored { file: index, dtype, shape, start: start as u64 };
            if let Some(other) = self.tensors.insert(tensor.clone(), stored) {
                let other = &self.files[other.file].name;
                return Err(invalid(name, format!("{tensor} is in it, and in {other} too")));
            }
        }
        self.files.push(file);
        Ok(())
    }

    /// Fails unless each tensor is where the index has it, and each in the index is there.
    fn check_index(&self, index: &BTreeMap<String, String>) -> Result<()> {
        let file_of = |name: &str| {
            self.tensors.get(name).map_or("no file", |stored| self.files[stored.file].name.as_str())
        };
        let named = index.iter().filter(|(name, file)| file_of(name) != file.as_str());
        let mut problems: Vec<_> = named
            .map(|(name, file)| format!("{name} is in {}, not in {file}", file_of(name)))
            .collect();
        let unnamed = self.tensors.keys().filter(|name| !index.contains_key(*name));
        problems.extend(unnamed.map(|name| format!("{name} in {} is not in it", file_of(name))));
        all_or_none(INDEX, problems)
    }
}

/// The file of each tensor.
fn read_index(text: &str) -> Result<BTreeMap<String, String>> {
    let index: Value =
        serde_json::from_str(text).map_err(|error| invalid(INDEX, error.to_string()))?;
    let Some(map) = index.get("weight_map").and_then(Value::as_object) else {
        return Err(invalid(INDEX, "it has no weight_map"));
    };
    let file = |(name, file): (&String, &Value)| {
        // Files lie in the folder, and nowhere else.
        let is_plain =
            |file: &&str| file.ends_with(".safetensors") && !file.contains(['/', '\\', ':']);
        let plain = file.as_str().filter(is_plain);
        plain.map(|plain| (name.clone(), plain.to_owned())).ok_or_else(|| {
            invalid(INDEX, format!("it has {name} in {file}, which is no file of the folder"))
        })
    };
    map.iter().map(file).collect()
}
