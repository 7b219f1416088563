//! Training: a model, an optimizer and the rules that keep a run stable, replayed step by step.
//!
//! [`Trainer::step`] writes the batch, encodes the recorded dispatches and submits them once; it
//! reads nothing back. Whether the step counted was decided on the device by one verdict, and
//! [`Trainer::telemetry`] tells about it some steps later. [`Predictor`] runs a graph forward
//! only.

mod average;
mod batch;
mod builder;
mod checkpoint;
mod chunk_tables;
mod clip;
mod diagnose;
mod evaluation;
mod host_copy;
mod host_snapshot;
mod lengths;
mod loss_scale;
mod memory;
mod model;
mod norm;
pub mod optimizers;
mod plans;
mod predictor;
mod profile;
pub mod ranks;
mod readback;
mod rebuild;
mod report;
mod schedule;
mod sequence;
pub mod stability;
mod telemetry;
mod tensor_rules;
mod tensor_telemetry;
mod trainer;
mod update;

pub use average::Ema;
pub use batch::{Batch, Data};
pub use builder::TrainerBuilder;
pub use checkpoint::{Checkpoint, FrozenFingerprint};
pub use clip::{Clip, ELEMENT_GUARD};
pub use diagnose::{Diagnosis, ValueKind, ValueReport};
pub use lengths::Lengths;
pub use loss_scale::{DynamicLossScale, LossScale, Refill};
pub(crate) use memory::Variation;
pub use memory::{HostMemory, MemoryPlan};
pub use model::{Model, ModelOutput};
pub use norm::Norm;
pub use optimizers::{
    Adafactor, Adam, AdamAtan2, AdamW, Lion, Muon, MuonScale, Optimizer, Sgd, StableAdamW,
};
pub use predictor::Predictor;
pub use profile::{Profile, ProfileRow, ProfiledDispatch};
pub use report::TrainerReport;
pub use schedule::{DecayShape, Schedule};
pub use stability::{
    AdaGc, AdaptiveGradientClip, AutoClip, ClipBlockRms, ClipPerTensor, Policy, Reaction,
    SnapshotRing, SpikeGuard, ZClip, ZClipBound,
};
pub use telemetry::Telemetry;
use telemetry::TelemetryRing;
pub use tensor_telemetry::{TensorTelemetry, group_norms};
pub use trainer::Trainer;

pub use crate::kernels::IGNORE;
