//! Steps of a run that are taken again, with the batches that they had.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use evenkeel::train::Batch;
use evenkeel::{Gpu, Result};

use super::config;
use super::keep;
use super::options::Options;
use super::place::{About, LAST, PREVIOUS};
use super::settings::{Ground, Resolved, Settings, resolve};
use super::tokens::{Kind, Tokens};
use super::{CONFIGURATION, Prepared, open_model, split};
use crate::replay::{Around, Begun, Moved, Row};

/// A run, and where it is taken up again.
pub struct Replay {
    around: Around<About>,
    folder: PathBuf,
    options: Options,
    ready: Option<(Prepared, Settings)>,
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
        let prepared = Prepared::of(&self.options, &self.folder, Some(about))?;
        let (base, tokens) = (prepared.base.as_ref(), &prepared.tokens);
        let vocabulary = base.map_or(tokens.size, |base| base.gpt.vocabulary);
        let ground = Ground { is_software: gpu.is_software(), vocabulary, base };
        let Resolved { settings, .. } = resolve(&self.options, ground)?;
        let settings = Settings { watch_every, ..settings };
        let mut trainer = settings.builder().build(gpu).await?;
        let save = self.around.before.as_ref().map(|save| save.read()).transpose()?;
        if save.is_none() && self.options.model.is_some() {
            let (source, _) = open_model(&self.options, &Kind::of(&self.options)?)?;
            trainer.load_weights(&mut source.reader()).await?;
        }
        self.ready = Some((prepared, settings));
        Begun::at(trainer, None, save).await
    }

    fn ready(&self) -> (&Prepared, &Settings) {
        let (prepared, settings) = self.ready.as_ref().expect("the replay has begun");
        (prepared, settings)
    }

    /// The batch of a step.
    ///
    /// # Errors
    /// [`Error::Data`](evenkeel::Error) for data that are too short.
    pub fn batch(&self, step: u64) -> Result<Batch> {
        let (prepared, settings) = self.ready();
        let windows = settings.batch * settings.accumulation;
        Ok(split(&prepared.tokens, settings)?.training.batch(settings.seed, step, windows))
    }

    /// The windows of that batch.
    ///
    /// # Errors
    /// As [`batch`](Self::batch), and those of the tokenizer.
    pub fn rows(&self, step: u64) -> Result<Vec<Row>> {
        let (prepared, settings) = self.ready();
        let windows = settings.batch * settings.accumulation;
        let training = split(&prepared.tokens, settings)?.training;
        let starts: Vec<_> = training.starts(settings.seed, step, windows).collect();
        let places = places(prepared, &starts)?;
        let rows = starts.into_iter().zip(places).map(|(start, (file, line))| {
            let window = &prepared.tokens.ids[start..=start + settings.context];
            let text = prepared.tokens.text(window)?;
            let (tokens, targets) = (window[..settings.context].to_vec(), window[1..].to_vec());
            Ok(Row { file, line, text, tokens, targets })
        });
        rows.collect()
    }

    /// A batch to measure the loss of a row on.
    pub fn alone(&self, row: &Row) -> Batch {
        let (_, settings) = self.ready();
        row.alone(settings.batch, settings.context)
    }

    /// Rows of a microbatch.
    pub fn microbatch(&self) -> usize {
        self.ready().1.batch
    }
}

/// File and line of tokens, by their place among all of them.
fn places(prepared: &Prepared, starts: &[usize]) -> Result<Vec<(String, usize)>> {
    let (documents, tokens) = (&prepared.documents, &prepared.tokens);
    let mut rows: Vec<_> = (0..starts.len()).collect();
    rows.sort_by_key(|&row| starts[row]);
    let mut rows = rows.into_iter().peekable();
    let mut found = vec![(String::new(), 0); starts.len()];
    let mut newlines = Newlines::default();
    let (mut begin, mut left) = (0, documents.documents().len());
    for document in documents.documents() {
        if rows.peek().is_none() {
            break;
        }
        left -= 1;
        let end = if left == 0 { tokens.ids.len() } else { begin + tokens.count(document)? };
        let (mut at, mut line) = (begin, document.line);
        while let Some(row) = rows.next_if(|&row| starts[row] < end) {
            if !document.is_record {
                line += newlines.in_all(tokens, &tokens.ids[at..starts[row]])?;
                at = starts[row];
            }
            found[row] = (documents.files()[document.file].display().to_string(), line);
        }
        begin = end;
    }
    Ok(found)
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
                    let count = tokens.text(&[id])?.matches('\n').count();
                    self.0.insert(id, count);
                    count
                }
            };
        }
        Ok(count)
    }
}
