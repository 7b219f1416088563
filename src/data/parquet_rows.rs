//! Texts out of a column of a Parquet file, some rows at a time.

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;

use parquet::basic::{Compression, ConvertedType, LogicalType, Type};
use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use super::read::unreadable;
use crate::error::Result;

/// Rows that are in memory at once, beside the page that they are from.
const ROWS: usize = 256;

/// A row, counted from 1, and its text or what is wrong with it.
pub(super) type Row = (usize, std::result::Result<String, String>);

/// The texts of a column in their order.
pub(super) struct ParquetRows {
    reader: SerializedFileReader<File>,
    column: usize,
    name: String,
    longest: usize,
    /// The row group that comes next, and the reader of the one before.
    group: usize,
    current: Option<ColumnReaderImpl<ByteArrayType>>,
    /// Levels of definition of the column: fewer are null.
    defined: i16,
    values: VecDeque<Option<ByteArray>>,
    row: usize,
    rows: u64,
}

impl ParquetRows {
    /// Looks for the column, which must be one of texts.
    ///
    /// # Errors
    /// Inside, what is wrong with the file, in words.
    pub(super) fn open(
        path: &Path,
        name: &str,
        longest: usize,
    ) -> Result<std::result::Result<Self, String>> {
        let file = File::open(path).map_err(|error| unreadable(path, &error))?;
        Ok(Self::of(file, name, longest))
    }

    fn of(file: File, name: &str, longest: usize) -> Result<Self, String> {
        let reader = SerializedFileReader::new(file).map_err(|error| {
            format!("it is no Parquet file that can be read ({error}); write it again")
        })?;
        let column = column(reader.metadata(), name)?;
        let columns = reader.metadata().file_metadata().schema_descr().columns();
        let defined = columns[column].max_def_level();
        let rows = reader.metadata().file_metadata().num_rows().max(0) as u64;
        let name = name.to_owned();
        Ok(Self {
            reader,
            column,
            name,
            longest,
            group: 0,
            current: None,
            defined,
            values: VecDeque::new(),
            row: 0,
            rows,
        })
    }

    /// How much of so many bytes has been read.
    pub(super) fn bytes(&self, of: u64) -> u64 {
        (u128::from(of) * self.row as u128 / u128::from(self.rows.max(1))) as u64
    }

    /// The next row, or what is wrong with the file from here on.
    pub(super) fn next(&mut self) -> Result<Option<Row>, String> {
        while self.values.is_empty() {
            if !self.read_some()? {
                return Ok(None);
            }
        }
        let value = self.values.pop_front().flatten();
        self.row += 1;
        Ok(Some((self.row, self.text(value))))
    }

    /// Reads rows of the current group or opens the next one. False behind the last.
    fn read_some(&mut self) -> Result<bool, String> {
        let row = self.row + 1;
        let damaged = |error| format!("from row {row} on it cannot be read: {error}");
        let Some(column) = &mut self.current else {
            if self.group == self.reader.num_row_groups() {
                return Ok(false);
            }
            let group = self.reader.get_row_group(self.group).map_err(damaged)?;
            let column = group.get_column_reader(self.column).map_err(damaged)?;
            self.current = Some(get_typed_column_reader(column));
            self.group += 1;
            return Ok(true);
        };
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let is_optional = self.defined > 0;
        let to_levels = is_optional.then_some(&mut levels);
        let (rows, ..) =
            column.read_records(ROWS, to_levels, None, &mut values).map_err(damaged)?;
        if rows == 0 {
            self.current = None;
        }
        let mut values = values.into_iter();
        let is_there = |row: usize| !is_optional || levels[row] == self.defined;
        let texts = (0..rows).map(|row| if is_there(row) { values.next() } else { None });
        self.values.extend(texts);
        Ok(true)
    }

    fn text(&self, value: Option<ByteArray>) -> Result<String, String> {
        let (name, longest) = (&self.name, self.longest);
        let Some(value) = value else { return Err(format!("its {name} is null")) };
        if value.len() > longest {
            let length = value.len();
            return Err(format!("it has {length} bytes, more than the limit of {longest}"));
        }
        let text = std::str::from_utf8(value.data());
        let text = text.map_err(|error| format!("its {name} is no UTF-8: {error}"))?;
        match text.trim().is_empty() {
            true => Err(format!("its {name} is empty")),
            false => Ok(text.to_owned()),
        }
    }
}

