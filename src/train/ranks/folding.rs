//! Sums of pieces over all ranks, of which several are on their way at once.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;

use super::Exchange;
use super::exchange::{Begun, RunExchange, add_up, bytes_of, even_parts};
use crate::error::Result;

/// Pieces that are on their way to be added up, at most, and sums that are on their way back: as many
/// pieces as a delay is long on a fast network.
pub(super) const AT_ONCE: usize = 4;

/// A piece of which the other ranks get their ranges.
struct Scattered<T> {
    what: T,
    bytes: Vec<u8>,
    parts: Vec<Range<usize>>,
    begun: Begun,
}

/// What is on its way. What all ranks begin, and in which order, follows from the number of pieces.
pub(super) struct Folding<T> {
    exchange: RunExchange,
    /// Pieces that are scattered when the first of them is to be added up.
    lead: usize,
    scattered: VecDeque<Scattered<T>>,
    shared: VecDeque<(T, Begun)>,
}

/// A piece that has come to its end, and the bytes of its sums.
pub(super) type Sums<T> = (T, Vec<u8>);

impl<T> Folding<T> {
    /// For so many pieces. Of few, some sums are on their way before the last piece is.
    pub fn new(exchange: &RunExchange, pieces: usize) -> Self {
        let lead = (pieces / 2 + 1).min(AT_ONCE);
        let (scattered, shared) = Default::default();
        Self { exchange: exchange.clone(), lead, scattered, shared }
    }

    /// Begins with the f32 of a piece; returns the sums of an earlier one that have come meanwhile, or
    /// for which there is to be room.
    pub fn push(&mut self, what: T, bytes: Vec<u8>) -> Result<Option<Sums<T>>> {
        let parts = even_parts(bytes.len() / 4, self.exchange.size());
        let begun = self.exchange.begin_scatter(&bytes, &bytes_of(&parts, 4))?;
        self.scattered.push_back(Scattered { what, bytes, parts, begun });
        if self.scattered.len() < self.lead {
            return Ok(None);
        }
        self.turn()?;
        if self.shared.len() < AT_ONCE { Ok(None) } else { self.arrived() }
    }

    /// The sums of the next piece, where all have begun.
    pub fn pop(&mut self) -> Result<Option<Sums<T>>> {
        while self.shared.len() < AT_ONCE && !self.scattered.is_empty() {
            self.turn()?;
        }
        self.arrived()
    }

