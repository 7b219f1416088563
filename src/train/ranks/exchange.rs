//! What ranks do together, and the sums that are made of it.

use std::fmt::Debug;
use std::ops::Range;
use std::rc::Rc;

use crate::error::Result;

/// Bytes that are broadcast at once.
const PIECE: usize = 64 << 20;

/// The ranks of a run, as one of them sees them: it brings bytes to others and theirs here. All
/// ranks call the same methods in the same order with arguments that fit each other, and each call
/// waits for the others, but not for ever: one that is gone is named, and behind that error all calls
/// fail with the same, so that ranks stay together.
///
/// [`Local`](super::Local) has ranks in one process, `Mpi` (feature `mpi`) those of a cluster.
/// Whoever has another transport implements the first four methods; sums follow from them, with the
/// same bits. Where several calls can be on their way at once, it has
/// [`begin_scatter`](Self::begin_scatter), [`begin_share`](Self::begin_share) and [`end`](Self::end) of
/// its own, too: steps make use of them.
pub trait Exchange: Debug {
    /// Number of this rank, from 0 on.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn size(&self) -> usize;

    /// Gives each rank its part of `sent`, and gets this rank's part of what all sent: `received`
    /// has room for as many parts of this size as there are ranks, and has them in the order of
    /// ranks. `parts` has a range for each rank, one after the other, the same on all.
    ///
    /// # Errors
    /// Where a rank is gone or does not come in time, [`Error::Rank`](crate::Error::Rank) names it; on
    /// this call and all that follow.
    fn scatter(&self, sent: &[u8], parts: &[Range<usize>], received: &mut [u8]) -> Result<()>;

    /// Gives all ranks this rank's part of `bytes`, and puts theirs in their places. `parts` as for
    /// [`scatter`](Self::scatter).
    ///
    /// # Errors
    /// As [`scatter`](Self::scatter).
    fn share(&self, bytes: &mut [u8], parts: &[Range<usize>]) -> Result<()>;

    /// A [`scatter`](Self::scatter) that goes on while this rank does something else, until it asks
    /// [`end`](Self::end) for what it received. Others may begin meanwhile, shares among them, and
    /// other calls come between: on all ranks in the same order. What is here by itself is a scatter
    /// that is over at once.
    ///
    /// # Errors
    /// As [`scatter`](Self::scatter).
    fn begin_scatter(&self, sent: &[u8], parts: &[Range<usize>]) -> Result<Begun> {
        let mut received = vec![0; parts[self.rank()].len() * self.size()];
        self.scatter(sent, parts, &mut received)?;
        Ok(Begun::over(received))
    }

    /// A [`share`](Self::share) that goes on in the same way; [`end`](Self::end) gives `bytes` back,
    /// with the parts of all in their places.
    ///
    /// # Errors
    /// As [`scatter`](Self::scatter).
    fn begin_share(&self, mut bytes: Vec<u8>, parts: &[Range<usize>]) -> Result<Begun> {
        self.share(&mut bytes, parts)?;
        Ok(Begun::over(bytes))
    }

    /// Waits until what was begun is over. Of several, each rank may ask for any first.
    ///
    /// # Errors
    /// As [`scatter`](Self::scatter).
    fn end(&self, begun: Begun) -> Result<Vec<u8>> {
        Ok(begun.bytes)
    }

    /// What each rank gives, of any length, in the order of ranks.
    ///
    /// # Errors
    /// As [`scatter`](Self::scatter).
    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        let (rank, size) = (self.rank(), self.size());
        let mut lengths = vec![0u64; size];
        lengths[rank] = own.len() as u64;
        self.share(bytemuck::cast_slice_mut(&mut lengths), &bytes_of(&even_parts(size, size), 8))?;
        let mut end = 0;
        let parts = lengths.iter().map(|&length| {
            let start = end;
            end += length as usize;
            start..end
        });
        let parts: Vec<_> = parts.collect();
        let mut all = vec![0; end];
        all[parts[rank].clone()].copy_from_slice(own);
        self.share(&mut all, &parts)?;
        Ok(parts.into_iter().map(|part| all[part].to_vec()).collect())
    }

    /// What rank 0 gives, on all ranks: what only one can read, such as a file. What others give is
    /// not looked at.
    ///
    /// # Errors
    /// As [`scatter`](Self::scatter).
    fn broadcast(&self, own: &[u8]) -> Result<Vec<u8>> {
        let is_first = self.rank() == 0;
        let length = self.gather(&(own.len() as u64).to_le_bytes())?;
        let length = u64::from_le_bytes(length[0][..].try_into().expect("8 bytes")) as usize;
        let mut bytes = if is_first { own.to_vec() } else { vec![0; length] };
        for piece in bytes.chunks_mut(PIECE) {
            let mut parts = vec![piece.len()..piece.len(); self.size()];
            parts[0] = 0..piece.len();
            self.share(piece, &parts)?;
        }
        Ok(bytes)
    }

    /// Waits until all ranks are here.
    ///
    /// # Errors
    /// As [`scatter`](Self::scatter).
    fn barrier(&self) -> Result<()> {
        self.gather(&[]).map(drop)
    }

    /// Adds up what all ranks have in this rank's part of `values`, in f32 in the order of ranks:
    /// `((r0 + r1) + r2) + ...`. The other parts stay as they are. `parts` counts elements.
    ///
    /// # Errors
    /// As [`scatter`](Self::scatter).
    fn fold_parts(&self, values: &mut [f32], parts: &[Range<usize>]) -> Result<()> {
        let own = parts[self.rank()].clone();
        let mut received = vec![0f32; own.len() * self.size()];
        let to = bytemuck::cast_slice_mut(&mut received);
        self.scatter(bytemuck::cast_slice(values), &bytes_of(parts, 4), to)?;
        add_up(&received, &mut values[own]);
        Ok(())
    }

    /// Adds up what all ranks have in `values`: [`fold_parts`](Self::fold_parts), a part on each
    /// rank, which then all get. So every rank has the bits of one that added, NaN included.
    ///
    /// # Errors
    /// As [`scatter`](Self::scatter).
    fn fold(&self, values: &mut [f32]) -> Result<()> {
        if self.size() == 1 {
            return Ok(());
        }
        let parts = even_parts(values.len(), self.size());
        self.fold_parts(values, &parts)?;
        self.share(bytemuck::cast_slice_mut(values), &bytes_of(&parts, 4))
    }
}

