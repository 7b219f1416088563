//! Which buffer holds which value: whole buffers, reused once a value is no longer read.
//!
//! WebGPU forbids binding one buffer both read-only and writable in a dispatch, even at disjoint
//! ranges, so values share whole buffers and never parts of one.

/// How long a value lives: from the node that writes it to the last that reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Bytes.
    pub bytes: u64,
    /// Position of the node that writes the value.
    pub first: usize,
    /// Position of the last node that reads it, `usize::MAX` for results.
    pub last: usize,
}

/// Slots and who uses them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The slot of each lifetime.
    pub slot: Vec<usize>,
    /// Bytes of each slot.
    pub bytes: Vec<u64>,
}

/// Assigns slots in the order of the lifetimes, which must be sorted by `first`: the smallest
/// free slot that is large enough, else the largest free one, which grows; else a new one.
pub fn assign(lifetimes: &[Lifetime]) -> Assignment {
    let mut bytes: Vec<u64> = Vec::new();
    let mut busy_until: Vec<usize> = Vec::new();
    let mut slot = Vec::with_capacity(lifetimes.len());
    for life in lifetimes {
        let free = (0..bytes.len()).filter(|&s| busy_until[s] < life.first);
        let best = free.min_by_key(|&s| {
            let fits = bytes[s] >= life.bytes;
            (!fits, if fits { bytes[s] } else { u64::MAX - bytes[s] })
        });
        let chosen = best.unwrap_or_else(|| {
            bytes.push(0);
            busy_until.push(0);
            bytes.len() - 1
        });
        bytes[chosen] = bytes[chosen].max(life.bytes);
        busy_until[chosen] = life.last.max(life.first);
        slot.push(chosen);
    }
    Assignment { slot, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn life(bytes: u64, first: usize, last: usize) -> Lifetime {
        Lifetime { bytes, first, last }
    }

    #[test]
    fn a_chain_needs_two_slots() {
        let chain: Vec<_> = (0..10).map(|i| life(64, i, i + 1)).collect();
        assert_eq!(assign(&chain).bytes, [64, 64]);
    }

    proptest! {
        #[test]
        fn living_values_never_share(
            raw in prop::collection::vec((1u64..1000, 0usize..40, 0usize..20), 1..60)
        ) {
            let mut lives: Vec<_> =
                raw.into_iter().map(|(b, first, length)| life(b, first, first + length)).collect();
            lives.sort_by_key(|life| life.first);
            let assignment = assign(&lives);
            for (i, a) in lives.iter().enumerate() {
                prop_assert!(assignment.bytes[assignment.slot[i]] >= a.bytes);
                for (j, b) in lives.iter().enumerate().skip(i + 1) {
                    let overlap = a.first <= b.last && b.first <= a.last;
                    prop_assert!(!overlap || assignment.slot[i] != assignment.slot[j]);
                }
            }
        }
    }
}
