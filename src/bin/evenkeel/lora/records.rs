//! Where a line for every step goes: metrics.jsonl, TensorBoard, the page of the run.

use std::path::{Path, PathBuf};

use evenkeel::file::{self, LogFile};
use evenkeel::run::history::read_lines;
use evenkeel::run::warn;
use evenkeel::watch::{JsonLines, Record, Report, RunStatistics, Sink, TensorBoard, scalar};
use evenkeel::{Error, Result};

use super::setup::Setup;

/// Files that take every record.
pub struct Records {
    sinks: Vec<Output>,
    report: Report,
    page: Option<PathBuf>,
    statistics: RunStatistics,
}

struct Output {
    sink: Box<dyn Sink>,
    warned: bool,
}

impl Output {
    fn new(sink: impl Sink + 'static) -> Self {
        Self { sink: Box::new(sink), warned: false }
    }

    /// Output that fails does not end a run, and is said once.
    fn tolerate(&mut self, result: Result<()>) {
        if let Err(error) = result
            && !std::mem::replace(&mut self.warned, true)
        {
            warn(format!("{error}; the run goes on"));
        }
    }
}

impl Records {
    /// Opens the files of a run that begins at step `start`: what they have of later steps is cut
    /// off with the first record.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn open(setup: &Setup, folder: &Path, start: u64) -> Result<Self> {
        let settings = &setup.settings;
        let model = settings.model()?.display().to_string();
        let mut report = Report::new(format!("{model}: fine-tuned"))
            .fact("model", &model)
            .fact("settings", setup.yaml()?);
        if settings.clip > 0.0 {
            report = report.threshold(settings.clip.into());
        }
        let mut records = Self {
            sinks: Vec::new(),
            report,
            page: settings.report.clone(),
            statistics: RunStatistics::default(),
        };
        if let Some(page) = &settings.report {
            file::check_writable(page)?;
        }
        let path = folder.join("metrics.jsonl");
        let kept = read_lines(&path, start, |record| records.note(&record));
        let kept = kept.map_err(|error| Error::File {
            path: path.clone(),
            reason: format!("cannot be read again: {error}"),
        })?;
        if kept.steps < start {
            let last = start - 1;
            warn(format!("{} has no records of steps {} to {last}", path.display(), kept.steps));
        }
        let log = match kept.steps {
            0 => LogFile::create(&path)?,
            _ => LogFile::resume(&path, kept.length)?,
        };
        records.sinks.push(Output::new(JsonLines::from(log)));
        if let Some(folder) = &settings.tensorboard {
            let events = TensorBoard::create(folder)?;
            let events = if start == 0 { events } else { events.continuing(start)? };
            records.sinks.push(Output::new(events));
        }
        Ok(records)
    }

    /// What an earlier part of the run wrote.
    fn note(&mut self, record: &Record) {
        self.statistics.update(record);
        // Writes nothing yet.
        drop(self.report.record(record));
    }

    /// Takes a step.
    pub fn push(&mut self, record: Record) {
        let events = record.events.clone();
        let mut record = self.statistics.annotate(record);
        // What the policies did is said with its cause already.
        record.events = events;
        for output in &mut self.sinks {
            let written = output.sink.record(&record);
            output.tolerate(written);
        }
        drop(self.report.record(&record));
    }

    /// Brings what was recorded to the disk.
    pub fn sync(&mut self) {
        for output in &mut self.sinks {
            let written = output.sink.finish();
            output.tolerate(written);
        }
    }

    /// Steps that changed nothing.
    pub fn skipped(&self) -> u64 {
        self.statistics.skipped()
    }

    /// Ends the files, and writes the page.
    ///
    /// # Errors
    /// The first file that is not whole.
    pub fn finish(&mut self) -> Result<()> {
        let mut written = Ok(());
        for output in &mut self.sinks {
            written = written.and(output.sink.finish());
        }
        match &self.page {
            Some(page) => written.and(file::replace(page, self.report.to_html().as_bytes())),
            None => written,
        }
    }
}

/// The record of a step, without what is known of the run only.
pub fn record(
    step: &evenkeel::train::Telemetry,
    events: Vec<String>,
    tokens_per_second: f64,
) -> Record {
    let mut record = Record::from(step).with(scalar::TOKENS_PER_SECOND, tokens_per_second);
    record.events = events;
    record
}
