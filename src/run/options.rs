//! What a program asks of the files and the terminal of a run.

use std::path::PathBuf;

/// What a run writes and shows beside its saves, its records, its plot and its sample. Errors name
/// each by the option of the same name, such as `--csv`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputOptions {
    /// A line of JSON for every step; `metrics.jsonl` in the folder of the run if not given.
    pub metrics: Option<PathBuf>,
    /// The same as a table.
    pub csv: Option<PathBuf>,
    /// An event file for TensorBoard in this folder.
    pub tensorboard: Option<PathBuf>,
    /// The run as one page, written at its end.
    pub report: Option<PathBuf>,
    /// Profiles some of the first steps: what the device takes for one by kernel and by module, and
    /// in the file, if given, as a timeline that <https://ui.perfetto.dev> shows.
    pub profile: Option<Option<PathBuf>>,
    /// Live charts in the terminal, where q stops the run; needs the feature `dashboard`.
    pub dashboard: bool,
    /// Shows no progress.
    pub quiet: bool,
}
