//! The records of a run, for download.

use std::collections::VecDeque;

use evenkeel::Result;
use evenkeel::watch::{Csv, JsonLines, Record, Sink};

/// Steps that are kept; older ones are dropped.
const CAPACITY: usize = 50_000;

/// The last steps of a run.
#[derive(Debug, Default)]
pub struct History {
    records: VecDeque<Record>,
}

impl History {
    /// Adds the next step.
    pub fn push(&mut self, record: Record) {
        if self.records.len() == CAPACITY {
            self.records.pop_front();
        }
        self.records.push_back(record);
    }

    /// The record of a step, if it is still there.
    pub fn at(&mut self, step: u64) -> Option<&mut Record> {
        let index = self.records.binary_search_by_key(&step, |record| record.step).ok()?;
        self.records.get_mut(index)
    }

    /// Forgets `step` and all that follow: the run went back.
    pub fn truncate(&mut self, step: u64) {
        let kept = self.records.partition_point(|record| record.step < step);
        self.records.truncate(kept);
    }

    /// A line of JSON per step.
    ///
    /// # Errors
    /// None in practice: memory takes what is written.
    pub fn json_lines(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.write(JsonLines::new(&mut bytes))?;
        Ok(bytes)
    }

    /// A table with a column for every scalar that occurs.
    ///
    /// # Errors
    /// None in practice: memory takes what is written.
    pub fn csv(&self) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        for (name, _) in self.records.iter().flat_map(Record::scalars) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let mut bytes = Vec::new();
        self.write(names.into_iter().fold(Csv::new(&mut bytes), Csv::column))?;
        Ok(bytes)
    }

    fn write(&self, mut sink: impl Sink) -> Result<()> {
        self.records.iter().try_for_each(|record| sink.record(record))?;
        sink.finish()
    }
}
