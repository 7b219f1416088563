//! What a rank that prints nothing says: a file of its own.

use std::fmt::Arguments;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use evenkeel::run::warn;

/// The log of a rank, in the folder of the run.
pub struct Log(Option<File>);

impl Log {
    /// Goes on with the file `log.rank-R.txt`. The run goes on without one that cannot be written.
    pub fn of_rank(rank: usize, folder: &Path) -> Self {
        let path = folder.join(format!("log.rank-{rank}.txt"));
        let open = || {
            fs::create_dir_all(folder)?;
            File::options().create(true).append(true).open(&path)
        };
        match open() {
            Ok(file) => Self(Some(file)),
            Err(error) => {
                warn(format!("{}: there is no log: {error}", path.display()));
                Self(None)
            }
        }
    }

    /// Adds a line. A file that cannot be written any more is left.
    pub fn say(&mut self, line: Arguments<'_>) {
        if let Some(file) = &mut self.0
            && let Err(error) = file.write_all(format!("{line}\n").as_bytes())
        {
            warn(format!("the log cannot be written: {error}"));
            self.0 = None;
        }
    }
}

/// This process, as somebody who looks for it needs to know it.
pub fn process() -> String {
    let named = |path: &str| fs::read_to_string(path).ok();
    let host = named("/proc/sys/kernel/hostname").or_else(|| std::env::var("HOSTNAME").ok());
    let host = host.map_or("this machine".to_owned(), |host| host.trim().to_owned());
    format!("process {} on {host}", std::process::id())
}
