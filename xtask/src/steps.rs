//! Programs, printed as one line before they run.

use std::ffi::OsStr;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A program to run in the root of the repository.
pub struct Step {
    command: Command,
    /// Begins the lines of its output.
    prefix: String,
}

impl Step {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.current_dir(root()).stdin(Stdio::null());
        Self { command, prefix: String::new() }
    }

    /// Begins the lines of its output, where it runs beside others.
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// The cargo that started this program.
    pub fn cargo(subcommand: &str) -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        Self::new(cargo).args([subcommand])
    }

    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    pub fn envs<V: AsRef<OsStr>>(
        mut self,
        variables: impl IntoIterator<Item = (&'static str, V)>,
    ) -> Self {
        self.command.envs(variables);
        self
    }

    pub fn current_dir(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Runs to the end and fails where the program does.
    pub fn run(mut self) -> Result<()> {
        announce(&self);
        let status = self.command.status().with_context(|| format!("cannot start {self}"))?;
        if !status.success() {
            bail!("{status} from {self}");
        }
        Ok(())
    }

    /// Runs to the end, passing its output on line by line, and tells whether it succeeded.
    pub fn run_watching(self, mut watch: impl FnMut(&str)) -> Result<bool> {
        let prefix = self.prefix.clone();
        self.run_reading(|line| {
            println!("{prefix}{line}");
            watch(line);
        })
    }

    /// Runs to the end with its output for `read` alone, line by line, and tells whether it succeeded.
    pub fn run_reading(mut self, mut read: impl FnMut(&str)) -> Result<bool> {
        announce(&self);
        self.command.stdout(Stdio::piped());
        let mut child = self.command.spawn().with_context(|| format!("cannot start {self}"))?;
        let output = child.stdout.take().context("standard output was just piped")?;
        for line in BufReader::new(output).split(b'\n') {
            read(&String::from_utf8_lossy(&line?));
        }
        Ok(child.wait()?.success())
    }

    /// Runs for a while at most, in silence, and tells whether it succeeded in that time.
    pub fn try_for(mut self, limit: Duration) -> Result<bool> {
        announce(&self);
        self.command.stdout(Stdio::null()).stderr(Stdio::null());
        let start = Instant::now();
        let mut child = self.command.spawn().with_context(|| format!("cannot start {self}"))?;
        while start.elapsed() < limit {
            if let Some(status) = child.try_wait()? {
                return Ok(status.success());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        child.kill()?;
        child.wait()?;
        Ok(false)
    }

    /// What the program writes; nothing is printed. `None` where it is missing or fails.
    pub fn output(mut self) -> Option<String> {
        let output = self.command.stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (name, value) in self.command.get_envs() {
            let value = value.unwrap_or_default();
            write!(f, "{}={} ", name.to_string_lossy(), value.to_string_lossy())?;
        }
        // A full path says less than the name to type.
        let program = Path::new(self.command.get_program());
        write!(f, "{}", program.file_stem().unwrap_or_default().to_string_lossy())?;
        for argument in self.command.get_args() {
            write!(f, " {}", argument.to_string_lossy())?;
        }
        Ok(())
    }
}

fn announce(step: &Step) {
    println!("==> {step}");
    // Standard output may be a pipe, and the program's own lines must come after this one. A
    // closed pipe shows at the next line.
    std::io::stdout().flush().unwrap_or(());
}

/// The root of the repository.
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("xtask lies in the repository").to_owned()
}

/// Where builds and unpacked drivers go.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => root().join(directory),
        None => root().join("target"),
    }
}
