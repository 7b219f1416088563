//! A finding as text and as JSON.

use evenkeel::run::say;
use evenkeel::train::ValueReport;
use evenkeel::watch::Record;
use serde_json::{Value, json};

use super::bits::{Difference, json_number};
use super::finding::{Bits, Finding, Leap, Standout};
use super::history::History;

/// Steps and rows that are listed, at most.
const LISTED: usize = 12;
/// Characters of a row that are shown, at most.
const SHOWN: usize = 2000;

/// Nothing went wrong.
pub fn nothing(history: &History) -> String {
    format!(
        "nothing went wrong: none of {} steps was skipped or spiked; --step N looks at one all the \
         same",
        history.len()
    )
}

/// The same as JSON.
pub fn nothing_as_json(history: &History) -> Value {
    json!({ "steps": history.len(), "step": null })
}

/// Says all of it.
pub fn print(finding: &Finding<'_>, history: &History) {
    print_step(finding, history);
    print_bits(finding);
    print_cause(finding);
    print_leap(finding);
    print_batch(finding);
}

fn print_step(finding: &Finding<'_>, history: &History) {
    let Finding { step, per_step, trouble, .. } = finding;
    let iteration = per_step
        .map_or(String::new(), |per_step| format!(" (iteration {})", (step + 1) * per_step));
    let nothing = vec!["nothing was recorded against it".to_owned()];
    let words = trouble.map_or(&nothing, |trouble| &trouble.words);
    say!("step      {step}{iteration}: {}", words[0]);
    words[1..].iter().for_each(|word| say!("          {word}"));
    if let Some(end) = history.gave_up() {
        say!("          training gave up in step {end}");
    }
    let others: Vec<_> = history.troubles().iter().filter(|other| other.step != *step).collect();
    if !others.is_empty() {
        let list = ranges(others.into_iter().map(|other| other.step));
        let first = list.len().saturating_sub(LISTED);
        let more = if first > 0 { "..., " } else { "" };
        let list = list[first..].join(", ");
        say!("others    {more}{list} went wrong too; --step N looks at one of them");
    }
    let count = finding.replayed.records.len();
    let steps = if count == 1 { "1 step".to_owned() } else { format!("{count} steps") };
    match finding.run.save() {
        Some(path) => {
            let from = finding.from();
            say!("from      {}, at step {from}: {steps} taken again", path.display());
        }
        None => say!("from      the beginning of the run: {steps} taken again"),
    }
}

/// Steps, those in a row together.
fn ranges(steps: impl Iterator<Item = u64>) -> Vec<String> {
    let mut rows: Vec<[u64; 2]> = Vec::new();
    for step in steps {
        match rows.last_mut() {
            Some([_, last]) if *last + 1 == step => *last = step,
            _ => rows.push([step, step]),
        }
    }
    let text = |[first, last]: [u64; 2]| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    rows.into_iter().map(text).collect()
}

fn print_bits(finding: &Finding<'_>) {
    let compared = finding.replayed.compared;
    if let Some(difference) = &finding.replayed.difference {
        say!("bits      others than those of the records: {}", in_words(difference));
    }
    match &finding.bits {
        Bits::Same if finding.trouble.is_none() => {
            say!("bits      the same in all {compared} that there are records of");
        }
        Bits::Same => say!(
            "bits      the same in all {compared} that there are records of: the cause is in the \
             data or the mathematics, not in driver or hardware"
        ),
        Bits::OtherAdapter { was, is } => {
            say!("          the run was on {was}, and this is {is}: other bits are to be expected");
            say!("          on the adapter of the run they would tell data from hardware");
        }
        Bits::Unsteady { difference, operation } => {
            say!("          and others again the next time: {}", in_words(difference));
            if let Some(operation) = operation {
                say!("          the first operation with another result is {operation}");
            }
            say!(
                "          this device does not give the same bits twice: look at the hardware \
                 (memory, clock, heat) and the driver; evenkeel doctor checks the kernels"
            );
        }
        Bits::Others => say!(
            "          but the same each time now: a fault of the hardware at that time, another \
             driver or version of the program, or settings that were changed on the way; evenkeel \
             doctor checks the kernels"
        ),
    }
    if finding.bits != Bits::Same && finding.trouble.is_some() {
        match finding.goes_wrong_here() {
            true => say!("          the step goes wrong here as well: see the data all the same"),
            false => say!("          the step does not go wrong here"),
        }
    }
}

fn in_words(difference: &Difference) -> String {
    let Difference { step, field, then, now, ulps } = difference;
    let number = |value: &Option<f64>| match value {
        Some(value) => (*value as f32).to_string(),
        None => "nothing".to_owned(),
    };
    let apart = match ulps {
        Some(1) => ", 1 unit in the last place apart".to_owned(),
        Some(ulps) => format!(", {ulps} units in the last place apart"),
        None => String::new(),
    };
    let (then, now) = (number(then), number(now));
    format!("first in step {step}, whose {field} was {then} and is {now}{apart}")
}

