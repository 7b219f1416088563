//! Norms of gradients: exact ones, those of any power, and what they are of each tensor and of
//! each group of tensors.
//!
//! A scan ([`GradientScan`](super::GradientScan), [`GradientScanPower`], [`GradientScanExact`])
//! leaves one partial per [`Chunk`]. A fold ([`NormFold`], [`ExactFold`]) joins the partials of
//! each [`Segment`] and gives their norm; what it joined is a partial again, so the same kernel
//! folds chunks into tensors ([`tensor_segments`]), tensors into groups ([`group_segments`]) and
//! all of them into one. Exponents are integers, so no norm overflows or vanishes.

use bytemuck::{Pod, Zeroable};

use crate::kernel::shared::{GRID, OPEN_STEP, POWER, SCAN_FOLD, STEP_STATE, TENSOR_NORM, WIDE};
use crate::kernel::{Declaration, Fragment, Kernel, grid};
use crate::step::{Chunk, device_struct};
use crate::{kernel, wgsl};

/// `magnitude`, `survey`: a chunk's largest element and its counts; wants [`STEP_STATE`].
pub const CHUNK_SCAN: Fragment = wgsl!("../../shaders/norm/shared/chunk_scan.wgsl");
/// `combine` of scan partials of p-th powers; wants [`WIDE`], [`STEP_STATE`] and [`POWER`].
pub const POWER_PARTIAL: Fragment = wgsl!("../../shaders/norm/shared/power_partial.wgsl");
/// `ExactSum` and its carries.
pub const EXACT_SUM: Fragment = wgsl!("../../shaders/norm/shared/exact_sum.wgsl");
/// `root`: an exact sum's, to the nearest 24 bits; wants [`WIDE`] and [`EXACT_SUM`].
pub const EXACT_ROOT: Fragment = wgsl!("../../shaders/norm/shared/exact_root.wgsl");
/// `Segment` and `part_index`: which parts a fold joins.
pub const SEGMENT: Fragment = wgsl!("../../shaders/norm/shared/segment.wgsl");

/// Exponent of a [`TensorNorm`] where an element is not finite: above every norm that is.
pub const NONFINITE_EXPONENT: i32 = 1 << 20;

device_struct! {
    /// The sum of squares of f32 values as an integer, in units of 2^-298, which is the square of
    /// the smallest f32. Nothing is rounded, so neither the order of elements nor how they are
    /// divided matters: equal gradients have equal sums, bit by bit.
    ExactSum {
        /// 32 bits each, lowest first: 2^86 squares of the largest f32 fit.
        limbs: [u32; 20],
        /// Largest |g| as bits; see [`ScanPartial`](crate::step::ScanPartial).
        max_bits: u32,
        /// Elements that are NaN or Inf; they are not in the sum.
        nonfinite_count: u32,
        /// Elements that are zero.
        zero_count: u32,
        /// 0.
        padding: u32,
    }
}

device_struct! {
    /// The norm of a tensor, a group or everything: `significand * 2^exponent`, which may lie
    /// outside f32's range.
    TensorNorm {
        /// In [1, 2), or 0 for a norm of 0.
        significand: f32,
        /// [`NONFINITE_EXPONENT`] where an element is not finite; the significand is 1 then.
        exponent: i32,
        /// Largest |g| as bits; see [`ScanPartial`](crate::step::ScanPartial).
        max_bits: u32,
        /// Elements that are NaN or Inf.
        nonfinite_count: u32,
        /// Elements that are zero.
        zero_count: u32,
    }
}

device_struct! {
    /// Consecutive parts, or entries of a list of them, that a fold joins.
    Segment {
        /// The first one.
        first: u32,
        /// How many; 0 has a norm of 0.
        count: u32,
    }
}

impl TensorNorm {
    /// The norm; Inf where an element is not finite.
    pub fn value(&self) -> f64 {
        f64::from(self.significand) * 2f64.powi(self.exponent)
    }
}

/// The chunks of each of `tensors` tensors, in a table made by [`chunks`](super::chunks).
pub fn tensor_segments(chunks: &[Chunk], tensors: u32) -> Vec<Segment> {
    let mut segments = vec![Segment::default(); tensors as usize];
    let mut first = 0;
    for (tensor, segment) in (0..).zip(&mut segments) {
        let rest = &chunks[first as usize..];
        let count = rest.iter().take_while(|chunk| chunk.tensor == tensor).count() as u32;
        *segment = Segment { first, count };
        first += count;
    }
    segments
}

