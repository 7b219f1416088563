//! The report of a run, again.

use std::path::{Path, PathBuf};

use evenkeel::run::history::read_records;
use evenkeel::run::{Ending, say, warn};
use evenkeel::watch::{Report, Sink};
use evenkeel::{Error, Result, file};

/// The records of a run, one a line.
pub const METRICS: &str = "metrics.jsonl";

/// Draws the records of a run's metrics.jsonl: losses, norms, rates, skipped steps, events.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The folder of a run, or a file with its records
    #[arg(value_name = "RUN_DIR")]
    run: PathBuf,
    /// Where the page goes; report.html in the folder if not given
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
    /// What the page is called; the name of the folder if not given
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// The clip threshold, to be drawn into the chart of norms
    #[arg(long, value_name = "X")]
    threshold: Option<f64>,
    /// First steps to leave out of the table of thresholds
    #[arg(long, value_name = "N", default_value_t = 0)]
    warmup: u64,
}

pub async fn run(options: Options) -> Result<Ending> {
    let (folder, metrics) = folder_and_records(&options.run)?;
    let out = options.out.clone().unwrap_or_else(|| folder.join("report.html"));
    file::check_writable(&out)?;
    let name = folder.canonicalize().ok();
    let name = name.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy());
    let title = options.title.clone();
    let title = title.or(name.map(Into::into)).unwrap_or_else(|| "a run".to_owned());
    let mut report = Report::new(title).warmup(options.warmup);
    if let Some(threshold) = options.threshold {
        report = report.threshold(threshold);
    }
    let mut steps = 0u64;
    let damaged = read_records(&metrics, |record| {
        steps += 1;
        // Writes nothing yet.
        drop(report.record(&record));
    });
    let damaged = damaged.map_err(|error| Error::File {
        path: metrics.clone(),
        reason: format!("cannot be read: {error}"),
    })?;
    if steps == 0 {
        let reason = "there are no records of steps in it".to_owned();
        return Err(Error::File { path: metrics, reason });
    }
    if let Some(first) = damaged.first() {
        let (count, metrics) = (damaged.len(), metrics.display());
        warn(format!("{metrics}: {count} lines are no records, the first is line {first}"));
    }
    let mut report = report
        .fact("records", steps.to_string())
        .fact("from", metrics.display().to_string())
        .save_html(&out);
    report.finish()?;
    say!("wrote {} with {steps} steps", out.display());
    Ok(Ending::Done)
}

/// The folder of a run, and its records.
///
/// # Errors
/// [`Error::File`] where there are none.
pub fn folder_and_records(run: &Path) -> Result<(PathBuf, PathBuf)> {
    let missing = |reason: &str| Error::File { path: run.to_owned(), reason: reason.to_owned() };
    if run.is_file() {
        let folder = run.parent().filter(|folder| *folder != Path::new(""));
        return Ok((folder.unwrap_or(Path::new(".")).to_owned(), run.to_owned()));
    }
    if !run.is_dir() {
        return Err(missing("there is no folder with this name; give the folder of a run"));
    }
    let metrics = run.join(METRICS);
    if !metrics.is_file() {
        return Err(missing(
            "there is no metrics.jsonl in it; give the folder of a run, or the file with its \
             records (--metrics)",
        ));
    }
    Ok((run.to_owned(), metrics))
}
