//! From parameters to the files of a folder, tensor by tensor.

use std::collections::BTreeMap;

use serde_json::json;

use super::folder::{INDEX, SINGLE};
#[cfg(not(target_arch = "wasm32"))]
use super::write::Told;
use super::write::{Planned, Shard, Values, write_shard};
use super::{CONFIG, Config, Tensor, TheirTensor, all_or_none};
use crate::error::Result;
#[cfg(not(target_arch = "wasm32"))]
use crate::file::{self, Replacement};
use crate::graph::ParameterSpec;
use crate::kernel::Precision;
use crate::nn::lora::is_adapter;
use crate::nn::{GptConfig, Lora};
use crate::plan::Parameters;

/// Bytes of numbers in a file, as transformers has them.
const SHARD_BYTES: u64 = 5_000_000_000;

/// How a model is written: `config.json` and one `model.safetensors`, or several files and their
/// index where one would be too large.
#[derive(Clone, Debug)]
pub struct Export {
    config: Config,
    /// What is in front of names, in the folder that the model came from and in the new one.
    bodies: [&'static str; 2],
    /// What tensors were stored in, by their names in the folder that the model came from.
    precisions: BTreeMap<String, Precision>,
    /// For all of them.
    precision: Option<Precision>,
    shard_bytes: u64,
    /// The adapter that becomes a part of the weights.
    merged: Option<Lora>,
}

impl Export {
    /// A model that comes from no folder, all in one type.
    pub fn new(config: Config, precision: Precision) -> Self {
        let body = config.family().bodies()[0];
        Self::of_folder(config, body, body, BTreeMap::new()).precision(precision)
    }

    pub(super) fn of_folder(
        config: Config,
        from: &'static str,
        to: &'static str,
        precisions: BTreeMap<String, Precision>,
    ) -> Self {
        let bodies = [from, to];
        Self { config, bodies, precisions, precision: None, shard_bytes: SHARD_BYTES, merged: None }
    }

    /// With all tensors in this type, rounded to nearest, and `config.json` saying so.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = Some(precision);
        self
    }

    /// With no more bytes of numbers in a file, as far as single tensors allow; 5 GB otherwise.
    #[must_use]
    pub fn shard_bytes(mut self, bytes: u64) -> Self {
        self.shard_bytes = bytes;
        self
    }

    /// With the configuration of a model that was changed after it came from the folder.
    #[must_use]
    pub fn gpt(mut self, gpt: GptConfig) -> Self {
        self.config.gpt = gpt;
        self
    }

    /// With an adapter as a part of the weights: W + s B A, of DoRA with its magnitudes, computed on
    /// the host in f64 and rounded once. The parameters must have it, and stay as they are.
    #[must_use]
    pub fn merged(mut self, lora: &Lora) -> Self {
        self.merged = Some(lora.clone());
        self
    }

    /// Writes the model into a folder, which is made where there is none: first all files beside
    /// those that are there, then each in its place. Files of tensors from an earlier model that
    /// has more or fewer of them are deleted, all others stay. Waits for the device.
    ///
    /// # Errors
    /// [`Error::ModelFile`](crate::Error::ModelFile) for parameters that are not those of the
    /// configuration, and for numbers that are not finite in the type they are to have;
    /// [`Error::File`](crate::Error::File); [`Error::DeviceLost`](crate::Error::DeviceLost).
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn save(
        &self,
        parameters: &Parameters,
        path: impl AsRef<std::path::Path>,
    ) -> Result<()> {
        self.save_with(parameters, path, |_, _| Ok(())).await
    }

