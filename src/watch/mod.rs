//! Watching a run: where its numbers go, and what they say.
//!
//! A [`Record`] is one step as named numbers, made from the trainer's telemetry and whatever the
//! program adds. A [`Sink`] takes records: [`JsonLines`], [`Csv`] and [`TensorBoard`] write them as
//! they come, a [`Report`] draws them at the end of the run, and, with the feature `dashboard`, a
//! `Dashboard` shows them in the terminal meanwhile. [`RunStatistics`] adds what needs more than
//! one step to be known: the share of clipped steps and spikes. A [`ThresholdAdviser`] says which
//! clip threshold the norms suggest.
//!
//! All of it is host code over numbers that the device has left behind: nothing here makes a step
//! wait.
//!
//! ```no_run
//! use evenkeel::train::{Model, Trainer};
//! use evenkeel::watch::{JsonLines, Record, Report, RunStatistics, Sink, TensorBoard};
//! use evenkeel::watch::ThresholdAdviser;
//!
//! # async fn watch<M: Model>(mut trainer: Trainer<M>) -> evenkeel::Result<()> {
//! let mut sinks: Vec<Box<dyn Sink>> = vec![
//!     Box::new(JsonLines::create("run.jsonl")?),
//!     Box::new(TensorBoard::create("logs/run")?),
//!     Box::new(Report::new("a run").threshold(1.0).save_html("report.html")),
//! ];
//! let (mut statistics, mut adviser) = (RunStatistics::default(), ThresholdAdviser::new(100));
//! // ... every few steps:
//! for telemetry in trainer.telemetry().await? {
//!     let record = statistics.annotate(Record::from(&telemetry));
//!     adviser.update(&record);
//!     sinks.record(&record)?;
//! }
//! // ... at the end:
//! sinks.finish()?;
//! if let Some(advice) = adviser.advise() {
//!     println!("{advice}");
//! }
//! # Ok(())
//! # }
//! ```

mod adviser;
mod axis;
mod csv;
#[cfg(all(feature = "dashboard", not(target_arch = "wasm32")))]
mod dashboard;
mod json_lines;
mod number;
mod record;
mod report;
mod series;
mod sink;
mod statistics;
mod tensorboard;

pub use adviser::{Advice, Candidate, ThresholdAdviser};
pub use csv::Csv;
#[cfg(all(feature = "dashboard", not(target_arch = "wasm32")))]
pub use dashboard::Dashboard;
pub use json_lines::JsonLines;
pub use record::{Record, scalar};
pub use report::Report;
pub use sink::Sink;
pub use statistics::{RunStatistics, Spike, SpikeScore};
pub use tensorboard::TensorBoard;
