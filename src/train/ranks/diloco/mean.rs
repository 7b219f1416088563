//! The mean of what the ranks tell that count, over the network.

use std::ops::Range;

use super::DifferenceEncoding;
use super::difference::BLOCK;
use crate::error::Result;
use crate::train::ranks::{Exchange, even_parts};

/// How the messages of all ranks become one mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// All get the messages of all, and each rank makes the mean of all elements.
    Gathered,
    /// Each rank gets its part of the messages of all, and gives all its part of the mean in f32.
    InParts,
}

impl Way {
    /// The one that sends less: of e bytes for each element, N ranks send (N - 1) e each in the first
    /// way, and (N - 1) / N (e + 4) in the second.
    pub fn of(encoding: DifferenceEncoding, ranks: usize) -> Self {
        let bytes = encoding.bytes(BLOCK);
        if ranks * bytes < bytes + 4 * BLOCK { Self::Gathered } else { Self::InParts }
    }
}

/// The mean of a piece, and what it took.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mean {
    pub values: Vec<f32>,
    /// This rank's message as others decode it; none where it does not count.
    pub decoded: Vec<f32>,
    /// Bytes that went from this rank to others.
    pub sent: u64,
}

/// What a piece is exchanged by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Averaging<'a> {
    pub exchange: &'a dyn Exchange,
    pub encoding: DifferenceEncoding,
    /// Whether each rank counts, of which there is one at least.
    pub counts: &'a [bool],
}

impl Averaging<'_> {
    /// The mean of so many elements over the ranks that count, in f64 in ascending order of ranks,
    /// rounded to f32: the same bits in either way. `message` is looked at where this rank counts.
    pub fn mean(&self, way: Way, message: &[f32], elements: usize) -> Result<Mean> {
        let parts = match way {
            Way::Gathered => even_parts(elements, 1),
            Way::InParts => self.parts(elements),
        };
        let own = self.counts[self.exchange.rank()].then_some(message);
        let encoded: Vec<u8> = own.map_or_else(Vec::new, |message| {
            let parts = parts.iter().map(|part| self.encoding.encode(&message[part.clone()]));
            parts.collect::<Vec<_>>().concat()
        });
        let lengths = parts.iter().map(|part| self.encoding.bytes(part.len()));
        let places = one_after_the_other(lengths);
        let decoded = match own {
            None => Vec::new(),
            Some(_) => {
                let pairs = places.iter().zip(&parts);
                let decode = |(place, part): (&Range<usize>, &Range<usize>)| {
                    self.encoding.decode(&encoded[place.clone()], part.len())
                };
                pairs.flat_map(decode).collect()
            }
        };
        let (values, sent) = match way {
            Way::Gathered => self.gathered(&encoded, elements)?,
            Way::InParts => self.in_parts(encoded, &parts, &places)?,
        };
        Ok(Mean { values, decoded, sent })
    }

    fn gathered(&self, encoded: &[u8], elements: usize) -> Result<(Vec<f32>, u64)> {
        let (rank, ranks) = (self.exchange.rank(), self.exchange.size());
        let length = |counts: &bool| if *counts { self.encoding.bytes(elements) } else { 0 };
        let places = one_after_the_other(self.counts.iter().map(length));
        let mut all = vec![0; places.last().map_or(0, |place| place.end)];
        all[places[rank].clone()].copy_from_slice(encoded);
        self.exchange.share(&mut all, &places)?;
        let of_rank = |rank: usize| &all[places[rank].clone()];
        let sent = (ranks - 1) * encoded.len();
        Ok((self.mean_of(of_rank, elements), sent as u64))
    }

    fn in_parts(
        &self,
        mut encoded: Vec<u8>,
        parts: &[Range<usize>],
        places: &[Range<usize>],
    ) -> Result<(Vec<f32>, u64)> {
        let (rank, ranks) = (self.exchange.rank(), self.exchange.size());
        // Parts are as long on all ranks, whether they count or not.
        encoded.resize(places.last().map_or(0, |place| place.end), 0);
        let (part, length) = (parts[rank].clone(), places[rank].len());
        let mut received = vec![0; ranks * length];
        self.exchange.scatter(&encoded, places, &mut received)?;
        let of_rank = |rank: usize| &received[rank * length..][..length];
        let mut values = vec![0f32; parts.last().map_or(0, |part| part.end)];
        values[part.clone()].copy_from_slice(&self.mean_of(of_rank, part.len()));
        let in_bytes: Vec<_> = parts.iter().map(|part| 4 * part.start..4 * part.end).collect();
        self.exchange.share(bytemuck::cast_slice_mut(&mut values), &in_bytes)?;
        let sent = encoded.len() - length + (ranks - 1) * 4 * part.len();
        Ok((values, sent as u64))
    }

    fn mean_of<'a>(&self, of_rank: impl Fn(usize) -> &'a [u8], elements: usize) -> Vec<f32> {
        let mut sums = vec![0f64; elements];
        let counting = (0..self.counts.len()).filter(|&rank| self.counts[rank]);
        for rank in counting.clone() {
            let values = self.encoding.decode(of_rank(rank), elements);
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += f64::from(value));
        }
        let count = counting.count() as f64;
        sums.into_iter().map(|sum| (sum / count) as f32).collect()
    }

    /// Whole blocks for each rank, so that blocks begin where they do in the whole.
    fn parts(&self, elements: usize) -> Vec<Range<usize>> {
        let parts = even_parts(elements.div_ceil(BLOCK), self.exchange.size()).into_iter();
        let at = |block: usize| (block * BLOCK).min(elements);
        parts.map(|part| at(part.start)..at(part.end)).collect()
    }
}

