//! How a run on several ranks ended: the same on all of them.

use evenkeel::run::{Ending, Signal, exit_code, tell_error};
use evenkeel::{Error, Result};
use serde::{Deserialize, Serialize};

use super::Ranks;

/// How it ended on one rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum End {
    Done,
    Unfit,
    /// By a signal, with this exit code.
    Stopped(u8),
    Failed(Failure),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Failure {
    code: u8,
    text: String,
    /// Whether it is what another rank told.
    is_told: bool,
}

impl End {
    fn of(result: &Result<Ending>) -> Self {
        match result {
            Ok(Ending::Done) => Self::Done,
            Ok(Ending::Unfit) => Self::Unfit,
            Ok(Ending::Stopped(signal)) => Self::Stopped(signal.exit_code()),
            Ok(Ending::Failed(code)) => {
                let text = "it failed, as was told".to_owned();
                Self::Failed(Failure { code: *code, text, is_told: true })
            }
            Err(error) => Self::Failed(Failure {
                code: exit_code(error),
                text: error.to_string(),
                is_told: matches!(error, Error::Rank { .. }),
            }),
        }
    }
}

/// What ends them all: the first that failed by itself, or else the first signal, or else what was told.
fn first_cause(all: &[End]) -> Option<(usize, &End)> {
    let by = |is_it: fn(&End) -> bool| all.iter().enumerate().find(move |(_, end)| is_it(end));
    by(|end| matches!(end, End::Failed(failure) if !failure.is_told))
        .or_else(|| by(|end| matches!(end, End::Stopped(_))))
        .or_else(|| by(|end| matches!(end, End::Failed(_))))
        .or_else(|| by(|end| *end == End::Unfit))
}

impl Ranks {
    /// The first signal that a rank heard.
    ///
    /// # Errors
    /// [`Error::Rank`] where a rank is gone.
    pub fn heard(&self, own: Option<Signal>) -> Result<Option<Signal>> {
        let Some(exchange) = &self.exchange else { return Ok(own) };
        let all = self.gathered::<Option<u8>>(exchange, &own.map(Signal::exit_code))?;
        Ok(all.into_iter().flatten().next().map(signal))
    }

    /// How the run ends, of how it ended on each rank: an error is told by rank 0, and all ranks get its
    /// exit code. Nothing may be exchanged behind it.
    ///
    /// # Errors
    /// That of this rank, where the others cannot be asked any more.
    pub(super) fn settle(self, result: Result<Ending>) -> Result<Ending> {
        let Some(exchange) = &self.exchange else { return result };
        let Ok(all) = self.gathered::<End>(exchange, &End::of(&result)) else { return result };
        let ending = match first_cause(&all) {
            None => Ending::Done,
            Some((_, End::Stopped(code))) => Ending::Stopped(signal(*code)),
            Some((rank, End::Failed(Failure { code, text, is_told }))) => {
                if self.is_first() {
                    let whose = match rank {
                        rank if rank > 0 && !is_told => format!("rank {rank}: "),
                        _ => String::new(),
                    };
                    tell_error(format!("{whose}{text}"));
                }
                Ending::Failed(*code)
            }
            Some(_) => Ending::Unfit,
        };
        // Whoever ends first with an exit code has the others ended: not before it was told.
        exchange.barrier().map(|()| ending).or(Ok(ending))
    }
}

/// The signal that ends a program with this exit code.
fn signal(code: u8) -> Signal {
    let all = [Signal::INTERRUPT, Signal::TERMINATE];
    all.into_iter().find(|signal| signal.exit_code() == code).unwrap_or(Signal::HANG_UP)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(text: &str, is_told: bool) -> End {
        End::Failed(Failure { code: 3, text: text.to_owned(), is_told })
    }

    #[test]
    fn the_cause_is_what_was_not_told_by_another() {
        let stopped = || End::Stopped(143);
        let cause = |all: &[End]| first_cause(all).map(|(rank, _)| rank);
        assert_eq!(cause(&[End::Done, End::Done]), None);
        assert_eq!(cause(&[failed("rank 2", true), stopped(), failed("own", false)]), Some(2));
        assert_eq!(cause(&[failed("rank 1", true), stopped()]), Some(1));
        assert_eq!(cause(&[failed("rank 1", true), failed("rank 1", true)]), Some(0));
        assert_eq!(cause(&[End::Done, End::Unfit]), Some(1));
    }

    #[test]
    fn ends_are_those_of_results() {
        for signal in [Signal::INTERRUPT, Signal::TERMINATE, Signal::HANG_UP] {
            assert_eq!(super::signal(signal.exit_code()), signal);
        }
        let lost = Error::DeviceLost { reason: "a reset".to_owned() };
        let End::Failed(failure) = End::of(&Err(lost)) else { panic!("it failed") };
        assert_eq!((failure.code, failure.is_told), (6, false));
        assert!(failure.text.contains("a reset"), "{}", failure.text);
        let told = Error::Rank { rank: 1, reason: "cannot go on: a reason".to_owned() };
        let End::Failed(failure) = End::of(&Err(told)) else { panic!("it failed") };
        assert!(failure.is_told && failure.text == "rank 1 cannot go on: a reason", "{failure:?}");
    }
}
