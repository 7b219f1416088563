//! Batches of windows out of a cache of tokens.

use std::ops::Range;
use std::sync::Arc;

use super::prefetch::BatchSource;
use super::sequences::check_rows;
use super::shuffle::Shuffle;
use super::token_cache::TokenCache;
use super::{validation_length, window_starts};
use crate::error::{Error, Result};
use crate::train::{Batch, IGNORE};

/// A run of tokens in a cache that windows of `context + 1` are cut from, as
/// [`Windows`](super::Windows) does of tokens in memory.
#[derive(Clone, Debug)]
pub struct CachedWindows {
    cache: Arc<TokenCache>,
    range: Range<u64>,
    context: usize,
}

/// Which windows a batch has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WindowOrder {
    /// Any, uniform, with replacement: those of [`Windows::batch`](super::Windows::batch).
    #[default]
    Random,
    /// Those that lie side by side, each once in an epoch. What is left at the end is less than a
    /// window; later epochs begin some tokens later, so that it is learned from too.
    Shuffled,
}

/// Batches of windows without end; from [`CachedWindows::source`].
#[derive(Clone, Debug)]
pub struct WindowSource {
    windows: CachedWindows,
    order: WindowOrder,
    shuffle: Shuffle,
    seed: u32,
    rows: usize,
}

impl CachedWindows {
    /// The tokens of a range, with `context` inputs in a window.
    ///
    /// # Errors
    /// [`Error::Data`] where the range is no part of the cache or is shorter than a window,
    /// [`Error::Setting`] for a context of 0.
    pub fn new(cache: Arc<TokenCache>, range: Range<u64>, context: usize) -> Result<Self> {
        let wrong =
            |reason: String| Err(Error::Data { what: cache.path().display().to_string(), reason });
        let Range { start, end } = range;
        if context == 0 {
            let (setting, value) = ("context of a window", context.to_string());
            return Err(Error::Setting { setting, value, range: "at least 1" });
        }
        if end > cache.tokens() || start > end {
            return wrong(format!(
                "there are {} tokens, and windows of {start} to {end} were asked for",
                cache.tokens()
            ));
        }
        if end - start <= context as u64 {
            return wrong(format!(
                "a window of {context} inputs takes {} tokens, and there are {}; give more text, or \
                 take a smaller context",
                context as u64 + 1,
                end - start
            ));
        }
        Ok(Self { cache, range, context })
    }

    /// The last `share` of the tokens for validation, and the rest for training, which comes first:
    /// the parts of [`Corpus::split`](super::Corpus::split). `name` stands in messages.
    ///
    /// # Errors
    /// As [`Corpus::split`](super::Corpus::split) and [`new`](Self::new).
    pub fn split(
        cache: &Arc<TokenCache>,
        name: &str,
        share: f64,
        context: usize,
    ) -> Result<(Self, Self)> {
        let tokens = cache.tokens();
        let middle = tokens - validation_length(name, tokens, share, context)?;
        let windows = |range| Self::new(cache.clone(), range, context);
        Ok((windows(0..middle)?, windows(middle..tokens)?))
    }

    /// Number of tokens.
    pub fn tokens(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Windows that lie side by side, of which an epoch of [`WindowOrder::Shuffled`] is made.
    pub fn per_epoch(&self) -> u64 {
        (self.tokens() - 1) / self.context as u64
    }

    /// Where the `count` windows of batch `index` begin in the cache: uniform, with replacement.
    pub fn starts(&self, seed: u32, index: u64, count: usize) -> impl Iterator<Item = u64> {
        let positions = self.tokens() - self.context as u64;
        let begin = self.range.start;
        window_starts(positions, seed, index, count).map(move |start| begin + start)
    }

    /// Batch `index` of a seed: `count` windows as inputs `tokens` and `targets`, the latter one
    /// token ahead; bit by bit that of [`Windows::batch`](super::Windows::batch). Targets that do not
    /// count, where the cache has a mask, are [`IGNORE`].
    ///
    /// # Errors
    /// [`Error::File`] where the cache cannot be read.
    pub fn batch(&self, seed: u32, index: u64, count: usize) -> Result<Batch> {
        self.at(self.starts(seed, index, count))
    }

    /// Inputs and targets of the window that begins there in the cache.
    ///
    /// # Errors
    /// [`Error::File`] where the cache cannot be read.
    ///
    /// # Panics
    /// If it goes beyond the end.
    pub fn window(&self, start: u64) -> Result<(Vec<u32>, Vec<u32>)> {
        let end = start + self.context as u64 + 1;
        let mut tokens = self.cache.read(start..end)?;
        let mut targets = tokens[1..].to_vec();
        if self.cache.is_masked() {
            let counts = self.cache.counts(start + 1..end)?;
            let left_out = targets.iter_mut().zip(counts).filter(|(_, counts)| !counts);
            left_out.for_each(|(target, _)| *target = IGNORE);
        }
        tokens.pop();
        Ok((tokens, targets))
    }

    /// Batches of `rows` windows in the order of a seed, for [`Prefetch`](super::Prefetch).
    ///
    /// # Errors
    /// [`Error::Setting`] for no rows.
    pub fn source(self, order: WindowOrder, seed: u32, rows: usize) -> Result<WindowSource> {
        check_rows(rows)?;
        let shuffle = Shuffle::new(self.per_epoch() as usize, seed)?;
        Ok(WindowSource { windows: self, order, shuffle, seed, rows })
    }

    /// A batch of the windows that begin there in the cache.
    fn at(&self, starts: impl Iterator<Item = u64>) -> Result<Batch> {
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        for start in starts {
            let (inputs, next) = self.window(start)?;
            tokens.extend(inputs);
            targets.extend(next);
        }
        Ok(Batch::new().with("tokens", tokens).with("targets", targets))
    }
}

impl WindowSource {
    /// Windows of an epoch, over all windows.
    fn shuffled(&self, position: u64) -> impl Iterator<Item = u64> + use<> {
        let context = self.windows.context as u64;
        let left = (self.windows.tokens() - 1) % context;
        let first = self.windows.range.start;
        let begin = move |epoch: u64| first + epoch % (left + 1);
        self.shuffle.from(position).map(move |(epoch, one)| begin(epoch) + one as u64 * context)
    }
}

impl BatchSource for WindowSource {
    type Item = Batch;

    fn batches_from(&self, position: u64) -> impl Iterator<Item = Result<Batch>> + '_ {
        let mut shuffled = self.shuffled(position * self.rows as u64);
        (position..).map(move |index| match self.order {
            WindowOrder::Random => self.windows.batch(self.seed, index, self.rows),
            WindowOrder::Shuffled => self.windows.at(shuffled.by_ref().take(self.rows)),
        })
    }
}