    /// The same, and `tell` hears how many bytes of how many were written so far. Where it fails,
    /// nothing in the folder has changed.
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
        let path = path.as_ref();
        let (mut done, total) = (0, self.bytes(parameters)?);
        let (shards, config) = (self.shards(parameters)?, self.config.to_json(self.precision)?);
        let values = self.values(parameters)?;
        std::fs::create_dir_all(path).map_err(|error| file::write_failed(path, &error))?;
        let mut written = Vec::with_capacity(shards.len());
        for shard in &shards {
            let mut file = Replacement::create(&path.join(&shard.name))?;
            let sink = &mut file;
            let mut told = Told { sink, written: &mut done, total, tell: &mut tell };
            write_shard(shard, &values, &mut told).await?;
            written.push(file);
        }
        written.into_iter().try_for_each(Replacement::put_in_place)?;
        if let Some(index) = index_of(&shards) {
            file::replace(path.join(INDEX), index.as_bytes())?;
        }
        delete_others(path, &shards)?;
        file::replace(path.join(CONFIG), config.as_bytes())
    }

    /// The contents of the files by their names. Waits for the device.
    ///
    /// # Errors
    /// As `Export::save`, without files.
    pub async fn to_files(&self, parameters: &Parameters) -> Result<BTreeMap<String, Vec<u8>>> {
        let config = self.config.to_json(self.precision)?;
        let (shards, values) = (self.shards(parameters)?, self.values(parameters)?);
        let mut files = BTreeMap::from([(CONFIG.to_owned(), config.into_bytes())]);
        files.extend(index_of(&shards).map(|index| (INDEX.to_owned(), index.into_bytes())));
        for shard in &shards {
            let mut contents = Vec::new();
            write_shard(shard, &values, &mut contents).await?;
            files.insert(shard.name.clone(), contents);
        }
        Ok(files)
    }

    /// Bytes of all numbers that are written.
    ///
    /// # Errors
    /// [`Error::ModelFile`](crate::Error::ModelFile) for parameters that are not those of the
    /// configuration.
    pub fn bytes(&self, parameters: &Parameters) -> Result<u64> {
        Ok(self.planned(parameters)?.iter().map(Planned::bytes).sum())
    }

    /// The type that all tensors of the folder have that the model came from, if it is one.
    pub fn common_precision(&self) -> Option<Precision> {
        let mut all = self.precisions.values();
        let first = *all.next()?;
        all.all(|other| *other == first).then_some(first)
    }

    fn values<'a>(&self, parameters: &'a Parameters) -> Result<Values<'a>> {
        Values::new(&self.config.gpt, self.merged.as_ref(), parameters)
    }

    /// All tensors of the configuration's model, by name.
    fn planned(&self, parameters: &Parameters) -> Result<Vec<Planned>> {
        let mut planned = Vec::new();
        let mut config = self.config.clone();
        config.gpt.lora = None;
        let tensors = config.tensors()?;
        let found = parameters_of(&tensors, parameters, self.merged.is_some(), SINGLE)?;
        for (Tensor { theirs, is_transposed, .. }, parameter) in tensors.iter().zip(found) {
            let whole = &parameters.specs()[parameter].shape;
            planned.extend(theirs.iter().map(|theirs| Planned {
                name: theirs.full_name(self.bodies[1]),
                precision: self.precision_of(theirs),
                parameter,
                whole: whole.clone(),
                theirs: theirs.clone(),
                is_transposed: *is_transposed,
            }));
        }
        planned.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(planned)
    }

    fn precision_of(&self, theirs: &TheirTensor) -> Precision {
        let before = || self.precisions.get(&theirs.full_name(self.bodies[0])).copied();
        self.precision.or_else(before).unwrap_or_default()
    }

    /// The files that they go to.
    fn shards(&self, parameters: &Parameters) -> Result<Vec<Shard>> {
        let mut groups: Vec<Vec<Planned>> = Vec::new();
        let mut bytes = 0;
        for tensor in self.planned(parameters)? {
            bytes += tensor.bytes();
            match groups.last_mut().filter(|_| bytes <= self.shard_bytes) {
                Some(group) => group.push(tensor),
                None => {
                    bytes = tensor.bytes();
                    groups.push(vec![tensor]);
                }
            }
        }
        let count = groups.len();
        let shards = groups.into_iter().enumerate().map(|(index, tensors)| {
            let name = match count {
                1 => SINGLE.to_owned(),
                _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
            };
            Shard::new(name, tensors)
        });
        Ok(shards.collect())
    }
}

/// Which parameter each of these tensors is made of, by index. They are to be all that there are,
/// but for adapters that become a part of them.
///
/// # Errors
/// One that names all that do not fit.
pub(crate) fn parameters_of(
    tensors: &[Tensor],
    parameters: &Parameters,
    is_merged: bool,
    file: &str,
) -> Result<Vec<usize>> {
    let (mut found, mut problems) = (Vec::with_capacity(tensors.len()), Vec::new());
    for Tensor { name, shape, .. } in tensors {
        let fits = |spec: &ParameterSpec| spec.name == *name && spec.shape.dims == *shape;
        match parameters.specs().iter().position(fits) {
            Some(parameter) => found.push(parameter),
            None => problems.push(format!("there is no parameter {name} {shape:?}")),
        }
    }
    for spec in parameters.specs().iter().filter(|spec| !is_adapter(&spec.name)) {
        if tensors.iter().all(|tensor| tensor.name != spec.name) {
            problems.push(format!("the model of {CONFIG} has no parameter {}", spec.name));
        }
    }
    if !is_merged && parameters.names().any(is_adapter) {
        let reason = "there are adapters beside its parameters: write them with AdapterExport, or \
                      both as one with Export::merged";
        problems.push(reason.to_owned());
    }
    all_or_none(file, problems)?;
    Ok(found)
}

/// The file of each tensor, where there are several.
fn index_of(shards: &[Shard]) -> Option<String> {
    if shards.len() == 1 {
        return None;
    }
    let tensors = shards.iter().flat_map(|shard| shard.tensors.iter().map(move |t| (t, shard)));
    let total: u64 = tensors.clone().map(|(tensor, _)| tensor.bytes()).sum();
    let map: BTreeMap<_, _> = tensors.map(|(tensor, shard)| (&tensor.name, &shard.name)).collect();
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    Some(format!("{index:#}\n"))
}

/// Deletes what is left of an earlier model and would be taken for this one.
#[cfg(not(target_arch = "wasm32"))]
fn delete_others(path: &std::path::Path, shards: &[Shard]) -> Result<()> {
    let failed = |error: std::io::Error| file::write_failed(path, &error);
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_ours =
            shards.iter().any(|shard| shard.name == name) || name == INDEX && shards.len() > 1;
        if !is_ours && is_of_a_model(name) {
            std::fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

/// Whether a model's tensors, or their index, have such a name.
#[cfg(not(target_arch = "wasm32"))]
fn is_of_a_model(name: &str) -> bool {
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let numbers = name.strip_prefix("model-").and_then(|n| n.strip_suffix(".safetensors"));
    let is_shard = numbers
        .and_then(|numbers| numbers.split_once("-of-"))
        .is_some_and(|(index, count)| digits(index) && digits(count));
    name == SINGLE || name == INDEX || is_shard
}
