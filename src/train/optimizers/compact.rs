//! Optimizers whose moments take fewer bits.

use std::rc::Rc;

use super::{Adam, AdamW, Lion, Optimizer, Rule, Segment, SegmentTensor, flat_bytes, rounded};
use crate::error::{Error, Result};
use crate::graph::ParameterSpec;
use crate::kernel::MomentStorage;
use crate::kernels::{
    AdamBf16Params, AdamBlocksParams, AdamwBf16Params, AdamwBlocksParams, LionBf16Params,
    LionBlocksParams,
};
use crate::record::Recorder;

/// [`AdamW`], [`Adam`] or [`Lion`] with [moments in fewer bits](MomentStorage), made by
/// [`AdamW::with_moments`] and its like.
///
/// Steps are those of moments that are rounded after each: with 8 bits, an element of the smallest
/// gradients of its block moves less than its gradient asks for. Not together with `amsgrad`,
/// `cautious` and `cautious_decay`, and the share of elements below eps is not measured.
///
/// | bytes per parameter | f32 | bf16 | 8 bits |
/// |---|---|---|---|
/// | AdamW, Adam | 8 | 4 | 2.03 |
/// | Lion | 4 | 2 | 1.02 |
///
/// ```
/// use evenkeel::kernel::MomentStorage;
/// use evenkeel::train::{AdamW, Optimizer};
///
/// let optimizer = AdamW::default().with_moments(MomentStorage::Blocks8);
/// assert_eq!(optimizer.name(), "AdamW"); // its checkpoints are those of AdamW
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CompactMoments {
    optimizer: Inner,
    storage: MomentStorage,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Inner {
    AdamW(AdamW),
    Adam(Adam),
    Lion(Lion),
}

impl AdamW {
    /// With moments held so.
    #[must_use]
    pub fn with_moments(self, storage: MomentStorage) -> CompactMoments {
        CompactMoments { optimizer: Inner::AdamW(self), storage }
    }
}

impl Adam {
    /// With moments held so.
    #[must_use]
    pub fn with_moments(self, storage: MomentStorage) -> CompactMoments {
        CompactMoments { optimizer: Inner::Adam(self), storage }
    }
}

impl Lion {
    /// With a momentum held so.
    #[must_use]
    pub fn with_moments(self, storage: MomentStorage) -> CompactMoments {
        CompactMoments { optimizer: Inner::Lion(self), storage }
    }
}

/// The parameters of a rule, whose fields are those of the others.
macro_rules! params {
    ($Params:ident, $optimizer:ident, $segment:ident $(, $field:ident)?) => {{
        let [beta1, one_minus_beta1, beta2, one_minus_beta2] = rounded($optimizer.betas);
        Rule::new($Params {
            chunk_count: $segment.chunk_count,
            weight_decay: $optimizer.weight_decay as f32,
            beta1,
            one_minus_beta1,
            beta2,
            one_minus_beta2,
            $($field: $optimizer.$field as f32,)?
        })
    }};
}

impl CompactMoments {
    fn inner(&self) -> &dyn Optimizer {
        match &self.optimizer {
            Inner::AdamW(adamw) => adamw,
            Inner::Adam(adam) => adam,
            Inner::Lion(lion) => lion,
        }
    }

    /// These, where there are rules for them.
    pub(super) fn valid(self) -> Option<Rc<dyn Optimizer>> {
        self.validate().is_ok().then(|| Rc::new(self) as Rc<dyn Optimizer>)
    }

    /// What of the settings no rule over fewer bits has.
    fn unsupported(&self) -> Option<&'static str> {
        let [amsgrad, cautious, cautious_decay] = match self.optimizer {
            Inner::AdamW(o) => [o.amsgrad, o.cautious, o.cautious_decay],
            Inner::Adam(o) => [o.amsgrad, false, false],
            Inner::Lion(o) => [false, o.cautious, o.cautious_decay],
        };
        let names = ["amsgrad", "cautious", "cautious_decay"];
        let set = names.into_iter().zip([amsgrad, cautious, cautious_decay]);
        set.filter(|&(_, is_set)| is_set).map(|(name, _)| name).next()
    }
}

