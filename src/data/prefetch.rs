//! Batches that are made on a thread of their own, some of them ahead of the device.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::PaddedBatches;
use crate::error::{Error, Result};
use crate::train::Batch;

/// Batches in an order of their own, from any position of it on.
///
/// What follows from a position alone is a closure that makes the batch with that number; what goes
/// on more cheaply than it begins is a type of its own, such as [`PaddedBatches::seeded`].
pub trait BatchSource: Send + 'static {
    /// What a step takes.
    type Item: Send + 'static;

    /// The batches from number `position` on: the same ones as those behind the first `position` of
    /// all. The first error ends them.
    fn batches_from(&self, position: u64) -> impl Iterator<Item = Result<Self::Item>> + '_;
}

impl<T: Send + 'static, F: Fn(u64) -> Result<T> + Send + 'static> BatchSource for F {
    type Item = T;

    fn batches_from(&self, position: u64) -> impl Iterator<Item = Result<T>> + '_ {
        (position..).map(self)
    }
}

/// Padded batches of a seed, without end; from [`PaddedBatches::seeded`].
#[derive(Clone, Debug)]
pub struct SeededBatches {
    batches: Arc<PaddedBatches>,
    seed: u32,
}

impl PaddedBatches {
    /// These batches in the order of a seed, for [`Prefetch`].
    pub fn seeded(self: &Arc<Self>, seed: u32) -> SeededBatches {
        SeededBatches { batches: self.clone(), seed }
    }
}

impl BatchSource for SeededBatches {
    type Item = Batch;

    fn batches_from(&self, position: u64) -> impl Iterator<Item = Result<Batch>> + '_ {
        self.batches.batches(self.seed, position).map(Ok)
    }
}

/// How fast data come, beside how fast they are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoaderStatistics {
    /// Batches that were taken.
    pub batches: u64,
    /// Those of them that were not ready when they were asked for.
    pub late: u64,
    /// What it took to make them, on the loader's thread.
    pub making: Duration,
    /// How long it was waited for the late ones.
    pub waited: Duration,
    /// Since the loader began.
    pub elapsed: Duration,
}

impl LoaderStatistics {
    /// Batches per second that the loader can make; 0 before the first.
    pub fn batches_per_second(&self) -> f64 {
        per_second(self.batches, self.making)
    }

    /// Batches per second that were taken; 0 before the first.
    pub fn taken_per_second(&self) -> f64 {
        per_second(self.batches, self.elapsed)
    }

    /// The share of the time in which whoever takes batches waited for one, from 0 to 1.
    pub fn waiting_share(&self) -> f64 {
        match self.elapsed {
            Duration::ZERO => 0.0,
            elapsed => self.waited.as_secs_f64() / elapsed.as_secs_f64(),
        }
    }

    /// What went on after `earlier`, statistics of the same loader.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            batches: self.batches - earlier.batches,
            late: self.late - earlier.late,
            making: self.making - earlier.making,
            waited: self.waited - earlier.waited,
            elapsed: self.elapsed - earlier.elapsed,
        }
    }
}

fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

/// An iterator of batches that a thread makes ahead, so that a step finds its batch ready.
///
/// They are the batches of the source in its order. An error is given once, and ends them. A panic
/// of the thread goes on in whoever takes the next batch. The thread ends with the loader.
///
/// A run goes on where it was with the number of batches that it has used, which is the
/// [position](Self::position); what was made ahead and never taken does not count.
///
/// ```
/// use evenkeel::data::Prefetch;
///
/// let mut numbers = Prefetch::new(|position: u64| Ok(10 * position), 3, 2)?;
/// assert_eq!(numbers.next().transpose()?, Some(30));
/// assert_eq!(numbers.next().transpose()?, Some(40));
/// assert_eq!(numbers.position(), 5);
/// # Ok::<(), evenkeel::Error>(())
/// ```
#[derive(Debug)]
pub struct Prefetch<T> {
    /// None once there is nothing more to come.
    receiver: Option<Receiver<Made<T>>>,
    thread: Option<JoinHandle<()>>,
    position: u64,
    begin: Instant,
    statistics: LoaderStatistics,
}

#[derive(Debug)]
struct Made<T> {
    batch: Result<T>,
    making: Duration,
}

