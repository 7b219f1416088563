//! What a native program has around a training run: options, files, saves, signals, progress.
//! Needs the feature `run`.
//!
//! A [`Run`] owns a folder and the files that options name. What holds for all of them:
//!
//! - **Before anything is computed** the folder is locked, so that a second run in it is refused;
//!   each file is known to be writable; no two options name one file, whatever way they take to it;
//!   and the first save is made, so that a disk too small for it shows at once.
//! - **Nothing is lost before there is something to put in its place.** Files of an earlier run stay
//!   until the new one has a record, a plot, a save. A folder whose run did not come to its end is
//!   refused, unless it is to be resumed or begun anew.
//! - **Saves** hold weights, moments, states, counters, and the run's options; batches are drawn by
//!   seed and step, so the step is the position in the data. A save is written beside the last one,
//!   brought to the disk, and renamed; the last one is kept as the previous. A run killed at any
//!   moment goes on from its last save bit by bit, and the files of records are cut back to it: no
//!   step is missing in them or there twice.
//! - **Signals** (SIGINT, SIGTERM, SIGHUP) end the run after the current step, with everything saved
//!   and the report written; the exit code is 128 and the signal's number. A second one ends the
//!   program at once.
//! - **Output that fails does not end the run**: a closed pipe is passed over; a file that cannot be
//!   written is said once on the error output, tried again with every record, and if something is
//!   still missing at the end the program ends with exit code 1, after the last save.
//!
//! [`say!`](crate::say) and [`finish`] are of use to any program.

mod console;
mod dashboard;
mod description;
pub mod doctor;
mod exit_code;
pub mod folder;
pub mod history;
mod monitor;
mod options;
mod outputs;
mod preset;
mod profile;
mod saved;
mod settings;
mod signals;
#[cfg(feature = "text")]
mod source;
mod space;
pub mod text;
mod training;

pub use console::{
    Ending, finish, finish_with, print_bytes, print_line, print_result, say_aside, warn,
};
pub use description::describe;
pub use exit_code::exit_code;
pub use folder::Folder;
pub use monitor::{Monitor, MonitorSummary};
pub use options::Options;
pub use outputs::Outputs;
pub use preset::Preset;
pub use profile::ProfiledSteps;
pub use saved::{About, Saved};
pub use settings::Settings;
pub use signals::{Signal, Signals};
#[cfg(feature = "text")]
pub use source::{Source, block_format};
pub use space::{amount, check_space};
pub use text::Text;
pub use training::Run;

pub use crate::say;
