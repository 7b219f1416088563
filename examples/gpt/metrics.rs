//! Where a run's results go: files, a progress bar or a dashboard, and a summary.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use evenkeel::train::{Telemetry, TensorTelemetry};
use evenkeel::watch::{
    Csv, JsonLines, Record, Report, RunStatistics, Sink, TensorBoard, ThresholdAdviser, scalar,
};
use evenkeel::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};

use crate::dashboard::Dashboard;
use crate::options::Options;

/// The files of a run.
pub struct Files {
    pub metrics: PathBuf,
    pub csv: Option<PathBuf>,
    pub tensorboard: Option<PathBuf>,
    pub report: Option<PathBuf>,
    pub plot: PathBuf,
    pub sample: PathBuf,
}

impl Files {
    /// Makes the folders and checks that they can be written, before anything is computed. Files
    /// of an earlier run stay until the new one has something to put in their place.
    pub fn prepare(options: &Options) -> Result<Self> {
        let out = &options.out;
        let metrics = options.metrics.clone().unwrap_or_else(|| out.join("metrics.jsonl"));
        check_folder(out, "--out")?;
        // Where its file was not named, the metrics lie in the folder.
        check_file(&metrics, if options.metrics.is_some() { "--metrics" } else { "--out" })?;
        for (file, option) in [(&options.csv, "--csv"), (&options.report, "--report")] {
            file.as_ref().map_or(Ok(()), |file| check_file(file, option))?;
        }
        let (csv, report) = (options.csv.clone(), options.report.clone());
        let tensorboard = options.tensorboard.clone();
        tensorboard.as_ref().map_or(Ok(()), |folder| check_folder(folder, "--tensorboard"))?;
        let (plot, sample) = (out.join("training.svg"), out.join("sample.txt"));
        Ok(Self { metrics, csv, tensorboard, report, plot, sample })
    }

    pub fn write_sample(&self, text: &[u8]) -> Result<()> {
        fs::write(&self.sample, text).map_err(|error| Error::File {
            path: self.sample.clone(),
            reason: format!("cannot be written: {error}"),
        })
    }

    /// What lies where now.
    pub fn print(&self, sampled: bool) {
        println!("\nmetrics  {}", self.metrics.display());
        let print = |name: &str, path: &Option<PathBuf>| {
            path.iter().for_each(|path| println!("{name:<8} {}", path.display()));
        };
        print("table", &self.csv);
        print("events", &self.tensorboard);
        print("report", &self.report);
        println!("plot     {}", self.plot.display());
        if sampled {
            println!("sample   {}", self.sample.display());
        }
    }

    /// What takes every step; the report writes page and plot at the end.
    fn sinks(&self, report: Report) -> Result<Vec<Box<dyn Sink>>> {
        let mut sinks: Vec<Box<dyn Sink>> = vec![Box::new(JsonLines::create(&self.metrics)?)];
        if let Some(path) = &self.csv {
            sinks.push(Box::new(Csv::create(path)?.column(scalar::VALIDATION_LOSS)));
        }
        if let Some(folder) = &self.tensorboard {
            sinks.push(Box::new(TensorBoard::create(folder)?));
        }
        let report = report.save_svg(&self.plot);
        sinks.push(match &self.report {
            Some(path) => Box::new(report.save_html(path)),
            None => Box::new(report),
        });
        Ok(sinks)
    }
}

fn check_folder(folder: &Path, option: &str) -> Result<()> {
    let check = || {
        fs::create_dir_all(folder)?;
        let probe = folder.join(format!(".writable-{}", std::process::id()));
        fs::write(&probe, b"")?;
        fs::remove_file(&probe)
    };
    check().map_err(|error| failed(folder, "folder", option, &error))
}

fn check_file(file: &Path, option: &str) -> Result<()> {
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        check_folder(folder, option)?;
    }
    let opened = File::options().create(true).append(true).open(file);
    opened.map(drop).map_err(|error| failed(file, "file", option, &error))
}

fn failed(path: &Path, kind: &str, option: &str, error: &std::io::Error) -> Error {
    let reason = format!("this {kind} cannot be written ({error}); choose another with {option}");
    Error::File { path: path.to_owned(), reason }
}

/// Passes records on, and shows progress.
pub struct Monitor {
    sinks: Vec<Box<dyn Sink>>,
    statistics: RunStatistics,
    adviser: ThresholdAdviser,
    bar: ProgressBar,
    dashboard: Option<Dashboard>,
    quiet: bool,
    losses: Vec<f64>,
    validation_loss: Option<f64>,
}

