//! Tensors with drawn numbers, and files of them.

use std::collections::BTreeMap;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::models::{Named, tensors};

/// A tensor of a file: its name, type, shape and bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Tensor {
    /// Finite numbers of all sizes, zeros of both signs and subnormals among them.
    pub fn drawn(name: &str, shape: &[usize], dtype: Dtype, seed: u32) -> Self {
        let count: usize = shape.iter().product();
        let words = (0..count as u32).map(|index| mixed(mixed(seed) ^ index));
        let bytes = match dtype {
            Dtype::F32 => words.flat_map(|w| finite(w, 0x7f80_0000).to_le_bytes()).collect(),
            Dtype::F16 => words.flat_map(|w| halved(finite(w >> 16, 0x7c00))).collect(),
            Dtype::BF16 => words.flat_map(|w| halved(finite(w >> 16, 0x7f80))).collect(),
            other => panic!("{other} is not drawn"),
        };
        Self { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes }
    }

    /// One with these numbers.
    pub fn of(name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { name: name.to_owned(), dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    /// What its bytes mean.
    pub fn values(&self) -> Vec<f32> {
        let halves = self.bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        match self.dtype {
            Dtype::F16 => halves.map(|bits| half::f16::from_bits(bits).to_f32()).collect(),
            Dtype::BF16 => halves.map(|bits| half::bf16::from_bits(bits).to_f32()).collect(),
            _ => {
                let words = self.bytes.chunks_exact(4);
                words.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
        }
    }
}

/// MurmurHash3's last step.
fn mixed(mut word: u32) -> u32 {
    word = (word ^ (word >> 16)).wrapping_mul(0x85eb_ca6b);
    word = (word ^ (word >> 13)).wrapping_mul(0xc2b2_ae35);
    word ^ (word >> 16)
}

/// Every eighth number a zero or subnormal, none with an exponent of all ones.
fn finite(word: u32, exponent: u32) -> u32 {
    match word & exponent {
        all if all == exponent => word & !exponent,
        _ if word.is_multiple_of(8) => word & !exponent,
        _ => word,
    }
}

fn halved(word: u32) -> [u8; 2] {
    (word as u16).to_le_bytes()
}

/// The tensors of a configuration, with drawn numbers.
pub fn drawn(config: &str, dtype: Dtype) -> Vec<Tensor> {
    let named = tensors(config);
    let drawn = |(seed, (name, shape)): (u32, Named)| Tensor::drawn(&name, &shape, dtype, seed);
    (0..).zip(named).map(drawn).collect()
}

/// The contents of a safetensors file.
pub fn file(tensors: &[Tensor]) -> Vec<u8> {
    let views: Vec<_> = tensors
        .iter()
        .map(|tensor| {
            let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
            (tensor.name.clone(), view.expect("a tensor of this shape"))
        })
        .collect();
    safetensors::serialize(views, None).expect("a file")
}

/// A folder with one file of tensors.
pub fn folder(config: &str, tensors: &[Tensor]) -> BTreeMap<String, Vec<u8>> {
    BTreeMap::from([
        ("config.json".to_owned(), config.as_bytes().to_vec()),
        ("model.safetensors".to_owned(), file(tensors)),
    ])
}

/// The tensors of all files of a folder, by name.
pub fn contents(files: &BTreeMap<String, Vec<u8>>) -> Vec<Tensor> {
    let mut tensors = Vec::new();
    for bytes in files.iter().filter(|(name, _)| name.ends_with(".safetensors")).map(|(_, b)| b) {
        let file = safetensors::SafeTensors::deserialize(bytes).expect("a file");
        for (name, view) in file.iter() {
            tensors.push(Tensor {
                name: name.to_owned(),
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                bytes: view.data().to_vec(),
            });
        }
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors
}
