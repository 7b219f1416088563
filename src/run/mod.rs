//! What a native program has around a training run: files, saves, signals, progress. Needs the
//! feature `run`.
//!
//! These are the parts that the program `evenkeel` is made of, for programs of your own:
//!
//! - A [`Folder`] is locked, so that a second run in it is refused. [`Outputs`] are the files of a
//!   run: each is known to be writable before anything is computed, and no two options name one
//!   file, whatever way they take to it.
//! - A [`Monitor`] takes the records of steps, writes the files, shows progress or a dashboard, and
//!   sums the run up. Files of an earlier run stay until there is a record or a plot to put in
//!   their place. **Output that fails does not end the run**: a closed pipe is passed over; a file
//!   that cannot be written is said once on the error output, tried again with every record, and is
//!   an error if something is still missing at the end, with exit code 1.
//! - A [`Saved`] is a checkpoint (weights, moments, states, counters) with whatever else a program
//!   needs to go on. It is written beside the last one, brought to the disk, and renamed; the last
//!   one is kept as the previous. A run killed at any moment goes on from its last save bit by bit,
//!   and a monitor cuts the files of records back to it: no step is missing in them or there twice.
//! - [`Signals`] (SIGINT, SIGTERM, SIGHUP) ask the run to end after the current step; a second one
//!   ends the program at once. [`finish`] makes exit codes of them: 128 and the signal's number.
//! - [`ProfiledSteps`] are some of the first steps, measured dispatch by dispatch.
//! - A [`CompileBar`] counts kernels while they are compiled, and [`tune_products`] measures once per
//!   adapter how the fastest of them go.
//!
//! [`say!`](crate::say) and [`finish`] are of use to any program.

mod compile_bar;
mod console;
mod dashboard;
pub mod doctor;
mod exit_code;
mod fingerprint;
pub mod folder;
pub mod history;
mod monitor;
mod options;
mod outputs;
mod profile;
mod saved;
mod signals;
#[cfg(feature = "text")]
mod source;
mod space;
mod tuning;

pub use compile_bar::CompileBar;
pub use console::{
    Ending, complain_as, finish, finish_with, print_aside, print_bytes, print_line, print_result,
    say_aside, tell_error, warn,
};
pub use exit_code::exit_code;
pub use fingerprint::{Fingerprint, TokenHash};
pub use folder::Folder;
pub use monitor::{Monitor, MonitorSummary};
pub use options::OutputOptions;
pub use outputs::Outputs;
pub use profile::ProfiledSteps;
pub use saved::Saved;
pub use signals::{Signal, Signals};
#[cfg(feature = "text")]
pub use source::{Source, block_format};
pub use space::{amount, check_space};
pub use tuning::{tune_products, tune_products_in};

pub use crate::say;
