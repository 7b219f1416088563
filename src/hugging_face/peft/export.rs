//! From the parameters of an adapter to the files of a folder.

use std::collections::BTreeMap;

use super::super::write::{Planned, Shard, Values, write_shard};
use super::super::{Config, Tensor, all_or_none};
use super::config::AdapterConfig;
use super::folder::without_adapter;
use super::names::{full_name, tensors};
use super::{CONFIG, MODEL};
use crate::error::Result;
#[cfg(not(target_arch = "wasm32"))]
use crate::file::{self, Replacement};
use crate::kernel::Precision;
use crate::nn::lora::is_adapter;
use crate::nn::{GptConfig, Lora};
use crate::plan::Parameters;

/// How an adapter is written: `adapter_config.json` and `adapter_model.safetensors`, as PEFT has
/// them, so that `PeftModel.from_pretrained` opens them beside the model.
#[derive(Clone, Debug)]
pub struct AdapterExport {
    base: Config,
    config: AdapterConfig,
    /// What is in front of the names of all modules but the head.
    body: &'static str,
    /// What tensors were stored in, by their names in the folder that the adapter came from.
    precisions: BTreeMap<String, Precision>,
    /// For all of them.
    precision: Option<Precision>,
    /// Weights of the model that are written beside the adapter.
    copies: Vec<Tensor>,
}

impl AdapterExport {
    /// An adapter that comes from no folder, of a model with this configuration, in F32.
    ///
    /// # Errors
    /// Those of [`Lora::validate`].
    pub fn new(base: &Config, lora: Lora) -> Result<Self> {
        lora.validate(&without_adapter(base))?;
        let config = AdapterConfig::new(base, lora);
        let body = base.family().bodies()[0];
        Ok(Self::of_folder(base.clone(), config, body, BTreeMap::new(), Vec::new()))
    }

    pub(super) fn of_folder(
        base: Config,
        config: AdapterConfig,
        body: &'static str,
        precisions: BTreeMap<String, Precision>,
        copies: Vec<Tensor>,
    ) -> Self {
        Self { base, config, body, precisions, precision: None, copies }
    }

    /// With all tensors in this type, rounded to nearest.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = Some(precision);
        self
    }

    /// With the name or path of the model that it belongs to, for who opens it.
    #[must_use]
    pub fn base_model(mut self, name: &str) -> Self {
        self.config.set_base_model(name);
        self
    }

    /// Writes the adapter into a folder, which is made where there is none: first the tensors, then
    /// the configuration, each beside the old file and then in its place. Other files stay. Waits
    /// for the device.
    ///
    /// # Errors
    /// [`Error::ModelFile`](crate::Error::ModelFile) for parameters that are not those of this
    /// adapter, and for numbers that are not finite in the type they are to have;
    /// [`Error::File`](crate::Error::File); [`Error::DeviceLost`](crate::Error::DeviceLost).
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn save(
        &self,
        parameters: &Parameters,
        path: impl AsRef<std::path::Path>,
    ) -> Result<()> {
        let path = path.as_ref();
        let (shard, config) = (self.shard(parameters)?, self.config.to_json()?);
        std::fs::create_dir_all(path).map_err(|error| file::write_failed(path, &error))?;
        let mut model = Replacement::create(&path.join(MODEL))?;
        write_shard(&shard, &Values { parameters, merge: None }, &mut model).await?;
        model.put_in_place()?;
        file::replace(path.join(CONFIG), config.as_bytes())
    }

    /// The contents of the files by their names. Waits for the device.
    ///
    /// # Errors
    /// As `AdapterExport::save`, without files.
    pub async fn to_files(&self, parameters: &Parameters) -> Result<BTreeMap<String, Vec<u8>>> {
        let (shard, config) = (self.shard(parameters)?, self.config.to_json()?);
        let mut contents = Vec::new();
        write_shard(&shard, &Values { parameters, merge: None }, &mut contents).await?;
        Ok(BTreeMap::from([(CONFIG.to_owned(), config.into_bytes()), (MODEL.to_owned(), contents)]))
    }

    pub(super) fn lora(&self) -> &Lora {
        &self.config.lora
    }

    /// The model alone.
    pub(super) fn gpt(&self) -> &GptConfig {
        &self.base.gpt
    }

    pub(super) fn base_model_name(&self) -> Option<&str> {
        self.config.base_model()
    }

    fn shard(&self, parameters: &Parameters) -> Result<Shard> {
        let mut all = tensors(&self.base, &self.base.gpt, &self.config.lora);
        let (mut planned, mut problems) = (Vec::new(), Vec::new());
        for spec in parameters.specs() {
            if is_adapter(&spec.name) && all.iter().all(|tensor| tensor.name != spec.name) {
                problems.push(format!("the adapter of {CONFIG} has no parameter {}", spec.name));
            }
        }
        all.extend(self.copies.iter().cloned());
        for Tensor { name, shape, theirs, is_transposed } in all {
            let found = parameters.specs().iter().position(|spec| spec.name == name);
            let fits = found.filter(|&index| parameters.specs()[index].shape.dims == shape);
            let Some(parameter) = fits else {
                problems.push(format!("there is no parameter {name} {shape:?}"));
                continue;
            };
            let whole = &parameters.specs()[parameter].shape;
            planned.extend(theirs.into_iter().map(|theirs| {
                let name = full_name(&theirs, self.body);
                let before = self.precisions.get(&name).copied();
                let precision = self.precision.or(before).unwrap_or_default();
                Planned { name, precision, parameter, whole: whole.clone(), theirs, is_transposed }
            }));
        }
        all_or_none(MODEL, problems)?;
        Ok(Shard::new(MODEL.to_owned(), planned))
    }
}
