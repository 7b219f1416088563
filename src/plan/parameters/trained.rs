//! Which parameters are trained and which are frozen, and how that shapes the layout: trained
//! tensors come first, in segments of their own, so that gradients, moments and whatever works on
//! them know nothing of the frozen ones.

use super::{Location, Parameters, beside_offset, keeps_beside, layout};
use crate::error::Result;
use crate::graph::ParameterSpec;

/// Trained tensors in front, otherwise in the order of the model.
pub(super) fn in_order(specs: &[ParameterSpec]) -> Vec<ParameterSpec> {
    let mut specs = specs.to_vec();
    specs.sort_by_key(|spec| (!spec.requires_grad, spec.stream));
    specs
}

/// How many of the tensors, [in order](in_order), are trained.
pub(super) fn trained_count(specs: &[ParameterSpec]) -> usize {
    specs.partition_point(|spec| spec.requires_grad)
}

/// Places tensors [in order](in_order): segments of trained ones, then of frozen ones, of at most
/// `largest` bytes. Returns the locations, the bytes of each segment, and the number of segments of
/// trained tensors, which is 1 at least.
pub(super) fn place(specs: &[ParameterSpec], largest: u64) -> (Vec<Location>, Vec<u64>, usize) {
    let (trained, frozen) = specs.split_at(trained_count(specs));
    let lay_out = |specs: &[ParameterSpec]| layout(specs.iter().map(|s| s.shape.bytes()), largest);
    let (mut locations, mut segments) = lay_out(trained);
    let trained_segments = segments.len();
    if !frozen.is_empty() {
        let (rest, bytes) = lay_out(frozen);
        let behind = |at: Location| Location { segment: at.segment + trained_segments, ..at };
        locations.extend(rest.into_iter().map(behind));
        segments.extend(bytes);
    }
    (locations, segments, trained_segments)
}

impl Parameters {
    /// The trained tensors, those that have a gradient: the first of [`specs`](Self::specs).
    pub fn trained(&self) -> &[ParameterSpec] {
        &self.specs[..trained_count(&self.specs)]
    }

    /// The frozen tensors: the rest of [`specs`](Self::specs).
    pub fn frozen(&self) -> &[ParameterSpec] {
        &self.specs[trained_count(&self.specs)..]
    }

    /// Quads of each segment of trained tensors: the first of [`segments`](Self::segments). Flat
    /// buffers of gradients and moments have these alone.
    pub fn trained_segments(&self) -> &[u64] {
        &self.segments[..self.trained_segments]
    }

    /// The weights of the trained segments, as [`weights`](Self::weights).
    pub fn trained_weights(&self) -> &[wgpu::Buffer] {
        &self.weights[..self.trained_segments]
    }

    /// Elements of padding between the rows of the trained tensors.
    pub fn trained_padding(&self) -> u32 {
        super::padding(self.trained())
    }

    /// Bytes of the segments of frozen tensors.
    pub fn frozen_bytes(&self) -> u64 {
        self.weights[self.trained_segments..].iter().map(wgpu::Buffer::size).sum()
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
        let specs = self.specs.iter().cloned();
        let specs: Vec<_> =
            specs.map(|spec| ParameterSpec { requires_grad: is_trained(&spec), ..spec }).collect();
        if specs == self.specs {
            return Ok(self);
        }
        let moved = Self::allocate(&self.gpu, &specs, &self.states, self.storage).await?;
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        let mut copy = |from: &wgpu::Buffer, at: u64, to: &wgpu::Buffer, to_at: u64, bytes: u64| {
            encoder.copy_buffer_to_buffer(from, at, to, to_at, bytes);
        };
        for (index, spec) in self.specs.iter().enumerate() {
            let target = moved.position(&spec.name).expect("the same names");
            let (from, to) = (self.slot(index), moved.slot(target));
            let bytes = from.shape.bytes();
            copy(&from.buffer, from.offset, &to.buffer, to.offset, bytes);
            if keeps_beside(self.storage) {
                copy(&from.buffer, beside_offset(&from), &to.buffer, beside_offset(&to), bytes);
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
        let (locations, segments, trained) = place(&specs, 1536);
        let at = |segment, offset| Location { segment, offset };
        assert_eq!(locations, [at(0, 0), at(0, 512), at(1, 0), at(2, 0), at(3, 0)]);
        assert_eq!((segments, trained), (vec![1024, 512, 1536, 512], 1));
        // As if there were no such thing as freezing.
        let all: Vec<_> =
            specs.iter().map(|s| ParameterSpec { requires_grad: true, ..s.clone() }).collect();
        let all = in_order(&all);
        let sizes = all.iter().map(|spec| spec.shape.bytes());
        let (locations, segments) = layout(sizes, 1536);
        assert_eq!(place(&all, 1536), (locations, segments.clone(), segments.len()));
    }
}
