//! What a run has written so far, read again when it goes on.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::watch::Record;

/// The part of a file of records that a run keeps when it goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Its length in bytes.
    pub length: u64,
    /// Steps it has: all below this one.
    pub steps: u64,
    /// Of a table: the columns between `step` and `events`.
    pub columns: Vec<String>,
}

/// Reads lines of JSON as [`JsonLines`](crate::watch::JsonLines) writes them: steps 0, 1, 2, ... below
/// `steps`, up to the first line that is missing or not whole.
///
/// # Errors
/// If the file cannot be read; one that is not there has no lines.
pub fn read_lines(path: &Path, steps: u64, mut each: impl FnMut(Record)) -> io::Result<Kept> {
    let mut kept = Kept::default();
    let Some(mut reader) = open(path)? else { return Ok(kept) };
    let mut line = Vec::new();
    while kept.steps < steps {
        line.clear();
        reader.read_until(b'\n', &mut line)?;
        let whole = line.last() == Some(&b'\n');
        let record = serde_json::from_slice::<Line>(&line).ok().map(|line| line.0);
        match record.filter(|record| whole && record.step == kept.steps) {
            Some(record) => each(record),
            None => break,
        }
        kept.length += line.len() as u64;
        kept.steps += 1;
    }
    Ok(kept)
}

/// Reads all records of a file of lines, whatever steps they are of, and gives the numbers of the lines
/// that are none: half a line at the end of a run that was killed, say. Lines are counted from 1.
///
/// # Errors
/// If the file cannot be read.
pub fn read_records(path: &Path, mut each: impl FnMut(Record)) -> io::Result<Vec<usize>> {
    let (mut reader, mut line) = (BufReader::new(File::open(path)?), Vec::new());
    let mut damaged = Vec::new();
    for number in 1.. {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let record = serde_json::from_slice::<Line>(&line).ok().map(|line| line.0);
        match record.filter(|record| record.step != u64::MAX) {
            Some(record) => each(record),
            None => damaged.push(number),
        }
    }
    Ok(damaged)
}

/// Reads a table as [`Csv`](crate::watch::Csv) writes it: the header, and rows as
/// [`read_lines`] reads lines.
///
/// # Errors
/// As [`read_lines`].
pub fn read_table(path: &Path, steps: u64) -> io::Result<Kept> {
    let mut kept = Kept::default();
    let Some(mut reader) = open(path)? else { return Ok(kept) };
    let mut row = Vec::new();
    let whole = read_row(&mut reader, &mut row)?;
    let mut columns = cells(&String::from_utf8_lossy(&row));
    let framed = columns.first().is_some_and(|first| first == "step")
        && columns.len() > 1
        && columns.last().is_some_and(|last| last == "events");
    if !whole || !framed {
        return Ok(kept);
    }
    columns.pop();
    columns.remove(0);
    kept = Kept { length: row.len() as u64, steps: 0, columns };
    while kept.steps < steps && read_row(&mut reader, &mut row)? {
        let digits = row.split(|&byte| byte == b',').next().unwrap_or_default();
        let step = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
        if step != Some(kept.steps) {
            break;
        }
        kept.length += row.len() as u64;
        kept.steps += 1;
    }
    Ok(kept)
}

/// Pipes and devices have nothing to read again.
fn open(path: &Path) -> io::Result<Option<BufReader<File>>> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => Ok(Some(BufReader::new(File::open(path)?))),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(None),
    }
}

/// Reads up to an end of line that is not within quotes; whether there was one.
fn read_row(reader: &mut impl BufRead, row: &mut Vec<u8>) -> io::Result<bool> {
    row.clear();
    loop {
        if reader.read_until(b'\n', row)? == 0 || row.last() != Some(&b'\n') {
            return Ok(false);
        }
        if row.iter().filter(|&&byte| byte == b'"').count().is_multiple_of(2) {
            return Ok(true);
        }
    }
}

/// The cells of a row, without their quotes.
fn cells(row: &str) -> Vec<String> {
    let (mut cells, mut quoted) = (vec![String::new()], false);
    let mut characters = row.trim_end_matches('\n').chars().peekable();
    while let Some(character) = characters.next() {
        let cell = cells.last_mut().expect("never empty");
        match character {
            '"' if quoted && characters.next_if_eq(&'"').is_some() => cell.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            other => cell.push(other),
        }
    }
    cells
}

/// A record from its line.
struct Line(Record);

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(LineVisitor)
    }
}

struct LineVisitor;

