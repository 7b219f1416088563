//! Optimizers: each a [`Rule`], its settings, and the moments it keeps. What is the same for all
//! stands in one frame around the rules' kernels, and rules know nothing of clipping, loss scaling
//! or skipping, so any of them composes with any policy.
//!
//! What each keeps, in bytes per parameter beside weight and gradient (4 each), and when to take
//! it:
//!
//! | | bytes | |
//! |---|---|---|
//! | [`AdamW`] | 8 | the default for transformers |
//! | [`AdamW`] with `amsgrad`, [`Adam`] with `amsgrad` | 12 | where step sizes must not grow again |
//! | [`Adam`] | 8 | with a penalty in the gradient, to compare with older results |
//! | [`StableAdamW`] | 8 | loss spikes after gradients grow suddenly |
//! | [`AdamAtan2`] | 8 | gradients of very different sizes: there is no eps to tune |
//! | [`Lion`] | 4 | less memory; large batches |
//! | [`Adafactor`] | about 0 | the least memory; sizes its steps by the weights |
//! | [`Muon`] | 4, and 8 for what is not a hidden matrix | the fewest steps; some more arithmetic |
//! | [`Sgd`] | 4, and 0 without momentum | convolutional networks |
//!
//! [`CompactMoments`] are AdamW, Adam and Lion with moments in bf16 (half of that) or 8 bits (a
//! quarter).
//!
//! # eps in low precision
//!
//! Gradients of parameters, moments and eps are f32 whatever the
//! [`Precision`](crate::Precision) of activations, and gradients are unscaled in f32 before they
//! enter a moment. So eps is never rounded to zero, as 1e-8 would be in f16, and second moments
//! below f16's range (gradients under 2.4e-4) count. Two limits remain. Where the root of the
//! second moment is below eps, an update is smaller than its gradient asks for, and a large model
//! late in training can come to a halt in the layers with the smallest gradients (Wortsman et al.
//! 2023, <https://arxiv.org/abs/2309.14322>, use 1e-15). And squares of gradients under 1e-19
//! vanish in f32, so an eps below that is the same as none. [`Optimizer::record_eps_shares`] tells
//! how large a share of each tensor is below.
//!
//! # Your own
//!
//! [`update_rule!`](crate::update_rule!) declares the kernel of a rule, a few lines of WGSL, and an
//! [`Optimizer`] describes it: `tests/custom_optimizer.rs` of the repository is one from end to end.

mod adafactor;
mod adam;
mod adam_atan2;
mod adamw;
mod compact;
mod lion;
mod muon;
mod rule;
mod sgd;
mod stable_adamw;
mod tensor_means;

use std::fmt::Debug;
use std::ops::Range;
use std::rc::Rc;

pub use adafactor::Adafactor;
pub use adam::Adam;
pub use adam_atan2::AdamAtan2;
pub use adamw::AdamW;
pub use compact::CompactMoments;
pub use lion::Lion;
pub use muon::{Muon, MuonScale, is_hidden_matrix};
pub use rule::Rule;
pub use sgd::Sgd;
pub use stable_adamw::StableAdamW;

use crate::error::{Error, Result};
use crate::graph::{ParameterSpec, Shape};
use crate::kernel::MomentStorage;
use crate::kernels::CHUNK_QUADS;
use crate::plan::ParameterLayout;
use crate::plan::parts::rows_of;
use crate::record::{Recorder, to_u32};

/// One tensor of a segment, or some rows of one that no binding holds.
#[derive(Clone, Copy, Debug)]
pub struct SegmentTensor<'a> {
    /// Its name and shape, as a whole.
    pub spec: &'a ParameterSpec,
    /// Which entry of its first dimension is the first here: 0, unless it lies in parts.
    pub first_row: usize,
    /// How many of them lie here: all, unless it lies in parts.
    pub rows: usize,
    /// Its row of the tensor table.
    pub index: u32,
    /// Its first quad in the flat buffers of weights and gradients.
    pub offset: u32,
    /// Its first quad in buffers of moments that are laid out as the gradients are: that of `offset`,
    /// but where a [rank](crate::train::TrainerBuilder::shard_optimizer_state) keeps its own range
    /// alone.
    pub kept: u32,
    /// Its first row of the chunk table.
    pub first_chunk: u32,
    /// Rows of the chunk table.
    pub chunk_count: u32,
}

