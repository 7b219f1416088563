//! Which rank keeps which moments: the trained tensors, one after the other, cut into a range for
//! each rank.
//!
//! Ranges are as equal as borders allow. Those are the borders of tensors, and within a tensor of
//! which an optimizer can advance some rows without the others those of rows that begin a chunk: so
//! chunks, and blocks of moments in 8 bits, are those of a table that is whole.

use std::ops::Range;

use crate::gpu::Gpu;
use crate::graph::ParameterSpec;
use crate::kernels::CHUNK_QUADS;
use crate::plan::ParameterLayout;
use crate::plan::parts::Part;
use crate::record::to_u32;
use crate::train::chunk_tables::chunks_of;
use crate::train::optimizers::{Segment, SegmentTensor};

/// The ranges of all ranks. A run whose optimizer is not sharded has one, with everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::train) struct Shards {
    /// Whose range is kept here.
    pub rank: usize,
    /// Where ranges begin, and where the last one ends, in quads of the trained tensors without
    /// what lies between them: those of any device can be compared.
    positions: Vec<u64>,
    /// The same by trained segment, in its quads.
    bounds: Vec<Vec<u32>>,
}

impl Shards {
    /// The ranges of so many ranks. `may_cut` says whether rows of a tensor may be in two of them.
    pub fn new(
        layout: &ParameterLayout,
        (rank, ranks): (usize, usize),
        may_cut: impl Fn(&ParameterSpec) -> bool,
    ) -> Self {
        let segments = layout.trained_segments();
        let parts = layout.parts().filter(|part| part.location.segment < segments.len());
        let parts: Vec<_> = parts.map(|part| Uncut::new(layout, part, &may_cut)).collect();
        let total: u64 = parts.iter().map(|part| u64::from(part.quads)).sum();
        let cuts = (0..=ranks as u64).map(|rank| match rank {
            0 => Cut { position: 0, segment: 0, quad: 0 },
            _ => cut(&parts, total * rank / ranks as u64),
        });
        let cuts: Vec<_> = cuts.collect();
        let bound = |segment: usize, end: u64, cut: &Cut| match cut.segment.cmp(&segment) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => cut.quad,
            std::cmp::Ordering::Greater => to_u32(end as usize),
        };
        let of_segment = |(segment, &end): (usize, &u64)| -> Vec<u32> {
            cuts.iter().map(|cut| bound(segment, end, cut)).collect()
        };
        let bounds = segments.iter().enumerate().map(of_segment).collect();
        Self { rank, positions: cuts.iter().map(|cut| cut.position).collect(), bounds }
    }

    /// The one range of a run whose optimizer is not sharded.
    pub fn of_one(layout: &ParameterLayout) -> Self {
        Self::new(layout, (0, 1), |_| false)
    }

    /// Ranks that keep a range each.
    pub fn ranks(&self) -> usize {
        self.positions.len() - 1
    }

    /// Whether ranks keep other moments than each other.
    pub fn is_cut(&self) -> bool {
        self.ranks() > 1
    }

    /// The quads of a trained segment that are a rank's, with what lies between its tensors.
    pub fn range(&self, segment: usize, rank: usize) -> Range<u32> {
        self.bounds[segment][rank]..self.bounds[segment][rank + 1]
    }

    /// What a rank keeps moments of in a trained segment.
    pub fn tensors<'a>(
        &self,
        layout: &'a ParameterLayout,
        segment: usize,
        rank: usize,
    ) -> Vec<SegmentTensor<'a>> {
        let whole = SegmentTensor::of_segment(layout, segment);
        if !self.is_cut() {
            return whole;
        }
        let range = self.range(segment, rank);
        let mut first_chunk = 0;
        let mine = whole.into_iter().filter_map(|tensor| match tensor.quads() {
            // One without elements is nowhere.
            0 => (rank == 0).then_some(SegmentTensor { kept: 0, ..tensor }),
            _ => tensor.within(&range),
        });
        mine.map(|tensor| {
            let tensor = SegmentTensor { first_chunk, ..tensor };
            first_chunk += tensor.chunk_count;
            tensor
        })
        .collect()
    }

    /// What is kept here, by trained segment.
    pub fn own<'a>(&self, layout: &'a ParameterLayout) -> Vec<Vec<SegmentTensor<'a>>> {
        let segments = 0..self.bounds.len();
        segments.map(|segment| self.tensors(layout, segment, self.rank)).collect()
    }

    /// Which rank keeps all of each trained tensor; none where several have parts of it.
    pub fn owners(&self, layout: &ParameterLayout) -> Vec<Option<usize>> {
        let mut owners = vec![Vec::new(); layout.trained().len()];
        for rank in 0..self.ranks() {
            for segment in 0..self.bounds.len() {
                for tensor in self.tensors(layout, segment, rank) {
                    owners[tensor.index as usize].push(rank);
                }
            }
        }
        let only = |ranks: Vec<usize>| match ranks[..] {
            [rank] => Some(rank),
            _ => None,
        };
        owners.into_iter().map(only).collect()
    }

    /// What is kept here, in words that mean the same on every device; none where it is everything.
    pub fn description(&self) -> Option<String> {
        let (rank, ranks) = (self.rank, self.ranks());
        let [first, end] = [self.positions[rank], self.positions[rank + 1]];
        self.is_cut().then(|| format!("rank {rank} of {ranks}, quads {first}..{end}"))
    }
}

