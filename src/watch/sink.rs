//! Where records go.

use std::io::Write;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::watch::Record;

/// Takes the records of a run, one by one in the order of their steps.
///
/// A `Vec` of sinks is a sink: each gets every record, also after another one failed, and the
/// first failure is returned.
///
/// ```
/// use evenkeel::watch::{Csv, JsonLines, Record, Sink};
///
/// # fn main() -> evenkeel::Result<()> {
/// let (mut json, mut csv) = (Vec::new(), Vec::new());
/// let mut sinks: Vec<Box<dyn Sink + '_>> =
///     vec![Box::new(JsonLines::new(&mut json)), Box::new(Csv::new(&mut csv))];
/// sinks.record(&Record::new(0).with("loss", 2.5))?;
/// sinks.finish()?;
/// drop(sinks);
/// assert_eq!(json, b"{\"step\":0,\"loss\":2.5}\n");
/// assert_eq!(csv, b"step,loss,events\n0,2.5,\n");
/// # Ok(())
/// # }
/// ```
pub trait Sink {
    /// Takes one record.
    ///
    /// # Errors
    /// If it cannot be written.
    fn record(&mut self, record: &Record) -> Result<()>;

    /// Ends the run: whatever is made of all records is made now.
    ///
    /// # Errors
    /// If something cannot be written.
    fn finish(&mut self) -> Result<()>;
}

impl<S: Sink + ?Sized> Sink for Box<S> {
    fn record(&mut self, record: &Record) -> Result<()> {
        (**self).record(record)
    }

    fn finish(&mut self) -> Result<()> {
        (**self).finish()
    }
}

impl<S: Sink + ?Sized> Sink for &mut S {
    fn record(&mut self, record: &Record) -> Result<()> {
        (**self).record(record)
    }

    fn finish(&mut self) -> Result<()> {
        (**self).finish()
    }
}

impl<S: Sink> Sink for Vec<S> {
    fn record(&mut self, record: &Record) -> Result<()> {
        let results: Vec<_> = self.iter_mut().map(|sink| sink.record(record)).collect();
        results.into_iter().collect()
    }

    fn finish(&mut self) -> Result<()> {
        let results: Vec<_> = self.iter_mut().map(Sink::finish).collect();
        results.into_iter().collect()
    }
}

/// A writer with a name for its errors. Each write goes through at once and in one piece: what
/// was recorded before a crash is there after it.
#[derive(Debug)]
pub(super) struct Output<W> {
    writer: W,
    path: Option<PathBuf>,
    format: &'static str,
}

impl<W: Write> Output<W> {
    pub fn new(writer: W, format: &'static str) -> Self {
        Self { writer, path: None, format }
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub fn at(self, path: &std::path::Path) -> Self {
        Self { path: Some(path.to_owned()), ..self }
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.writer.write_all(bytes);
        self.check(written)
    }

    pub fn flush(&mut self) -> Result<()> {
        let flushed = self.writer.flush();
        self.check(flushed)
    }

    fn check(&self, result: std::io::Result<()>) -> Result<()> {
        result.map_err(|error| match &self.path {
            Some(path) => {
                let reason = format!("cannot be written: {error}");
                Error::File { path: path.clone(), reason }
            }
            None => {
                let reason = format!("cannot be written: {error}");
                Error::Data { what: self.format.into(), reason }
            }
        })
    }
}