impl Optimizer for CompactMoments {
    fn name(&self) -> &'static str {
        self.inner().name()
    }

    fn learning_rate(&self) -> f64 {
        self.inner().learning_rate()
    }

    fn moments(&self) -> &'static [&'static str] {
        self.inner().moments()
    }

    fn squares(&self) -> &'static [&'static str] {
        self.inner().squares()
    }

    fn moment_storage(&self) -> MomentStorage {
        self.storage
    }

    fn in_storage(&self, storage: MomentStorage) -> Option<Rc<dyn Optimizer>> {
        Self { storage, ..*self }.valid()
    }

    fn moment_bytes(&self, tensors: &[SegmentTensor<'_>]) -> Vec<u64> {
        let chunks = tensors.last().map_or(0, |last| last.first_chunk + last.chunk_count);
        let quads = flat_bytes(tensors) / MomentStorage::F32.quad_bytes();
        let bytes = self.storage.scale_bytes(chunks) + quads * self.storage.quad_bytes();
        vec![bytes; self.moments().len()]
    }

    fn betas(&self) -> [f64; 2] {
        self.inner().betas()
    }

    fn eps(&self) -> Option<f64> {
        self.inner().eps()
    }

    fn validate(&self) -> Result<()> {
        self.inner().validate()?;
        match self.unsupported().filter(|_| self.storage != MomentStorage::F32) {
            None => Ok(()),
            Some(setting) => Err(Error::Setting {
                setting,
                value: format!("true with moments in {}", self.storage),
                range: "used with moments in f32",
            }),
        }
    }

    fn takes_parts(&self, spec: &ParameterSpec) -> bool {
        self.inner().takes_parts(spec)
    }

    fn rule(&self, recorder: &mut Recorder<'_>, segment: &Segment<'_>) -> Rule {
        match (self.storage, self.optimizer) {
            (MomentStorage::F32, _) => self.inner().rule(recorder, segment),
            (MomentStorage::Bf16, Inner::AdamW(o)) => params!(AdamwBf16Params, o, segment, eps),
            (MomentStorage::Bf16, Inner::Adam(o)) => params!(AdamBf16Params, o, segment, eps),
            (MomentStorage::Bf16, Inner::Lion(o)) => params!(LionBf16Params, o, segment),
            (MomentStorage::Blocks8, Inner::AdamW(o)) => {
                params!(AdamwBlocksParams, o, segment, eps)
            }
            (MomentStorage::Blocks8, Inner::Adam(o)) => params!(AdamBlocksParams, o, segment, eps),
            (MomentStorage::Blocks8, Inner::Lion(o)) => params!(LionBlocksParams, o, segment),
        }
    }

    fn record_eps_shares(
        &self,
        recorder: &mut Recorder<'_>,
        segment: &Segment<'_>,
        shares: &wgpu::Buffer,
    ) -> bool {
        self.storage == MomentStorage::F32
            && self.inner().record_eps_shares(recorder, segment, shares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_rule_has_is_refused() {
        let adamw = AdamW::default();
        for (optimizer, setting) in [
            (AdamW { amsgrad: true, ..adamw }, "amsgrad"),
            (AdamW { cautious: true, ..adamw }, "cautious"),
            (AdamW { cautious_decay: true, ..adamw }, "cautious_decay"),
            (AdamW { eps: f64::NAN, ..adamw }, "eps"),
        ] {
            for storage in [MomentStorage::Bf16, MomentStorage::Blocks8] {
                let error = optimizer.with_moments(storage).validate().expect_err(setting);
                assert!(error.to_string().contains(setting), "{error}");
            }
            let single = optimizer.with_moments(MomentStorage::F32);
            assert_eq!(single.validate().is_ok(), setting != "eps");
        }
        for storage in MomentStorage::ALL {
            adamw.with_moments(storage).validate().expect("valid");
            Adam::default().with_moments(storage).validate().expect("valid");
            Lion::default().with_moments(storage).validate().expect("valid");
        }
        let cautious = Lion { cautious: true, ..Lion::default() };
        assert!(cautious.with_moments(MomentStorage::Bf16).validate().is_err());
    }
}