impl<'de> Visitor<'de> for LineVisitor {
    type Value = Line;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Line, A::Error> {
        let mut record = Record::new(u64::MAX);
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            match &*name {
                "step" => record.step = map.next_value()?,
                "events" => record.events = map.next_value()?,
                "" => drop(map.next_value::<IgnoredAny>()?),
                _ => record.set(name.into_owned(), map.next_value::<Scalar>()?.number()),
            }
        }
        Ok(Line(record))
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Finite(f64),
    Named(String),
}

impl Scalar {
    /// The digits are those of an f32 where the number was one.
    fn number(self) -> f64 {
        let value = match self {
            Self::Finite(value) => value,
            Self::Named(name) => return name.parse().unwrap_or(f64::NAN),
        };
        let single = value as f32;
        if single.to_string().parse() == Ok(value) { single.into() } else { value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{Csv, JsonLines, Sink};

    fn record(step: u64) -> Record {
        let values = [0.1, 1e-9, 3.4e38, 16_777_216.0, 0.3, -0.0, 2.5e-41];
        let value = f64::from(values[step as usize % 7] as f32);
        let mut record = Record::new(step).with("loss", value).with("norm", f64::INFINITY);
        record.set("share", 1.0 / 3.0);
        record.set("a \"name\", quoted", f64::NEG_INFINITY);
        if step % 2 == 1 {
            record.events.push("two\nlines, \"quoted\"".into());
        }
        record
    }

    #[test]
    fn records_are_read_as_they_were() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run.jsonl");
        let mut sink = JsonLines::create(&path).expect("a file");
        (0..9).for_each(|step| sink.record(&record(step)).expect("written"));
        let whole = std::fs::read(&path).expect("there");
        let read = |steps| {
            let mut records = Vec::new();
            let kept = read_lines(&path, steps, |record| records.push(record)).expect("read");
            (kept, records)
        };
        let expected: Vec<_> = (0..9).map(record).collect();
        let (kept, records) = read(20);
        assert_eq!((kept.length, kept.steps), (whole.len() as u64, 9));
        assert_eq!(records, expected);
        let bits = |r: &Record| r.scalars().map(|(_, value)| value.to_bits()).collect::<Vec<_>>();
        assert!(records.iter().zip(&expected).all(|(a, b)| bits(a) == bits(b)));
        let (kept, records) = read(4);
        assert_eq!((kept.steps, records.len()), (4, 4));
        let ends = |count: usize| {
            let ends = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
            ends.map(|(at, _)| at as u64 + 1).nth(count - 1).expect("a line")
        };
        assert_eq!(kept.length, ends(4));

        // Half a line at the end, a line that is missing.
        std::fs::write(&path, &whole[..ends(6) as usize - 3]).expect("written");
        assert_eq!((read(9).0.steps, read(9).0.length), (5, ends(5)));
        let hole = [&whole[..ends(2) as usize], &whole[ends(3) as usize..]].concat();
        std::fs::write(&path, hole).expect("written");
        assert_eq!(read(9).0.steps, 2);
        assert_eq!(read_lines(&folder.path().join("none"), 9, drop).expect("none").steps, 0);
        // Where all are wanted, a hole is none, and half a line is named.
        std::fs::write(
            &path,
            [&whole[..ends(2) as usize], &whole[ends(3) as usize..ends(6) as usize - 3]].concat(),
        )
        .expect("written");
        let mut steps = Vec::new();
        let damaged = read_records(&path, |record| steps.push(record.step)).expect("read");
        assert_eq!((steps, damaged), (vec![0, 1, 3, 4], vec![5]));
    }

    #[test]
    fn tables_are_cut_between_rows() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run.csv");
        let write = |path: &Path, steps: u64| {
            let mut sink = Csv::create(path).expect("a file").column("validation_loss");
            (0..steps).for_each(|step| sink.record(&record(step)).expect("written"));
            std::fs::read(path).expect("there")
        };
        let (short, whole) = (write(&folder.path().join("short"), 5), write(&path, 9));
        let kept = read_table(&path, 5).expect("read");
        assert_eq!((kept.length, kept.steps), (short.len() as u64, 5));
        assert_eq!(
            kept.columns,
            ["loss", "norm", "share", "a \"name\", quoted", "validation_loss"]
        );
        std::fs::write(&path, &whole[..short.len() - 1]).expect("written");
        assert_eq!(read_table(&path, 9).expect("read").steps, 4);
        std::fs::write(&path, "no table\n").expect("written");
        assert_eq!(read_table(&path, 9).expect("read"), Kept::default());
    }
}
