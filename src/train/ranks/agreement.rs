//! What must be the same on all ranks, and which one it is not the same on.

use super::Exchange;
use crate::error::{Error, Result};
use crate::graph::ParameterSpec;
use crate::train::checkpoint::Hash;
use crate::train::{Model, Trainer};

/// What something is called, and what it is on a rank. Of texts of several lines, the first line that
/// differs is told.
pub(in crate::train) type Fact = (String, String);

/// Which rank differs, and one of those that it differs from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Odd {
    odd: usize,
    usual: usize,
}

/// The first rank that has another value than most; where as many have one as another, than the first
/// of them.
fn odd_one<T: PartialEq>(values: &[T]) -> Option<Odd> {
    let count = |rank: &usize| values.iter().filter(|value| **value == values[*rank]).count();
    let usual = (0..values.len()).rev().max_by_key(count)?;
    let odd = values.iter().position(|value| *value != values[usual])?;
    Some(Odd { odd, usual })
}

/// Fails unless all ranks have the same value, and names the one that has not.
pub(super) fn all_have<T: PartialEq + ToString>(what: &str, values: &[T]) -> Result<()> {
    let Some(Odd { odd, usual }) = odd_one(values) else { return Ok(()) };
    Err(differs(what, odd, &values[odd].to_string(), usual, &values[usual].to_string()))
}

/// Fails unless all ranks are in the same call, and names the one that is not.
pub(super) fn same_call(calls: &[&str]) -> Result<()> {
    let Some(Odd { odd, usual }) = odd_one(calls) else { return Ok(()) };
    let (theirs, ours) = (calls[odd], calls[usual]);
    let reason = format!(
        "has called {theirs} where rank {usual} has called {ours}; ranks make the same calls in the \
         same order"
    );
    Err(Error::Rank { rank: odd, reason })
}

fn differs(what: &str, odd: usize, theirs: &str, usual: usize, ours: &str) -> Error {
    let shown = |line: Option<&str>| match line {
        Some("") | None => "nothing".to_owned(),
        Some(line) => line.to_owned(),
    };
    let (mut a, mut b) = (theirs.lines(), ours.lines());
    let (theirs, ours) = loop {
        match (a.next(), b.next()) {
            (theirs, ours) if theirs != ours || theirs.is_none() => {
                break (shown(theirs), shown(ours));
            }
            _ => {}
        }
    };
    let reason = format!(
        "has {what} {theirs}, rank {usual} has {ours}; start all ranks with the same program, \
         settings and checkpoint, on devices of one kind"
    );
    Error::Rank { rank: odd, reason }
}

/// Tells all ranks what failed here, and hears what failed elsewhere.
pub(super) fn tell(exchange: &dyn Exchange, failure: Option<&Error>) -> Result<()> {
    let own = failure.map(ToString::to_string).unwrap_or_default();
    let all = exchange.gather(own.as_bytes())?;
    match all.iter().position(|text| !text.is_empty()) {
        None => Ok(()),
        Some(rank) => Err(failed(rank, &String::from_utf8_lossy(&all[rank]))),
    }
}

pub(super) fn failed(rank: usize, what: &str) -> Error {
    Error::Rank { rank, reason: format!("cannot go on: {what}") }
}

/// What a rank sent, as it was read.
pub(super) fn understood<T>(rank: usize, read: serde_json::Result<T>) -> Result<T> {
    read.map_err(|_| Error::Rank {
        rank,
        reason: "tells what is not understood here; start all ranks with the same program".into(),
    })
}

/// Fails where a rank has other facts than the others, and names it.
pub(super) fn compare(exchange: &dyn Exchange, facts: &[Fact]) -> Result<()> {
    let all = exchange.gather(&serde_json::to_vec(facts).expect("texts"))?;
    let all = all.iter().enumerate();
    let all = all.map(|(rank, bytes)| understood(rank, serde_json::from_slice(bytes)));
    let all: Vec<Vec<Fact>> = all.collect::<Result<_>>()?;
    for index in 0..all.iter().map(Vec::len).max().unwrap_or(0) {
        let values: Vec<_> = all.iter().map(|facts| facts.get(index)).collect();
        let Some(Odd { odd, usual }) = odd_one(&values) else { continue };
        let what = values[odd].or(values[usual]).map_or("", |(what, _)| what);
        let text = |rank: usize| values[rank].map_or("", |(_, text)| text);
        return Err(differs(what, odd, text(odd), usual, text(usual)));
    }
    Ok(())
}

