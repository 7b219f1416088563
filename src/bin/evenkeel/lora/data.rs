//! The records to learn from, as batches.

use std::path::Path;
use std::sync::Arc;

use evenkeel::data::{BatchSource, PaddedBatches, Sequence};
use evenkeel::run::warn;
use evenkeel::text::{Completions, Examples, Form, LossOn, Supervision, Tokenizer};
use evenkeel::train::{Batch, IGNORE, Lengths};
use evenkeel::{Error, Result};

use super::settings::Settings;

/// Of one file of records, one of so many is held out to validate on.
const HELD_OUT: usize = 10;

/// Records of one kind.
pub struct Records {
    pub name: String,
    /// What was read, in words.
    pub summary: String,
    sequences: Vec<Sequence>,
    /// The line that each of them is, counted from 1.
    lines: Vec<usize>,
}

/// Batches to learn from or to measure the loss on.
pub struct Set {
    batches: Arc<PaddedBatches>,
    /// Targets of each record that count.
    counted: Arc<[u64]>,
    /// The file that the records are from, and the line of each.
    name: String,
    lines: Vec<usize>,
}

/// Batches of a seed, without end, each with the targets that count in it.
pub struct Training {
    batches: Arc<PaddedBatches>,
    counted: Arc<[u64]>,
    seed: u32,
}

/// All that a run reads.
pub struct Data {
    pub training: Option<Set>,
    pub validation: Option<Set>,
    pub test: Option<Set>,
    /// What batches are padded to.
    pub lengths: Lengths,
    /// What was read, in words.
    pub summaries: Vec<String>,
    fingerprint: String,
}

/// How records become ids.
struct Reader<'a> {
    settings: &'a Settings,
    tokenizer: &'a Tokenizer,
    supervision: Supervision,
}

impl Reader<'_> {
    fn read(&self, path: &Path) -> Result<Records> {
        let examples =
            Examples::parse_as_first(path.display().to_string(), &evenkeel::data::read(path)?)?;
        let name = examples.name().to_owned();
        if self.settings.mask_prompt && examples.form() == Some(Form::Texts) {
            let reason = "its records are texts, which have no prompt to mask; leave --mask-prompt \
                          out, or write them as prompt and completion";
            return Err(Error::Data { what: name, reason: reason.to_owned() });
        }
        if !examples.passed_over().is_empty() {
            let names = examples.passed_over().join(", ");
            warn(format!("{name}: what is in the fields {names} is passed over"));
        }
        let (samples, summary) = self.supervision.encode_all(self.tokenizer, &examples)?;
        let sequences = samples.iter().map(Sequence::from).collect();
        let all = 1..=examples.examples().len();
        let lines = all.filter(|line| summary.left_out.binary_search(line).is_err()).collect();
        Ok(Records { name, summary: summary.to_string(), sequences, lines })
    }

    fn read_if_there(&self, path: &Path) -> Result<Option<Records>> {
        path.exists().then(|| self.read(path)).transpose()
    }

    /// The records to train on, to validate on and to test.
    fn read_all(&self, path: &Path) -> Result<[Option<Records>; 3]> {
        let Settings { train, test, .. } = *self.settings;
        let needed = |name: &str, what: &str, records: Option<Records>| match records {
            Some(records) => Ok(Some(records)),
            None => Err(Error::File {
                path: path.join(name),
                reason: format!("there is no such file, and {what} needs one"),
            }),
        };
        if path.is_dir() {
            let [training, validation, tested] =
                ["train.jsonl", "valid.jsonl", "test.jsonl"].map(|name| path.join(name));
            let training = if train {
                needed("train.jsonl", "--train", self.read_if_there(&training)?)?
            } else {
                None
            };
            let validation = if train { self.read_if_there(&validation)? } else { None };
            let tested = if test {
                needed("test.jsonl", "--test", self.read_if_there(&tested)?)?
            } else {
                None
            };
            return Ok([training, validation, tested]);
        }
        if !path.exists() {
            return Err(Error::File {
                path: path.to_owned(),
                reason:
                    "there is no folder or file with this name; data sets are not fetched: give \
                         a folder with train.jsonl and valid.jsonl, or a file of JSON lines"
                        .to_owned(),
            });
        }
        match (train, test) {
            (true, true) => Err(Error::Unsupported {
                what: "--train and --test with one file of records".to_owned(),
                instead: "give a folder with train.jsonl, valid.jsonl and test.jsonl".to_owned(),
            }),
            (true, false) => {
                let (training, validation) = self.read(path)?.split();
                Ok([Some(training), validation, None])
            }
            _ => Ok([None, None, Some(self.read(path)?)]),
        }
    }
}

