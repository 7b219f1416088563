//! What a run recorded, and the steps of it that went wrong.

use std::collections::BTreeMap;
use std::path::Path;

use evenkeel::run::history::read_records;
use evenkeel::run::warn;
use evenkeel::watch::{Record, RunStatistics, scalar};
use evenkeel::{Error, Result};

use crate::report::folder_and_records;

/// What was wrong with a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Trouble {
    pub step: u64,
    /// In words, as the run said it.
    pub words: Vec<String>,
    /// Loss or gradients were NaN or Inf.
    pub is_nonfinite: bool,
    /// A loss scale was found too large, which happens in every run that has a dynamic one.
    is_routine: bool,
    has_given_up: bool,
}

impl Trouble {
    fn of(record: &Record, statistics: &mut RunStatistics) -> Option<Self> {
        // A run that reacts to spikes says so itself.
        let mut silent = record.clone();
        silent.events.clear();
        let seen = statistics.annotate(silent).events;
        let mut words = record.events.clone();
        words.retain(|event| {
            event.starts_with("skipped") || event.contains("spike") || event.contains("gave up")
        });
        if words.iter().all(|event| !event.contains("spike")) {
            words.extend(seen.into_iter().filter(|event| event.contains("spike")));
        }
        let get = |name| record.get(name).unwrap_or(0.0);
        let loss = get(scalar::LOSS);
        let is_nonfinite = !loss.is_finite() || get(scalar::NONFINITE_COUNT) > 0.0;
        if words.is_empty() && record.applied() && !is_nonfinite {
            return None;
        }
        let has_given_up = record.events.iter().any(|event| event.contains("gave up"));
        let is_scaled = record.get(scalar::LOSS_SCALE).is_some_and(|scale| scale != 1.0);
        let is_routine = is_nonfinite && loss.is_finite() && is_scaled && !has_given_up;
        if words.is_empty() {
            words.push(format!("the loss is {loss}, the step was not applied"));
        }
        Some(Self { step: record.step, words, is_nonfinite, is_routine, has_given_up })
    }

    /// Nothing was computed in such a step.
    fn is_behind_the_end(&self) -> bool {
        let is_end = |word: &String| {
            word.starts_with("skipped: training had given up") || word == "skipped: GaveUp"
        };
        self.words.iter().any(is_end)
    }
}

/// The records of a run by their steps.
#[derive(Clone, Debug, Default)]
pub struct History {
    records: BTreeMap<u64, Record>,
    troubles: Vec<Trouble>,
}

impl FromIterator<Record> for History {
    fn from_iter<I: IntoIterator<Item = Record>>(records: I) -> Self {
        let records: BTreeMap<_, _> = records.into_iter().map(|one| (one.step, one)).collect();
        let mut statistics = RunStatistics::default();
        let troubles = records.values().filter_map(|one| Trouble::of(one, &mut statistics));
        Self { troubles: troubles.collect(), records }
    }
}

impl History {
    /// Reads the records in the folder of a run.
    ///
    /// # Errors
    /// [`Error::File`] for what is no such folder, and where there are no records.
    pub fn read(run: &Path) -> Result<Self> {
        let (_, path) = folder_and_records(run)?;
        let mut records = Vec::new();
        let damaged = read_records(&path, |record| records.push(record));
        let refuse = |reason: String| Error::File { path: path.clone(), reason };
        let damaged = damaged.map_err(|error| refuse(format!("cannot be read: {error}")))?;
        if records.is_empty() {
            return Err(refuse("there are no records of steps in it".to_owned()));
        }
        if let Some(first) = damaged.first() {
            let (count, path) = (damaged.len(), path.display());
            warn(format!("{path}: {count} lines are no records, the first is line {first}"));
        }
        Ok(records.into_iter().collect())
    }

    /// The step to look at: the one that is asked for, or the first of the last ones in a row that
    /// went wrong. `None` where nothing did.
    ///
    /// # Errors
    /// [`Error::Setting`] for a step that there is not, and [`Error::Unsupported`] for one that was
    /// not computed.
    pub fn find(&self, asked: Option<u64>) -> Result<Option<u64>> {
        let Some(step) = asked else { return Ok(self.last_row()) };
        if !self.records.contains_key(&step) {
            return Err(Error::Setting {
                setting: "--step",
                value: step.to_string(),
                range: "a step that metrics.jsonl has a record of; they are counted from 0",
            });
        }
        if self.trouble(step).is_some_and(Trouble::is_behind_the_end) {
            return Err(Error::Unsupported {
                what: format!("--step {step}, which came after training had given up,"),
                instead: "leave --step out: the step that it began with is found".to_owned(),
            });
        }
        Ok(Some(step))
    }

