//! From the device to the other ranks and back: gradients in pieces, small values at once.

use std::collections::VecDeque;

use futures::channel::oneshot;

use super::joined::{joined, sum};
use super::{Exchange, Ranks};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Submission};
use crate::graph::OverRanks;
use crate::train::builder::settings::Settings;

/// Bytes of the gradients that are on their way to the host at once, and in an exchange at once.
pub(super) const PIECE: u64 = 4 << 20;
/// While one piece is added up, the next one comes.
const ON_THEIR_WAY: usize = 2;

/// A part of a flat buffer: of the gradients, or of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub segment: usize,
    pub offset: u64,
    pub bytes: u64,
}

/// The pieces of segments of these sizes, in order.
fn pieces(segments: impl IntoIterator<Item = u64>) -> Vec<Piece> {
    let of_segment = |(segment, bytes): (usize, u64)| {
        let starts = (0..bytes).step_by(PIECE as usize);
        starts.map(move |offset| Piece { segment, offset, bytes: PIECE.min(bytes - offset) })
    };
    segments.into_iter().enumerate().flat_map(of_segment).collect()
}

/// Sizes of the buffers where pieces of gradients of these sizes wait.
pub(super) fn staging_bytes(segments: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let pieces = pieces(segments);
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

    /// Adds up the gradients of all ranks, in place.
    pub async fn fold_gradients(&self, gpu: &Gpu, gradients: &[wgpu::Buffer]) -> Result<()> {
        let pieces = pieces(gradients.iter().map(wgpu::Buffer::size));
        let fold = |piece: Piece, bytes: &[u8]| {
            let mut values: Vec<f32> = bytemuck::pod_collect_to_vec(bytes);
            self.exchange.fold(&mut values)?;
            let gradient = &gradients[piece.segment];
            gpu.write(gradient, piece.offset, bytemuck::cast_slice(&values));
            Ok(())
        };
        self.bring(gpu, gradients, &pieces, fold).await
    }

    /// Brings pieces of buffers to the host one after the other. While one is dealt with, the next
    /// one comes from the device.
    pub(super) async fn bring(
        &self,
        gpu: &Gpu,
        buffers: &[wgpu::Buffer],
        pieces: &[Piece],
        mut deal: impl FnMut(Piece, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut rest = pieces.iter().zip(self.staging.iter().cycle());
        let mut on_their_way = VecDeque::new();
        loop {
            while on_their_way.len() < self.staging.len()
                && let Some((&piece, staging)) = rest.next()
            {
                on_their_way.push_back(request(gpu, &buffers[piece.segment], piece, staging));
            }
            let Some(Arriving { piece, copied, bytes }) = on_their_way.pop_front() else {
                return Ok(());
            };
            let bytes = gpu.arrived(copied, bytes).await?;
            deal(piece, &bytes[..piece.bytes as usize])?;
        }
    }
}

fn request(gpu: &Gpu, buffer: &wgpu::Buffer, piece: Piece, staging: &wgpu::Buffer) -> Arriving {
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, piece.offset, staging, 0, piece.bytes);
    let copied = gpu.submit(encoder);
    let (sender, bytes) = oneshot::channel();
    gpu.map_later(staging, move |data| {
        // The receiver is dropped where the step ended with an error.
        sender.send(data).unwrap_or(());
    });
    Arriving { piece, copied, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_all_segments() {
        let sizes = [PIECE * 2 + 48, 16, PIECE];
        let pieces = pieces(sizes);
        assert_eq!(pieces.len(), 5);
        for (segment, size) in sizes.into_iter().enumerate() {
            let of_segment = pieces.iter().filter(|piece| piece.segment == segment);
            let end = of_segment.fold(0, |end, piece| {
                assert!(piece.offset == end && (1..=PIECE).contains(&piece.bytes), "{piece:?}");
                end + piece.bytes
            });
            assert_eq!(end, size);
        }
        assert_eq!(staging_bytes(sizes), [PIECE; 2]);
        assert_eq!(staging_bytes([64]), [64]);
        assert!(staging_bytes([]).is_empty());
    }
}
