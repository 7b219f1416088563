//! Where the records of a run go: files, a progress bar or a dashboard, a report, a summary.

use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::dashboard::Dashboard;
use super::history::{Kept, read_lines, read_table};
use super::{OutputOptions, Outputs, say, warn};
use crate::error::{Error, Result};
use crate::file::{self, LogFile};
use crate::train::{Telemetry, TensorTelemetry};
use crate::watch::{
    Csv, JsonLines, Record, Report, RunStatistics, Sink, TensorBoard, ThresholdAdviser, scalar,
};

/// Passes records on, and shows progress. No output that fails ends the run: it is said once, what
/// could not be written is tried again with every record, and what is missing at the end is an
/// error then.
pub struct Monitor {
    files: Vec<Output>,
    report: Report,
    outputs: Outputs,
    statistics: RunStatistics,
    adviser: ThresholdAdviser,
    bar: ProgressBar,
    dashboard: Option<Dashboard>,
    stop: bool,
    quiet: bool,
    losses: Vec<f64>,
    validation_loss: Option<f64>,
    /// Share of the time that the run waited for data, if that is known.
    waiting: Option<f64>,
    /// What is to be printed at the end.
    later: Vec<String>,
    /// Events for the record that comes next.
    events: Vec<String>,
    /// Events for the record of a step that was not reported yet.
    events_at: Vec<(u64, String)>,
}

/// A run so far, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MonitorSummary {
    /// Steps that are recorded, skipped ones too.
    pub steps: u64,
    /// Those that changed nothing.
    pub skipped: u64,
    /// The loss of the first step.
    pub first_loss: Option<f64>,
    /// The mean of the last fiftieth of the steps: one batch is noisy.
    pub last_loss: Option<f64>,
    /// The last one that was measured.
    pub validation_loss: Option<f64>,
}

/// A file that takes every record.
struct Output {
    path: PathBuf,
    sink: Box<dyn Sink>,
    warned: bool,
    /// Something was not only late.
    lost: Option<Error>,
}

impl Output {
    fn new(path: &Path, sink: impl Sink + 'static) -> Self {
        Self { path: path.to_owned(), sink: Box::new(sink), warned: false, lost: None }
    }

    fn record(&mut self, record: &Record) {
        let Err(error) = self.sink.record(record) else { return };
        if !self.warned {
            warn(format!("{error}; the run goes on"));
            self.warned = true;
        }
        if !matches!(error, Error::File { .. }) {
            self.lost.get_or_insert(error);
        }
    }

    /// Everything that it took is on the disk, and there may be more.
    fn sync(&mut self) -> Result<()> {
        self.sink.finish()
    }
}

impl Monitor {
    /// Opens the files of a run that begins at step `start`. Where that is not 0 what they have
    /// of later steps is cut off with the first record, and what they have of earlier ones is known.
    ///
    /// # Errors
    /// [`Error::File`], and [`Error::Unsupported`] for a dashboard where there can be none.
    pub fn new(
        outputs: &Outputs,
        options: &OutputOptions,
        (title, report): (String, Report),
        (start, steps, warmup): (u64, usize, usize),
    ) -> Result<Self> {
        let dashboard = options.dashboard.then(Dashboard::new).transpose()?;
        let dashboard = dashboard.map(|dashboard| dashboard.title(title));
        let mut monitor = Self {
            files: Vec::new(),
            report,
            outputs: outputs.clone(),
            statistics: RunStatistics::default(),
            adviser: ThresholdAdviser::new(warmup as u64),
            bar: bar(steps as u64, options.quiet || dashboard.is_some()),
            dashboard,
            stop: false,
            quiet: options.quiet,
            losses: Vec::new(),
            validation_loss: None,
            waiting: None,
            later: Vec::new(),
            events: Vec::new(),
            events_at: Vec::new(),
        };
        monitor.open(start)?;
        monitor.bar.set_position(start);
        Ok(monitor)
    }

