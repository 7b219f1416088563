//! Steps of a run, taken again on adapters of this machine.

use std::path::Path;

use evenkeel::run::Signals;
use evenkeel::train::{Diagnosis, ValueKind, ValueReport};
use evenkeel::{Gpu, Result};
use serde::Serialize;

use super::Options;
use super::parted::Parted;
use crate::replay::Begun;
use crate::why::bits::ulps;
use crate::why::history::History;
use crate::why::run::Run;
use crate::why::steps::Steps;

/// A run on an adapter, after the steps that were asked for.
pub struct Side {
    /// Of the adapter and its driver.
    pub name: String,
    pub history: History,
    run: Run,
    begun: Begun,
}

/// The first value of a step that two adapters do not agree on, though all that was computed before
/// it has the same bits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartedValue {
    pub step: u64,
    /// Layer and operation.
    pub label: String,
    /// Which output of the operation.
    pub output: usize,
    pub microbatch: usize,
    /// Largest magnitude on each.
    pub largest: [f32; 2],
    /// Between these, in units in the last place of f32; 0 where they are the same, and others of
    /// its elements are not.
    pub ulps: Option<u64>,
    /// Values of the step that they do not agree on, this one among them, and all.
    pub others: [usize; 2],
}

impl Side {
    /// Takes the steps from the newest save on, on the adapter with that name, or that of the
    /// environment; `None` where a signal asked to stop.
    ///
    /// # Errors
    /// Where there is no such adapter, and what is wrong with run, model, data and save.
    pub async fn take(
        adapter: Option<&str>,
        (folder, step): (&Path, u64),
        options: &Options,
        recorded: &History,
        signals: &Signals,
    ) -> Result<Option<Self>> {
        let gpu = match adapter {
            Some(name) => Gpu::named(name).await?,
            None => crate::device::open().await?,
        };
        let mut run = Run::open(folder, step, &options.moved)?;
        let mut begun = run.begin(&gpu, 0).await?;
        let steps = Steps { run: &run, history: recorded, signals, quiet: options.quiet };
        let Some(replayed) = steps.take(&mut begun, step, false).await? else { return Ok(None) };
        let name = crate::device::name(&gpu);
        Ok(Some(Self { name, history: replayed.history(), run, begun }))
    }

    async fn diagnose(&mut self, step: u64) -> Result<Diagnosis> {
        let batch = self.run.batch(step)?;
        self.begun.trainer.diagnose(&batch).await
    }
}

/// Looks into the first step that parts, on both from the same bits: those that the first adapter
/// has before it. `None` where no step parts, and where the numbers of the step part in its update
/// alone.
///
/// # Errors
/// Those of the trainers.
pub async fn first_value(
    first: &mut Side,
    second: &mut Side,
    parted: &Parted,
) -> Result<Option<PartedValue>> {
    let Some(step) = parted.first().map(|step| step.step) else { return Ok(None) };
    first.begun.go_back().await?;
    while first.begun.trainer.steps() < step {
        let batch = first.run.batch(first.begun.trainer.steps())?;
        first.begun.trainer.step(&batch).await?;
    }
    second.begun.go_to(&first.begun.checkpoint().await?).await?;
    let [one, other] = [first.diagnose(step).await?, second.diagnose(step).await?];
    Ok(first_of(step, &one.values, &other.values))
}

fn first_of(step: u64, one: &[ValueReport], other: &[ValueReport]) -> Option<PartedValue> {
    let place = |value: &ValueReport| (value.label.clone(), value.output, value.microbatch);
    let both = || one.iter().zip(other).take_while(|(a, b)| place(a) == place(b));
    let differ = |(a, b): &(&ValueReport, &ValueReport)| {
        a.kind == ValueKind::Computed && a.checksum != b.checksum
    };
    let (a, b) = both().find(differ)?;
    Some(PartedValue {
        step,
        label: a.label.clone(),
        output: a.output,
        microbatch: a.microbatch,
        largest: [a.largest, b.largest],
        ulps: ulps(a.largest.into(), b.largest.into()),
        others: [both().filter(differ).count(), one.len()],
    })
}

impl PartedValue {
    /// As it stands in a list.
    pub fn in_words(&self) -> String {
        let [one, other] = self.largest;
        let largest = match self.ulps {
            Some(0) => format!("its largest element is {one:e} on both, others are not the same"),
            Some(ulps) => {
                let unit = if ulps == 1 { "unit" } else { "units" };
                format!(
                    "its largest element is {one:e} and {other:e}, {ulps} {unit} in the last place \
                     apart"
                )
            }
            None => format!("its largest element is {one:e} and {other:e}"),
        };
        let [differing, all] = self.others;
        let output =
            if self.output == 0 { String::new() } else { format!(" (output {})", self.output) };
        format!("{}{output}: {largest}; {differing} of {all} values of the step part", self.label)
    }
}

#[cfg(test)]
mod tests {
    use evenkeel::graph::Shape;

    use super::*;

    fn value(label: &str, kind: ValueKind, largest: f32, checksum: u32) -> ValueReport {
        ValueReport {
            label: label.to_owned(),
            kind,
            output: 0,
            microbatch: 0,
            shape: Shape::real([2, 3]),
            largest,
            rms: 1.0,
            nonfinite_count: 0,
            zero_count: 0,
            subnormal_count: 0,
            first_nonfinite: None,
            checksum,
            inputs: Vec::new(),
        }
    }

    #[test]
    fn the_first_operation_with_other_bits_is_found() {
        let of = |sums: [u32; 3], largest: f32| {
            let kinds = [ValueKind::Parameter, ValueKind::Computed, ValueKind::Computed];
            let values = ["a", "b", "c"].into_iter().zip(kinds).zip(sums);
            values.map(|((label, kind), sum)| value(label, kind, largest, sum)).collect::<Vec<_>>()
        };
        let next = f32::from_bits(1.0_f32.to_bits() + 2);
        assert_eq!(first_of(3, &of([1, 2, 3], 1.0), &of([1, 2, 3], 1.0)), None);
        let found = first_of(3, &of([1, 2, 3], 1.0), &of([1, 9, 9], next)).expect("a value");
        assert_eq!((&*found.label, found.ulps, found.others), ("b", Some(2), [2, 3]));
        assert!(found.in_words().contains("2 units in the last place"), "{}", found.in_words());
        let found = first_of(3, &of([1, 2, 3], 1.0), &of([1, 2, 9], 1.0)).expect("a value");
        assert_eq!((&*found.label, found.ulps), ("c", Some(0)));
        assert!(found.in_words().contains("on both"), "{}", found.in_words());
    }
}
