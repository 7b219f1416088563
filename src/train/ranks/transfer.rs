//! From the device to the host, piece by piece; and small values of all ranks, made one.

use std::collections::VecDeque;

use futures::channel::oneshot;

use super::joined::{joined, sum};
use super::{Exchange, Ranks};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Submission};
use crate::graph::OverRanks;
use crate::train::builder::settings::Settings;

/// Bytes of the gradients that are copied to the host at once, and exchanged at once.
pub(super) const PIECE: u64 = 4 << 20;
/// Pieces that are on their way to the host: while some are exchanged, the device goes on to the next
/// ones.
const ON_THEIR_WAY: usize = 4;

/// A part of a flat buffer: of the gradients, or of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub segment: usize,
    pub offset: u64,
    pub bytes: u64,
}

/// The pieces of at most so many bytes of segments of these sizes, in order.
pub(super) fn pieces(segments: impl IntoIterator<Item = u64>, most: u64) -> Vec<Piece> {
    let of_segment = |(segment, bytes): (usize, u64)| {
        let starts = (0..bytes).step_by(most as usize);
        starts.map(move |offset| Piece { segment, offset, bytes: most.min(bytes - offset) })
    };
    segments.into_iter().enumerate().flat_map(of_segment).collect()
}

/// Sizes of the buffers where pieces of gradients of these sizes wait.
pub(super) fn staging_bytes(segments: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let pieces = pieces(segments, PIECE);
    let largest = pieces.iter().map(|piece| piece.bytes).max().unwrap_or(0);
    vec![largest; pieces.len().min(ON_THEIR_WAY)]
}

/// Bytes that the host maps for an exchange, where there is one, of gradients of these sizes.
pub(in crate::train) fn exchange_bytes(
    settings: &Settings,
    segments: impl IntoIterator<Item = u64>,
) -> u64 {
    if settings.ranks() > 1 { staging_bytes(segments).iter().sum() } else { 0 }
}

/// How small values of all ranks become one.
#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    /// Each has its share.
    Sum,
    Joined(OverRanks),
}

/// Some f32 of a buffer.
#[derive(Clone, Debug)]
pub(super) struct Small<'a> {
    pub buffer: &'a wgpu::Buffer,
    pub offset: u64,
    pub bytes: u64,
    pub how: How,
}

/// A piece that the device was told to copy.
struct Arriving {
    piece: Piece,
    copied: Submission,
    bytes: oneshot::Receiver<Result<Vec<u8>, String>>,
}

impl Ranks {
    /// Makes small values of all ranks one, in place.
    pub(super) async fn join(&self, gpu: &Gpu, all: &[Small<'_>]) -> Result<()> {
        let staging = gpu.staging(all.iter().map(|small| small.bytes).sum());
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        let mut end = 0;
        let mut places = Vec::with_capacity(all.len());
        for Small { buffer, offset, bytes, .. } in all {
            encoder.copy_buffer_to_buffer(buffer, *offset, &staging, end, *bytes);
            places.push(end as usize / 4..(end + bytes) as usize / 4);
            end += bytes;
        }
        gpu.submit(encoder);
        let ranks = self.exchange.gather(&gpu.map(&staging).await?)?;
        if let Some(rank) = ranks.iter().position(|bytes| bytes.len() as u64 != end) {
            let reason = "has a loss, states or observations of other sizes; give all ranks batches \
                          of the same length";
            return Err(Error::Rank { rank, reason: reason.into() });
        }
        let ranks: Vec<Vec<f32>> =
            ranks.iter().map(|bytes| bytemuck::pod_collect_to_vec(bytes)).collect();
        for (small, place) in all.iter().zip(places) {
            let values: Vec<_> =
                ranks.iter().map(|values| values[place.clone()].to_vec()).collect();
            let values = match small.how {
                How::Sum => sum(&values),
                How::Joined(how) => joined(how, &values),
            };
            gpu.write(small.buffer, small.offset, bytemuck::cast_slice(&values));
        }
        Ok(())
    }
}

/// Pieces of buffers that come to the host, in the order in which they are asked for.
pub(super) struct Arrivals {
    gpu: Gpu,
    buffers: Vec<wgpu::Buffer>,
    /// Each of them in turn.
    staging: Vec<wgpu::Buffer>,
    asked: usize,
    on_their_way: VecDeque<Arriving>,
}

impl Arrivals {
    pub fn new(gpu: &Gpu, staging: &[wgpu::Buffer], buffers: &[wgpu::Buffer]) -> Self {
        let (staging, buffers) = (staging.to_vec(), buffers.to_vec());
        Self { gpu: gpu.clone(), buffers, staging, asked: 0, on_their_way: VecDeque::new() }
    }

    /// Whether one more piece may be asked for.
    pub fn has_room(&self) -> bool {
        self.on_their_way.len() < self.staging.len()
    }

    /// Has a piece copied, behind what was submitted so far.
    pub fn request(&mut self, piece: Piece) {
        let staging = &self.staging[self.asked % self.staging.len()];
        let buffer = &self.buffers[piece.segment];
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, piece.offset, staging, 0, piece.bytes);
        let copied = self.gpu.submit(encoder);
        let (sender, bytes) = oneshot::channel();
        self.gpu.map_later(staging, move |data| {
            // The receiver is dropped where the step ended with an error.
            sender.send(data).unwrap_or(());
        });
        self.asked += 1;
        self.on_their_way.push_back(Arriving { piece, copied, bytes });
    }

    /// Waits for the piece that was asked for first, and for nothing that was submitted behind its copy.
    pub async fn next(&mut self) -> Result<Option<(Piece, Vec<u8>)>> {
        let first = self.on_their_way.pop_front();
        let Some(Arriving { piece, copied, bytes }) = first else { return Ok(None) };
        let mut bytes = self.gpu.arrived(copied, bytes).await?;
        bytes.truncate(piece.bytes as usize);
        Ok(Some((piece, bytes)))
    }

    /// Waits for all, so that the staging buffers may be used again. A device that is lost has none.
    pub async fn settle(&mut self) {
        while let Ok(Some(_)) = self.next().await {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_all_segments() {
        let sizes = [PIECE * 2 + 48, 16, PIECE];
        let pieces = pieces(sizes, PIECE);
        assert_eq!(pieces.len(), 5);
        for (segment, size) in sizes.into_iter().enumerate() {
            let of_segment = pieces.iter().filter(|piece| piece.segment == segment);
            let end = of_segment.fold(0, |end, piece| {
                assert!(piece.offset == end && (1..=PIECE).contains(&piece.bytes), "{piece:?}");
                end + piece.bytes
            });
            assert_eq!(end, size);
        }
        assert_eq!(staging_bytes(sizes), [PIECE; 4]);
        assert_eq!(staging_bytes([PIECE, 16]), [PIECE; 2]);
        assert_eq!(staging_bytes([64]), [64]);
        assert!(staging_bytes([]).is_empty());
    }
}
