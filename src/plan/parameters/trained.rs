//! Which parameters are trained and which are frozen, and how that shapes the layout: trained
//! tensors come first, in segments of their own, so that gradients, moments and whatever works on
//! them know nothing of the frozen ones.

use super::Parameters;
use super::values::{beside_offset, keeps_beside};
use crate::error::Result;
use crate::graph::ParameterSpec;
use crate::plan::layout::{Location, layout};
use crate::plan::parts::{Part, divide};

/// Where tensors lie.
pub(super) struct Placed {
    /// By tensor.
    pub parts: Vec<Vec<Part>>,
    /// Bytes of each segment over f32.
    pub segments: Vec<u64>,
    /// How many of them hold trained tensors: 1 at least.
    pub trained_segments: usize,
    /// Bytes of each segment of blocks, whose places begin anew at 0.
    pub block_segments: Vec<u64>,
}

/// Trained tensors in front, those in blocks at the end, otherwise in the order of the model.
pub(super) fn in_order(specs: &[ParameterSpec]) -> Vec<ParameterSpec> {
    let mut specs = specs.to_vec();
    specs.sort_by_key(|s| (!s.requires_grad, s.shape.block_format().is_some(), s.stream));
    specs
}

/// How many of the tensors, [in order](in_order), are trained.
pub(super) fn trained_count(specs: &[ParameterSpec]) -> usize {
    specs.partition_point(|spec| spec.requires_grad)
}

/// How many of the tensors, [in order](in_order), do not lie in blocks.
pub(super) fn count_in_quads(specs: &[ParameterSpec]) -> usize {
    specs.partition_point(|spec| spec.shape.block_format().is_none())
}

/// Places tensors [in order](in_order), each in parts where a binding of `largest` bytes does not
/// hold it: segments of trained ones, then of frozen ones, and apart from them of those in blocks.
///
/// # Errors
/// Those of [`divide`].
pub(super) fn place(specs: &[ParameterSpec], largest: u64) -> Result<Placed> {
    let mut parts = Vec::with_capacity(specs.len());
    for (tensor, spec) in specs.iter().enumerate() {
        let part = |rows| Part { tensor, rows, location: Location::default() };
        parts.push(divide(spec, largest)?.into_iter().map(part).collect::<Vec<_>>());
    }
    let lay_out = |parts: &mut [Vec<Part>], first_segment: usize| {
        let sizes = parts.iter().flatten().map(|p| p.shape(&specs[p.tensor].shape).bytes());
        let (locations, segments) = layout(sizes, largest);
        for (part, at) in parts.iter_mut().flatten().zip(locations) {
            part.location = Location { segment: first_segment + at.segment, ..at };
        }
        segments
    };
    let (in_quads, in_blocks) = parts.split_at_mut(count_in_quads(specs));
    let (trained, frozen) = in_quads.split_at_mut(trained_count(specs));
    let mut segments = lay_out(trained, 0);
    let trained_segments = segments.len();
    if !frozen.is_empty() {
        segments.extend(lay_out(frozen, trained_segments));
    }
    let block_segments = if in_blocks.is_empty() { Vec::new() } else { lay_out(in_blocks, 0) };
    Ok(Placed { parts, segments, trained_segments, block_segments })
}

impl Parameters {
    /// The trained tensors, those that have a gradient: the first of [`specs`](Self::specs).
    pub fn trained(&self) -> &[ParameterSpec] {
        &self.layout.specs[..trained_count(&self.layout.specs)]
    }

    /// The frozen tensors: the rest of [`specs`](Self::specs).
    pub fn frozen(&self) -> &[ParameterSpec] {
        &self.layout.specs[trained_count(&self.layout.specs)..]
    }

    /// Quads of each segment of trained tensors: the first of [`segments`](Self::segments). Flat
    /// buffers of gradients and moments have these alone.
    pub fn trained_segments(&self) -> &[u64] {
        &self.layout.segments[..self.layout.trained_segments]
    }

    /// The weights of the trained segments, as [`weights`](Self::weights).
    pub fn trained_weights(&self) -> &[wgpu::Buffer] {
        &self.weights[..self.layout.trained_segments]
    }

    /// Elements of padding between the rows of the trained tensors.
    pub fn trained_padding(&self) -> u32 {
        super::padding(self.trained())
    }

    /// Bytes of the segments of frozen tensors, blocks among them.
    pub fn frozen_bytes(&self) -> u64 {
        let frozen = self.weights[self.layout.trained_segments..].iter().chain(&self.blocks);
        frozen.map(wgpu::Buffer::size).sum()
    }

    /// The same tensors with other buffers for the trained segments, in the same storage; all others
    /// are those of this one.
    pub(crate) fn with_trained_weights(&self, trained: Vec<wgpu::Buffer>) -> Self {
        let frozen = self.weights[self.layout.trained_segments..].iter().cloned();
        Self {
            gpu: self.gpu.clone(),
            layout: self.layout.clone(),
            weights: trained.into_iter().chain(frozen).collect(),
            blocks: self.blocks.clone(),
            committed: self.committed.clone(),
        }
    }