    /// Adds up the range of this rank in the first piece, and gives it to all.
    fn turn(&mut self) -> Result<()> {
        let Some(Scattered { what, mut bytes, parts, begun }) = self.scattered.pop_front() else {
            return Ok(());
        };
        let received = self.exchange.end(begun)?;
        // Memory of a vector mostly begins where numbers may.
        let received: Cow<'_, [f32]> = match bytemuck::try_cast_slice(&received) {
            Ok(numbers) => Cow::Borrowed(numbers),
            Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec(&received)),
        };
        let in_bytes = bytes_of(&parts, 4);
        let rank = self.exchange.rank();
        let mut sums = vec![0f32; parts[rank].len()];
        add_up(&received, &mut sums);
        bytes[in_bytes[rank].clone()].copy_from_slice(bytemuck::cast_slice(&sums));
        self.shared.push_back((what, self.exchange.begin_share(bytes, &in_bytes)?));
        Ok(())
    }

    fn arrived(&mut self) -> Result<Option<Sums<T>>> {
        let Some((what, begun)) = self.shared.pop_front() else { return Ok(None) };
        Ok(Some((what, self.exchange.end(begun)?)))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use super::super::Local;
    use super::*;

    /// Tells what is done in which order, and how much of it is on its way at once.
    #[derive(Debug)]
    struct Told {
        local: Local,
        under_way: Cell<usize>,
        most: Cell<usize>,
        begun: RefCell<String>,
    }

    impl Told {
        fn begins(&self, what: char) {
            self.begun.borrow_mut().push(what);
            self.under_way.set(self.under_way.get() + 1);
            self.most.set(self.most.get().max(self.under_way.get()));
        }
    }

    impl Exchange for Told {
        fn rank(&self) -> usize {
            self.local.rank()
        }

        fn size(&self) -> usize {
            self.local.size()
        }

        fn scatter(&self, _: &[u8], _: &[Range<usize>], _: &mut [u8]) -> Result<()> {
            panic!("a piece that nothing else goes on beside")
        }

        fn share(&self, _: &mut [u8], _: &[Range<usize>]) -> Result<()> {
            panic!("sums that nothing else goes on beside")
        }

        fn begin_scatter(&self, sent: &[u8], parts: &[Range<usize>]) -> Result<Begun> {
            self.begins('a');
            self.local.begin_scatter(sent, parts)
        }

        fn begin_share(&self, bytes: Vec<u8>, parts: &[Range<usize>]) -> Result<Begun> {
            self.begins('b');
            self.local.begin_share(bytes, parts)
        }

        fn end(&self, begun: Begun) -> Result<Vec<u8>> {
            self.under_way.set(self.under_way.get() - 1);
            Exchange::end(&self.local, begun)
        }
    }

    /// Pieces of other sizes, down to less than a value for each rank.
    fn piece(rank: usize, index: usize) -> Vec<f32> {
        let value = |i: usize| ((i * 7 + index * 3 + 1) as f32).sin() * 10f32.powi(rank as i32 * 4);
        (0..index % 5 * 3 + 1).map(value).collect()
    }

    #[test]
    fn sums_are_those_of_one_piece_after_the_other() {
        for (ranks, pieces) in [(2, 1), (3, 2), (3, 3), (2, 7), (3, 20)] {
            let run = |local: Local| {
                let rank = local.rank();
                let (under_way, most, begun) = Default::default();
                let told = Rc::new(Told { local, under_way, most, begun });
                let exchange: RunExchange = told.clone();
                let mut folding = Folding::new(&exchange, pieces);
                let mut all = Vec::new();
                for index in 0..pieces {
                    let bytes = bytemuck::cast_slice(&piece(rank, index)).to_vec();
                    all.extend(folding.push(index, bytes).expect("a sum"));
                }
                while let Some(sums) = folding.pop().expect("a sum") {
                    all.push(sums);
                }
                for (expected, (index, bytes)) in all.iter().enumerate() {
                    assert_eq!(*index, expected, "sums come in the order of pieces");
                    let sums: Vec<f32> = bytemuck::pod_collect_to_vec(bytes);
                    let of_element = |i: usize| {
                        let of_ranks = (1..ranks).map(|rank| piece(rank, expected)[i]);
                        of_ranks.fold(piece(0, expected)[i], |sum, value| sum + value)
                    };
                    let expected: Vec<f32> = (0..sums.len()).map(of_element).collect();
                    assert_eq!(sums, expected, "piece {index} of {pieces}, {ranks} ranks");
                }
                assert_eq!((all.len(), told.under_way.get()), (pieces, 0));
                (told.most.get(), told.begun.take())
            };
            let run = &run;
            let found: Vec<_> = std::thread::scope(|scope| {
                let ranks = Local::ranks(ranks).into_iter();
                let ranks: Vec<_> = ranks.map(|local| scope.spawn(move || run(local))).collect();
                ranks.into_iter().map(|rank| rank.join().expect("no panic")).collect()
            });
            let (most, begun) = &found[0];
            assert!(found.iter().all(|rank| rank == &found[0]), "the same on all: {found:?}");
            assert!((*most > 1 || pieces == 1) && *most < 2 * AT_ONCE, "{most} of {pieces}");
            let expected = match pieces {
                1 => "ab",
                2 => "aabb",
                3 => "aababb",
                7 => "aaaababababbbb",
                _ => &begun[..],
            };
            assert_eq!(begun, expected);
            assert!(*most == 2 * AT_ONCE - 1 || pieces < 20, "as many as may be on their way");
        }
    }
}
