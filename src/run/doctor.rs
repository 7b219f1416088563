//! Is a GPU fit to train? What an adapter does with numbers, and how fast it is, as a report.

use serde::Serialize;

use super::say;
use crate::error::{Error, Result};
use crate::gpu::{Accuracy, Check, Gpu, GpuOptions, Numerics, Outcome, Speed};

/// What is known of one adapter; as JSON it has the same names.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The adapter.
    pub name: String,
    /// The interface to it, such as Vulkan.
    pub backend: String,
    /// The driver and its version.
    pub driver: String,
    /// What kind of device it is.
    pub device_type: String,
    /// True where shaders run on the CPU.
    pub software: bool,
    /// Why it could not be checked.
    pub error: Option<String>,
    /// The worst of all checks: `pass`, `degraded` or `fail`.
    pub outcome: &'static str,
    checks: Vec<Row>,
    accuracy: Vec<Function>,
    speed: Option<Measured>,
}

#[derive(Clone, Debug, Serialize)]
struct Row {
    name: &'static str,
    outcome: &'static str,
    found: String,
    consequence: String,
}

/// `null` in place of an infinite error.
#[derive(Clone, Debug, Serialize)]
struct Function {
    operation: String,
    worst_ulp: f64,
    worst_share_of_allowed: f64,
    at: [f32; 2],
}

#[derive(Clone, Debug, Serialize)]
struct Measured {
    copy_bytes_per_second: f64,
    product_operations_per_second: f64,
    product_size: u32,
}

/// Checks every adapter of this machine, opened with these options. One that cannot be checked is reported as such.
///
/// # Errors
/// [`Error::NoAdapter`].
pub async fn all(quick: bool, options: GpuOptions) -> Result<Vec<Report>> {
    let instance =
        wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
    if adapters.is_empty() {
        return Err(Error::NoAdapter { reason: "none was enumerated".to_owned() });
    }
    let mut reports = Vec::new();
    for adapter in adapters {
        let filled = match Gpu::from_adapter_with(&adapter, options).await {
            Ok(gpu) => Report::of(&gpu, quick).await,
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

    /// Checks the adapter of this device; `quick` leaves out how fast it is.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn of(gpu: &Gpu, quick: bool) -> Result<Self> {
        let numerics = gpu.numerics().await?;
        let speed = if quick { None } else { Some(gpu.speed().await?) };
        let outcome = word(numerics.outcome());
        let Numerics { checks, arithmetic, .. } = numerics;
        let speeds = speed.iter().flat_map(Speed::checks);
        let has_tiles = !quick && !gpu.is_software();
        let tiles = if has_tiles { Some(gpu.tune_products().await?.check()) } else { None };
        Ok(Self {
            outcome,
            checks: checks.into_iter().chain(speeds).chain(tiles).map(Row::from).collect(),
            accuracy: arithmetic.accuracy.iter().map(Function::from).collect(),
            speed: speed.map(Measured::from),
            ..Self::new(&gpu.info)
        })
    }

    /// Whether it was checked, and no check failed.
    pub fn is_fit(&self) -> bool {
        self.error.is_none() && self.outcome != word(Outcome::Fail)
    }

    /// Whether it is fit to train, in one line.
    pub fn verdict(&self) -> &'static str {
        match (&self.error, self.outcome) {
            (Some(_), _) => "not fit to train: it could not be checked",
            (None, "fail") => "not fit to train: at least one check fails",
            (None, "degraded") => "fit to train; the library works around what is degraded",
            _ => "fit to train",
        }
    }

    /// Says all of it as a table, and the verdict.
    pub fn print(&self) {
        say!("adapter   {} ({})", self.name, self.backend);
        say!("driver    {}", self.driver);
        say!("type      {}", self.device_type);
        if let Some(error) = &self.error {
            say!("\ncould not be checked: {error}\n");
            return;
        }
        say!();
        print_row(&["check", "outcome", "found", "what the library does"]);
        say!("{}", "-".repeat(WIDTHS.iter().sum::<usize>() + 2 * (WIDTHS.len() - 1)));
        for row in &self.checks {
            print_row(&[row.name, row.outcome, &row.found, &row.consequence]);
        }
        say!("\n{}\n", self.verdict());
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
