//! Steps of a run, taken again and compared with what it recorded.

use std::collections::VecDeque;

use evenkeel::Result;
use evenkeel::run::Signals;
use evenkeel::train::{Diagnosis, TensorTelemetry};
use evenkeel::watch::Record;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::bits::Difference;
use super::history::History;
use super::run::Run;
use crate::replay::{Begun, Row};

/// Steps whose gradients a step is compared with, at most.
const BEFORE: usize = 64;
/// How often an operation with results that change is looked for.
const TRIES: usize = 4;
/// Rows whose loss is measured one by one, at most.
const MEASURED: usize = 64;

/// What it takes to take steps again.
#[derive(Clone, Copy)]
pub struct Steps<'a> {
    pub run: &'a Run,
    /// What they are compared with.
    pub history: &'a History,
    pub signals: &'a Signals,
    pub quiet: bool,
}

/// Steps that were taken again.
#[derive(Default)]
pub struct Replayed {
    /// What they gave now.
    pub records: Vec<Record>,
    /// Those that there was a record of.
    pub compared: usize,
    /// The first number that is another.
    pub difference: Option<Difference>,
    /// All tensors in the last of them, and in some before; none where they were not measured.
    pub tensors: VecDeque<Vec<TensorTelemetry>>,
    /// All values of the last one.
    pub diagnosis: Option<Diagnosis>,
    /// The rows of its batch, each with its loss at that step, where it could be measured.
    pub rows: Vec<(Row, Option<f64>)>,
}

impl Replayed {
    /// What they gave, to be compared with.
    pub fn history(&self) -> History {
        self.records.iter().cloned().collect()
    }
}

impl Steps<'_> {
    /// Takes the steps up to `last`, and looks into that one where `looks` says so. `None` where a
    /// signal asked to stop.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](evenkeel::Error::DeviceLost), and what is wrong with batches.
    pub async fn take(
        &self,
        begun: &mut Begun,
        last: u64,
        looks: bool,
    ) -> Result<Option<Replayed>> {
        let mut replayed = Replayed::default();
        let bar = self.bar(last + 1 - begun.start());
        while begun.trainer.steps() <= last {
            if self.signals.received().is_some() {
                return Ok(None);
            }
            let step = begun.trainer.steps();
            begun.before_step().await?;
            if looks && step == last {
                replayed.rows = self.rows(begun, step).await?;
                let batch = self.run.batch(step)?;
                replayed.diagnosis = Some(begun.trainer.diagnose(&batch).await?);
            }
            begun.trainer.step(&self.run.batch(step)?).await?;
            for telemetry in begun.trainer.telemetry().await? {
                replayed.compare(Record::from(&telemetry), self.history);
            }
            let tensors = begun.trainer.tensor_telemetry().await?;
            if !tensors.is_empty() {
                replayed.tensors.push_back(tensors);
                let surplus = replayed.tensors.len().saturating_sub(BEFORE + 1);
                replayed.tensors.drain(..surplus);
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Some(replayed))
    }

    async fn rows(&self, begun: &mut Begun, step: u64) -> Result<Vec<(Row, Option<f64>)>> {
        let mut rows = Vec::new();
        for row in self.run.rows(step)? {
            let loss = match rows.len() < MEASURED {
                true => {
                    let alone = self.run.alone(&row);
                    let loss = begun.trainer.evaluate_all(&[alone]).await;
                    // It is of use, and not what was asked for.
                    loss.ok().map(f64::from)
                }
                false => None,
            };
            rows.push((row, loss));
        }
        Ok(rows)
    }

    /// The operation, in the order of the computation, whose result is not the same each time that
    /// a step is taken.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub async fn unsteady_operation(&self, begun: &mut Begun, step: u64) -> Result<Option<String>> {
        begun.go_back().await?;
        while begun.trainer.steps() < step {
            begun.trainer.step(&self.run.batch(begun.trainer.steps())?).await?;
        }
        let batch = self.run.batch(step)?;
        let first = begun.trainer.diagnose(&batch).await?;
        for _ in 0..TRIES {
            begun.before_step().await?;
            let again = begun.trainer.diagnose(&batch).await?;
            let mut both = first.values.iter().zip(&again.values);
            if let Some((value, _)) = both.find(|(value, other)| value != other) {
                return Ok(Some(value.label.clone()));
            }
        }
        Ok(None)
    }

    fn bar(&self, steps: u64) -> ProgressBar {
        let hidden = ProgressDrawTarget::hidden();
        let target = if self.quiet { hidden } else { ProgressDrawTarget::stderr() };
        let template = "taking the steps again {bar:24} {pos}/{len}  {eta} left";
        let style = ProgressStyle::with_template(template).expect("a valid template");
        ProgressBar::with_draw_target(Some(steps), target).with_style(style)
    }
}

impl Replayed {
    fn compare(&mut self, now: Record, history: &History) {
        if let Some(then) = history.record(now.step) {
            self.compared += 1;
            if self.difference.is_none() {
                let fields = now.scalars().map(|(name, _)| name);
                self.difference = Difference::each(then, &now, fields).next();
            }
        }
        self.records.push(now);
    }
}