    /// The same tensors, of which those are trained that `is_trained` says. Where others were, they
    /// are laid out anew: every bit moves to other buffers.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub(crate) async fn with_trained(
        self,
        is_trained: impl Fn(&ParameterSpec) -> bool,
    ) -> Result<Self> {
        let specs = self.layout.specs.iter().cloned();
        let specs: Vec<_> =
            specs.map(|spec| ParameterSpec { requires_grad: is_trained(&spec), ..spec }).collect();
        if specs == self.layout.specs {
            return Ok(self);
        }
        let moved =
            Self::allocate(&self.gpu, &specs, &self.layout.states, self.layout.storage).await?;
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        let mut copy = |from: &wgpu::Buffer, at: u64, to: &wgpu::Buffer, to_at: u64, bytes: u64| {
            encoder.copy_buffer_to_buffer(from, at, to, to_at, bytes);
        };
        for (index, spec) in self.layout.specs.iter().enumerate() {
            let target = moved.position(&spec.name).expect("the same names");
            // One device divides a tensor in one way, wherever the parts lie.
            let parts = self.slot(index).parts().into_iter().zip(moved.slot(target).parts());
            for ((_, from), (_, to)) in parts {
                let bytes = from.shape.bytes();
                copy(&from.buffer, from.offset, &to.buffer, to.offset, bytes);
                if keeps_beside(self.layout.storage) && from.shape.block_format().is_none() {
                    copy(&from.buffer, beside_offset(&from), &to.buffer, beside_offset(&to), bytes);
                }
            }
        }
        copy(&self.committed, 0, &moved.committed, 0, self.committed.size());
        self.gpu.submit(encoder);
        Ok(moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Shape;
    use crate::nn::Init;

    #[test]
    fn trained_tensors_come_first_in_segments_of_their_own() {
        let sizes = [40, 12, 300, 8, 90].map(|count| Shape::real([count]));
        let spec = |(stream, shape): (u32, Shape)| ParameterSpec {
            name: format!("w{stream}"),
            shape,
            init: Init::ZERO,
            stream,
            requires_grad: stream % 2 == 1,
        };
        let specs: Vec<_> = (0..).zip(sizes).map(spec).collect();
        let specs = in_order(&specs);
        let streams: Vec<_> = specs.iter().map(|spec| spec.stream).collect();
        assert_eq!((streams, trained_count(&specs)), (vec![1, 3, 0, 2, 4], 2));
        let Placed { parts, segments, trained_segments: trained, .. } =
            place(&specs, 1536).expect("placed");
        let at = |segment, offset| Location { segment, offset };
        assert_eq!(locations(&parts), [at(0, 0), at(0, 512), at(1, 0), at(2, 0), at(3, 0)]);
        assert_eq!((segments, trained), (vec![1024, 512, 1536, 512], 1));
        // As if there were no such thing as freezing.
        let all: Vec<_> =
            specs.iter().map(|s| ParameterSpec { requires_grad: true, ..s.clone() }).collect();
        let all = in_order(&all);
        let sizes = all.iter().map(|spec| spec.shape.bytes());
        let (expected, segments) = layout(sizes, 1536);
        let Placed { parts, segments: bytes, trained_segments: trained, .. } =
            place(&all, 1536).expect("placed");
        assert_eq!(
            (locations(&parts), bytes, trained),
            (expected, segments.clone(), segments.len())
        );
    }

    fn locations(parts: &[Vec<Part>]) -> Vec<Location> {
        parts.iter().flatten().map(|part| part.location).collect()
    }

    #[test]
    fn a_tensor_in_parts_is_trained_or_frozen_as_a_whole() {
        // Rows of 16 bytes, 64 to a segment.
        let spec = |(stream, rows, requires_grad): (u32, usize, bool)| ParameterSpec {
            name: format!("w{stream}"),
            shape: Shape::real([rows, 4]),
            init: Init::ZERO,
            stream,
            requires_grad,
        };
        let specs = [(0, 70, false), (1, 8, true), (2, 130, true), (3, 8, false)].map(spec);
        let specs = in_order(&specs);
        let Placed { parts, segments, trained_segments: trained, .. } =
            place(&specs, 1024).expect("placed");
        let rows: Vec<_> = parts.iter().flatten().map(|part| part.rows.clone()).collect();
        assert_eq!(rows, [0..8, 0..64, 64..128, 128..130, 0..64, 64..70, 0..8]);
        let at = |segment, offset| Location { segment, offset };
        let trained_at = [at(0, 0), at(1, 0), at(2, 0), at(3, 0)];
        let frozen_at = [at(4, 0), at(5, 0), at(5, 512)];
        assert_eq!(locations(&parts), [&trained_at[..], &frozen_at].concat());
        assert_eq!((segments, trained), (vec![512, 1024, 1024, 512, 1024, 1024], 4));
        let tensors: Vec<_> = parts.iter().flatten().map(|part| part.tensor).collect();
        assert_eq!(tensors, [0, 1, 1, 1, 2, 2, 3]);
    }
}
