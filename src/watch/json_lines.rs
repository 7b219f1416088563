//! A line of JSON for every record.

use std::io::Write;

use crate::error::Result;
#[cfg(not(target_arch = "wasm32"))]
use crate::file::LogFile;
use crate::json::push_string;
use crate::watch::sink::Output;
use crate::watch::{Record, Sink, number};

/// Writes each record as one line of JSON: `{"step":3,"loss":2.5,"events":["..."]}`; `events` is
/// left out where there are none.
///
/// JSON has no NaN and no Inf, so they are the strings `"NaN"`, `"Infinity"` and `"-Infinity"`, as
/// in the JSON form of protocol buffers; Python's `float`, JavaScript's `Number` and Rust's `parse`
/// read them. Numbers that are exact in f32 have the digits of an f32, others those of an f64.
///
/// Every line is written at once and whole.
#[derive(Debug)]
pub struct JsonLines<W> {
    output: Output<W>,
    line: String,
}

impl<W: Write> JsonLines<W> {
    /// Writes to anything.
    pub fn new(writer: W) -> Self {
        Self { output: Output::new(writer, "JSON lines"), line: String::new() }
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl JsonLines<LogFile> {
    /// Begins a file, over an earlier one once there is a record.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File).
    pub fn create(path: impl AsRef<std::path::Path>) -> Result<Self> {
        Ok(LogFile::create(path)?.into())
    }
}

/// Errors name the file.
#[cfg(not(target_arch = "wasm32"))]
impl From<LogFile> for JsonLines<LogFile> {
    fn from(file: LogFile) -> Self {
        let path = file.path().to_owned();
        let sink = Self::new(file);
        Self { output: sink.output.at(&path), ..sink }
    }
}

impl<W: Write> Sink for JsonLines<W> {
    fn record(&mut self, record: &Record) -> Result<()> {
        let line = &mut self.line;
        line.clear();
        line.push_str("{\"step\":");
        line.push_str(&record.step.to_string());
        for (name, value) in record.scalars() {
            line.push(',');
            push_string(line, name);
            line.push(':');
            match number::exact(value) {
                Some(digits) => line.push_str(&digits),
                None => push_string(line, number::nonfinite_name(value)),
            }
        }
        for (at, event) in record.events.iter().enumerate() {
            line.push_str(if at == 0 { ",\"events\":[" } else { "," });
            push_string(line, event);
        }
        line.push_str(if record.events.is_empty() { "}\n" } else { "]}\n" });
        self.output.write(line.as_bytes())
    }

    fn finish(&mut self) -> Result<()> {
        self.output.flush()
    }
}
