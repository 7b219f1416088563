//! Orders that follow from a seed.

use crate::reference::random::threefry4x32;

/// Last key word of the random streams of shuffles.
const DOMAIN_SHUFFLE: u32 = 6;

/// The numbers below `count` in an order of their own for each seed, epoch and stream: Fisher and
/// Yates's shuffle.
pub(super) fn shuffled(count: usize, seed: u32, epoch: u64, stream: u32) -> Vec<usize> {
    let mut order: Vec<_> = (0..count).collect();
    for place in (1..count).rev() {
        let counter = [place as u32, epoch as u32, (epoch >> 32) as u32, stream];
        let [high, low, ..] = threefry4x32(counter, [seed, 0, 0, DOMAIN_SHUFFLE]);
        let word = (u128::from(high) << 32) | u128::from(low);
        order.swap(place, ((word * (place as u128 + 1)) >> 64) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_orders_are_equally_frequent() {
        let mut counts = std::collections::HashMap::new();
        for epoch in 0..6000 {
            *counts.entry(shuffled(3, 1, epoch, 0)).or_insert(0) += 1;
        }
        // Binomial: 1,000 expected, standard deviation 29.
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
        assert_ne!(shuffled(50, 1, 0, 0), shuffled(50, 1, 0, 1));
        assert_ne!(shuffled(50, 1, 0, 0), shuffled(50, 1, 1 << 32, 0));
        assert_eq!(shuffled(1, 1, 0, 0), [0]);
        assert!(shuffled(0, 1, 0, 0).is_empty());
    }
}
