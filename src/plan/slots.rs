//! Which buffer holds which value: whole buffers, reused once a value is no longer read.
//!
//! WebGPU forbids binding one buffer both read-only and writable in a dispatch, even at disjoint
//! ranges, so values share whole buffers and never parts of one.

use std::cmp::Reverse;
use std::collections::BTreeMap;

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

/// Assigns slots, the largest values first, each to the smallest slot that is free for as long as it
/// lives, else to a new one of its size (Pisarchyk and Lee 2020, arXiv 2001.03288: greedy by size).
/// In the order of the lifetimes, what lives long and is small would keep large slots busy.
pub fn assign(lifetimes: &[Lifetime]) -> Assignment {
    let mut order: Vec<_> = (0..lifetimes.len()).collect();
    order.sort_by_key(|&i| (Reverse(lifetimes[i].bytes), lifetimes[i].first));
    let mut bytes = Vec::new();
    // Of each slot, when it is busy: the last position of what begins at each position.
    let mut busy: Vec<BTreeMap<usize, usize>> = Vec::new();
    let mut slot = vec![0; lifetimes.len()];
    for index in order {
        let life = lifetimes[index];
        let last = life.last.max(life.first);
        let is_free = |times: &BTreeMap<usize, usize>| {
            times.range(..=last).next_back().is_none_or(|(_, &end)| end < life.first)
        };
        // Slots are made in falling order of their sizes.
        let free = (0..bytes.len()).rev().find(|&s| is_free(&busy[s]));
        let chosen = free.unwrap_or_else(|| {
            bytes.push(life.bytes);
            busy.push(BTreeMap::new());
            bytes.len() - 1
        });
        busy[chosen].insert(life.first, last);
        slot[index] = chosen;
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

    #[test]
    fn what_lives_long_takes_no_larger_slot() {
        // A small value is left of each of three layers whose inside is large.
        let layer = |i: usize| [life(64, 3 * i, 3 * i + 1), life(16, 3 * i + 1, usize::MAX)];
        let lives: Vec<_> = (0..3).flat_map(layer).collect();
        assert_eq!(assign(&lives).bytes, [64, 16, 16, 16]);
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