fn print_cause(finding: &Finding<'_>) {
    if let Some(fault) = finding.fault()
        && let Some(diagnosis) = &finding.replayed.diagnosis
    {
        say!("where     {}", fault.label);
        if let Some(row) = finding.faulty_row() {
            let (row, _) = &finding.replayed.rows[row];
            say!("          in the row of {}, line {}", row.file, row.line);
        }
        diagnosis.to_string().lines().for_each(|line| say!("          {line}"));
        return;
    }
    let standouts = finding.standouts();
    if standouts.is_empty() {
        let lines = finding.replayed.diagnosis.as_ref().map(ToString::to_string);
        lines.iter().flat_map(|lines| lines.lines()).for_each(|line| say!("          {line}"));
        return;
    }
    say!("gradients that stand out most, and their median in the steps before:");
    let width = standouts.iter().map(|one| one.name.chars().count()).max().unwrap_or(0);
    for standout in &standouts {
        let Standout { name, gradient_norm, usual, weight_rms } = standout;
        let usual = usual.map_or(String::new(), |usual| format!(", usually {usual:.3e}"));
        let times = standout.times().map_or(String::new(), |times| format!(", {times:.1} times"));
        say!(
            "          {name:<width$}  norm {gradient_norm:.3e}{usual}{times}; weights of rms \
             {weight_rms:.3e}"
        );
    }
}

/// What made the weights that the step began with, where one of the steps before stands out.
fn print_leap(finding: &Finding<'_>) {
    let Some(Leap { step, name, weight_rms, update_to_weight, learning_rate }) = finding.leap()
    else {
        return;
    };
    let percent = 100.0 * update_to_weight;
    let rate = learning_rate.map_or(String::new(), |rate| format!(" ({:e} there)", rate as f32));
    say!(
        "before    step {step} made {name} of rms {weight_rms:.3e}, {percent:.0} % of it in one go;"
    );
    say!(
        "          healthy updates are about 0.1 % of their weights: lower the learning rate{rate}, \
         or clip harder"
    );
}

fn print_batch(finding: &Finding<'_>) {
    let mut rows: Vec<_> = finding.replayed.rows.iter().collect();
    // NaN is larger than any number.
    rows.sort_by(|a, b| b.1.unwrap_or(0.0).abs().total_cmp(&a.1.unwrap_or(0.0).abs()));
    say!("batch     {} rows, those with the largest loss before the step first", rows.len());
    for (row, loss) in rows.iter().take(LISTED) {
        let loss = loss.map_or(String::new(), |loss| format!(": loss {loss:.4}"));
        say!("          {}, line {}{loss}", row.file, row.line);
        let shown: String = row.text.chars().take(SHOWN).collect();
        shown.lines().for_each(|line| say!("            | {line}"));
        if shown.len() < row.text.len() {
            say!("            | ... ({} bytes)", row.text.len());
        }
    }
    if rows.len() > LISTED {
        say!("          and {} more; --json has them all", rows.len() - LISTED);
    }
}

/// All of it as one object.
pub fn as_json(finding: &Finding<'_>, history: &History) -> Value {
    let Finding { step, per_step, run, trouble, bits, replayed } = finding;
    let again = match bits {
        Bits::Unsteady { difference, .. } => json!(difference),
        _ => Value::Null,
    };
    let operation = match bits {
        Bits::Unsteady { operation, .. } => json!(operation),
        _ => Value::Null,
    };
    let batch = replayed.rows.iter().enumerate().map(|(index, (row, loss))| {
        json!({
            "row": index,
            "file": row.file,
            "line": row.line,
            "text": row.text,
            "loss": loss.map(json_number),
        })
    });
    json!({
        "step": step,
        "iteration": per_step.map(|per_step| (step + 1) * per_step),
        "events": trouble.map(|trouble| &trouble.words),
        "gave_up": history.gave_up(),
        "nonfinite": trouble.map(|trouble| trouble.is_nonfinite),
        "troubled_steps": history.troubles().iter().map(|one| one.step).collect::<Vec<_>>(),
        "save": run.save().map(|path| path.display().to_string()),
        "first_step": finding.from(),
        "steps": replayed.records.len(),
        "compared": replayed.compared,
        "same_bits": *bits == Bits::Same,
        "cause": bits.cause(),
        "difference": replayed.difference,
        "second_difference": again,
        "unsteady_operation": operation,
        "goes_wrong_here": finding.goes_wrong_here(),
        "now": finding.now().map(scalars),
        "fault": finding.fault().map(fault),
        "fault_row": finding.faulty_row(),
        "gradients": finding.standouts(),
        "leap": finding.leap(),
        "batch": batch.collect::<Vec<_>>(),
    })
}

fn scalars(record: &Record) -> Value {
    record.scalars().map(|(name, value)| (name.to_owned(), json_number(value))).collect()
}

fn fault(fault: &ValueReport) -> Value {
    json!({
        "label": fault.label,
        "kind": format!("{:?}", fault.kind),
        "output": fault.output,
        "microbatch": fault.microbatch,
        "shape": fault.shape.dims,
        "precision": fault.shape.precision.to_string(),
        "nonfinite_count": fault.nonfinite_count,
        "first_position": fault.first_position(),
        "largest": fault.largest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_in_a_row_stand_together() {
        assert_eq!(ranges([1, 2, 3, 7, 9, 10].into_iter()), ["1-3", "7", "9-10"]);
        assert!(ranges(std::iter::empty()).is_empty());
    }
}
