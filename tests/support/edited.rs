//! Checkpoints whose files were changed by somebody else.

use std::collections::{BTreeMap, HashMap};

use evenkeel::train::Checkpoint;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// What a safetensors file holds.
#[derive(Clone)]
pub struct Edited {
    /// Type, shape and words of each tensor.
    pub tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u32>)>,
    pub info: HashMap<String, String>,
}

impl Edited {
    pub fn new(checkpoint: &Checkpoint) -> Self {
        let bytes = checkpoint.to_bytes();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).expect("a header");
        let file = SafeTensors::deserialize(&bytes).expect("a file");
        let tensors = file.tensors().into_iter().map(|(name, view)| {
            let words = bytemuck::pod_collect_to_vec(view.data());
            (name, (view.dtype(), view.shape().to_vec(), words))
        });
        let info = metadata.metadata().clone().expect("metadata");
        Self { tensors: tensors.collect(), info }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let views = self.tensors.iter().map(|(name, (dtype, shape, words))| {
            let data = bytemuck::cast_slice(words);
            (name, TensorView::new(*dtype, shape.clone(), data).expect("as large as it says"))
        });
        safetensors::serialize(views, Some(self.info.clone())).expect("a header")
    }

    pub fn words(&mut self, name: &str) -> &mut Vec<u32> {
        &mut self.tensors.get_mut(name).unwrap_or_else(|| panic!("no {name}")).2
    }

    pub fn set(&mut self, name: &str, index: usize, value: f32) {
        self.words(name)[index] = value.to_bits();
    }

    /// The word of a field in row `row` of a table of device structs.
    pub fn field(&mut self, table: &str, row: usize, field: &str) -> &mut u32 {
        let names: Vec<_> = self.info[table].lines().map(str::to_owned).collect();
        let column = names.iter().position(|name| name == field).expect("a field");
        &mut self.words(table)[row * names.len() + column]
    }

    pub fn say(&mut self, key: &str, value: &str) {
        self.info.insert(key.to_owned(), value.to_owned());
    }

    pub fn copy(&mut self, from: &str, to: &str) {
        let entry = self.tensors[from].clone();
        self.tensors.insert(to.to_owned(), entry);
    }
}
