//! What ran, as one table.

use std::collections::BTreeSet;
use std::fmt;

use evenkeel::Gpu;

use crate::bench::Work;

/// One benchmark's result.
pub struct Row {
    /// The kernel.
    pub name: String,
    /// What it ran over.
    pub size: String,
    /// Median time of one repetition.
    pub seconds: f64,
    /// What one repetition does.
    pub work: Work,
    /// Bytes per second of the copy kernel over as many bytes, unless the work is arithmetic.
    pub copy: Option<f64>,
}

/// All results of a run, and which kernels have a benchmark, excluded by the filter or not.
pub struct Table {
    adapter: String,
    rows: Vec<Row>,
    covered: BTreeSet<&'static str>,
}

impl Table {
    pub fn new(gpu: &Gpu) -> Self {
        let adapter = format!("{} ({})", gpu.info.name, gpu.info.driver_info);
        Self { adapter, rows: Vec::new(), covered: BTreeSet::new() }
    }

    pub fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub fn cover(&mut self, kernels: impl IntoIterator<Item = &'static str>) {
        self.covered.extend(kernels);
    }

    pub fn covers(&self, kernel: &str) -> bool {
        self.covered.contains(kernel)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "\nOn {}; copy is copy_quads over as many bytes, at most 80 MB.\n",
            self.adapter
        )?;
        let widest = |text: fn(&Row) -> &str| self.rows.iter().map(|r| text(r).len()).max();
        let name_width = widest(|row| &row.name).unwrap_or(0);
        let size_width = widest(|row| &row.size).unwrap_or(0);
        writeln!(
            f,
            "{:name_width$}  {:size_width$}  {:>9}  {:>14}  {:>11}  ratio",
            "kernel", "size", "ms", "rate", "copy"
        )?;
        for Row { name, size, seconds, work, copy } in &self.rows {
            let (amount, unit) = match *work {
                Work::Bytes(bytes) => (bytes, "GB/s   "),
                Work::Flops(flops) => (flops, "GFLOP/s"),
            };
            let rate = amount as f64 / seconds;
            let ms = seconds * 1e3;
            write!(f, "{name:name_width$}  {size:size_width$}  {ms:9.3}  ")?;
            write!(f, "{:6.2} {unit}", rate / 1e9)?;
            if let Some(copy) = copy {
                write!(f, "  {:6.2} GB/s  {:5.2}", copy / 1e9, rate / copy)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