/// The place of a column of texts among those of the file.
fn column(metadata: &ParquetMetaData, name: &str) -> Result<usize, String> {
    let columns = metadata.file_metadata().schema_descr().columns();
    let path = |column: &ColumnDescriptor| column.path().string();
    let texts: Vec<_> =
        columns.iter().filter(|column| kind(column).is_none()).map(|c| path(c)).collect();
    let instead = match &*texts {
        [] => "and there is none of texts in it; write its texts as JSON lines".to_owned(),
        texts => format!("those of texts are {}: name one with --field", texts.join(", ")),
    };
    let is_named = |column: &&ColumnDescriptor| {
        let parts = column.path().parts();
        path(column) == name || (parts.len() > 1 && parts[0] == name)
    };
    let named = columns.iter().map(|column| &**column).find(is_named);
    let Some(found) = named else {
        return Err(format!("it has no column {name:?}, {instead}"));
    };
    if let Some(kind) = kind(found) {
        return Err(format!("its column {name:?} is {kind} and no text, {instead}"));
    }
    let at = columns.iter().position(|column| path(column) == name).unwrap_or_default();
    let groups = metadata.row_groups().iter();
    let mut unread = groups.map(|group| group.column(at).compression()).filter(|c| !is_read(*c));
    match unread.next() {
        None => Ok(at),
        Some(compression) => Err(format!(
            "its column {name:?} is compressed as {compression}, which is not read; write it with \
             snappy, gzip, brotli, lz4 or without compression"
        )),
    }
}

/// What a column holds, if that is no text.
fn kind(column: &ColumnDescriptor) -> Option<String> {
    if column.max_rep_level() > 0 {
        return Some("a list".to_owned());
    }
    if column.path().parts().len() > 1 {
        return Some("a structure".to_owned());
    }
    let is_text = matches!(
        column.converted_type(),
        ConvertedType::UTF8 | ConvertedType::JSON | ConvertedType::ENUM
    ) || matches!(
        column.logical_type_ref(),
        Some(LogicalType::String | LogicalType::Json | LogicalType::Enum)
    );
    match column.physical_type() {
        Type::BYTE_ARRAY if is_text => None,
        Type::BYTE_ARRAY => Some("bytes".to_owned()),
        other => Some(other.to_string()),
    }
}

fn is_read(compression: Compression) -> bool {
    matches!(
        compression,
        Compression::UNCOMPRESSED
            | Compression::SNAPPY
            | Compression::GZIP(_)
            | Compression::BROTLI(_)
            | Compression::LZ4
            | Compression::LZ4_RAW
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(file: &str, column: &str) -> Result<ParquetRows, String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet");
        let path = folder.join(format!("{file}.parquet"));
        ParquetRows::open(&path, column, 60).expect("a file")
    }

    fn rows(file: &str, column: &str) -> Vec<Row> {
        let mut rows = open(file, column).expect("a column");
        let all: Vec<_> = std::iter::from_fn(|| rows.next().expect("rows")).collect();
        assert_eq!(rows.bytes(1000), 1000);
        all
    }

    /// That of the script that made the files.
    fn text(n: usize) -> String {
        format!("row {n} keeps the boat even — number {}", n % 7)
    }

    #[test]
    fn columns_are_read_whatever_their_compression() {
        for file in ["none", "snappy", "gzip", "brotli", "lz4"] {
            let expected: Vec<_> = (0..60).map(|n| (n + 1, Ok(text(n)))).collect();
            assert_eq!(rows(file, "text"), expected, "{file}");
            let notes = (0..60).map(|n| match n % 10 {
                7 => (n + 1, Err("its notes is null".to_owned())),
                9 => (n + 1, Err("its notes is empty".to_owned())),
                _ => (n + 1, Ok(text(n))),
            });
            assert_eq!(rows(file, "notes"), notes.collect::<Vec<_>>(), "{file}");
        }
    }

    #[test]
    fn what_is_no_column_of_texts_is_said() {
        let refused = |file: &str, column: &str, parts: &[&str]| {
            let reason = open(file, column).err().expect("no texts");
            assert!(parts.iter().all(|part| reason.contains(part)), "{reason}");
        };
        let ways_out = "those of texts are text, notes: name one with --field";
        refused("none", "body", &["it has no column \"body\", ", ways_out]);
        refused("none", "n", &["its column \"n\" is INT64 and no text, ", ways_out]);
        refused("none", "tags", &["its column \"tags\" is a list and no text, ", ways_out]);
        refused("none", "raw", &["its column \"raw\" is bytes and no text, ", ways_out]);
        refused("zstd", "text", &["compressed as ZSTD", "write it with snappy"]);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.parquet");
        let whole =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet/none.parquet");
        let whole = std::fs::read(whole).expect("a fixture");
        for length in [0, 4, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).expect("written");
            let reason = ParquetRows::open(&path, "text", 60).expect("a file").err();
            assert!(reason.expect("cut off").contains("no Parquet file"), "{length}");
        }
    }

    #[test]
    fn long_rows_are_passed_over() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet/none.parquet");
        let mut rows = ParquetRows::open(&path, "text", 30).expect("a file").expect("a column");
        let first = rows.next().expect("a row").expect("one").1.expect_err("long");
        assert!(first.contains("more than the limit of 30"), "{first}");
    }
}