impl<'a> SegmentTensor<'a> {
    /// The tensors of one segment of the parameters, in the order of the layout.
    pub fn of_segment(parameters: &'a ParameterLayout, segment: usize) -> Vec<Self> {
        let mut first_chunk = 0;
        let mine = parameters.parts().filter(|part| part.location.segment == segment);
        mine.map(|part| {
            let spec = &parameters.specs()[part.tensor];
            let offset = to_u32((part.location.offset / 16) as usize);
            let tensor = Self::part(spec, &part.rows, to_u32(part.tensor), offset, first_chunk);
            first_chunk += tensor.chunk_count;
            tensor
        })
        .collect()
    }

    /// A tensor at this quad whose chunks, as [`chunks`](crate::kernels::chunks) makes them, begin
    /// at `first_chunk`.
    pub fn new(spec: &'a ParameterSpec, index: u32, offset: u32, first_chunk: u32) -> Self {
        Self::part(spec, &(0..spec.shape.dims[0]), index, offset, first_chunk)
    }

    fn part(
        spec: &'a ParameterSpec,
        rows: &Range<usize>,
        index: u32,
        offset: u32,
        first_chunk: u32,
    ) -> Self {
        let (first_row, rows) = (rows.start, rows.len());
        let (kept, chunk_count) = (offset, 0);
        let tensor = Self { spec, first_row, rows, index, offset, kept, first_chunk, chunk_count };
        Self { chunk_count: tensor.quads().div_ceil(CHUNK_QUADS), ..tensor }
    }

    /// Those of its rows that lie in these quads of the flat buffers, which end with rows, and whose
    /// moments lie in buffers of their own; its first chunk is unknown.
    pub(in crate::train) fn within(&self, quads: &Range<u32>) -> Option<Self> {
        let first = self.offset.max(quads.start);
        let end = (self.offset + self.quads()).min(quads.end);
        if first >= end {
            return None;
        }
        let rows = if end - first == self.quads() {
            self.first_row..self.first_row + self.rows
        } else {
            let row_quads = self.quads() / to_u32(self.rows);
            let row = |quad: u32| self.first_row + ((quad - self.offset) / row_quads) as usize;
            row(first)..row(end)
        };
        let mine = Self::part(self.spec, &rows, self.index, first, 0);
        Some(Self { kept: first - quads.start, ..mine })
    }

    /// The shape of what lies here: that of the tensor, or of some of its rows.
    pub fn shape(&self) -> Shape {
        rows_of(&self.spec.shape, self.rows)
    }

    /// Quads, padding included.
    pub fn quads(&self) -> u32 {
        to_u32(self.shape().quads())
    }
}

/// What an optimizer keeps of one tensor in one buffer, in its [`MomentStorage`]: numbers of this
/// shape.
#[derive(Clone, Debug, PartialEq)]
pub struct MomentShare {
    /// Index among the tensors of the segment.
    pub tensor: usize,
    /// First quad in the buffer; rows are padded to quads.
    pub first: u32,
    /// Its shape.
    pub shape: Shape,
}

/// Bytes of a flat buffer of f32 for the moments of these tensors: where they are all of a segment,
/// those of the gradients.
fn flat_bytes(tensors: &[SegmentTensor<'_>]) -> u64 {
    let end = tensors.iter().map(|tensor| tensor.kept + tensor.quads()).max().unwrap_or(0);
    (u64::from(end) * 16).next_multiple_of(512)
}

/// The flat buffers of one segment of the parameters, as an optimizer sees them.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// [`Chunk`](crate::step::Chunk)s: which workgroup owns which quads.
    pub chunks: &'a wgpu::Buffer,
    /// Number of chunks.
    pub chunk_count: u32,
    /// [`TensorSettings`](crate::step::TensorSettings) by tensor.
    pub tensors: &'a wgpu::Buffer,
    /// Gradients, read.
    pub gradient: &'a wgpu::Buffer,
    /// Weights, updated in place.
    pub weight: &'a wgpu::Buffer,
    /// Moments, updated in place; as many as [`Optimizer::moments`] names.
    pub moments: &'a [wgpu::Buffer],
    /// The tensors of the segment that are to be advanced, in the order of the layout; where a rank
    /// keeps its own range alone, those of it. Chunks are theirs.
    pub layout: &'a [SegmentTensor<'a>],
}

