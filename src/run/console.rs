//! Output that no run ends for: who reads it may go away.

use std::fmt::{Arguments, Display};
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use super::Signal;

/// Why standard output could not be written, for the first time; a closed pipe is no reason.
static FAILED: Mutex<Option<String>> = Mutex::new(None);
/// Whether what is said goes to the error output.
static IS_ASIDE: AtomicBool = AtomicBool::new(false);
/// Who complains, where several processes of one run do.
static NAME: OnceLock<String> = OnceLock::new();

/// `println!` for programs whose work is worth more than their output: where nobody reads it any
/// more (`program | head -1`), or the disk it goes to is full, the program goes on.
/// [`finish`](crate::run::finish) reports the latter.
#[macro_export]
macro_rules! say {
    () => { $crate::run::print_line(::std::format_args!("")) };
    ($($argument:tt)+) => { $crate::run::print_line(::std::format_args!($($argument)+)) };
}

/// From now on [`say!`](crate::say) says to the error output: standard output is for
/// [`print_result`] alone.
pub fn say_aside() {
    IS_ASIDE.store(true, Ordering::Relaxed);
}

/// Prints a line; see [`say!`](crate::say).
pub fn print_line(line: Arguments<'_>) {
    if IS_ASIDE.load(Ordering::Relaxed) {
        print_aside(line);
    } else {
        print_result(line);
    }
}

/// Prints a line to standard output, also behind [`say_aside`].
pub fn print_result(line: Arguments<'_>) {
    let mut out = io::stdout().lock();
    keep(out.write_fmt(line).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()));
}

/// Prints a line to the error output.
pub fn print_aside(line: Arguments<'_>) {
    // There is nowhere left to say that it could not be said.
    drop(write_line(&mut io::stderr(), line));
}

/// In one write: several processes of one run may share a terminal or a log, and what is not buffered
/// would be written in pieces, between which those of others get.
fn write_line(out: &mut impl Write, line: Arguments<'_>) -> io::Result<()> {
    out.write_all(format!("{line}\n").as_bytes())
}

/// Prints bytes as they are; see [`say!`](crate::say).
pub fn print_bytes(bytes: &[u8]) {
    if IS_ASIDE.load(Ordering::Relaxed) {
        drop(io::stderr().write_all(bytes));
        return;
    }
    let mut out = io::stdout().lock();
    keep(out.write_all(bytes).and_then(|()| out.flush()));
}

fn keep(result: io::Result<()>) {
    if let Err(error) = result
        && error.kind() != ErrorKind::BrokenPipe
        && let Ok(mut failed) = FAILED.lock()
    {
        failed.get_or_insert_with(|| error.to_string());
    }
}

/// A line on the error output that begins with `warning: `.
pub fn warn(message: impl Display) {
    complain("warning", &message);
}

/// A line on the error output that begins with `error: `, of a program that goes on to its end with
/// [`Ending::Failed`].
pub fn tell_error(message: impl Display) {
    complain("error", &message);
}

/// From now on warnings and errors of this process begin with a name, such as `rank 2`: several
/// processes of one run write to one terminal. The first name stays.
pub fn complain_as(name: impl Into<String>) {
    NAME.get_or_init(|| name.into());
}

fn complain(kind: &str, message: &dyn Display) {
    let message = message.to_string();
    let lines: Vec<_> = message.lines().map(str::trim).collect();
    let name = NAME.get().map_or(String::new(), |name| format!("{name}: "));
    print_aside(format_args!("{kind}: {name}{}", lines.join(" ")));
}

/// How a program ended, if not with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All was done: exit code 0.
    Done,
    /// All was done, and something is wrong with what came out, as was said: exit code 1.
    Unfit,
    /// A signal asked to stop: exit code 128 and its number.
    Stopped(Signal),
    /// An error ended it that was told already, maybe by another process of the run: its exit code.
    Failed(u8),
}

impl From<()> for Ending {
    fn from((): ()) -> Self {
        Self::Done
    }
}

/// Whether what came out is as it should be.
impl From<bool> for Ending {
    fn from(fit: bool) -> Self {
        if fit { Self::Done } else { Self::Unfit }
    }
}

/// What `main` returns: says an error in one line, and that standard output could not be written,
/// with exit code 1.
pub fn finish<T: Into<Ending>, E: Display>(result: Result<T, E>) -> ExitCode {
    finish_with(result, |_| 1)
}

/// [`finish`] with exit codes that tell errors apart, such as [`exit_code`](crate::run::exit_code)'s.
pub fn finish_with<T: Into<Ending>, E: Display>(
    result: Result<T, E>,
    exit_code: impl FnOnce(&E) -> u8,
) -> ExitCode {
    let failed = FAILED.lock().ok().and_then(|mut failed| failed.take());
    let code = match result.map(Into::into) {
        Ok(Ending::Done) => 0,
        Ok(Ending::Unfit) => 1,
        Ok(Ending::Stopped(signal)) => signal.exit_code(),
        Ok(Ending::Failed(code)) => code,
        Err(error) => {
            complain("error", &error);
            exit_code(&error)
        }
    };
    match failed {
        Some(reason) if code == 0 => {
            complain("error", &format!("standard output could not be written: {reason}"));
            ExitCode::from(1)
        }
        _ => ExitCode::from(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps what each write brought.
    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_one_write() {
        let mut out = Writes::default();
        write_line(&mut out, format_args!("{}: {}", "error", 7)).expect("written");
        assert_eq!(out.0, [b"error: 7\n"]);
    }

    #[test]
    fn endings_have_their_exit_codes() {
        let code = |ending: Result<Ending, String>| format!("{:?}", finish(ending));
        let expected = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(code(Ok(Ending::Done)), expected(0));
        assert_eq!(code(Ok(false.into())), expected(1));
        assert_eq!(code(Ok(Ending::Stopped(Signal::INTERRUPT))), expected(130));
        assert_eq!(code(Ok(Ending::Stopped(Signal::TERMINATE))), expected(143));
        assert_eq!(code(Ok(Ending::Failed(6))), expected(6));
        assert_eq!(code(Err("a reason".into())), expected(1));
    }
}