/// What was begun of an [`Exchange`], for its [`end`](Exchange::end).
#[derive(Debug)]
pub struct Begun {
    /// What it gives, as far as that is known.
    pub(super) bytes: Vec<u8>,
    /// By rank, where in it a message goes.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) places: Vec<Range<usize>>,
    /// The number of the round that brings the messages; none where all of them are here.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) round: Option<u64>,
}

impl Begun {
    /// Something that is over, and gave this.
    pub fn over(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            #[cfg(not(target_arch = "wasm32"))]
            places: Vec::new(),
            #[cfg(not(target_arch = "wasm32"))]
            round: None,
        }
    }
}

/// Sums of what ranks have, one rank's values behind the other's, in f32 in their order.
pub(super) fn add_up(received: &[f32], sums: &mut [f32]) {
    let Some(length) = Some(sums.len()).filter(|&length| length > 0) else { return };
    let (first, others) = received.split_at(length);
    sums.copy_from_slice(first);
    for other in others.chunks(length) {
        sums.iter_mut().zip(other).for_each(|(sum, value)| *sum += value);
    }
}

/// `count` elements in as many ranges as there are ranks, one after the other, whose lengths differ
/// by one at most.
pub fn even_parts(count: usize, ranks: usize) -> Vec<Range<usize>> {
    let at = |rank: usize| rank * (count / ranks) + rank.min(count % ranks);
    (0..ranks).map(|rank| at(rank)..at(rank + 1)).collect()
}

/// The same parts in bytes, for elements of so many.
pub(super) fn bytes_of(parts: &[Range<usize>], size: usize) -> Vec<Range<usize>> {
    parts.iter().map(|part| part.start * size..part.end * size).collect()
}

impl<E: Exchange + ?Sized> Exchange for Rc<E> {
    fn rank(&self) -> usize {
        (**self).rank()
    }

    fn size(&self) -> usize {
        (**self).size()
    }

    fn scatter(&self, sent: &[u8], parts: &[Range<usize>], received: &mut [u8]) -> Result<()> {
        (**self).scatter(sent, parts, received)
    }

    fn share(&self, bytes: &mut [u8], parts: &[Range<usize>]) -> Result<()> {
        (**self).share(bytes, parts)
    }

    fn begin_scatter(&self, sent: &[u8], parts: &[Range<usize>]) -> Result<Begun> {
        (**self).begin_scatter(sent, parts)
    }

    fn begin_share(&self, bytes: Vec<u8>, parts: &[Range<usize>]) -> Result<Begun> {
        (**self).begin_share(bytes, parts)
    }

    fn end(&self, begun: Begun) -> Result<Vec<u8>> {
        (**self).end(begun)
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        (**self).gather(own)
    }
}

/// The exchange of a run.
#[cfg(not(target_arch = "wasm32"))]
pub(in crate::train) type RunExchange = Rc<dyn Exchange>;

/// An exchange waits for others, and nothing in a page may wait: there it has no value, and programs
/// carry nothing of what takes one.
#[cfg(target_arch = "wasm32")]
#[derive(Clone, Debug)]
pub(in crate::train) struct RunExchange(std::convert::Infallible);

#[cfg(target_arch = "wasm32")]
impl Exchange for RunExchange {
    fn rank(&self) -> usize {
        match self.0 {}
    }

    fn size(&self) -> usize {
        match self.0 {}
    }

    fn scatter(&self, _: &[u8], _: &[Range<usize>], _: &mut [u8]) -> Result<()> {
        match self.0 {}
    }

    fn share(&self, _: &mut [u8], _: &[Range<usize>]) -> Result<()> {
        match self.0 {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_everything_evenly() {
        for (count, ranks) in [(0, 3), (2, 3), (10, 3), (12, 4), (1023, 7), (5, 1)] {
            let parts = even_parts(count, ranks);
            assert_eq!((parts.len(), parts[0].start, parts[ranks - 1].end), (ranks, 0, count));
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start), "{parts:?}");
            let lengths = parts.iter().map(Range::len);
            assert!(lengths.clone().max().unwrap() - lengths.min().unwrap() <= 1, "{parts:?}");
        }
    }
}
