//! Values of parameters and states on the host, read and written by name.

use std::ops::Range;

use super::Parameters;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernel::WeightStorage;
use crate::record::Slot;

/// Where bytes of a parameter or state go.
pub(crate) type Encoded = (wgpu::Buffer, u64, Vec<u8>);

impl Parameters {
    /// The slot of the parameter or state with this name; see [`slot`](Self::slot).
    ///
    /// # Errors
    /// [`Error::UnknownName`].
    pub fn find(&self, name: &str) -> Result<Slot> {
        if let Some(index) = self.position(name) {
            return Ok(self.slot(index));
        }
        for (index, spec) in self.layout.states.iter().enumerate() {
            if let Some(row) = spec.names.iter().position(|row| row == name) {
                return Ok(self.state_slot(index).row(row));
            }
        }
        Err(Error::UnknownName {
            kind: "parameter or state",
            name: name.to_owned(),
            known: self.names().collect::<Vec<_>>().join(", "),
        })
    }

    /// A parameter or state as [`read`](Self::read) gives it, of buffers whose contents are on the
    /// host, and what [`WeightStorage::Bf16Kahan`] keeps beside a parameter; none in other storages,
    /// and none of a state.
    pub(crate) fn read_from<'a>(
        &self,
        name: &str,
        contents: impl Fn(&wgpu::Buffer) -> &'a [u8],
    ) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
        let (slot, storage) = (self.find(name)?, self.storage_of(name));
        let (mut values, mut compensation) = (Vec::new(), Vec::new());
        for (_, part) in slot.parts() {
            let all = contents(&part.buffer);
            let at = |offset: u64| &all[offset as usize..][..part.shape.bytes() as usize];
            let beside = if keeps_beside(storage) { at(beside_offset(&part)) } else { &[] };
            values.extend(part.shape.unpad(&storage.decode(at(part.offset), beside)));
            if storage == WeightStorage::Bf16Kahan {
                compensation.extend(part.shape.unpad(&part.shape.precision.decode(beside)));
            }
        }
        Ok((values, (storage == WeightStorage::Bf16Kahan).then_some(compensation)))
    }

    /// The very bits again that the values were made of which [`read`](Self::read) gave; as
    /// [`encode`](Self::encode), for a parameter. Storages without a compensation need none.
    /// `None` where the two do not belong together.
    pub(crate) fn encode_compensated(
        &self,
        name: &str,
        values: &[f32],
        compensation: &[f32],
    ) -> Result<Option<Vec<Encoded>>> {
        let slot = self.find(name)?;
        if self.storage_of(name) != WeightStorage::Bf16Kahan {
            return self.encode(name, values).map(Some);
        }
        // The sum was rounded to f32, far below the bf16 that is looked for.
        let weights: Vec<_> = values.iter().zip(compensation).map(|(v, c)| v - c).collect();
        let mut encoded = Vec::new();
        for (first, part) in slot.parts() {
            let (shape, elements) = (&part.shape, elements(&slot, first, &part));
            let encode =
                |dense: &[f32]| shape.precision.encode(&shape.pad(&dense[elements.clone()]));
            let [weights, beside] = [encode(&weights), encode(compensation)];
            let stored = shape.unpad(&WeightStorage::Bf16Kahan.decode(&weights, &beside));
            if stored != values[elements] {
                return Ok(None);
            }
            let beside_at = beside_offset(&part);
            encoded.push((part.buffer.clone(), part.offset, weights));
            encoded.push((part.buffer, beside_at, beside));
        }
        Ok(Some(encoded))
    }

    /// States are f32.
    fn storage_of(&self, name: &str) -> WeightStorage {
        match self.position(name) {
            Some(_) => self.layout.storage,
            None => WeightStorage::F32,
        }
    }

    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.layout.specs.iter().position(|spec| spec.name == name)
    }

    /// Writes a parameter or state, dense, row-major. The storage keeps of a parameter what it can;
    /// [`read`](Self::read) gives that back. On an error nothing is written.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::InputSize`], and [`Error::NonFinite`] for NaN or Inf, and
    /// for what the storage would make Inf of.
    pub fn write(&self, name: &str, data: &[f32]) -> Result<()> {
        for (buffer, offset, bytes) in self.encode(name, data)? {
            self.gpu.write(&buffer, offset, &bytes);
        }
        Ok(())
    }

    /// What [`write`](Self::write) writes.
    pub(crate) fn encode(&self, name: &str, data: &[f32]) -> Result<Vec<Encoded>> {
        let slot = self.find(name)?;
        if data.len() != slot.shape.count() {
            return Err(Error::InputSize {
                name: name.to_owned(),
                expected: slot.shape.count(),
                actual: data.len(),
                shape: slot.shape.to_string(),
            });
        }
        if slot.shape.block_format().is_some() {
            let index = self.position(name).expect("a parameter");
            return self.encode_in_blocks(index, data);
        }
        let storage = self.storage_of(name);
        let mut encoded = Vec::new();
        for (first, part) in slot.parts() {
            let elements = elements(&slot, first, &part);
            let dense = &data[elements.clone()];
            let [weights, beside] = storage.encode(&part.shape.pad(dense));
            let stored = part.shape.unpad(&storage.decode(&weights, &beside));
            if let Some(index) = stored.iter().position(|x| !x.is_finite()) {
                return Err(Error::NonFinite {
                    what: format!("the new value of {name}"),
                    index: elements.start + index,
                    value: dense[index],
                    advice: "training cannot start from it; check where the values come from"
                        .into(),
                });
            }
            encoded.push((part.buffer.clone(), part.offset, weights));
            if !beside.is_empty() {
                encoded.push((part.buffer.clone(), beside_offset(&part), beside));
            }
        }
        Ok(encoded)
    }

    /// Reads a parameter or state, dense, row-major: of a parameter all that the storage knows, so
    /// the exact f32 of [`WeightStorage::Bf16Split`], weight and compensation together of
    /// [`WeightStorage::Bf16Kahan`], and the de-quantized numbers of blocks. Waits for the device.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::DeviceLost`].
    pub async fn read(&self, name: &str) -> Result<Vec<f32>> {
        let (slot, storage) = (self.find(name)?, self.storage_of(name));
        if slot.shape.block_format().is_some() {
            let (format, blocks) = self.read_blocks(name).await?;
            return Ok(format.decode(&blocks));
        }
        let mut values = Vec::with_capacity(slot.shape.count());
        for (_, part) in slot.parts() {
            let bytes = part.shape.bytes() as usize;
            let weights = self.gpu.read(&part.buffer, part.offset, bytes).await?;
            let beside = if keeps_beside(storage) {
                self.gpu.read(&part.buffer, beside_offset(&part), bytes).await?
            } else {
                Vec::new()
            };
            values.extend(part.shape.unpad(&storage.decode(&weights, &beside)));
        }
        Ok(values)
    }
}

pub(super) fn keeps_beside(storage: WeightStorage) -> bool {
    !matches!(storage, WeightStorage::F32 | WeightStorage::Bf16Stochastic)
}

/// The elements of a dense tensor in the part that begins with row `first`.
fn elements(whole: &Slot, first: usize, part: &Slot) -> Range<usize> {
    let start = first * (whole.shape.count() / whole.shape.dims[0]);
    start..start + part.shape.count()
}

/// Where what is kept beside the weights in a slot begins: as far into the second half of the
/// buffer.
pub(super) fn beside_offset(slot: &Slot) -> u64 {
    slot.buffer.size() / 2 + slot.offset
}

/// Reads one slot of values that are not u32, dense.
pub async fn read_slot(gpu: &Gpu, slot: &Slot) -> Result<Vec<f32>> {
    let mut values = Vec::with_capacity(slot.shape.count());
    for (_, part) in slot.parts() {
        let bytes = gpu.read(&part.buffer, part.offset, part.shape.bytes() as usize).await?;
        values.extend(part.shape.unpad(&part.shape.precision.decode(&bytes)));
    }
    Ok(values)
}