fn one_after_the_other(lengths: impl IntoIterator<Item = usize>) -> Vec<Range<usize>> {
    let mut end = 0;
    let place = |length: usize| {
        let start = end;
        end += length;
        start..end
    };
    lengths.into_iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::ranks::Local;

    fn message(rank: usize, elements: usize) -> Vec<f32> {
        let at = |i: usize| ((i * 31 + 17 * rank) as f32 * 0.61).sin() * (rank as f32 + 0.1);
        (0..elements).map(at).collect()
    }

    fn on_ranks(
        encoding: DifferenceEncoding,
        way: Way,
        counts: &[bool],
        elements: usize,
    ) -> Vec<Mean> {
        std::thread::scope(|scope| {
            let run = |exchange: Local| {
                let message = message(exchange.rank(), elements);
                let averaging = Averaging { exchange: &exchange, encoding, counts };
                averaging.mean(way, &message, elements).expect("a mean")
            };
            let spawn = |exchange| scope.spawn(move || run(exchange));
            let ranks: Vec<_> = Local::ranks(counts.len()).into_iter().map(spawn).collect();
            ranks.into_iter().map(|rank| rank.join().expect("no panic")).collect()
        })
    }

    #[test]
    fn both_ways_come_to_the_same_bits_on_all_ranks() {
        for encoding in DifferenceEncoding::ALL {
            for counts in
                [&[true][..], &[true; 2], &[true, false, true], &[false, true, true, true]]
            {
                for elements in [1, 300, 1500] {
                    let decoded: Vec<_> = (0..counts.len())
                        .map(|rank| {
                            let message = message(rank, elements);
                            encoding.decode(&encoding.encode(&message), elements)
                        })
                        .collect();
                    let counting: Vec<_> = (0..counts.len()).filter(|&rank| counts[rank]).collect();
                    let mean = |i: usize| {
                        let sum =
                            counting.iter().fold(0.0, |sum, &r| sum + f64::from(decoded[r][i]));
                        (sum / counting.len() as f64) as f32
                    };
                    let expected: Vec<_> = (0..elements).map(mean).collect();
                    for way in [Way::Gathered, Way::InParts] {
                        let found = on_ranks(encoding, way, counts, elements);
                        for (rank, found) in found.into_iter().enumerate() {
                            let what = format!("{encoding} {way:?} {counts:?} {elements} {rank}");
                            assert!(found.values == expected, "{what}");
                            let own = if counts[rank] { &decoded[rank][..] } else { &[] };
                            assert!(found.decoded == own, "{what}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_way_is_the_one_that_sends_less() {
        use DifferenceEncoding::{F16, F32, Int8};
        for (encoding, ranks, way) in [
            (F32, 1, Way::Gathered),
            (F32, 2, Way::InParts),
            (F16, 2, Way::Gathered),
            (F16, 3, Way::InParts),
            (Int8, 4, Way::Gathered),
            (Int8, 5, Way::InParts),
        ] {
            assert_eq!(Way::of(encoding, ranks), way, "{encoding} on {ranks}");
            // As many elements as both ways divide evenly.
            let sent = |way| on_ranks(encoding, way, &vec![true; ranks], 60 * BLOCK)[0].sent;
            let other = if way == Way::Gathered { Way::InParts } else { Way::Gathered };
            assert!(sent(way) <= sent(other), "{encoding} on {ranks}");
        }
    }
}
