//! Lines to learn from, as batches.

use std::collections::BTreeMap;

use evenkeel::data::{PaddedBatches, Sequence};
use evenkeel::text::{Completions, Examples, Form, LossOn, Supervision};
use evenkeel::train::{Batch, Lengths};
use evenkeel::{Error, Result};

use crate::Settings;
use crate::key::Hash;
use crate::model::Model;

const TRAINING: &str = "train.jsonl";
const VALIDATION: &str = "valid.jsonl";
/// The tests of mlx-lm's folders, which nothing is learned from.
const TEST: &str = "test.jsonl";
/// Of one file of lines, one of so many is held out.
const HELD_OUT: usize = 10;
/// Batches that a validation loss is the mean of, at most; always the same ones.
const VALIDATION_BATCHES: usize = 16;
/// Seed of their order, whatever the run's own seed is.
const VALIDATION_SEED: u32 = 0;

/// Lines as ids.
#[derive(Debug)]
pub struct Data {
    training: PaddedBatches,
    validation: PaddedBatches,
    seed: u32,
    /// What batches are padded to.
    pub lengths: Lengths,
    /// What was read, and what a visitor should know of it.
    pub notes: Vec<String>,
    /// What the lines are known again by.
    pub fingerprint: String,
}

impl Data {
    /// Reads files by their names: `train.jsonl`, or one of another name, and `valid.jsonl` if it is
    /// there.
    ///
    /// # Errors
    /// [`Error::Data`] with the line and what is wrong with it.
    pub fn read(
        files: &BTreeMap<String, Vec<u8>>,
        model: &Model,
        settings: &Settings,
    ) -> Result<Self> {
        let mut notes = Vec::new();
        let name = training_file(files)?;
        let reader = Reader { model, settings };
        let mut training = reader.read(name, &files[name], &mut notes)?;
        let validation = match files.get(VALIDATION) {
            Some(contents) => reader.read(VALIDATION, contents, &mut notes)?,
            None => {
                let held_out = hold_out(name, &mut training)?;
                let (count, all) = (held_out.len(), held_out.len() + training.len());
                notes.push(format!(
                    "There is no {VALIDATION}: {count} of the {all} examples are kept to validate on."
                ));
                held_out
            }
        };
        let longest = training.iter().chain(&validation).map(|one| one.tokens.len()).max();
        let lengths = Lengths::up_to(longest.unwrap_or(1))?;
        let fingerprint = fingerprint([&training, &validation]);
        let batches = |sequences: Vec<Sequence>| {
            PaddedBatches::new(sequences, lengths.clone(), settings.batch)
        };
        Ok(Self {
            training: batches(training)?,
            validation: batches(validation)?,
            seed: settings.seed,
            lengths,
            notes,
            fingerprint,
        })
    }

    /// Batch `index` to train on.
    pub fn batch(&self, index: u64) -> Batch {
        self.training.batch(self.seed, index)
    }

    /// Tokens of that batch, without padding.
    pub fn tokens(&self, index: u64) -> usize {
        let per_epoch = self.training.per_epoch() as u64;
        let mut epoch = self.training.epoch(self.seed, index / per_epoch);
        let rows = epoch.swap_remove((index % per_epoch) as usize);
        rows.into_iter().map(|row| self.training.sequences()[row].tokens.len()).sum()
    }

    /// Those of a batch, in the mean.
    pub fn tokens_per_step(&self) -> f64 {
        let sequences = self.training.sequences();
        let all: usize = sequences.iter().map(|sequence| sequence.tokens.len()).sum();
        all as f64 / self.training.per_epoch() as f64
    }

    /// Batches that are never trained on.
    pub fn validation_batches(&self) -> Vec<Batch> {
        let count = VALIDATION_BATCHES.min(self.validation.per_epoch());
        self.validation.batches(VALIDATION_SEED, 0).take(count).collect()
    }

    /// Examples to learn from, and to validate on.
    pub fn examples(&self) -> [usize; 2] {
        [&self.training, &self.validation].map(|batches| batches.sequences().len())
    }
}

/// The file to learn from.
fn training_file(files: &BTreeMap<String, Vec<u8>>) -> Result<&str> {
    let others = files.keys().map(String::as_str);
    let others: Vec<_> =
        others.filter(|name| ![TRAINING, VALIDATION, TEST].contains(name)).collect();
    if files.contains_key(TRAINING) {
        return Ok(TRAINING);
    }
    let what = "the data".to_owned();
    match &*others {
        [name] => Ok(name),
        [] => {
            let reason = format!("there is no {TRAINING}; choose a file with a JSON object a line");
            Err(Error::Data { what, reason })
        }
        several => {
            let names = several.join(", ");
            let reason = format!("there are {names}; choose one, or call it {TRAINING}");
            Err(Error::Data { what, reason })
        }
    }
}

