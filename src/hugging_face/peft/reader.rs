//! From the file of an adapter to its parameters.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::{Tensor, TheirTensor, all_or_none, invalid};
use super::{Adapter, MODEL};
use crate::error::Result;
use crate::nn::lora::is_adapter;
use crate::plan::Parameters;
use crate::plan::parameters::WeightSource;

/// The tensors of an [`Adapter`] as a source of weights.
#[derive(Debug)]
pub struct AdapterReader<'a> {
    adapter: &'a Adapter,
    /// By the name of the parameter.
    tensors: BTreeMap<String, Tensor>,
}

impl<'a> AdapterReader<'a> {
    pub(super) fn new(adapter: &'a Adapter) -> Self {
        let all = adapter.own_tensors().into_iter().chain(adapter.given_copies());
        let tensors = all.map(|tensor| (tensor.name.clone(), tensor)).collect();
        Self { adapter, tensors }
    }

    /// Some values of a tensor in the file.
    fn values(&self, theirs: &TheirTensor, elements: Range<usize>) -> Result<Vec<f32>> {
        let missing = || invalid(MODEL, format!("{} is missing", self.adapter.name_of(theirs)));
        let entry = self.adapter.entry(theirs).ok_or_else(missing)?;
        self.adapter.values(entry, elements)
    }

    fn all_values(&self, theirs: &TheirTensor) -> Result<Vec<f32>> {
        self.values(theirs, 0..theirs.shape.iter().product())
    }

    /// What no parameter can hold among the values of a tensor, in words.
    fn fault(&self, theirs: &TheirTensor, parameters: &Parameters) -> Result<Option<String>> {
        let values = self.all_values(theirs)?;
        let index = values.iter().position(|&value| !parameters.can_hold(value));
        Ok(index.map(|index| {
            let (name, value) = (self.adapter.name_of(theirs), values[index]);
            let storage = parameters.storage();
            format!("{name} holds {value} at index {index}, for weights in {storage}")
        }))
    }

    /// Weights of the model that are in the file twice must be the same.
    fn check_copies(&self) -> Result<Option<String>> {
        let copies = self.adapter.given_copies();
        let [one, other] = &copies[..] else { return Ok(None) };
        if one.name != other.name {
            return Ok(None);
        }
        // As bits, since zeros of both signs are equal.
        let bits = |tensor: &Tensor| -> Result<Vec<u32>> {
            Ok(self.all_values(&tensor.theirs[0])?.into_iter().map(f32::to_bits).collect())
        };
        let [first, second] = [one, other].map(|tensor| self.adapter.name_of(&tensor.theirs[0]));
        let is_same = bits(one)? == bits(other)?;
        let reason =
            || format!("{second} is not the same as {first}, and the model has one of both");
        Ok((!is_same).then(reason))
    }
}

impl WeightSource for AdapterReader<'_> {
    fn check(&mut self, parameters: &Parameters) -> Result<()> {
        let mut problems = Vec::new();
        for tensor in self.tensors.values() {
            let fits = |name: &str, dims: &[usize]| name == tensor.name && dims == tensor.shape;
            if !parameters.specs().iter().any(|spec| fits(&spec.name, &spec.shape.dims)) {
                problems.push(format!("there is no parameter {} {:?}", tensor.name, tensor.shape));
            }
            for theirs in &tensor.theirs {
                problems.extend(self.fault(theirs, parameters)?);
            }
        }
        for spec in parameters.specs() {
            if is_adapter(&spec.name) && !self.tensors.contains_key(&spec.name) {
                problems.push(format!("it has nothing for {}", spec.name));
            }
        }
        problems.extend(self.check_copies()?);
        all_or_none(MODEL, problems)
    }

    fn provides(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn rows(&mut self, name: &str, rows: Range<usize>) -> Result<Vec<f32>> {
        let Some(tensor) = self.tensors.get(name) else {
            return Err(invalid(MODEL, format!("it has nothing for {name}")));
        };
        let columns: usize = tensor.shape[1..].iter().product();
        let mut values = Vec::with_capacity(rows.len() * columns);
        for theirs in &tensor.theirs {
            let inside = rows.start.max(theirs.rows.start)..rows.end.min(theirs.rows.end);
            if inside.is_empty() {
                continue;
            }
            let [first, end] = [inside.start, inside.end].map(|row| row - theirs.rows.start);
            if tensor.is_transposed {
                let whole = self.all_values(theirs)?;
                let height = theirs.rows.len();
                let row = |row| (0..columns).map(move |column| column * height + row);
                values.extend((first..end).flat_map(row).map(|index| whole[index]));
            } else {
                values.extend(self.values(theirs, first * columns..end * columns)?);
            }
        }
        Ok(values)
    }
}
