//! Clipping of gradients beside the weights they belong to.

use super::{Policy, check};
use crate::error::Result;
use crate::graph::Shape;
use crate::kernels::{ClipUnit, ClipUnits, ClipUnitsParams};
use crate::record::{Recorder, to_u32};
use crate::train::optimizers::{Segment, SegmentTensor};

/// Adaptive gradient clipping, AGC (Brock et al. 2021, arXiv 2102.06171): bounds the gradient of
/// each unit by the norm of its weights.
///
/// ```text
/// g_u *= min(1, clipping max(|w_u|, eps) / |g_u|)
/// ```
///
/// A unit is what feeds one output: a row of a matrix (outputs, inputs), and so for more dimensions
/// what belongs to one index of the first; a tensor with no more than one dimension above 1 is one
/// unit. Those are the units of `optax.adaptive_grad_clip`, whose matrices lie the other way round.
/// An embedding (entries, width) is clipped entry by entry.
///
/// Gradients are clipped in place before they are scanned, so the global norm, other policies and
/// the telemetry see what is left, and no event shows it. It reads weights and gradients twice and
/// writes gradients: 12 to 20 bytes per parameter and step. No norm overflows, and units with NaN or
/// Inf are left as they are, so that the step is skipped. optax also divides by 1e-6 at least; here
/// a gradient of 0 is never divided by.
///
/// Use it for convolutional networks without batch normalisation and large batches. The authors
/// leave out the last layer; a `clipping` of 0.01 is for batches of 4,096, more for smaller ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaptiveGradientClip {
    /// Largest norm of a gradient beside that of its weights.
    pub clipping: f32,
    /// Weights count as having this norm at least, so that those that start at 0 can leave it.
    pub eps: f32,
}

impl Default for AdaptiveGradientClip {
    /// Clipping 0.01, eps 1e-3.
    fn default() -> Self {
        Self { clipping: 0.01, eps: 1e-3 }
    }
}

/// How many units a tensor has.
fn unit_count(shape: &Shape) -> usize {
    if shape.dims.iter().filter(|&&size| size > 1).count() > 1 { shape.dims[0] } else { 1 }
}

fn units(tensor: &SegmentTensor<'_>) -> impl Iterator<Item = ClipUnit> {
    // A tensor that lies in parts has a unit per row.
    let count = if unit_count(&tensor.spec.shape) > 1 { tensor.rows } else { 1 };
    let count = to_u32(count);
    let (offset, quads) = (tensor.offset, tensor.quads() / count);
    (0..count).map(move |u| ClipUnit { offset: offset + u * quads, quads })
}

impl Policy for AdaptiveGradientClip {
    fn name(&self) -> &'static str {
        "adaptive gradient clip"
    }

    fn validate(&self) -> Result<()> {
        check("AGC clipping", self.clipping, self.clipping > 0.0, "finite and above 0")?;
        check("AGC eps", self.eps, self.eps > 0.0, "finite and above 0")
    }

    fn before_scan(&self, recorder: &mut Recorder<'_>, segment: &Segment<'_>) {
        let state = recorder.step_state();
        let units: Vec<_> = segment.layout.iter().flat_map(units).collect();
        let table = recorder.gpu().upload("units", &units);
        recorder.dispatch(&ClipUnits {
            params: ClipUnitsParams {
                unit_count: to_u32(units.len()),
                clipping: self.clipping,
                eps: self.eps,
            },
            state,
            units: table.as_entire_buffer_binding(),
            weight: segment.weight.as_entire_buffer_binding(),
            gradient: segment.gradient.as_entire_buffer_binding(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_follow_the_rank() {
        let count = |dims: &[usize]| unit_count(&Shape::real(dims));
        assert_eq!([count(&[7]), count(&[1]), count(&[7, 1]), count(&[1, 7])], [1, 1, 1, 1]);
        assert_eq!([count(&[3, 5]), count(&[3, 5, 2]), count(&[3, 1, 1, 2])], [3, 3, 3]);
    }
}
