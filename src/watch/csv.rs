//! A table of comma-separated values.

use std::io::Write;

use crate::error::{Error, Result};
#[cfg(not(target_arch = "wasm32"))]
use crate::file::LogFile;
use crate::watch::sink::Output;
use crate::watch::{Record, Sink, number};

/// Writes records as rows of a table, quoted as in RFC 4180, lines ending in `\n`.
///
/// The columns are `step`, the scalars of the first record, those declared with
/// [`column`](Self::column), and `events`, which are joined by `"; "`. A scalar that a later record
/// lacks is an empty cell; one that comes later without having been declared is an error, since
/// the header is written by then and holding rows back would lose them in a crash. NaN and Inf
/// are `NaN`, `Infinity` and `-Infinity`, which pandas and the `float` of Python read. Every row is
/// written at once and whole.
#[derive(Debug)]
pub struct Csv<W> {
    output: Output<W>,
    declared: Vec<String>,
    columns: Option<Vec<String>>,
}

impl<W: Write> Csv<W> {
    /// Writes to anything.
    pub fn new(writer: W) -> Self {
        Self { output: Output::new(writer, "CSV"), declared: Vec::new(), columns: None }
    }

    /// Declares a scalar that the first record may lack, such as a validation loss.
    #[must_use]
    pub fn column(mut self, name: impl Into<String>) -> Self {
        self.declared.push(name.into());
        self
    }

    /// Goes on with a table that has these columns between `step` and `events`: there will be no
    /// header.
    #[must_use]
    pub fn continuing(self, columns: Vec<String>) -> Self {
        Self { columns: Some(columns), ..self }
    }

    fn header(&self, first: &Record) -> Vec<String> {
        let mut columns: Vec<String> = first.scalars().map(|(name, _)| name.to_owned()).collect();
        for name in &self.declared {
            if !columns.contains(name) {
                columns.push(name.clone());
            }
        }
        columns
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Csv<LogFile> {
    /// Begins a file, over an earlier one once there is a record.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn create(path: impl AsRef<std::path::Path>) -> Result<Self> {
        Ok(LogFile::create(path)?.into())
    }
}

/// Errors name the file.
#[cfg(not(target_arch = "wasm32"))]
impl From<LogFile> for Csv<LogFile> {
    fn from(file: LogFile) -> Self {
        let path = file.path().to_owned();
        let sink = Self::new(file);
        Self { output: sink.output.at(&path), ..sink }
    }
}

impl<W: Write> Sink for Csv<W> {
    fn record(&mut self, record: &Record) -> Result<()> {
        let mut text = String::new();
        let columns = match self.columns.take() {
            Some(columns) => columns,
            None => {
                let columns = self.header(record);
                text.push_str("step");
                columns.iter().for_each(|name| push_cell(&mut text, name));
                text.push_str(",events\n");
                columns
            }
        };
        let cells = cells(record, &columns);
        self.columns = Some(columns);
        text.push_str(&record.step.to_string());
        cells?.iter().for_each(|cell| push_cell(&mut text, cell));
        push_cell(&mut text, &record.events.join("; "));
        text.push('\n');
        self.output.write(text.as_bytes())
    }

    fn finish(&mut self) -> Result<()> {
        self.output.flush()
    }
}

/// The record's scalars by column. Records mostly have the same names in the same order, so each
/// is looked for behind the one before.
fn cells(record: &Record, columns: &[String]) -> Result<Vec<String>> {
    let mut cells = vec![String::new(); columns.len()];
    let mut next = 0;
    for (name, value) in record.scalars() {
        let behind = columns[next..].iter().position(|column| column == name);
        let found = behind.map(|at| next + at);
        let column = found.or_else(|| columns.iter().position(|column| column == name));
        let Some(column) = column else {
            let reason = format!(
                "the column {name:?} comes up at step {}, after the header was written; declare \
                 it with Csv::column",
                record.step
            );
            return Err(Error::Data { what: "CSV".into(), reason });
        };
        let digits = number::exact(value);
        cells[column] = digits.unwrap_or_else(|| number::nonfinite_name(value).into());
        next = column + 1;
    }
    Ok(cells)
}

/// A comma and a cell.
fn push_cell(text: &mut String, cell: &str) {
    text.push(',');
    if cell.contains([',', '"', '\n', '\r']) {
        text.push('"');
        text.push_str(&cell.replace('"', "\"\""));
        text.push('"');
    } else {
        text.push_str(cell);
    }
}