impl Monitor {
    /// Begins new files.
    pub fn new(files: &Files, options: &Options, run: Run) -> Result<Self> {
        let dashboard =
            options.dashboard.then(|| Ok::<_, Error>(Dashboard::new()?.title(&run.title)));
        let dashboard = dashboard.transpose()?;
        let sinks = files.sinks(run.report.warmup(run.warmup as u64))?;
        let quiet = options.quiet;
        // Lines would spoil the dashboard's picture.
        let hidden = quiet || options.dashboard;
        let bar = if hidden { ProgressBar::hidden() } else { ProgressBar::new(run.steps as u64) };
        let template = "{bar:24} {pos}/{len}  {msg}  {eta} left";
        bar.set_style(ProgressStyle::with_template(template).expect("a valid template"));
        Ok(Self {
            sinks,
            statistics: RunStatistics::default(),
            adviser: ThresholdAdviser::new(run.warmup as u64),
            bar,
            dashboard,
            quiet,
            losses: Vec::new(),
            validation_loss: None,
        })
    }

    /// Steps that were read together, what tensors held in the watched ones, and the validation loss after the last of them.
    pub fn report(
        &mut self,
        steps: &[Telemetry],
        tensors: &[TensorTelemetry],
        tokens_per_second: f64,
        validation_loss: Option<f64>,
    ) -> Result<()> {
        self.validation_loss = validation_loss.or(self.validation_loss);
        for (at, step) in steps.iter().enumerate() {
            let record = Record::from(step).with(scalar::TOKENS_PER_SECOND, tokens_per_second);
            let mut record = self.statistics.annotate(record);
            let here = tensors.iter().filter(|tensor| tensor.step == step.step);
            here.for_each(|tensor| record.add_tensor_telemetry(tensor));
            let is_last = at + 1 == steps.len();
            if let Some(loss) = validation_loss.filter(|_| is_last) {
                record.set(scalar::VALIDATION_LOSS, loss);
            }
            self.losses.push(step.loss.into());
            self.adviser.update(&record);
            self.sinks.record(&record)?;
            if let Some(dashboard) = &mut self.dashboard {
                let _ = dashboard.update(&record)?;
            }
            if is_last {
                self.show(step, tokens_per_second, validation_loss.is_some());
            }
        }
        Ok(())
    }

    /// Breaks where somebody wants to stop.
    pub fn poll(&mut self) -> Result<ControlFlow<()>> {
        self.dashboard.as_mut().map_or(Ok(ControlFlow::Continue(())), Dashboard::poll)
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
        let message = format!(
            "loss {:.3}  {validation}norm {:.2}  {tokens_per_second:.0} tokens/s{skipped}",
            last.loss, last.gradient_norm
        );
        let done = last.step + 1;
        if validated && !self.quiet && self.dashboard.is_none() {
            let line = format!("step {done:>6}  {message}");
            if self.bar.is_hidden() { println!("{line}") } else { self.bar.println(line) }
        }
        self.bar.set_position(done);
        self.bar.set_message(message);
    }

    /// Ends what was shown and what was written; says how the run went as a whole.
    pub fn finish(mut self) -> Result<()> {
        drop(self.dashboard.take());
        self.bar.finish_and_clear();
        let written = self.sinks.finish();
        let (steps, skipped) = (self.losses.len(), self.statistics.skipped());
        if skipped > 0 {
            println!(
                "{skipped} of {steps} steps were skipped, as their gradients were not finite: they \
                 changed nothing. Lower --lr, or clip harder with --clip"
            );
        }
        if let Some(first) = self.losses.first() {
            // One batch is noisy.
            let count = (steps / 50).max(1);
            let mean = self.losses[steps - count..].iter().sum::<f64>() / count as f64;
            let validation = self
                .validation_loss
                .map_or(String::new(), |loss| format!(", validation loss {loss:.3}"));
            let over = if count == 1 { "step".into() } else { format!("{count} steps") };
            println!("loss {first:.3} -> {mean:.3} (last {over}){validation}");
        }
        if let Some(advice) = self.adviser.advise().filter(|_| !self.quiet) {
            println!("{advice}");
        }
        written
    }
}

/// What a monitor must know of the run.
pub struct Run {
    pub title: String,
    pub steps: usize,
    pub warmup: usize,
    pub report: Report,
}
