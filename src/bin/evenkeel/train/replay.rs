//! Steps of a run that are taken again, with the batches that they had.

use std::path::{Path, PathBuf};

use evenkeel::train::Batch;
use evenkeel::{Error, Gpu, Result};

use super::config;
use super::keep;
use super::options::Options;
use super::place::{About, LAST, PREVIOUS};
use super::settings::{Ground, Resolved, Settings, resolve};
use super::tokens::Kind;
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
    /// [`Error::File`] where there is no save, and what is wrong with the options.
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
    /// What is wrong with data, model and save, or [`Error::OutOfMemory`].
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
    /// [`Error::Data`] for data that are too short.
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
    let mut found = vec![None; starts.len()];
    let mut begin = 0;
    for document in documents.documents() {
        let end = begin + tokens.count(document)?;
        for (place, &start) in found.iter_mut().zip(starts) {
            if (begin..end).contains(&start) {
                let file = documents.files()[document.file].display().to_string();
                let before = &tokens.ids[begin..start];
                let lines =
                    if document.is_record { 0 } else { tokens.text(before)?.matches('\n').count() };
                *place = Some((file, document.line + lines));
            }
        }
        begin = end;
        if found.iter().all(Option::is_some) {
            break;
        }
    }
    let missing = || Error::Data {
        what: tokens.name.clone(),
        reason: "its texts are not those that the tokens were made of".to_owned(),
    };
    found.into_iter().map(|place| place.ok_or_else(missing)).collect()
}