/// How lines become ids.
struct Reader<'a> {
    model: &'a Model,
    settings: &'a Settings,
}

impl Reader<'_> {
    fn read(&self, name: &str, contents: &[u8], notes: &mut Vec<String>) -> Result<Vec<Sequence>> {
        let Self { model, settings } = self;
        let examples = Examples::parse_as_first(name, contents)?;
        let is_chat = model.has_template();
        if examples.form() == Some(Form::Conversations) && !is_chat {
            return Err(Error::Unsupported {
                what: format!(
                    "{name}, which has conversations, with a model without a chat template"
                ),
                instead:
                    "take a model that was made for chats (often called Instruct), or lines with \
                          a prompt and a completion"
                        .to_owned(),
            });
        }
        if !examples.passed_over().is_empty() {
            let fields = examples.passed_over().join(", ");
            notes.push(format!("{name}: what is in the fields {fields} is passed over."));
        }
        if examples.form() == Some(Form::Texts) && settings.mask_prompt {
            notes.push(format!("{name} has texts without prompts: all of each is learned."));
        }
        let supervision = Supervision {
            loss_on: if settings.mask_prompt { LossOn::LastAnswer } else { LossOn::All },
            completions: if is_chat { Completions::Chat } else { Completions::Plain },
            context: Some(settings.context.min(model.config().gpt.context)),
            ..Supervision::default()
        };
        let (samples, summary) = supervision.encode_all(&model.tokenizer, &examples)?;
        notes.push(format!("{name}: {summary}."));
        Ok(samples.iter().map(Sequence::from).collect())
    }
}

/// Takes every tenth out of the examples, and at least one.
fn hold_out(name: &str, examples: &mut Vec<Sequence>) -> Result<Vec<Sequence>> {
    if examples.len() < 2 {
        let reason = format!(
            "it has one example; give at least two, of which one is held out, or a {VALIDATION}"
        );
        return Err(Error::Data { what: name.to_owned(), reason });
    }
    let period = HELD_OUT.min(examples.len());
    let all = std::mem::take(examples).into_iter().enumerate();
    let is_held_out = |(index, _): &(usize, Sequence)| (index + 1).is_multiple_of(period);
    let (held_out, rest): (Vec<_>, Vec<_>) = all.partition(is_held_out);
    examples.extend(rest.into_iter().map(|(_, example)| example));
    Ok(held_out.into_iter().map(|(_, example)| example).collect())
}

fn fingerprint(parts: [&Vec<Sequence>; 2]) -> String {
    let mut hash = Hash::new();
    for part in parts {
        hash.word(part.len() as u32);
        for Sequence { tokens, targets } in part {
            hash.word(tokens.len() as u32);
            tokens.iter().chain(targets).for_each(|&id| hash.word(id));
        }
    }
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_ten_is_held_out() {
        let split = |count: u32| {
            let sequence = |id| Sequence { tokens: vec![id], targets: vec![id] };
            let mut rest: Vec<_> = (0..count).map(sequence).collect();
            let held_out = hold_out("lines", &mut rest).unwrap();
            (rest.len(), held_out.len())
        };
        assert_eq!([30, 12, 10, 3, 2].map(split), [(27, 3), (11, 1), (9, 1), (2, 1), (1, 1)]);
        assert!(hold_out("lines", &mut vec![Sequence::default()]).is_err());
    }

    #[test]
    fn the_file_to_learn_from_is_found() {
        let found = |names: &[&str]| {
            let files = names.iter().map(|&name| (name.to_owned(), Vec::new())).collect();
            training_file(&files).map(str::to_owned).map_err(|error| error.to_string())
        };
        assert_eq!(found(&["other.jsonl", "train.jsonl"]).unwrap(), "train.jsonl");
        assert_eq!(found(&["chats.jsonl", "valid.jsonl", "test.jsonl"]).unwrap(), "chats.jsonl");
        assert!(found(&["valid.jsonl"]).unwrap_err().contains("no train.jsonl"));
        assert!(found(&["a.jsonl", "b.jsonl"]).unwrap_err().contains("a.jsonl, b.jsonl"));
    }
}