/// What turns gradients into new weights: a [`Rule`], its settings, and the moments it keeps.
pub trait Optimizer: Debug {
    /// Name for messages and checkpoints.
    fn name(&self) -> &'static str;

    /// The base learning rate, which the schedule multiplies.
    fn learning_rate(&self) -> f64;

    /// Names of the buffers that the optimizer keeps.
    fn moments(&self) -> &'static [&'static str];

    /// Which of these are sums or means of squares: a checkpoint with a number below 0 in one is
    /// refused.
    fn squares(&self) -> &'static [&'static str] {
        &[]
    }

    /// Where each tensor of a segment has its share of each of the buffers, by buffer; a tensor of
    /// which nothing is kept in one has none there. Checkpoints hold the shares under the names of
    /// the tensors, so that a run goes on where segments are others; those of a tensor
    /// [in parts](Self::takes_parts) are joined by their first dimension. The default is that of buffers
    /// that are laid out as the gradients are, from [`SegmentTensor::kept`] on.
    fn moment_shares(&self, tensors: &[SegmentTensor<'_>]) -> Vec<Vec<MomentShare>> {
        let shares = tensors.iter().enumerate().map(|(index, tensor)| MomentShare {
            tensor: index,
            first: tensor.kept,
            shape: tensor.shape(),
        });
        vec![shares.collect(); self.moments().len()]
    }

    /// How the buffers hold numbers; f32 by default. Checkpoints have them in f32.
    fn moment_storage(&self) -> MomentStorage {
        MomentStorage::F32
    }

    /// The same optimizer with its buffers in another storage; `None`, the default, where it cannot
    /// hold them so.
    fn in_storage(&self, storage: MomentStorage) -> Option<Rc<dyn Optimizer>> {
        let _ = storage;
        None
    }

    /// Bytes of each of these buffers for a segment of the parameters. The default is one f32 per
    /// parameter, laid out as the gradients are; [`moment_shares`](Self::moment_shares) tells of
    /// another layout.
    fn moment_bytes(&self, tensors: &[SegmentTensor<'_>]) -> Vec<u64> {
        vec![flat_bytes(tensors); self.moments().len()]
    }

    /// Bytes of what the optimizer has in hand within the update of a segment, but for what is small;
    /// none by default.
    fn scratch_bytes(&self, tensors: &[SegmentTensor<'_>]) -> u64 {
        let _ = tensors;
        0
    }

    /// The update of one segment. What it has to know of whole tensors, passes recorded here find in
    /// front of it. Nothing that the optimizer keeps and no weight may change unless the verdict is
    /// to apply the step, and what it keeps of a tensor counts as empty where
    /// [`TensorState::steps`](crate::step::TensorState::steps) is 1.
    fn rule(&self, recorder: &mut Recorder<'_>, segment: &Segment<'_>) -> Rule;

    /// Decay rates of the first and second moment, for the bias corrections; 0, the default, where
    /// there is none.
    fn betas(&self) -> [f64; 2] {
        [0.0, 0.0]
    }

    /// What is added to the root of the second moment, if anything is; that is the last of the
    /// moments.
    fn eps(&self) -> Option<f64> {
        None
    }

    /// Checks the settings; the default the learning rate.
    ///
    /// # Errors
    /// [`Error::Setting`] names the one that is out of range.
    fn validate(&self) -> Result<()> {
        check_not_negative("learning_rate", self.learning_rate())
    }

    /// Records the update of one segment: passes and [`rule`](Self::rule).
    fn record(&self, recorder: &mut Recorder<'_>, segment: &Segment<'_>) {
        self.rule(recorder, segment).record(recorder, segment);
    }

    /// Whether the update of some rows of this tensor needs nothing of its other rows. A tensor that
    /// no binding of the device holds lies in parts, in several segments, and
    /// [`record`](Self::record) sees them one by one; where the answer is no, as it is by default,
    /// the trainer refuses to train such a tensor.
    fn takes_parts(&self, spec: &ParameterSpec) -> bool {
        let _ = spec;
        false
    }

    /// Records a look at the second moments, after the update: `shares`, an f32 per tensor of the
    /// tensor table, receives the share of elements whose corrected root is below
    /// [`eps`](Self::eps), in the rows of this segment's tensors. False, with nothing recorded, for
    /// an optimizer without eps. Rows of tensors that have none are left alone.
    fn record_eps_shares(
        &self,
        recorder: &mut Recorder<'_>,
        segment: &Segment<'_>,
        shares: &wgpu::Buffer,
    ) -> bool {
        let (Some(eps), Some(second)) = (self.eps(), segment.moments.last()) else { return false };
        tensor_means::record_eps_shares(recorder, segment, second, eps, shares);
        true
    }
}

/// beta1, 1 - beta1, beta2, 1 - beta2, each rounded once.
fn rounded(betas: [f64; 2]) -> [f32; 4] {
    let [beta1, beta2] = betas;
    [beta1, 1.0 - beta1, beta2, 1.0 - beta2].map(|rate| rate as f32)
}

fn check_rates(learning_rate: f64, [beta1, beta2]: [f64; 2]) -> Result<()> {
    check_not_negative("learning_rate", learning_rate)?;
    check_decay_rate("beta1", beta1)?;
    check_decay_rate("beta2", beta2)
}

/// Fails unless `low <= value < high`.
fn check(
    setting: &'static str,
    value: f64,
    low: f64,
    high: f64,
    range: &'static str,
) -> Result<()> {
    if value >= low && value < high {
        return Ok(());
    }
    Err(Error::Setting { setting, value: value.to_string(), range })
}

fn check_not_negative(setting: &'static str, value: f64) -> Result<()> {
    check(setting, value, 0.0, f64::from(f32::MAX), "finite and not negative in f32")
}

fn check_positive(setting: &'static str, value: f64) -> Result<()> {
    let smallest = f64::from(f32::MIN_POSITIVE);
    check(setting, value, smallest, f64::from(f32::MAX), "finite and greater than 0 in f32")
}

fn check_decay_rate(setting: &'static str, value: f64) -> Result<()> {
    check(setting, value, 0.0, 1.0, "in [0, 1)")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The setting that a bad value is reported for.
    fn refused(optimizer: impl Optimizer) -> String {
        match optimizer.validate() {
            Err(Error::Setting { setting, .. }) => setting.to_owned(),
            other => panic!("{optimizer:?}: {other:?}"),
        }
    }

    #[test]
    fn defaults_are_valid() {
        let all: [&dyn Optimizer; 8] = [
            &AdamW::default(),
            &Adam::default(),
            &StableAdamW::default(),
            &AdamAtan2::default(),
            &Lion::default(),
            &Adafactor::default(),
            &Muon::default(),
            &Sgd::default(),
        ];
        for optimizer in all {
            optimizer.validate().expect("valid");
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let nan = f64::NAN;
        let both = AdamW { amsgrad: true, cautious: true, ..AdamW::default() };
        assert_eq!(refused(both), "cautious");
        assert_eq!(refused(StableAdamW { eps: -1.0, ..Default::default() }), "eps");
        assert_eq!(refused(StableAdamW { betas: [0.9, 1.0], ..Default::default() }), "beta2");
        for (a, b, setting) in [(0.0, 1.0, "a"), (1.0, 0.0, "b"), (nan, 1.0, "a"), (1.0, -1.0, "b")]
        {
            assert_eq!(refused(AdamAtan2 { a, b, ..Default::default() }), setting);
        }
        assert_eq!(refused(Lion { betas: [1.0, 0.9], ..Default::default() }), "beta1");
        assert_eq!(refused(Lion { learning_rate: nan, ..Default::default() }), "learning_rate");
        for beta2_decay in [0.1, -1.1, nan] {
            assert_eq!(refused(Adafactor { beta2_decay, ..Default::default() }), "beta2_decay");
        }
        assert_eq!(refused(Adafactor { eps: [-1.0, 0.0], ..Default::default() }), "eps1");
        assert_eq!(refused(Adafactor { eps: [0.0, nan], ..Default::default() }), "eps2");
        let adafactor = Adafactor { clip_threshold: 0.0, ..Default::default() };
        assert_eq!(refused(adafactor), "clip_threshold");
        // The ratio of both learning rates would not exist.
        assert_eq!(refused(Muon { learning_rate: 0.0, ..Default::default() }), "learning_rate");
        assert_eq!(refused(Muon { momentum: 1.0, ..Default::default() }), "momentum");
        let adamw = AdamW { cautious_decay: true, ..AdamW::default() };
        assert_eq!(refused(Muon { adamw, ..Default::default() }), "adamw");
        let adamw = AdamW { eps: nan, ..AdamW::default() };
        assert_eq!(refused(Muon { adamw, ..Default::default() }), "eps");
    }
}
