//! Requests to stop.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::{Error, Result};

/// A signal that asks a program to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(u8);

impl Signal {
    /// SIGINT: Ctrl-C.
    pub const INTERRUPT: Self = Self(SIGINT as u8);
    /// SIGTERM: `kill`, a shutdown, a batch system whose time is up.
    pub const TERMINATE: Self = Self(SIGTERM as u8);
    /// SIGHUP: the terminal is gone.
    pub const HANG_UP: Self = Self(1);

    /// What shells report for a program that a signal ended.
    pub const fn exit_code(self) -> u8 {
        128 + self.0
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::INTERRUPT => "SIGINT",
            Self::TERMINATE => "SIGTERM",
            _ => "SIGHUP",
        })
    }
}

/// Listens for SIGINT, SIGTERM and, on Linux, SIGHUP where `nohup` does not keep it away. The first
/// one is noted, for the run to end in its own way; the second ends the program at once.
#[derive(Debug)]
pub struct Signals {
    received: Arc<AtomicUsize>,
    /// Whether the next one ends the program.
    second: Arc<AtomicBool>,
}

impl Signals {
    /// Begins to listen. Where a limit on the size of files would end the program (SIGXFSZ), writing
    /// fails instead from now on.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the system does not let a program listen.
    pub fn listen() -> Result<Self> {
        let (received, second) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let mut signals = vec![Signal::INTERRUPT, Signal::TERMINATE];
        if hang_up_is_heard() {
            signals.push(Signal::HANG_UP);
        }
        let listen = || {
            for signal in signals {
                let (number, code) = (i32::from(signal.0), i32::from(signal.exit_code()));
                // In this order: the first signal must not find that there was one.
                flag::register_conditional_shutdown(number, code, Arc::clone(&second))?;
                flag::register(number, Arc::clone(&second))?;
                flag::register_usize(number, Arc::clone(&received), signal.0.into())?;
            }
            #[cfg(unix)]
            flag::register(signal_hook::consts::SIGXFSZ, Arc::default())?;
            Ok(())
        };
        listen().map_err(|error: std::io::Error| Error::Unsupported {
            what: format!("listening for signals ({error})"),
            instead: "run it where programs may".into(),
        })?;
        Ok(Self { received, second })
    }

    /// The last signal, if there was one.
    pub fn received(&self) -> Option<Signal> {
        let number = self.received.load(Ordering::SeqCst) as u8;
        (number != 0).then_some(Signal(number))
    }

    /// As if there had been none: the next one is noted again.
    pub fn forget(&self) {
        self.received.store(0, Ordering::SeqCst);
        self.second.store(false, Ordering::SeqCst);
    }

    /// From now on the next one ends the program at once, until [`forget`](Self::forget): where it
    /// waits for input there is nothing to bring to an end.
    pub fn end_at_once(&self) {
        self.second.store(true, Ordering::SeqCst);
    }
}

/// `nohup` sets the signal to be ignored, and that is to stay so. Only Linux says.
fn hang_up_is_heard() -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return false };
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_noted() {
        let signals = Signals::listen().expect("listening");
        assert_eq!(signals.received(), None);
        signal_hook::low_level::raise(SIGTERM).expect("raised");
        let received = signals.received().expect("a signal");
        assert_eq!((received, received.exit_code()), (Signal::TERMINATE, 143));
        assert_eq!(received.to_string(), "SIGTERM");
        signals.forget();
        assert_eq!(signals.received(), None);
        signal_hook::low_level::raise(SIGTERM).expect("raised");
        assert_eq!(signals.received(), Some(Signal::TERMINATE));
    }
}