impl Records {
    /// Without every tenth, and those.
    fn split(mut self) -> (Self, Option<Self>) {
        let all: Vec<_> =
            std::mem::take(&mut self.sequences).into_iter().zip(self.lines.drain(..)).collect();
        let period = HELD_OUT.min(all.len());
        let is_held_out = |index: usize| period > 1 && (index + 1).is_multiple_of(period);
        let (held_out, rest): (Vec<_>, Vec<_>) =
            all.into_iter().enumerate().partition(|(index, _)| is_held_out(*index));
        let of = |part: Vec<(usize, (Sequence, usize))>| -> (Vec<Sequence>, Vec<usize>) {
            part.into_iter().map(|(_, record)| record).unzip()
        };
        let count = held_out.len();
        let validation = (count > 0).then(|| {
            let (sequences, lines) = of(held_out);
            let summary = format!("{count} of them are held out to validate on");
            Self { name: self.name.clone(), summary, sequences, lines }
        });
        (self.sequences, self.lines) = of(rest);
        (self, validation)
    }

    fn longest(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.tokens.len()).max().unwrap_or(1)
    }

    fn batches(self, lengths: &Lengths, rows: usize) -> Result<Set> {
        let counts = |sequence: &Sequence| {
            sequence.targets.iter().filter(|&&target| target != IGNORE).count() as u64
        };
        let counted = self.sequences.iter().map(counts).collect();
        let batches = PaddedBatches::new(self.sequences, lengths.clone(), rows)?;
        let batches = Arc::new(batches);
        Ok(Set { batches, counted, name: self.name, lines: self.lines })
    }
}

impl Set {
    /// Batches to learn from, made ahead of the device by a loader.
    pub fn training(&self, seed: u32) -> Training {
        Training { batches: self.batches.clone(), counted: self.counted.clone(), seed }
    }

    /// The records of a batch to train on, in the order of its rows, each with the line of its
    /// file.
    pub fn records(&self, seed: u32, index: u64) -> Vec<(usize, &Sequence)> {
        let per_epoch = self.batches.per_epoch() as u64;
        let mut epoch = self.batches.epoch(seed, index / per_epoch);
        let records = epoch.swap_remove((index % per_epoch) as usize);
        let of = |record: usize| (self.lines[record], &self.batches.sequences()[record]);
        records.into_iter().map(of).collect()
    }

    /// A batch to train on.
    pub fn batch(&self, seed: u32, index: u64) -> Batch {
        self.batches.batch(seed, index)
    }

    /// The file that the records are from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// So many batches, or all of them for -1; always the same ones.
    pub fn measured(&self, most: i64) -> Vec<Batch> {
        let all = self.batches.per_epoch();
        let count = usize::try_from(most).map_or(all, |most| most.min(all));
        self.batches.batches(0, 0).take(count).collect()
    }
}

impl BatchSource for Training {
    type Item = (u64, Batch);

    fn batches_from(&self, position: u64) -> impl Iterator<Item = Result<(u64, Batch)>> + '_ {
        let per_epoch = self.batches.per_epoch() as u64;
        let epochs =
            (position / per_epoch..).flat_map(|epoch| self.batches.epoch(self.seed, epoch));
        let counted = epochs
            .skip((position % per_epoch) as usize)
            .map(|records| records.iter().map(|&record| self.counted[record]).sum());
        counted.zip(self.batches.batches(self.seed, position)).map(Ok)
    }
}

