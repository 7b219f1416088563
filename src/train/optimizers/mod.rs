//! Optimizers: each a kernel and the settings it takes. They read the step's state and know
//! nothing of clipping, loss scaling or skipping, so any of them composes with any policy.

mod adam;
mod adamw;
mod sgd;

use std::fmt::Debug;

pub use adam::Adam;
pub use adamw::AdamW;
pub use sgd::Sgd;

use crate::error::{Error, Result};
use crate::graph::ParameterSpec;
use crate::plan::{Parameters, Recorder, to_u32};

/// One tensor of a segment.
#[derive(Clone, Copy, Debug)]
pub struct SegmentTensor<'a> {
    /// Its name and shape.
    pub spec: &'a ParameterSpec,
    /// Its first quad in the flat buffers.
    pub offset: u32,
}

impl<'a> SegmentTensor<'a> {
    /// The tensors of one segment of the parameters, in the order of the layout.
    pub fn of_segment(parameters: &'a Parameters, segment: usize) -> Vec<Self> {
        let tensors = parameters.specs().iter().zip(parameters.locations());
        let mine = tensors.filter(|(_, location)| location.segment == segment);
        let tensor = |(spec, location): (_, &crate::plan::parameters::Location)| Self {
            spec,
            offset: to_u32((location.offset / 16) as usize),
        };
        mine.map(tensor).collect()
    }
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
    /// The tensors of the segment, in the order of the layout.
    pub layout: &'a [SegmentTensor<'a>],
}

/// A rule that turns gradients into new weights.
pub trait Optimizer: Debug {
    /// Names of the buffers that the optimizer keeps per parameter.
    fn moments(&self) -> &'static [&'static str];

    /// The base learning rate, which the schedule multiplies.
    fn learning_rate(&self) -> f64;

    /// Decay rates of the first and second moment, for the bias corrections; 0 where there is
    /// none.
    fn betas(&self) -> [f64; 2];

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Setting`] names the one that is out of range.
    fn validate(&self) -> Result<()>;

    /// Records the update of one segment.
    fn record(&self, recorder: &mut Recorder<'_>, segment: &Segment<'_>);
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

fn check_decay_rate(setting: &'static str, value: f64) -> Result<()> {
    check(setting, value, 0.0, 1.0, "in [0, 1)")
}