    fn open(&mut self, start: u64) -> Result<()> {
        let outputs = self.outputs.clone();
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |error| Error::File { path, reason: format!("cannot be read again: {error}") }
        };
        let path = &outputs.metrics;
        let kept = read_lines(path, start, |record| self.replay(&record));
        let kept = kept.map_err(unreadable(path))?;
        if kept.steps < start {
            warn(format!(
                "{} has no records of steps {} to {}: what is summed up over the run leaves them \
                 out",
                path.display(),
                kept.steps,
                start - 1
            ));
        }
        self.files.push(Output::new(path, JsonLines::from(log(path, &kept)?)));
        if let Some(path) = &outputs.csv {
            let kept = read_table(path, start).map_err(unreadable(path))?;
            let table = Csv::from(log(path, &kept)?).column(scalar::VALIDATION_LOSS);
            let continues = kept.steps > 0;
            let columns = kept.columns;
            let table = if continues { table.continuing(columns) } else { table };
            self.files.push(Output::new(path, table));
        }
        if let Some(folder) = &outputs.tensorboard {
            let events = match start {
                0 => TensorBoard::create(folder)?,
                step => TensorBoard::create(folder)?.continuing(step)?,
            };
            self.files.push(Output::new(folder, events));
        }
        Ok(())
    }

    /// Takes what an earlier part of the run wrote.
    fn replay(&mut self, record: &Record) {
        self.statistics.update(record);
        self.note(record);
    }

    fn note(&mut self, record: &Record) {
        self.losses.extend(record.get(scalar::LOSS));
        self.validation_loss = record.get(scalar::VALIDATION_LOSS).or(self.validation_loss);
        self.adviser.update(record);
        // Writes nothing yet.
        drop(self.report.record(record));
        let shown = self.dashboard.as_mut().map(|dashboard| dashboard.update(record));
        self.look(shown);
    }

    /// Takes steps that were read together, what tensors held in the watched ones, and the
    /// validation loss after the last of them.
    pub fn report(
        &mut self,
        steps: &[Telemetry],
        tensors: &[TensorTelemetry],
        tokens_per_second: f64,
        validation_loss: Option<f64>,
    ) {
        for (at, step) in steps.iter().enumerate() {
            let record = Record::from(step).with(scalar::TOKENS_PER_SECOND, tokens_per_second);
            let mut record = self.statistics.annotate(record);
            record.events.splice(..0, self.events.drain(..));
            let here = self.events_at.extract_if(.., |(at, _)| *at == step.step);
            record.events.extend(here.map(|(_, event)| event));
            let here = tensors.iter().filter(|tensor| tensor.step == step.step);
            here.for_each(|tensor| record.add_tensor_telemetry(tensor));
            let is_last = at + 1 == steps.len();
            if let Some(loss) = validation_loss.filter(|_| is_last) {
                record.set(scalar::VALIDATION_LOSS, loss);
            }
            self.files.iter_mut().for_each(|file| file.record(&record));
            self.note(&record);
            if is_last {
                self.show(step, tokens_per_second, validation_loss.is_some());
            }
        }
    }

    /// Shows from now on which share of the time the run waits for data, from 0 to 1.
    pub fn waits_for_data(&mut self, share: f64) {
        self.waiting = Some(share);
    }

    /// How the run went so far.
    pub fn summary(&self) -> MonitorSummary {
        let last = &self.losses[self.losses.len() - self.last_steps()..];
        let mean = last.iter().sum::<f64>() / last.len() as f64;
        MonitorSummary {
            steps: self.losses.len() as u64,
            skipped: self.statistics.skipped(),
            first_loss: self.losses.first().copied(),
            last_loss: (!last.is_empty()).then_some(mean),
            validation_loss: self.validation_loss,
        }
    }

    /// How many of the last steps a mean is taken over.
    fn last_steps(&self) -> usize {
        (self.losses.len() / 50).max(1).min(self.losses.len())
    }

    /// Whether somebody at the dashboard wants to stop.
    pub fn is_stopped(&mut self) -> bool {
        let polled = self.dashboard.as_mut().map(Dashboard::poll);
        self.look(polled);
        self.stop
    }

    /// The run goes on without a terminal that is gone.
    fn look(&mut self, shown: Option<Result<std::ops::ControlFlow<()>>>) {
        match shown {
            None => {}
            Some(Ok(flow)) => self.stop |= flow.is_break(),
            Some(Err(error)) => {
                self.dashboard = None;
                warn(format!("{error}; the run goes on without the dashboard"));
            }
        }
    }

    /// Makes sure that what was recorded is on the disk. What is not is said once.
    pub fn sync(&mut self) {
        for file in &mut self.files {
            if let Err(error) = file.sync()
                && !file.warned
            {
                warn(format!("{error}; the run goes on"));
                file.warned = true;
            }
        }
    }

    fn show(&self, last: &Telemetry, tokens_per_second: f64, validated: bool) {
        let validation = match self.validation_loss {
            Some(loss) => format!("validation {loss:.3}  "),
            None => String::new(),
        };
        let skipped = match last.skipped_total {
            0 => String::new(),
            count => format!("  SKIPPED {count}"),
        };
        let waiting = match self.waiting {
            Some(share) => format!(", {:.1} % waiting for data", 100.0 * share),
            None => String::new(),
        };
        let message = format!(
            "loss {:.3}  {validation}norm {:.2}  {tokens_per_second:.0} tokens/s{waiting}{skipped}",
            last.loss, last.gradient_norm
        );
        let done = last.step + 1;
        if validated && !self.quiet && self.dashboard.is_none() {
            let line = format!("step {done:>6}  {message}");
            if self.bar.is_hidden() { say!("{line}") } else { self.bar.println(line) }
        }
        self.bar.set_position(done);
        self.bar.set_message(message);
    }

    /// Has an event of the run recorded with the step that comes next.
    pub fn event(&mut self, event: String) {
        self.events.push(event);
    }

    /// Has an event recorded with the step of this number, from 0 on, which is yet to be reported.
    pub fn event_at(&mut self, step: u64, event: String) {
        self.events_at.push((step, event));
    }

    /// Ends what was shown of a run that is taken up again, and says nothing of it as a whole.
    pub fn leave(mut self) {
        self.dashboard = None;
        self.bar.finish_and_clear();
        self.sync();
    }

    /// Shows text beside the progress; where that fills the screen, at the end.
    pub fn print(&mut self, text: String) {
        match self.dashboard {
            None => self.bar.suspend(|| say!("{text}")),
            Some(_) => self.later.push(text),
        }
    }

    /// Ends what was shown and what was written; says how the run went as a whole.
    ///
    /// # Errors
    /// [`Error::Output`] names the first file that is not whole; the others are.
    pub fn finish(mut self) -> Result<()> {
        self.dashboard = None;
        self.bar.finish_and_clear();
        self.later.iter().for_each(|text| say!("{text}"));
        let mut written = Ok(());
        for mut file in std::mem::take(&mut self.files) {
            let whole = file.sync().map_err(|error| named(error, &file.path));
            written = written.and(whole).and(file.lost.map_or(Ok(()), Err));
        }
        if !self.losses.is_empty() {
            let plot = file::replace(&self.outputs.plot, self.report.to_svg().as_bytes());
            written = written.and(plot);
            if let Some(path) = &self.outputs.report {
                written = written.and(file::replace(path, self.report.to_html().as_bytes()));
            }
        }
        self.summarize();
        written.map_err(Error::into_output)
    }

    fn summarize(&self) {
        let MonitorSummary { steps, skipped, first_loss, last_loss, .. } = self.summary();
        if skipped > 0 {
            say!(
                "{skipped} of {steps} steps were skipped, as their gradients were not finite: they \
                 changed nothing. Lower --lr, or clip harder with --clip"
            );
        }
        if let (Some(first), Some(mean)) = (first_loss, last_loss) {
            let count = self.last_steps();
            let validation = self
                .validation_loss
                .map_or(String::new(), |loss| format!(", validation loss {loss:.3}"));
            let over = if count == 1 { "step".into() } else { format!("{count} steps") };
            say!("loss {first:.3} -> {mean:.3} (last {over}){validation}");
        }
        if let Some(advice) = self.adviser.advise().filter(|_| !self.quiet) {
            say!("{advice}");
        }
    }
}

/// Behind what is kept, or anew.
fn log(path: &Path, kept: &Kept) -> Result<LogFile> {
    match kept.steps {
        0 => LogFile::create(path),
        _ => LogFile::resume(path, kept.length),
    }
}

fn named(error: Error, path: &Path) -> Error {
    match error {
        Error::Data { reason, .. } => Error::File { path: path.to_owned(), reason },
        other => other,
    }
}

/// The error output, where that is a terminal that can move its cursor.
pub(super) fn draw_target(hidden: bool) -> ProgressDrawTarget {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    if hidden || dumb { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }
}

fn bar(steps: u64, hidden: bool) -> ProgressBar {
    let template = "{bar:24} {pos}/{len}  {msg}  {eta} left";
    let style = ProgressStyle::with_template(template).expect("a valid template");
    ProgressBar::with_draw_target(Some(steps), draw_target(hidden)).with_style(style)
}