impl Data {
    /// Reads all that is needed and makes ids of it, of so many positions at most.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Data`] with the line.
    pub fn read(settings: &Settings, tokenizer: &Tokenizer, context: usize) -> Result<Self> {
        let Some(path) = settings.data.as_deref() else {
            return Err(Error::Unsupported {
                what: "a run without data".to_owned(),
                instead: "give a folder with train.jsonl and valid.jsonl with --data".to_owned(),
            });
        };
        let is_chat = tokenizer.chat_template("default").is_some();
        let supervision = Supervision {
            loss_on: if settings.mask_prompt { LossOn::LastAnswer } else { LossOn::All },
            completions: if is_chat { Completions::Chat } else { Completions::Plain },
            context: Some(settings.max_seq_length.min(context)),
            ..Supervision::default()
        };
        let reader = Reader { settings, tokenizer, supervision };
        let [training, validation, test] = reader.read_all(path)?;
        if training.is_some() && validation.is_none() {
            warn("there are no records to validate on: the best adapter is not kept apart");
        }
        let learned: Vec<_> = [&training, &validation].into_iter().flatten().collect();
        let fingerprint = fingerprint(&learned);
        let lengths = lengths(
            learned.iter().map(|records| records.longest()).max(),
            test.as_ref().map(Records::longest),
        )?;
        let said = [&training, &validation, &test].into_iter().flatten();
        let summaries = said.map(|r| format!("{}: {}", r.name, r.summary)).collect();
        let batch = settings.batch_size;
        let rows = batch * settings.grad_accumulation_steps;
        let set = |records: Option<Records>, rows| {
            records.map(|records| records.batches(&lengths, rows)).transpose()
        };
        Ok(Self {
            training: set(training, rows)?,
            validation: set(validation, batch)?,
            test: set(test, batch)?,
            lengths,
            summaries,
            fingerprint,
        })
    }

    /// What the records to learn from and to validate on are known again by.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}

/// What is tested beside it changes the padding of no other batch.
fn lengths(learned: Option<usize>, tested: Option<usize>) -> Result<Lengths> {
    let lengths = Lengths::up_to(learned.or(tested).unwrap_or(1))?;
    match tested {
        Some(tested) if tested > lengths.longest() => {
            Lengths::new(lengths.all().iter().copied().chain([tested]))
        }
        _ => Ok(lengths),
    }
}

/// FNV-1a over ids and targets.
fn fingerprint(records: &[&Records]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut word = |word: u32| hash = (hash ^ u64::from(word)).wrapping_mul(0x0100_0000_01b3);
    for sequence in records.iter().flat_map(|records| &records.sequences) {
        word(sequence.tokens.len() as u32);
        sequence.tokens.iter().chain(&sequence.targets).for_each(|&id| word(id));
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_set_changes_no_other_padding() {
        let without = lengths(Some(100), None).expect("lengths");
        let with = lengths(Some(100), Some(300)).expect("lengths");
        assert_eq!(without.all(), [64, 96, 100]);
        assert_eq!(with.all(), [64, 96, 100, 300]);
        assert_eq!(lengths(Some(100), Some(70)).expect("lengths"), without);
        assert_eq!(lengths(None, Some(70)).expect("lengths").longest(), 70);
    }

    #[test]
    fn one_of_ten_is_held_out() {
        let sequence = |id: u32| Sequence { tokens: vec![id], targets: vec![id] };
        let split = |count: u32| {
            let sequences = (0..count).map(sequence).collect();
            let lines = (1..=count as usize).collect();
            let records = Records { name: "a".into(), summary: "b".into(), sequences, lines };
            let (rest, held_out) = records.split();
            let ids = rest.sequences.iter().map(|sequence| sequence.tokens[0] as usize + 1);
            assert!(ids.eq(rest.lines.iter().copied()));
            (rest.sequences.len(), held_out.map_or(0, |held_out| held_out.sequences.len()))
        };
        assert_eq!([20, 10, 2, 1].map(split), [(18, 2), (9, 1), (1, 1), (1, 0)]);
    }
}
