//! A profile as tables.

use std::fmt;

use super::{Profile, ProfileRow};

/// Names of a path by which the printed table tells modules apart: `blocks.0.attention`.
const DEPTH: usize = 3;

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits = &self.limits;
        writeln!(f, "one step on {}, by {}", self.adapter, limits.timing)?;
        writeln!(
            f,
            "{} dispatches of {:.3} ms, {:.3} ms from the first to the last",
            self.dispatches.len(),
            1e3 * self.seconds(),
            1e3 * self.elapsed_seconds(),
        )?;
        writeln!(
            f,
            "at best: {:.1} GB/s copied, {:.1} GFLOP/s, {:.1} µs for an empty dispatch\n",
            1e-9 * limits.bytes_per_second(),
            1e-9 * limits.operations_per_second,
            1e6 * limits.empty_seconds,
        )?;
        let (kernels, modules) = (self.by_kernel(), self.by_module(DEPTH));
        let names = kernels.iter().chain(&modules).map(|row| row.name.len());
        let width = names.max().unwrap_or(0).max("module".len());
        const HEAD: &str = "count          ms  share  at best ms";
        let rates = "GB/s  of copy  GFLOP/s  of peak  empty  groups";
        writeln!(f, "{:width$}  {HEAD}    {rates}", "kernel")?;
        kernels.iter().try_for_each(|row| self.kernel_line(f, row, width))?;
        writeln!(f, "\n{:width$}  {HEAD}     forward    backward", "module")?;
        modules.iter().try_for_each(|row| self.module_line(f, row, width))
    }
}

impl Profile {
    /// What the tables have in common.
    fn head(&self, f: &mut fmt::Formatter<'_>, row: &ProfileRow, width: usize) -> fmt::Result {
        let (ms, least) = (1e3 * row.seconds, 1e3 * row.least_seconds);
        let share = percent(row.seconds, self.seconds());
        write!(f, "{:width$}  {:5}  {ms:10.3}  {share:>5}  {least:10.3}", row.name, row.dispatches)
    }

    fn kernel_line(
        &self,
        f: &mut fmt::Formatter<'_>,
        row: &ProfileRow,
        width: usize,
    ) -> fmt::Result {
        self.head(f, row, width)?;
        let rate = |amount: u64| match row.seconds {
            seconds if seconds > 0.0 && amount > 0 => {
                format!("{:.2}", 1e-9 * amount as f64 / seconds)
            }
            _ => "-".to_owned(),
        };
        writeln!(
            f,
            "  {:>6}  {:>7}  {:>7}  {:>7}  {:>5}  {:6}",
            rate(row.work.bytes()),
            percent(row.copy_seconds, row.seconds),
            rate(row.work.operations),
            percent(row.operation_seconds, row.seconds),
            percent(row.empty_seconds, row.seconds),
            row.fewest_workgroups,
        )
    }

    fn module_line(
        &self,
        f: &mut fmt::Formatter<'_>,
        row: &ProfileRow,
        width: usize,
    ) -> fmt::Result {
        self.head(f, row, width)?;
        let [forward, backward] = [row.forward_seconds, row.backward_seconds].map(|s| 1e3 * s);
        writeln!(f, "  {forward:10.3}  {backward:10.3}")
    }
}

/// A part of a whole, `-` where there is none.
fn percent(part: f64, whole: f64) -> String {
    if part > 0.0 && whole > 0.0 { format!("{:.0}%", 1e2 * part / whole) } else { "-".to_owned() }
}