    fn last_row(&self) -> Option<u64> {
        let serious = self.troubles.iter().rposition(|trouble| !trouble.is_routine);
        let mut at = serious.or(self.troubles.len().checked_sub(1))?;
        let in_row = |at: usize| self.troubles[at - 1].step + 1 == self.troubles[at].step;
        let is_end = self.troubles[at].has_given_up || self.troubles[at].is_behind_the_end();
        let mut belongs = serious.is_none() || is_end;
        while at > 0 && in_row(at) && (belongs || !self.troubles[at - 1].is_routine) {
            at -= 1;
            belongs |= self.troubles[at].has_given_up;
        }
        Some(self.troubles[at].step)
    }

    /// The record of a step.
    pub fn record(&self, step: u64) -> Option<&Record> {
        self.records.get(&step)
    }

    /// All records, in the order of their steps.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// The last step that there is a record of.
    pub fn last(&self) -> Option<u64> {
        self.records.last_key_value().map(|(step, _)| *step)
    }

    /// What was wrong with a step.
    pub fn trouble(&self, step: u64) -> Option<&Trouble> {
        self.troubles.iter().find(|trouble| trouble.step == step)
    }

    /// All of them.
    pub fn troubles(&self) -> &[Trouble] {
        &self.troubles
    }

    /// The step after which the run gave up.
    pub fn gave_up(&self) -> Option<u64> {
        self.troubles.iter().find(|trouble| trouble.has_given_up).map(|trouble| trouble.step)
    }

    /// How many steps there are records of.
    pub fn len(&self) -> usize {
        self.records.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64, applied: bool, events: &[&str]) -> Record {
        let record = Record::new(step).with(scalar::LOSS, 1.0).with(scalar::LOSS_SCALE, 1.0);
        let mut record = record.with(scalar::APPLIED, f64::from(u8::from(applied)));
        record.events = events.iter().map(|&event| event.to_owned()).collect();
        record
    }

    #[test]
    fn the_first_of_the_last_row_is_found() {
        let spike = ["skipped: the loss is out of line", "loss spike: 3 is 9 standard deviations"];
        let bad = [2, 5, 6, 7];
        let records = (0..10).map(|step| match bad.contains(&step) {
            true => record(step, false, &spike),
            false => record(step, true, &[]),
        });
        let history: History = records.collect();
        assert_eq!(history.find(None).expect("a step"), Some(5));
        assert_eq!(history.trouble(5).expect("trouble").words, spike);
        assert_eq!(history.troubles().len(), 4);
        assert_eq!(history.find(Some(2)).expect("a step"), Some(2));
        let error = history.find(Some(10)).expect_err("no record").to_string();
        assert!(error.contains("--step is 10"), "{error}");
        let calm: History = (0..4).map(|step| record(step, true, &[])).collect();
        assert_eq!(calm.find(None).expect("nothing"), None);
    }

    #[test]
    fn a_search_for_a_loss_scale_is_no_trouble_where_there_is_another() {
        let overflow = |step| {
            let record = record(step, false, &["skipped: 3 gradient elements are NaN or Inf"]);
            record.with(scalar::LOSS_SCALE, 65_536.0).with(scalar::NONFINITE_COUNT, 3.0)
        };
        let nan = record(4, false, &["skipped: the loss is NaN"]).with(scalar::LOSS, f64::NAN);
        let calm = |step| record(step, true, &[]);
        let history: History =
            [overflow(0), overflow(1), calm(2), calm(3), nan, overflow(8)].into_iter().collect();
        assert_eq!(history.find(None).expect("a step"), Some(4));
        assert!(history.trouble(4).expect("trouble").is_nonfinite);
        let history: History = [overflow(0), overflow(1), calm(2)].into_iter().collect();
        assert_eq!(history.find(None).expect("a step"), Some(0));
        // But where it led to the end.
        let mut last = overflow(2);
        last.events.push("training gave up: 3 steps in a row were skipped".to_owned());
        let mut behind = overflow(3);
        behind.events = vec!["skipped: training had given up".to_owned()];
        let history: History = [overflow(0), overflow(1), last, behind].into_iter().collect();
        assert_eq!(history.find(None).expect("a step"), Some(0));
        assert_eq!(history.gave_up(), Some(2));
        let error = history.find(Some(3)).expect_err("not computed").to_string();
        assert!(error.contains("given up"), "{error}");
    }

    #[test]
    fn a_spike_that_nobody_reacted_to_is_found() {
        let records = (0..140).map(|step| {
            let loss = if step == 130 { 50.0 } else { 1.0 + 0.01 * (step % 3) as f64 };
            record(step, true, &[]).with(scalar::LOSS, loss)
        });
        let history: History = records.collect();
        assert_eq!(history.find(None).expect("a step"), Some(130));
        assert!(history.trouble(130).expect("trouble").words[0].starts_with("loss spike: 50"));
    }
}
