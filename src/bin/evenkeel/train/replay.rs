//! Steps of a run that are taken again, with the batches that they had.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use evenkeel::data::{CachedWindows, Document};
use evenkeel::train::Batch;
use evenkeel::{Gpu, Result};

use super::config;
use super::keep;
use super::kind::Kind;
use super::options::Options;
use super::place::{About, LAST, PREVIOUS};
use super::prepared::{Prepared, open_model};
use super::settings::{Ground, Resolved, Settings, resolve};
use super::tokens::Tokens;
use super::{CONFIGURATION, split};
use crate::replay::{Around, Begun, Moved, Row, of_rounds};

/// A run, and where it is taken up again.
pub struct Replay {
    around: Around<About>,
    folder: PathBuf,
    options: Options,
    ready: Option<Ready>,
}

/// What batches are made of.
struct Ready {
    tokens: Tokens,
    training: CachedWindows,
    settings: Settings,
}

impl Replay {
    /// Whether a folder is that of such a run.
    pub fn is_in(folder: &Path) -> bool {
        [CONFIGURATION, LAST, PREVIOUS].iter().any(|name| folder.join(name).is_file())
    }

    /// Reads what there is of a run up to a step.
    ///
    /// # Errors
    /// [`Error::File`](evenkeel::Error) where there is no save, and what is wrong with the options.
    pub fn open(folder: &Path, step: u64, moved: &Moved) -> Result<Self> {
        let mut others = keep::paths(folder);
        others.push(folder.join(PREVIOUS));
        let around = Around::<About>::find(folder, folder.join(LAST), others, step)?;
        let written = folder.join(CONFIGURATION);
        let options = match &around.behind {
            Some(about) => about.options.clone(),
            // What the run was changed to since its last save.
            None if written.is_file() => {
                config::over(&config::read(&written)?, &around.last.options)
            }
            None => around.last.options.clone(),
        };
        if options.diloco_steps.is_some() {
            return Err(of_rounds());
        }
        let data = if moved.data.is_empty() { options.data } else { moved.data.clone() };
        let model = moved.model.clone().or(options.model);
        let options = Options { data, model, quiet: true, ..options };
        Ok(Self { around, folder: folder.to_owned(), options, ready: None })
    }

    /// The file that it is taken up at; `None` for its beginning.
    pub fn save(&self) -> Option<&PathBuf> {
        self.around.before.as_ref().map(|save| &save.path)
    }

    /// The adapter and driver that took the step, where the run says it.
    pub fn device(&self) -> Option<&str> {
        self.around.behind.as_ref().unwrap_or(&self.around.last).device.as_deref()
    }

    /// Reads the data, and brings the trainer to where steps are taken again. All tensors are
    /// measured every so many steps; 0 for never.
    ///
    /// # Errors
    /// What is wrong with data, model and save, or [`Error::OutOfMemory`](evenkeel::Error).
    pub async fn begin(&mut self, gpu: &Gpu, watch_every: u32) -> Result<Begun> {
        let about = &self.around.last;
        let prepared = Prepared::of(&self.options, &self.folder, about)?;
        let Prepared { base, tokens, .. } = prepared;
        let base = base.as_ref();
        let vocabulary = base.map_or(tokens.lexicon.size, |base| base.gpt.vocabulary);
        let ground = Ground { is_software: gpu.is_software(), vocabulary, base };
        let Resolved { settings, .. } = resolve(&self.options, ground)?;
        let settings = Settings { watch_every, ..settings };
        let mut trainer = settings.builder().build(gpu).await?;
        let save = self.around.before.as_ref().map(|save| save.read()).transpose()?;
        if save.is_none() && self.options.model.is_some() {
            let (source, _) = open_model(&self.options, &Kind::of(&self.options)?)?;
            trainer.load_weights(&mut source.reader()).await?;
        }
        let (training, _) = split((&tokens.cache, &tokens.name), &settings)?;
        self.ready = Some(Ready { tokens, training, settings });
        Begun::at(trainer, None, save).await
    }

    fn ready(&self) -> &Ready {
        self.ready.as_ref().expect("the replay has begun")
    }

    /// The batch of a step.
    ///
    /// # Errors
    /// [`Error::File`](evenkeel::Error) where the tokens cannot be read.
    pub fn batch(&self, step: u64) -> Result<Batch> {
        let Ready { training, settings, .. } = self.ready();
        training.batch(settings.seed, step, settings.batch * settings.accumulation)
    }

    /// The windows of that batch.
    ///
    /// # Errors
    /// As [`batch`](Self::batch), and those of the tokenizer.
    pub fn rows(&self, step: u64) -> Result<Vec<Row>> {
        let Ready { tokens: data, training, settings } = self.ready();
        let windows = settings.batch * settings.accumulation;
        let starts: Vec<_> = training.starts(settings.seed, step, windows).collect();
        let places = places(data, &starts)?;
        let rows = starts.into_iter().zip(places).map(|(start, (file, line))| {
            let end = start + settings.context as u64 + 1;
            let text = data.lexicon.text(&data.cache.read(start..end)?)?;
            let (tokens, targets) = training.window(start)?;
            Ok(Row { file, line, text, tokens, targets })
        });
        rows.collect()
    }

    /// A batch to measure the loss of a row on.
    pub fn alone(&self, row: &Row) -> Batch {
        let settings = &self.ready().settings;
        row.alone(settings.batch, settings.context)
    }

    /// Rows of a microbatch.
    pub fn microbatch(&self) -> usize {
        self.ready().settings.batch
    }
}

/// File and line of tokens, by their place among all of them. The data are read again up to there.
fn places(tokens: &Tokens, starts: &[u64]) -> Result<Vec<(String, usize)>> {
    let mut rows = BTreeMap::<_, Vec<_>>::new();
    for (row, &start) in starts.iter().enumerate() {
        rows.entry(tokens.cache.document_of(start)?).or_default().push(row);
    }
    let mut found = vec![(String::new(), 0); starts.len()];
    let mut newlines = Newlines::default();
    let last = rows.keys().last().copied().unwrap_or_default();
    for (index, document) in (0..=last).zip(tokens.documents.read()) {
        let document = document?;
        for &row in rows.get(&index).into_iter().flatten() {
            let line = line_of(tokens, (index, &document), starts[row], &mut newlines)?;
            found[row] = (document.file.display().to_string(), line);
        }
    }
    Ok(found)
}

/// The line of a token of a document, which is this one of all.
fn line_of(
    tokens: &Tokens,
    (index, document): (u64, &Document),
    at: u64,
    newlines: &mut Newlines,
) -> Result<usize> {
    if document.is_record() {
        return Ok(document.line);
    }
    let begin = tokens.cache.document(index)?.start;
    Ok(document.line + newlines.in_all(tokens, &tokens.cache.read(begin..at)?)?)
}

/// Ends of lines in each token that was looked at.
#[derive(Default)]
struct Newlines(HashMap<u32, usize>);

impl Newlines {
    fn in_all(&mut self, tokens: &Tokens, ids: &[u32]) -> Result<usize> {
        let mut count = 0;
        for &id in ids {
            count += match self.0.get(&id) {
                Some(&count) => count,
                None => {
                    let count = tokens.lexicon.text(&[id])?.matches('\n').count();
                    self.0.insert(id, count);
                    count
                }
            };
        }
        Ok(count)
    }
}
