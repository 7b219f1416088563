//! The shares of workgroups: how a flat buffer of tensors is cut.

use crate::step::Chunk;

/// The most quads in one [`Chunk`]: 64 invocations with 8 quads each.
pub const CHUNK_QUADS: u32 = 512;

/// Splits tensors, each (offset, elements) in elements of a flat buffer, into the shares of
/// workgroups. A chunk never spans two tensors; an empty tensor has none.
///
/// # Panics
/// If an offset is not a multiple of 4, or lies past 2^32 quads.
pub fn chunks(tensors: impl IntoIterator<Item = (u64, u64)>) -> Vec<Chunk> {
    const ELEMENTS: u64 = 4 * CHUNK_QUADS as u64;
    let mut chunks = Vec::new();
    for (tensor, (offset, elements)) in (0..).zip(tensors) {
        assert!(offset.is_multiple_of(4), "tensor {tensor} starts within a quad, at {offset}");
        for start in (0..elements).step_by(ELEMENTS as usize) {
            let share = (elements - start).min(ELEMENTS) as u32;
            let first = u32::try_from((offset + start) / 4).expect("at most 2^32 quads");
            let quads = share.div_ceil(4);
            chunks.push(Chunk { offset: first, quads, tensor, elements: share, kept: first });
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_every_element_once() {
        let mut offset = 0;
        let tensors: Vec<_> = [0, 1, 4, 2047, 2048, 2049, 0, 65_537, 3, 0]
            .into_iter()
            .map(|elements: u64| {
                let tensor = (offset, elements);
                offset += elements.next_multiple_of(4);
                tensor
            })
            .collect();
        let mut covered = vec![0; tensors.len()];
        for chunk in chunks(tensors.iter().copied()) {
            let (offset, elements) = tensors[chunk.tensor as usize];
            let done = &mut covered[chunk.tensor as usize];
            assert_eq!(u64::from(chunk.offset) * 4, offset + *done, "{chunk:?}");
            assert_eq!(chunk.quads, chunk.elements.div_ceil(4), "{chunk:?}");
            assert!((1..=CHUNK_QUADS).contains(&chunk.quads), "{chunk:?}");
            *done += u64::from(chunk.elements);
            assert!(*done <= elements, "{chunk:?}");
        }
        let elements: Vec<_> = tensors.iter().map(|&(_, elements)| elements).collect();
        assert_eq!(covered, elements);
    }

    #[test]
    #[should_panic(expected = "starts within a quad")]
    fn chunks_refuse_an_offset_within_a_quad() {
        chunks([(0, 2), (2, 2)]);
    }

    #[test]
    fn chunks_reach_past_4_gib() {
        let far = chunks([(1 << 33, 5)]);
        let kept = 1 << 31;
        assert_eq!(far, [Chunk { offset: 1 << 31, quads: 2, tensor: 0, elements: 5, kept }]);
    }
}
