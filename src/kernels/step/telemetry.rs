//! Records that a step leaves in rings: of the step, and of each tensor.

use crate::kernel::shared::{GRID, LANES_64, REDUCE, STEP_STATE, WEIGHT_F32, WIDE};
use crate::kernel::{Fragment, grid};
use crate::{kernel, wgsl};

/// `join_largest`, `join_sums` of update partials; wants [`STEP_STATE`] and [`REDUCE`].
pub const UPDATE_PARTIAL: Fragment = wgsl!("../../../shaders/step/shared/update_partial.wgsl");

kernel! {
    /// Records the step in the ring.
    pub Telemetry = [STEP_STATE, wgsl!("../../../shaders/step/telemetry.wgsl")];
    workgroup [1, 1, 1];
    grid |_params| [1, 1, 1];
    uniform TelemetryParams {
        /// Records in the ring.
        capacity: u32,
    }
    buffers {
        /// (1) [`StepInput`](crate::step::StepInput)
        Read input,
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (1) f32
        Read loss,
        /// (capacity) [`TelemetryRecord`](crate::step::TelemetryRecord), one overwritten.
        Write ring,
    }
}

kernel! {
    /// What gradient, weights and their change hold in each chunk, after an update.
    pub UpdateScan = [
        STEP_STATE, GRID, WEIGHT_F32, WIDE, LANES_64, REDUCE, UPDATE_PARTIAL,
        wgsl!("../../../shaders/step/update_scan.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform UpdateScanParams {
        /// Rows of the chunk table.
        chunk_count: u32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (chunk_count) [`Chunk`](crate::step::Chunk)
        Read chunks,
        /// (tensors) [`TensorState`](crate::step::TensorState)
        Read tensors,
        /// Flat f32 gradient in quads, still scaled and not clipped.
        Read gradient,
        /// Flat f32 weights before the update, as [`LoadWeights`](crate::kernels::LoadWeights)
        /// gives them.
        Read old,
        /// Flat weights after it, in the optimizer's storage; they are only read.
        Write weight,
        /// (chunk_count) [`UpdatePartial`](crate::step::UpdatePartial), overwritten.
        Write partials,
    }
}

kernel! {
    /// What the chunks of each tensor held together, into a ring.
    pub TensorTelemetry = [
        STEP_STATE, GRID, WIDE, LANES_64, REDUCE, UPDATE_PARTIAL,
        wgsl!("../../../shaders/step/tensor_telemetry.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.tensor_count);
    uniform TensorTelemetryParams {
        /// Tensors.
        tensor_count: u32,
        /// Steps between two records.
        every: u32,
        /// Records of each tensor in the ring.
        capacity: u32,
    }
    buffers {
        /// (1) [`StepInput`](crate::step::StepInput)
        Read input,
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (tensor_count) [`Segment`](crate::kernels::Segment): the chunks of each tensor.
        Read segments,
        /// [`UpdatePartial`](crate::step::UpdatePartial) of each chunk
        Read partials,
        /// (tensor_count): see
        /// [`Optimizer::record_eps_shares`](crate::train::Optimizer::record_eps_shares).
        Read eps_shares,
        /// (capacity, tensor_count) [`TensorRecord`](crate::step::TensorRecord), a row overwritten.
        Write ring,
    }
}