/// A trainer once all ranks have built theirs, of the same model with the same settings; or why not,
/// on each of them.
pub(in crate::train) fn agree_about<M: Model>(
    exchange: &dyn Exchange,
    built: Result<Trainer<M>>,
) -> Result<Trainer<M>> {
    let told = tell(exchange, built.as_ref().err());
    let trainer = built?;
    told?;
    compare(exchange, &trainer.facts())?;
    Ok(trainer)
}

impl<M: Model> Trainer<M> {
    /// What has to be the same before the first step, beside what the device holds.
    fn facts(&self) -> Vec<Fact> {
        let line = |spec: &ParameterSpec| {
            let kind = if spec.requires_grad { "" } else { ", frozen" };
            format!("{} {}{kind}\n", spec.name, spec.shape)
        };
        let tensors: String = self.parameters.specs().iter().map(line).collect();
        let states = self.parameters.states().iter();
        let states: String =
            states.map(|spec| format!("{:?} {}\n", spec.names, spec.shape)).collect();
        let mut facts = vec![
            ("evenkeel".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("the model".to_owned(), self.model.configuration()),
            ("the tensor".to_owned(), tensors),
            ("the state".to_owned(), states),
        ];
        let settings = self.settings.facts(&self.parameters);
        facts.extend(settings.into_iter().map(|(what, text)| (what.to_owned(), text)));
        facts
    }

    /// Compares all that a checkpoint would have between the ranks, but for moments of which each has
    /// its own.
    pub(super) async fn compare_ranks(&self, exchange: &dyn Exchange) -> Result<()> {
        let mut facts = Vec::new();
        let weights = self.parameters.buffers().map(|buffer| ("weights", buffer));
        let moments = self.moments.iter().filter(|_| !self.is_sharded());
        let moments = moments.flatten().map(|buffer| ("moments", buffer));
        let averages = self.averages().iter().map(|buffer| ("averages", buffer));
        let state = [("a state of the run", &self.step.state), ("clocks", &self.tensors)];
        let memories = self.policies.iter();
        let memories = memories.map(|active| (active.policy.name(), &active.memory));
        for (what, buffer) in weights.chain(moments).chain(averages).chain(state).chain(memories) {
            let words: Vec<u32> = self.gpu.read(buffer, 0, buffer.size() as usize / 4).await?;
            let mut hash = Hash::new();
            words.into_iter().for_each(|word| hash.word(word));
            facts.push((format!("{what} with the fingerprint"), hash.digits()));
        }
        compare(exchange, &facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_differs_from_most_is_named() {
        let odd = |values: &[u32]| odd_one(values).map(|found| (found.odd, found.usual));
        assert_eq!(odd(&[4, 4, 4]), None);
        assert_eq!(odd(&[4, 5]), Some((1, 0)));
        assert_eq!(odd(&[5, 4, 4]), Some((0, 1)));
        assert_eq!(odd(&[4, 4, 7, 4]), Some((2, 0)));
        assert_eq!(odd(&[]), None);
    }

    #[test]
    fn the_first_line_that_differs_is_told() {
        let texts = ["a 3\nb 4\nc 5", "a 3\nb 4\nc 5", "a 3\nb 6\nc 5"];
        let told = all_have("the tensor", &texts).expect_err("one differs").to_string();
        assert!(told.starts_with("rank 2 has the tensor b 6, rank 0 has b 4; "), "{told}");
        let told = all_have("the tensor", &["a 3\nb 4", "a 3"]).expect_err("a line").to_string();
        assert!(told.starts_with("rank 1 has the tensor nothing, rank 0 has b 4; "), "{told}");
        all_have("the tensor", &["a 3", "a 3"]).expect("the same");
    }
}
