//! Where a run's results go: a line of JSON per step, a progress bar, and files.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use evenkeel::train::Telemetry;
use evenkeel::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// The files of a run.
pub struct Files {
    pub metrics: PathBuf,
    pub plot: PathBuf,
    pub sample: PathBuf,
}

impl Files {
    /// Makes the folders and checks that they can be written, before anything is computed. Files
    /// of an earlier run stay until the new one has something to put in their place.
    pub fn prepare(out: &Path, metrics: Option<&Path>) -> Result<Self> {
        let metrics = metrics.map_or_else(|| out.join("metrics.jsonl"), Path::to_owned);
        let folder = metrics.parent().filter(|folder| !folder.as_os_str().is_empty());
        for folder in [Some(out), folder].into_iter().flatten() {
            check_writable(folder).map_err(|error| failed(folder, "folder", "--out", &error))?;
        }
        let opened = File::options().create(true).append(true).open(&metrics);
        opened.map_err(|error| failed(&metrics, "file", "--metrics", &error))?;
        Ok(Self { metrics, plot: out.join("training.svg"), sample: out.join("sample.txt") })
    }

    pub fn write_sample(&self, text: &[u8]) -> Result<()> {
        fs::write(&self.sample, text).map_err(|error| write_failed(&self.sample, &error))
    }
}

fn check_writable(folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    let probe = folder.join(format!(".writable-{}", std::process::id()));
    fs::write(&probe, b"")?;
    fs::remove_file(&probe)
}

fn failed(path: &Path, kind: &str, option: &str, error: &std::io::Error) -> Error {
    let reason = format!("this {kind} cannot be written ({error}); choose another with {option}");
    Error::File { path: path.to_owned(), reason }
}

pub fn write_failed(path: &Path, error: &std::io::Error) -> Error {
    Error::File { path: path.to_owned(), reason: format!("cannot be written: {error}") }
}

/// One step, as it stands in the metrics file. Numbers that are not finite become null.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    pub step: u64,
    pub loss: f32,
    pub grad_norm: f32,
    pub clip_coefficient: f32,
    pub loss_scale: f32,
    pub applied: bool,
    pub skipped_total: u32,
    pub learning_rate: f32,
    /// Mean over the steps that were read together with this one.
    pub tokens_per_second: f64,
    /// Measured after this step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f32>,
}

impl Record {
    fn new(step: &Telemetry, tokens_per_second: f64) -> Self {
        Self {
            step: step.step,
            loss: step.loss,
            grad_norm: step.gradient_norm,
            clip_coefficient: step.clip_coefficient,
            loss_scale: step.loss_scale,
            applied: step.applied,
            skipped_total: step.skipped_total,
            learning_rate: step.learning_rate,
            tokens_per_second,
            validation_loss: None,
        }
    }
}

/// Shows progress and writes the metrics file.
pub struct Monitor {
    bar: ProgressBar,
    quiet: bool,
    path: PathBuf,
    file: BufWriter<File>,
    history: Vec<Record>,
    validation_loss: Option<f32>,
}

impl Monitor {
    /// Begins a new metrics file.
    pub fn new(files: &Files, steps: usize, quiet: bool) -> Result<Self> {
        let path = files.metrics.clone();
        let file = File::create(&path).map_err(|error| write_failed(&path, &error))?;
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(steps as u64) };
        let template = "{bar:24} {pos}/{len}  {msg}  {eta} left";
        bar.set_style(ProgressStyle::with_template(template).expect("a valid template"));
        let (file, history) = (BufWriter::new(file), Vec::new());
        Ok(Self { bar, quiet, path, file, history, validation_loss: None })
    }

    /// Steps that were read together, and the validation loss after the last of them.
    pub fn report(
        &mut self,
        steps: &[Telemetry],
        tokens_per_second: f64,
        validation_loss: Option<f32>,
    ) -> Result<()> {
        let start = self.history.len();
        self.history.extend(steps.iter().map(|step| Record::new(step, tokens_per_second)));
        let Some(last) = self.history.last_mut() else { return Ok(()) };
        last.validation_loss = validation_loss;
        self.validation_loss = validation_loss.or(self.validation_loss);
        let last = last.clone();
        self.write(start).map_err(|error| write_failed(&self.path, &error))?;
        self.show(&last);
        Ok(())
    }

    /// Every line is on disk before training goes on.
    fn write(&mut self, start: usize) -> std::io::Result<()> {
        for record in &self.history[start..] {
            serde_json::to_writer(&mut self.file, record)?;
            self.file.write_all(b"\n")?;
        }
        self.file.flush()
    }

    fn show(&self, last: &Record) {
        let validation = match self.validation_loss {
            Some(loss) => format!("validation {loss:.3}  "),
            None => String::new(),
        };
        let skipped = match last.skipped_total {
            0 => String::new(),
            count => format!("  SKIPPED {count}"),
        };
        let message = format!(
            "loss {:.3}  {validation}norm {:.2}  {:.0} tokens/s{skipped}",
            last.loss, last.grad_norm, last.tokens_per_second
        );
        let done = last.step + 1;
        if last.validation_loss.is_some() && !self.quiet {
            let line = format!("step {done:>6}  {message}");
            if self.bar.is_hidden() { println!("{line}") } else { self.bar.println(line) }
        }
        self.bar.set_position(done);
        self.bar.set_message(message);
    }

    /// Ends the bar; says how the run went as a whole.
    pub fn finish(&self) -> &[Record] {
        self.bar.finish_and_clear();
        if let (Some(first), Some(last)) = (self.history.first(), self.history.last()) {
            if last.skipped_total > 0 {
                println!(
                    "{} of {} steps were skipped, as their gradients were not finite: they \
                     changed nothing. Lower --lr, or clip harder with --clip",
                    last.skipped_total,
                    self.history.len()
                );
            }
            // One batch is noisy.
            let count = (self.history.len() / 50).max(1);
            let tail = &self.history[self.history.len() - count..];
            let mean = tail.iter().map(|record| record.loss).sum::<f32>() / count as f32;
            let validation = self
                .validation_loss
                .map_or(String::new(), |loss| format!(", validation loss {loss:.3}"));
            let over = if count == 1 { "step".into() } else { format!("{count} steps") };
            println!("loss {:.3} -> {mean:.3} (last {over}){validation}", first.loss);
        }
        &self.history
    }
}
