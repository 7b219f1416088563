//! Small values of all ranks made into one: the same on each, from the same bytes in the same order.

use crate::graph::{Element, OverRanks};

/// The sum of losses, of which each is its rank's share. A NaN or Inf of any of them stays, with its
/// bits, as over microbatches.
pub(super) fn sum(ranks: &[Vec<f32>]) -> Vec<f32> {
    fold(ranks, |a, b| a + b)
}

/// One value of all ranks.
pub(super) fn joined(how: OverRanks, ranks: &[Vec<f32>]) -> Vec<f32> {
    match how {
        OverRanks::Largest => fold(ranks, f32::max),
        OverRanks::Mean => mean(ranks),
    }
}

/// The mean over ranks, in f64: the sum of numbers near the largest f32 is none, their mean is.
pub(super) fn mean(ranks: &[Vec<f32>]) -> Vec<f32> {
    let of_element = |i: usize| {
        let values = || ranks.iter().map(|values| values[i]);
        match values().find(|value| !value.is_finite()) {
            Some(first) => first,
            None => (values().map(f64::from).sum::<f64>() / ranks.len() as f64) as f32,
        }
    };
    (0..ranks[0].len()).map(of_element).collect()
}

/// In the order of ranks; the first that is not finite stays.
fn fold(ranks: &[Vec<f32>], join: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    let join = |a: f32, b: f32| match (a.is_finite(), b.is_finite()) {
        (false, _) => a,
        (true, false) => b,
        (true, true) => join(a, b),
    };
    let of_element = |i: usize| ranks[1..].iter().fold(ranks[0][i], |all, one| join(all, one[i]));
    (0..ranks[0].len()).map(of_element).collect()
}

/// What spans the step, added up over ranks as over microbatches: counts stop at the largest u32.
pub(super) fn add_spanning(element: Element, ranks: &[&[u8]]) -> Vec<u8> {
    let words = |bytes: &[u8]| -> Vec<u32> { bytemuck::pod_collect_to_vec(bytes) };
    if element == Element::U32 {
        let mut all = words(ranks[0]);
        for rank in &ranks[1..] {
            all.iter_mut().zip(words(rank)).for_each(|(all, one)| *all = all.saturating_add(one));
        }
        return bytemuck::pod_collect_to_vec(&all);
    }
    let ranks: Vec<Vec<f32>> =
        ranks.iter().map(|bytes| bytemuck::pod_collect_to_vec(bytes)).collect();
    bytemuck::pod_collect_to_vec(&sum(&ranks))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn what_is_not_finite_stays() {
        let nan = f32::from_bits(0x7fc0_0001);
        let ranks = [vec![1.0, nan, f32::INFINITY, 2.0], vec![f32::NEG_INFINITY, 3.0, nan, -5.0]];
        let stays = [f32::NEG_INFINITY, nan, f32::INFINITY];
        for (found, last) in
            [(sum(&ranks), -3.0), (mean(&ranks), -1.5), (joined(OverRanks::Largest, &ranks), 2.0)]
        {
            assert_eq!(bits(&found), bits(&[&stays[..], &[last]].concat()));
        }
    }

    #[test]
    fn sums_are_taken_in_the_order_of_ranks() {
        let ranks = [vec![1e8f32], vec![1.0], vec![-1e8]];
        assert_eq!(sum(&ranks), [0.0], "1 is lost beside 1e8");
        assert_eq!(sum(&[ranks[0].clone(), ranks[2].clone(), ranks[1].clone()]), [1.0]);
    }

    #[test]
    fn a_mean_of_the_largest_is_the_largest_and_of_equals_is_theirs() {
        for value in [f32::MAX, 0.1, -1e-40] {
            let ranks = vec![vec![value]; 3];
            assert_eq!(mean(&ranks), [value]);
        }
    }

    #[test]
    fn counts_stop_at_the_largest() {
        let ranks = [[7u32, 1], [u32::MAX - 3, 2]];
        let ranks = ranks.each_ref().map(|counts| bytemuck::cast_slice(counts));
        let all: Vec<u32> = bytemuck::pod_collect_to_vec(&add_spanning(Element::U32, &ranks));
        assert_eq!(all, [u32::MAX, 3]);
        let sums = [1.5f32, 2.5].map(|x| x.to_le_bytes());
        let sums = add_spanning(Element::F32, &[&sums[0], &sums[1]]);
        assert_eq!(sums, 4f32.to_le_bytes());
    }
}