/// A part of a tensor, and where it may be cut.
struct Uncut {
    segment: usize,
    offset: u32,
    quads: u32,
    /// It may be cut in front of every so many quads.
    step: u32,
}

impl Uncut {
    fn new(
        layout: &ParameterLayout,
        part: &Part,
        may_cut: impl Fn(&ParameterSpec) -> bool,
    ) -> Self {
        let spec = &layout.specs()[part.tensor];
        let quads = to_u32(part.shape(&spec.shape).quads());
        let step = match spec.shape.dims.len() {
            0 | 1 => quads,
            _ if quads == 0 || !may_cut(spec) => quads,
            _ => least_multiple(quads / to_u32(part.rows.len()), CHUNK_QUADS).min(quads),
        };
        let offset = to_u32((part.location.offset / 16) as usize);
        Self { segment: part.location.segment, offset, quads, step }
    }
}

/// The least common multiple of numbers above 0, which is at most their product.
fn least_multiple(a: u32, b: u32) -> u32 {
    let (mut larger, mut rest) = (a, b);
    while rest > 0 {
        (larger, rest) = (rest, larger % rest);
    }
    (a / larger).saturating_mul(b)
}

/// Where a range begins.
struct Cut {
    position: u64,
    segment: usize,
    quad: u32,
}

/// The place nearest to `target` at which may be cut.
fn cut(parts: &[Uncut], mut target: u64) -> Cut {
    let mut first = 0;
    for part in parts {
        let end = first + u64::from(part.quads);
        if target < end {
            let inside = (target - first) as u32;
            let low = inside / part.step * part.step;
            let high = low.saturating_add(part.step).min(part.quads);
            let nearest = if inside - low <= high - inside { low } else { high };
            if nearest < part.quads {
                let position = first + u64::from(nearest);
                return Cut { position, segment: part.segment, quad: part.offset + nearest };
            }
            // Where the next one begins.
            target = end;
        }
        first = end;
    }
    Cut { position: first, segment: usize::MAX, quad: 0 }
}

/// What of a trained segment is advanced here, with its chunks on the device.
pub(in crate::train) struct OwnSegment<'a> {
    layout: Vec<SegmentTensor<'a>>,
    chunks: wgpu::Buffer,
    chunk_count: u32,
}

impl<'a> OwnSegment<'a> {
    /// By trained segment.
    pub fn all(gpu: &Gpu, layout: &'a ParameterLayout, shards: &Shards) -> Vec<Self> {
        let own = shards.own(layout).into_iter().map(|layout| {
            let table = chunks_of(&layout);
            let chunk_count = to_u32(table.len());
            Self { layout, chunks: gpu.upload("own chunks", &table), chunk_count }
        });
        own.collect()
    }

