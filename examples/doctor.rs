//! Is this GPU fit to train? Asks the adapter what it does with numbers, and how fast it is.
//!
//! ```text
//! cargo run --release --example doctor
//! cargo run --release --example doctor -- --all
//! cargo run --release --example doctor -- --json
//! ```
//!
//! Each line is a question, how it ended, what was found, and what the library does about it. The
//! exit code is 1 if a check fails. All of it is [`Gpu::numerics`] and [`Gpu::speed`], which a
//! program can call for itself before it trains.

use std::process::ExitCode;

use clap::Parser;
use evenkeel::gpu::{Accuracy, Check, Numerics, Outcome, Speed};
use evenkeel::run::{finish, say};
use evenkeel::{Error, Gpu, Result};
use serde::Serialize;

/// Checks whether an adapter is fit to train.
#[derive(Debug, Parser)]
#[command(name = "doctor")]
struct Options {
    /// Check every adapter of this machine, not only the one that the environment selects.
    #[arg(long)]
    all: bool,
    /// Do not measure speed.
    #[arg(long)]
    quick: bool,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
}

/// What is known of one adapter.
#[derive(Serialize)]
struct Report {
    name: String,
    backend: String,
    driver: String,
    device_type: String,
    software: bool,
    /// Why it could not be checked.
    error: Option<String>,
    outcome: &'static str,
    checks: Vec<Row>,
    accuracy: Vec<Function>,
    speed: Option<Measured>,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    outcome: &'static str,
    found: String,
    consequence: String,
}

/// `null` in place of an infinite error.
#[derive(Serialize)]
struct Function {
    operation: String,
    worst_ulp: f64,
    worst_share_of_allowed: f64,
    at: [f32; 2],
}

#[derive(Serialize)]
struct Measured {
    copy_bytes_per_second: f64,
    product_operations_per_second: f64,
    product_size: u32,
}

fn main() -> ExitCode {
    let options = Options::parse();
    finish(pollster::block_on(run(&options)))
}

/// True if every adapter that was asked for is fit to train.
async fn run(options: &Options) -> Result<bool> {
    let reports = if options.all {
        all(options).await?
    } else {
        let gpu = Gpu::new().await?;
        let report = Report::new(&gpu.info);
        vec![report.fill(&gpu, options).await?]
    };
    if options.json {
        let text = serde_json::to_string_pretty(&reports).expect("strings and numbers");
        say!("{text}");
    } else {
        reports.iter().for_each(print);
    }
    Ok(reports.iter().all(|report| report.error.is_none() && report.outcome != "fail"))
}

/// An adapter that cannot be checked is reported as such, and the others are checked.
async fn all(options: &Options) -> Result<Vec<Report>> {
    let instance =
        wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
    if adapters.is_empty() {
        return Err(Error::NoAdapter { reason: "none was enumerated".to_owned() });
    }
    let mut reports = Vec::new();
    for adapter in adapters {
        let filled = match Gpu::from_adapter(&adapter).await {
            Ok(gpu) => Report::new(&gpu.info).fill(&gpu, options).await,
            Err(error) => Err(error),
        };
        reports.push(filled.unwrap_or_else(|error| Report {
            error: Some(error.to_string()),
            ..Report::new(&adapter.get_info())
        }));
    }
    Ok(reports)
}

impl Report {
    fn new(info: &wgpu::AdapterInfo) -> Self {
        Self {
            name: info.name.clone(),
            backend: format!("{:?}", info.backend),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            device_type: format!("{:?}", info.device_type),
            software: info.device_type == wgpu::DeviceType::Cpu,
            error: None,
            outcome: word(Outcome::Fail),
            checks: Vec::new(),
            accuracy: Vec::new(),
            speed: None,
        }
    }

    async fn fill(self, gpu: &Gpu, options: &Options) -> Result<Self> {
        let numerics = gpu.numerics().await?;
        let speed = if options.quick { None } else { Some(gpu.speed().await?) };
        let outcome = word(numerics.outcome());
        let Numerics { checks, arithmetic, .. } = numerics;
        let speeds = speed.iter().flat_map(Speed::checks);
        Ok(Self {
            outcome,
            checks: checks.into_iter().chain(speeds).map(Row::from).collect(),
            accuracy: arithmetic.accuracy.iter().map(Function::from).collect(),
            speed: speed.map(Measured::from),
            ..self
        })
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "pass",
        Outcome::Degraded => "degraded",
        Outcome::Fail => "fail",
    }
}

impl From<Check> for Row {
    fn from(check: Check) -> Self {
        let Check { name, outcome, found, consequence } = check;
        Self { name, outcome: word(outcome), found, consequence }
    }
}

impl From<&Accuracy> for Function {
    fn from(accuracy: &Accuracy) -> Self {
        Self {
            operation: format!("{:?}", accuracy.operation),
            worst_ulp: accuracy.worst_ulp,
            worst_share_of_allowed: accuracy.worst_share,
            at: accuracy.at,
        }
    }
}

impl From<Speed> for Measured {
    fn from(speed: Speed) -> Self {
        Self {
            copy_bytes_per_second: speed.copy_bytes_per_second,
            product_operations_per_second: speed.product_operations_per_second,
            product_size: speed.product_size,
        }
    }
}

/// Columns of the table, in characters.
const WIDTHS: [usize; 4] = [21, 8, 46, 46];

fn print(report: &Report) {
    say!("adapter   {} ({})", report.name, report.backend);
    say!("driver    {}", report.driver);
    say!("type      {}", report.device_type);
    if let Some(error) = &report.error {
        say!("\ncould not be checked: {error}\n");
        return;
    }
    say!();
    print_row(&["check", "outcome", "found", "what the library does"]);
    say!("{}", "-".repeat(WIDTHS.iter().sum::<usize>() + 2 * (WIDTHS.len() - 1)));
    for row in &report.checks {
        print_row(&[row.name, row.outcome, &row.found, &row.consequence]);
    }
    let verdict = match report.outcome {
        "fail" => "not fit to train: at least one check fails",
        "degraded" => "fit to train; the library works around what is degraded",
        _ => "fit to train",
    };
    say!("\n{verdict}\n");
}

fn print_row(cells: &[&str; 4]) {
    let columns: Vec<_> = cells.iter().zip(WIDTHS).map(|(cell, width)| wrap(cell, width)).collect();
    let height = columns.iter().map(Vec::len).max().unwrap_or(0);
    for line in 0..height {
        let text = |column: usize| columns[column].get(line).map_or("", String::as_str);
        let padded: Vec<_> =
            (0..4).map(|column| format!("{:<1$}", text(column), WIDTHS[column])).collect();
        say!("{}", padded.join("  ").trim_end());
    }
}

/// Lines of at most `width` characters, broken between words where words allow it.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("never empty");
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= width {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}