/// The tensors of each of `count` groups, for a fold with `indirect`: segments of a list of
/// members, and the list. `groups` gives each tensor's group.
///
/// # Panics
/// If a tensor's group is not below `count`.
pub fn group_segments(groups: &[u32], count: u32) -> (Vec<Segment>, Vec<u32>) {
    let mut members = Vec::with_capacity(groups.len());
    let mut segments = Vec::with_capacity(count as usize);
    for group in 0..count {
        let first = members.len() as u32;
        members.extend((0..).zip(groups).filter(|&(_, &g)| g == group).map(|(tensor, _)| tensor));
        segments.push(Segment { first, count: members.len() as u32 - first });
    }
    assert_eq!(members.len(), groups.len(), "a tensor's group is not below {count}");
    (segments, members)
}

kernel! {
    /// Largest magnitude, scaled sum of p-th powers and counts of each chunk of the gradient.
    ///
    /// Powers are 2^(p log2 |g|) by own polynomials, for p = 1 and p = 2 products. The relative
    /// error of a power x = (|g| / u)^p is at most (2 + p + |log2 x|) 2^-24; the norm divides it
    /// by p again and is right to 4e-7 + 1.2e-6 / p, for any p and any finite gradient.
    pub GradientScanPower = [
        STEP_STATE, GRID, WIDE, POWER, POWER_PARTIAL, SCAN_FOLD, CHUNK_SCAN,
        wgsl!("../../shaders/norm/gradient_scan_power.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform GradientScanPowerParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// Magnitudes with these bits or more count as overflow:
        /// [`OVERFLOW_NONFINITE`](super::OVERFLOW_NONFINITE) or
        /// [`OVERFLOW_LARGEST`](super::OVERFLOW_LARGEST).
        overflow_bits: u32,
        /// p > 0.
        power: f32,
    }
    buffers {
        /// (chunk_count) [`Chunk`]
        Read chunks,
        /// Flat gradient in quads; padding is zero.
        Read gradient,
        /// (chunk_count) [`ScanPartial`](crate::step::ScanPartial), overwritten. Sums count in
        /// units of u^p: for p = 1 and p = 2, u is 2^e as in a partial of
        /// [`GradientScan`](super::GradientScan), else the largest magnitude.
        Write partials,
    }
}

kernel! {
    /// The p-norm, or the largest magnitude, of each segment of partials: one workgroup each, in
    /// fixed order.
    ///
    /// Where an element is not finite the norm is that of [`NONFINITE_EXPONENT`].
    pub NormFold = [
        STEP_STATE, GRID, WIDE, POWER, POWER_PARTIAL, SCAN_FOLD, TENSOR_NORM,
        SEGMENT,
        wgsl!("../../shaders/norm/norm_fold.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.segment_count);
    uniform NormFoldParams {
        /// Segments.
        segment_count: u32,
        /// 0: a segment names consecutive partials. 1: it names entries of `members`.
        indirect: u32,
        /// 1: the norm is the largest magnitude. 0: the p-norm.
        largest: u32,
        /// p > 0, as the scan had it; 2 for partials of [`GradientScan`](super::GradientScan).
        power: f32,
    }
    buffers {
        /// (segment_count) [`Segment`]
        Read segments,
        /// Indices of partials; any buffer of 4 bytes or more if `indirect` is 0.
        Read members,
        /// [`ScanPartial`](crate::step::ScanPartial)
        Read partials,
        /// (segment_count) [`ScanPartial`](crate::step::ScanPartial), overwritten: the partial of
        /// each segment.
        Write sums,
        /// (segment_count) [`TensorNorm`], overwritten.
        Write norms,
    }
}

kernel! {
    /// The exact sum of squares of each chunk of the gradient, with its largest magnitude and
    /// counts. Integers only, so a sum has the same bits on every adapter.
    pub GradientScanExact = [
        STEP_STATE, GRID, WIDE, CHUNK_SCAN, EXACT_SUM,
        wgsl!("../../shaders/norm/gradient_scan_exact.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform GradientScanExactParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// Magnitudes with these bits or more count as overflow:
        /// [`OVERFLOW_NONFINITE`](super::OVERFLOW_NONFINITE) or
        /// [`OVERFLOW_LARGEST`](super::OVERFLOW_LARGEST).
        overflow_bits: u32,
    }
    buffers {
        /// (chunk_count) [`Chunk`]
        Read chunks,
        /// Flat gradient in quads; padding is zero.
        Read gradient,
        /// (chunk_count) [`ExactSum`], overwritten.
        Write partials,
    }
}

kernel! {
    /// The L2 norm of each segment of exact sums, correctly rounded: one workgroup each.
    ///
    /// The sum is exact for up to 2^32 - 1 parts, and the root is the nearest number of 24 bits,
    /// ties to even, found in integers: norms have the same bits on every adapter, for every
    /// order and division of the elements. Where an element is not finite the norm is that of
    /// [`NONFINITE_EXPONENT`]. Counts stay at their largest value where they would wrap.
    pub ExactFold = [
        GRID, WIDE, EXACT_SUM, EXACT_ROOT, TENSOR_NORM, SEGMENT,
        wgsl!("../../shaders/norm/exact_fold.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.segment_count);
    uniform ExactFoldParams {
        /// Segments.
        segment_count: u32,
        /// 0: a segment names consecutive parts. 1: it names entries of `members`.
        indirect: u32,
    }
    buffers {
        /// (segment_count) [`Segment`]
        Read segments,
        /// Indices of parts; any buffer of 4 bytes or more if `indirect` is 0.
        Read members,
        /// [`ExactSum`]
        Read parts,
        /// (segment_count) [`ExactSum`], overwritten: the sum of each segment.
        Write sums,
        /// (segment_count) [`TensorNorm`], overwritten.
        Write norms,
    }
}

kernel! {
    /// Opens the step with a norm that a fold has found.
    pub GlobalNorm = [
        STEP_STATE, WIDE, TENSOR_NORM, OPEN_STEP, wgsl!("../../shaders/norm/global_norm.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |_params| [1, 1, 1];
    uniform GlobalNormParams {
        /// Rows of the tensor table.
        tensor_count: u32,
        /// Norms above are clipped to it, unless a policy says less.
        max_norm: f32,
    }
    buffers {
        /// (1) [`TensorNorm`] of the whole gradient, loss scale included.
        Read norm,
        /// (tensor_count) [`TensorState`](crate::step::TensorState): clip coefficients are reset.
        Write tensors,
        /// (1) [`StepState`](crate::step::StepState): the fields of the step.
        Write state,
    }
}

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] = &[
    GradientScanPower::DECLARATION,
    NormFold::DECLARATION,
    GradientScanExact::DECLARATION,
    ExactFold::DECLARATION,
    GlobalNorm::DECLARATION,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::chunks;

    #[test]
    fn segments_name_the_chunks_of_each_tensor() {
        let lengths = [0, 5, 0, 0, 4096, 2049, 0];
        let chunks = chunks(lengths.map(|length| (0, length)));
        let segments = tensor_segments(&chunks, lengths.len() as u32);
        let expected = [(0, 0), (0, 1), (1, 0), (1, 0), (1, 2), (3, 2), (5, 0)];
        assert_eq!(segments, expected.map(|(first, count)| Segment { first, count }));
        assert_eq!(tensor_segments(&[], 2), [Segment::default(); 2]);
    }

    #[test]
    fn groups_list_their_tensors_in_order() {
        let (segments, members) = group_segments(&[2, 0, 2, 0, 2], 4);
        assert_eq!(members, [1, 3, 0, 2, 4]);
        let expected = [(0, 2), (2, 0), (2, 3), (5, 0)];
        assert_eq!(segments, expected.map(|(first, count)| Segment { first, count }));
    }

    #[test]
    #[should_panic(expected = "not below 2")]
    fn groups_must_exist() {
        group_segments(&[0, 2], 2);
    }

    #[test]
    fn values_reach_past_f32() {
        let norm =
            |significand, exponent| TensorNorm { significand, exponent, ..Default::default() };
        assert_eq!(norm(1.5, -148).value(), 1.5 * 2f64.powi(-148));
        assert_eq!(norm(1.5, 200).value(), 1.5 * 2f64.powi(200));
        assert_eq!(norm(1.0, NONFINITE_EXPONENT).value(), f64::INFINITY);
        assert_eq!(norm(0.0, -1024).value(), 0.0);
    }
}
