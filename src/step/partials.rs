//! What scans leave: a partial result per workgroup, and of each tensor a record.

use bytemuck::{Pod, Zeroable};

use super::device_struct::device_struct;

device_struct! {
    /// What one workgroup of the gradient scan found in its chunk.
    ScanPartial {
        /// Largest |g| of the chunk, as bits: the order of non-negative floats is that of their
        /// bits, with Inf and NaN on top.
        max_bits: u32,
        /// Sum of (|g| / 2^e)², where 2^e is the power of two at or below the largest |g|, at least
        /// 2^-126; 0 for a chunk of zeros, without meaning where an element is not finite.
        scaled_sum: f32,
        /// Elements that are NaN or Inf.
        nonfinite_count: u32,
        /// Elements that are zero.
        zero_count: u32,
    }
}

device_struct! {
    /// What one workgroup of a value scan found in its share.
    ValuePartial {
        /// Largest finite magnitude, as bits.
        max_bits: u32,
        /// Sum of (|x| / 2^e)² over finite elements, where 2^e is the power of two at or below the
        /// largest, at least 2^-126 and at most 2^126.
        scaled_sum: f32,
        /// Elements that are NaN or Inf.
        nonfinite_count: u32,
        /// Elements that are zero.
        zero_count: u32,
        /// Elements below the smallest normal number of their storage, but not zero.
        subnormal_count: u32,
        /// Index of the first element that is not finite, counted without padding; `u32::MAX` for
        /// none.
        first_nonfinite: u32,
        /// Sum, modulo 2^32, of the bits of the elements, each mixed with its index.
        checksum: u32,
    }
}

device_struct! {
    /// What one workgroup found in its chunk of gradient, weights and their change.
    UpdatePartial {
        /// Largest finite |g|, loss scale included, as bits.
        gradient_max_bits: u32,
        /// Sum of (|g| / 2^e)² over finite elements, where 2^e is the power of two at or below the
        /// largest, at least 2^-126 and at most 2^126. The sums below count likewise.
        gradient_sum: f32,
        /// Largest finite weight after the update, as bits.
        weight_max_bits: u32,
        /// Sum of squares of the weights.
        weight_sum: f32,
        /// Largest change of a weight, as bits.
        update_max_bits: u32,
        /// Sum of squares of the changes.
        update_sum: f32,
        /// Gradient elements that are NaN or Inf.
        nonfinite_count: u32,
        /// Gradient elements that are zero, padding included.
        zero_count: u32,
        /// Weights that did not change although their gradient is not zero.
        frozen_count: u32,
        /// Gradient elements that a clip by value cut.
        cut_count: u32,
    }
}

device_struct! {
    /// The same of a whole tensor in one step.
    TensorRecord {
        /// Number of the step.
        step: u32,
        /// Loss scale it ran with.
        loss_scale: f32,
        /// Largest finite |g|, loss scale included, as bits.
        gradient_max_bits: u32,
        /// Sum of (|g| / 2^e)² over finite elements, where 2^e is the power of two at or below the
        /// largest, at least 2^-126 and at most 2^126. The sums below count likewise.
        gradient_sum: f32,
        /// Largest finite weight after the update, as bits.
        weight_max_bits: u32,
        /// Sum of squares of the weights.
        weight_sum: f32,
        /// Largest change of a weight, as bits.
        update_max_bits: u32,
        /// Sum of squares of the changes.
        update_sum: f32,
        /// Gradient elements that are NaN or Inf.
        nonfinite_count: u32,
        /// Gradient elements that are zero, padding included.
        zero_count: u32,
        /// Weights that did not change although their gradient is not zero.
        frozen_count: u32,
        /// Gradient elements that a clip by value cut.
        cut_count: u32,
        /// Share of elements whose second moment has a root below eps; below 0 where unknown.
        eps_share: f32,
    }
}
