//! Checkpoints without what is frozen: those of an adapter are small, beside whatever model.

use std::collections::BTreeSet;
use std::fmt;

use super::check::check_names;
use super::{Checkpoint, invalid, list};
use crate::error::Result;
use crate::plan::parameters::pieces;
use crate::train::{Model, Trainer};

/// What the frozen weights of a trainer are known again by: FNV-1a, 64 bits, over names, shapes and
/// all that the device holds of them, in blocks or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrozenFingerprint(String);

impl fmt::Display for FrozenFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// FNV-1a over words instead of bytes, whose state loses nothing either.
pub(in crate::train) struct Hash(u64);

impl Hash {
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub fn word(&mut self, word: u32) {
        self.0 = (self.0 ^ u64::from(word)).wrapping_mul(0x0100_0000_01b3);
    }

    fn text(&mut self, text: &str) {
        self.word(text.len() as u32);
        text.bytes().for_each(|byte| self.word(byte.into()));
    }

    /// 16 hexadecimal digits.
    pub fn digits(&self) -> String {
        format!("{:016x}", self.0)
    }
}

impl<M: Model> Trainer<M> {
    /// Reads all frozen weights once, some rows at a time. They stay as they are however many steps
    /// follow, so that one fingerprint serves a whole run.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub async fn fingerprint_of_frozen(&self) -> Result<FrozenFingerprint> {
        self.gpu.check()?;
        let mut hash = Hash::new();
        for (index, spec) in self.parameters.specs().iter().enumerate() {
            if spec.requires_grad {
                continue;
            }
            hash.text(&spec.name);
            spec.shape.dims.iter().for_each(|&size| hash.word(size as u32));
            if self.parameters.format_of(&spec.name).is_some() {
                let (format, blocks) = self.parameters.read_blocks(&spec.name).await?;
                hash.text(format.name());
                blocks.iter().for_each(|&byte| hash.word(byte.into()));
                continue;
            }
            for rows in pieces(&spec.shape, 0..spec.shape.dims[0]) {
                let values = self.parameters.read_rows(index, rows).await?;
                values.iter().for_each(|value| hash.word(value.to_bits()));
            }
        }
        Ok(FrozenFingerprint(hash.digits()))
    }

    /// As [`checkpoint`](Self::checkpoint), without the frozen weights: what an adapter of 10 MB
    /// takes to go on is 30 MB, whatever it adapts. `frozen` is
    /// [theirs](Self::fingerprint_of_frozen), and stands in the checkpoint.
    /// [`restore_trained`](Self::restore_trained) goes back to it.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint).
    pub async fn checkpoint_of_trained(&self, frozen: &FrozenFingerprint) -> Result<Checkpoint> {
        let frozen = Some(frozen.to_string());
        self.take_checkpoint("Trainer::checkpoint_of_trained", frozen).await
    }

    /// Goes back to a checkpoint of what is trained, in a trainer that has the same frozen weights
    /// already: [`restore`](Self::restore) in all else, bit by bit. `frozen` is the
    /// [fingerprint](Self::fingerprint_of_frozen) of the weights that are here. There is no
    /// [host snapshot](Self::host_snapshot) from then until the next one is taken.
    ///
    /// # Errors
    /// As [`restore`](Self::restore), and [`Error::Checkpoint`](crate::Error::Checkpoint) for one that
    /// has all weights, and where the frozen ones are others or are not the same tensors.
    pub async fn restore_trained(
        &mut self,
        checkpoint: &Checkpoint,
        frozen: &FrozenFingerprint,
    ) -> Result<()> {
        let Some(theirs) = &checkpoint.origin.frozen_fingerprint else {
            return Err(invalid("it has the frozen weights too; take Trainer::restore"));
        };
        let names = list(self.parameters.frozen().iter().map(|spec| spec.name.as_str()));
        check_names("frozen tensors", &checkpoint.origin.frozen, &names)?;
        if *theirs != frozen.0 {
            return Err(invalid(format!(
                "what it has was trained beside frozen weights with the fingerprint {theirs}, and \
                 those here have {frozen}; load the model that it was"
            )));
        }
        self.restore_all_of(checkpoint).await
    }
}

impl Checkpoint {
    /// Whether it has the frozen weights too.
    pub fn is_whole(&self) -> bool {
        self.origin.frozen_fingerprint.is_none()
    }

    pub(super) fn check_whole(&self) -> Result<()> {
        if self.is_whole() {
            return Ok(());
        }
        let reason = "it has no frozen weights, only what was trained; load those, and take \
                      Trainer::restore_trained";
        Err(invalid(reason))
    }

    /// The frozen parameters that are not in it.
    pub(super) fn left_out(&self) -> BTreeSet<&str> {
        let frozen = if self.is_whole() { "" } else { &self.origin.frozen };
        frozen.lines().collect()
    }
}
