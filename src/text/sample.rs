//! Texts as a model learns from them.

use std::fmt;

use crate::train::IGNORE;

/// A text as ids, and which of them count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Its ids, one more than a model is given: each is predicted from those before it.
    pub tokens: Vec<u32>,
    /// Whether the prediction of each counts for the loss. Nothing is before the first, which
    /// counts never.
    pub counts: Vec<bool>,
}

impl Sample {
    /// What the model is given: all ids but the last.
    pub fn inputs(&self) -> &[u32] {
        &self.tokens[..self.tokens.len().saturating_sub(1)]
    }

    /// What it is to predict at each of them: the next id, or [`IGNORE`] where that does not count.
    pub fn targets(&self) -> Vec<u32> {
        let next = self.tokens.iter().zip(&self.counts).skip(1);
        next.map(|(&token, &counts)| if counts { token } else { IGNORE }).collect()
    }

    /// How many predictions count.
    pub fn counted(&self) -> usize {
        self.counts.iter().skip(1).filter(|&&counts| counts).count()
    }
}

/// A line that was longer than the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated {
    /// Counted from 1.
    pub line: usize,
    /// How many tokens it has.
    pub tokens: usize,
    /// How many of them are kept.
    pub kept: usize,
    /// How many of those that are not kept would have counted.
    pub counted: usize,
}

/// What became of the lines of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Samples to learn from.
    pub samples: usize,
    /// Inputs of all of them.
    pub tokens: usize,
    /// How many predictions count.
    pub counted: usize,
    /// The lines that were cut.
    pub truncated: Vec<Truncated>,
    /// The lines of which nothing counts, which are left out. Counted from 1.
    pub left_out: Vec<usize>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, tokens, counted, truncated, left_out } = self;
        write!(f, "{samples} samples of {tokens} tokens, {counted} of which count for the loss")?;
        if !truncated.is_empty() {
            let lost: usize = truncated.iter().map(|cut| cut.counted).sum();
            write!(f, "; {} cut to the context", truncated.len())?;
            lines(f, truncated.iter().map(|cut| cut.line))?;
            write!(f, ", which took {lost} that would count")?;
        }
        if !left_out.is_empty() {
            write!(f, "; {} left out, since nothing of them counts", left_out.len())?;
            lines(f, left_out.iter().copied())?;
        }
        Ok(())
    }
}

/// Numbers of lines, the first of them.
fn lines(f: &mut fmt::Formatter<'_>, mut lines: impl Iterator<Item = usize>) -> fmt::Result {
    let first: Vec<_> = lines.by_ref().take(5).map(|line| line.to_string()).collect();
    let more = if lines.next().is_some() { ", ..." } else { "" };
    write!(f, " (line {}{more})", first.join(", "))
}