impl<T: Send + 'static> Prefetch<T> {
    /// Begins to make the batches of `source` from number `position` on. At most `ahead` of them are
    /// there before they are taken.
    ///
    /// # Errors
    /// [`Error::Setting`] for none ahead, [`Error::Unsupported`] where the system gives no thread.
    pub fn new(source: impl BatchSource<Item = T>, position: u64, ahead: usize) -> Result<Self> {
        let Some(places) = ahead.checked_sub(1) else {
            let (setting, value) = ("batches made ahead", ahead.to_string());
            return Err(Error::Setting { setting, value, range: "at least 1" });
        };
        // One more is in the hands of the thread.
        let (sender, receiver) = sync_channel(places);
        let make = move || produce(&source, position, &sender);
        let thread = Builder::new().name("data loader".to_owned()).spawn(make);
        let thread = thread.map_err(|error| Error::Unsupported {
            what: "a thread that makes batches ahead".to_owned(),
            instead: format!("the system gave none ({error}); make batches without one"),
        })?;
        Ok(Self {
            receiver: Some(receiver),
            thread: Some(thread),
            position,
            begin: Instant::now(),
            statistics: LoaderStatistics::default(),
        })
    }
}

fn produce<S: BatchSource>(source: &S, position: u64, sender: &SyncSender<Made<S::Item>>) {
    let mut start = Instant::now();
    for batch in source.batches_from(position) {
        let is_last = batch.is_err();
        let sent = sender.send(Made { batch, making: start.elapsed() });
        if sent.is_err() || is_last {
            return;
        }
        start = Instant::now();
    }
}

impl<T> Prefetch<T> {
    /// The number of the batch that comes next.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How fast batches came so far.
    pub fn statistics(&self) -> LoaderStatistics {
        LoaderStatistics { elapsed: self.begin.elapsed(), ..self.statistics }
    }

    /// What comes next, and how long it was waited for if it was not there.
    fn receive(receiver: &Receiver<Made<T>>) -> (Option<Made<T>>, Option<Duration>) {
        match receiver.try_recv() {
            Ok(made) => (Some(made), None),
            Err(TryRecvError::Disconnected) => (None, None),
            Err(TryRecvError::Empty) => {
                let start = Instant::now();
                let made = receiver.recv().ok();
                (made, Some(start.elapsed()))
            }
        }
    }

    /// Waits for the end of the thread, and says how it ended.
    fn finish(&mut self) -> std::thread::Result<()> {
        // Whatever the thread still has to send is refused.
        self.receiver = None;
        self.thread.take().map_or(Ok(()), JoinHandle::join)
    }

    fn finish_or_panic(&mut self) {
        if let Err(panic) = self.finish() {
            resume_unwind(panic);
        }
    }
}

impl<T> Iterator for Prefetch<T> {
    type Item = Result<T>;

    /// # Panics
    /// With the panic of the thread, if there was one.
    fn next(&mut self) -> Option<Result<T>> {
        let (made, waited) = Self::receive(self.receiver.as_ref()?);
        let Some(Made { batch, making }) = made else {
            self.finish_or_panic();
            return None;
        };
        if batch.is_err() {
            self.finish_or_panic();
            return Some(batch);
        }
        self.position += 1;
        self.statistics.batches += 1;
        self.statistics.making += making;
        self.statistics.late += u64::from(waited.is_some());
        self.statistics.waited += waited.unwrap_or_default();
        Some(batch)
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        // Nobody asks any more how it ended.
        drop(self.finish());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_counts() {
        let seconds = Duration::from_secs;
        let earlier = LoaderStatistics {
            batches: 10,
            late: 4,
            making: seconds(2),
            waited: seconds(1),
            elapsed: seconds(5),
        };
        assert_eq!(earlier.batches_per_second(), 5.0);
        assert_eq!(earlier.taken_per_second(), 2.0);
        assert_eq!(earlier.waiting_share(), 0.2);
        let later = LoaderStatistics { batches: 16, elapsed: seconds(8), ..earlier };
        let since = later.since(&earlier);
        assert_eq!((since.batches, since.late, since.taken_per_second()), (6, 0, 2.0));
        let none = LoaderStatistics::default();
        assert_eq!([none.batches_per_second(), none.waiting_share()], [0.0; 2]);
    }

    #[test]
    fn a_loader_that_makes_nothing_ahead_is_refused() {
        let error = Prefetch::new(Ok::<u64, Error>, 0, 0).expect_err("none").to_string();
        assert!(error.contains("batches made ahead is 0"), "{error}");
    }
}