    /// The segment as the optimizer sees it, if it has something to do there.
    pub fn of<'s>(&'s self, whole: &Segment<'s>) -> Option<Segment<'s>> {
        let (chunks, chunk_count) = (&self.chunks, self.chunk_count);
        let own = Segment { chunks, chunk_count, layout: &self.layout, ..*whole };
        (!self.layout.is_empty()).then_some(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Shape;
    use crate::kernel::WeightStorage;
    use crate::nn::Init;
    use proptest::prelude::*;

    fn layout(dims: &[&[usize]], largest: u64) -> ParameterLayout {
        let spec = |(stream, dims): (u32, &&[usize])| ParameterSpec {
            name: format!("w{stream}"),
            shape: Shape::real(*dims),
            init: Init::ZERO,
            stream,
            requires_grad: stream != 1,
        };
        let specs: Vec<_> = (0..).zip(dims).map(spec).collect();
        ParameterLayout::new(&specs, &[], WeightStorage::F32, largest).expect("a layout")
    }

    /// Every row of every trained tensor is one rank's, in order, and chunks are those of the whole.
    fn check(layout: &ParameterLayout, ranks: usize, may_cut: bool) -> Vec<u64> {
        let shards = Shards::new(layout, (0, ranks), |_| may_cut);
        let (mut next, mut bytes) = (vec![0; layout.trained().len()], vec![0; ranks]);
        for (rank, bytes) in bytes.iter_mut().enumerate() {
            for segment in 0..layout.trained_segments().len() {
                let range = shards.range(segment, rank);
                let whole = chunks_of(&SegmentTensor::of_segment(layout, segment));
                let own = shards.tensors(layout, segment, rank);
                for tensor in &own {
                    let next = &mut next[tensor.index as usize];
                    assert_eq!(tensor.first_row, *next, "{tensor:?}");
                    *next += tensor.rows;
                    assert!(may_cut || tensor.rows == tensor.spec.shape.dims[0], "{tensor:?}");
                    assert_eq!(tensor.kept + range.start, tensor.offset, "{tensor:?}");
                    assert!(tensor.offset + tensor.quads() <= range.end, "{tensor:?}");
                    *bytes += u64::from(tensor.quads());
                }
                for chunk in chunks_of(&own) {
                    assert_eq!(chunk.kept + range.start, chunk.offset);
                    let same = |other: &&crate::step::Chunk| other.offset == chunk.offset;
                    let other = whole.iter().find(same).expect("a chunk of the whole");
                    assert_eq!((other.quads, other.tensor), (chunk.quads, chunk.tensor));
                }
            }
        }
        let rows: Vec<_> = layout.trained().iter().map(|spec| spec.shape.dims[0]).collect();
        assert_eq!(next, rows);
        bytes
    }

    #[test]
    fn ranges_are_as_equal_as_borders_allow() {
        // 10,000 rows of 16 quads, which begin a chunk at every 32nd.
        let table = layout(&[&[10_000, 64], &[9], &[64]], 1 << 30);
        let quads = check(&table, 3, true);
        assert_eq!(quads.iter().sum::<u64>(), 160_016);
        assert!(quads.iter().all(|&quads| quads.abs_diff(53_339) <= 512), "{quads:?}");
        // Whole, it is the first one's: no border is nearer to a third than its beginning.
        assert_eq!(check(&table, 3, false), [0, 160_000, 16]);
        // Three ranks for two tensors.
        assert_eq!(check(&layout(&[&[7], &[2], &[5]], 1 << 30), 3, true).iter().sum::<u64>(), 4);
    }

    #[test]
    fn a_range_is_the_same_whatever_the_segments_are() {
        let dims: [&[usize]; 4] = [&[900, 16], &[4, 4], &[40], &[70, 8]];
        let of = |largest| Shards::new(&layout(&dims, largest), (1, 2), |_| true).description();
        assert_eq!(of(1 << 30), of(32 << 10));
        assert!(of(1 << 30).expect("two ranks").starts_with("rank 1 of 2, quads 2048.."));
        assert_eq!(Shards::new(&layout(&dims, 1 << 30), (0, 1), |_| true).description(), None);
    }

    #[test]
    fn who_keeps_all_of_a_tensor_is_known() {
        let layout = layout(&[&[400, 64], &[4, 4], &[400], &[40]], 1 << 30);
        let owners = |may_cut| Shards::new(&layout, (0, 2), |_| may_cut).owners(&layout);
        assert_eq!(owners(true), [None, Some(1), Some(1)]);
        assert_eq!(owners(false), [Some(0), Some(1), Some(1)]);
    }

    proptest! {
        #[test]
        fn every_row_has_one_rank(
            rows in prop::collection::vec(1usize..300, 1..7),
            cols in 1usize..70,
            ranks in 1usize..9,
            may_cut: bool,
            largest in 14u32..24,
        ) {
            let tables = rows.into_iter().map(|rows| vec![rows, cols]);
            let dims: Vec<_> = std::iter::once(vec![3]).chain(tables).collect();
            let dims: Vec<_> = dims.iter().map(Vec::as_slice).collect();
            // A device that divides tensors refuses to cut what may not be.
            let largest = if may_cut { 1 << largest } else { 1 << 30 };
            check(&layout(&dims, largest), ranks, may_cut);
        }
    }
}
