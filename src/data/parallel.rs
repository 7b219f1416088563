//! Work in several threads, with results in the order of what came in.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{ScopedJoinHandle, scope};

use crate::error::Result;

/// What is under way for each thread: one piece that it works at, and one that waits.
const UNDER_WAY: u64 = 2;

/// A thread, what goes in and what comes out.
struct Worker<'scope, T, U> {
    pieces: Sender<T>,
    results: Receiver<Result<U>>,
    thread: ScopedJoinHandle<'scope, ()>,
}

/// Works at pieces in as many `threads` as there are processors, or as are given, and hands the
/// results over in the order of the pieces. However many there are, only a few for each thread are
/// in memory.
///
/// ```
/// use evenkeel::data::parallel_map;
///
/// let mut squares = Vec::new();
/// let numbers = (0..100_u64).map(Ok);
/// parallel_map(numbers, None, |number| Ok(number * number), |square| {
///     squares.push(square);
///     Ok(())
/// })?;
/// assert_eq!(squares[99], 99 * 99);
/// # Ok::<(), evenkeel::Error>(())
/// ```
///
/// # Errors
/// The first one in the order of the pieces, of a piece, its work or its taking; the rest is left.
///
/// # Panics
/// With the panic of a thread.
pub fn parallel_map<T: Send, U: Send>(
    pieces: impl IntoIterator<Item = Result<T>>,
    threads: Option<NonZero<usize>>,
    work: impl Fn(T) -> Result<U> + Sync,
    mut take: impl FnMut(U) -> Result<()>,
) -> Result<()> {
    let available = || std::thread::available_parallelism().map_or(1, NonZero::get);
    let count = threads.map_or_else(available, NonZero::get);
    scope(|scope| {
        let work = &work;
        let mut workers: Vec<_> = (0..count)
            .map(|_| {
                let (pieces, incoming) = channel();
                let (outgoing, results) = channel();
                let thread = scope.spawn(move || {
                    // Nobody takes results any more after an error.
                    let send = |piece| outgoing.send(work(piece)).is_ok();
                    let _ = incoming.into_iter().all(send);
                });
                Worker { pieces, results, thread }
            })
            .collect();
        let worker = |number: u64| (number % count as u64) as usize;
        let (mut given, mut taken) = (0, 0);
        for piece in pieces {
            let piece = match piece {
                Ok(piece) => piece,
                // What came in before it comes first.
                Err(error) => {
                    (taken..given)
                        .try_for_each(|number| take(result(&mut workers, worker(number))?))?;
                    return Err(error);
                }
            };
            // Where a thread has panicked, its results say so.
            drop(workers[worker(given)].pieces.send(piece));
            given += 1;
            if given - taken == UNDER_WAY * count as u64 {
                take(result(&mut workers, worker(taken))?)?;
                taken += 1;
            }
        }
        (taken..given).try_for_each(|number| take(result(&mut workers, worker(number))?))
    })
}

fn result<T, U>(workers: &mut Vec<Worker<'_, T, U>>, index: usize) -> Result<U> {
    if let Ok(result) = workers[index].results.recv() {
        return result;
    }
    match workers.swap_remove(index).thread.join() {
        Err(panic) => resume_unwind(panic),
        Ok(()) => unreachable!("a thread ends with its pieces"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn map(
        pieces: impl IntoIterator<Item = Result<u32>>,
        work: impl Fn(u32) -> Result<u32> + Sync,
    ) -> (Vec<u32>, Result<()>) {
        let mut taken = Vec::new();
        let result = parallel_map(pieces, NonZero::new(3), work, |one| {
            taken.push(one);
            Ok(())
        });
        (taken, result)
    }

    fn failed(what: &str) -> Error {
        Error::Data { what: what.to_owned(), reason: "no".to_owned() }
    }

    #[test]
    fn results_come_in_order() {
        let slowly = |piece: u32| {
            // Later pieces are done earlier.
            std::thread::sleep(std::time::Duration::from_micros(u64::from(100 - piece)));
            Ok(piece + 1)
        };
        let (taken, result) = map((0..100).map(Ok), slowly);
        assert!(result.is_ok());
        assert_eq!(taken, (1..=100).collect::<Vec<_>>());
        assert_eq!(map([], Ok).0, [0; 0]);
    }

    #[test]
    fn the_first_error_ends_it() {
        let work =
            |piece: u32| if piece >= 20 { Err(failed(&piece.to_string())) } else { Ok(piece) };
        let (taken, result) = map((0..100).map(Ok), work);
        assert_eq!(taken, (0..20).collect::<Vec<_>>());
        assert_eq!(result.expect_err("20").to_string(), "20: no");

        let pieces = (0..7).map(Ok).chain([Err(failed("a piece"))]);
        let (taken, result) = map(pieces, Ok);
        assert_eq!(taken, (0..7).collect::<Vec<_>>());
        assert_eq!(result.expect_err("a piece").to_string(), "a piece: no");

        let mut pieces = 0..u32::MAX;
        let drawn = pieces.by_ref().map(Ok);
        let result = parallel_map(drawn, NonZero::new(2), Ok, |_| Err(failed("full")));
        assert_eq!(result.expect_err("full").to_string(), "full: no");
        assert!(pieces.start < 10, "{pieces:?}");
    }

    #[test]
    #[should_panic(expected = "piece 5 is too much")]
    fn panics_go_on() {
        let work =
            |piece: u32| if piece == 5 { panic!("piece {piece} is too much") } else { Ok(piece) };
        drop(map((0..100).map(Ok), work));
    }
}
