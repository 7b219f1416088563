//! Where tensors lie, one after the other, in segments that a binding holds.

use crate::gpu::ALIGNMENT;

/// Where a tensor lies in the flat buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Index of the segment.
    pub segment: usize,
    /// First byte in the segment over f32, a multiple of 512; half of it over halves.
    pub offset: u64,
}

/// Places tensors of the given sizes in bytes, in order, in segments of at most `largest` bytes.
/// Returns the locations and the bytes of each segment.
pub fn layout(sizes: impl IntoIterator<Item = u64>, largest: u64) -> (Vec<Location>, Vec<u64>) {
    let (mut locations, mut segments) = (Vec::new(), vec![0u64]);
    for size in sizes {
        let size = size.next_multiple_of(2 * ALIGNMENT);
        if segments[segments.len() - 1] + size > largest && segments[segments.len() - 1] > 0 {
            segments.push(0);
        }
        let segment = segments.len() - 1;
        locations.push(Location { segment, offset: segments[segment] });
        segments[segment] += size;
    }
    (locations, segments)
}
