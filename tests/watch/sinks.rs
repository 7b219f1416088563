//! Files of text, read back by readers that are not ours.

use std::io::{self, Write};

use evenkeel::watch::{Csv, JsonLines, Record, Sink};
use evenkeel::{Error, Result};
use serde_json::Value;

use super::{noise, telemetry};

/// What could go wrong in a file of text.
fn awkward() -> Vec<Record> {
    let mut first = Record::from(&telemetry(0))
        .with("nan", f64::NAN)
        .with("up", f64::INFINITY)
        .with("down", f64::NEG_INFINITY)
        .with("a \"quoted\", \\ name\n\twith\u{1}control", -0.0)
        .with("f64", 0.1)
        .with("tiny", 5e-324)
        .with("huge", f64::MAX)
        .with("count", 4_294_967_295.0)
        .with("large f32", f64::from(16_777_217.0_f32 * 64.0));
    first.add_tensor("gradient_norm", "ключ,\"κλειδί\"", f64::from(1e-30_f32));
    first.events = vec!["one, \"two\"".into(), "line\nbreak \u{7f}\u{0} 鍵".into()];
    let random = (1..200).map(|step| {
        let bits = (noise(step) * f64::from(u32::MAX)) as u32;
        let mut record = first.clone();
        record.step = step;
        record.events.clear();
        record.set("loss", f64::from(f32::from_bits(bits)));
        record.set("f64", f64::from_bits((noise(step + 1000) * u64::MAX as f64) as u64));
        record
    });
    let mut records: Vec<_> = random.collect();
    records.insert(0, first);
    records
}

/// Equal bits; every NaN is the same. Those that are exact in f32 were written with its digits.
fn check(read: &str, value: f64, name: &str) {
    let parsed: f64 = read.parse().unwrap_or_else(|_| panic!("{name}: {read:?}"));
    let single = value as f32;
    let same = if value.is_nan() {
        parsed.is_nan()
    } else if f64::from(single) == value {
        read.parse::<f32>().expect("a number").to_bits() == single.to_bits()
    } else {
        parsed.to_bits() == value.to_bits()
    };
    assert!(same, "{name}: {read} for {value:e}");
    if value.fract() == 0.0 && value.abs() < 9e15 {
        assert_eq!(parsed, value, "{name}: integers are exact in any reader");
    }
}

#[test]
fn json_lines_parse_back() {
    let records = awkward();
    let mut written = Vec::new();
    let mut sink = JsonLines::new(&mut written);
    records.iter().try_for_each(|record| sink.record(record)).expect("written");
    sink.finish().expect("flushed");
    let text = String::from_utf8(written).expect("UTF-8");
    assert_eq!(text.lines().count(), records.len());
    for (line, record) in text.lines().zip(&records) {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let object = line.as_object().expect("an object");
        assert_eq!(object["step"], record.step);
        let has_events = usize::from(!record.events.is_empty());
        assert_eq!(object.len(), 1 + record.scalars().count() + has_events);
        for (name, value) in record.scalars() {
            match &object[name] {
                Value::Number(number) => check(&number.to_string(), value, name),
                Value::String(text) => {
                    assert!(!value.is_finite(), "{name}");
                    check(text, value, name);
                }
                other => panic!("{name} is {other}"),
            }
        }
        if has_events == 1 {
            let events: Vec<_> = object["events"].as_array().expect("an array").iter().collect();
            assert_eq!(events, record.events.iter().collect::<Vec<_>>());
        }
    }
}

#[test]
fn csv_parses_back() {
    let records = awkward();
    let mut written = Vec::new();
    let mut sink = Csv::new(&mut written).column("validation_loss").column("loss");
    for record in &records {
        let validated = record.step % 10 == 9;
        let later = record.clone().with("validation_loss", 3.5);
        sink.record(if validated { &later } else { record }).expect("written");
    }
    sink.finish().expect("flushed");
    let mut reader = csv::Reader::from_reader(&written[..]);
    let header = reader.headers().expect("a header").clone();
    let names: Vec<_> = records[0].scalars().map(|(name, _)| name).collect();
    let expected = [&["step"], &names[..], &["validation_loss", "events"]].concat();
    assert_eq!(header.iter().collect::<Vec<_>>(), expected);
    let rows: Vec<_> = reader.records().collect::<Result<_, _>>().expect("rows of equal length");
    assert_eq!(rows.len(), records.len());
    for (row, record) in rows.iter().zip(&records) {
        assert_eq!(row[0], record.step.to_string());
        for (cell, (name, value)) in row.iter().skip(1).zip(record.scalars()) {
            check(cell, value, name);
        }
        let validation = if record.step % 10 == 9 { "3.5" } else { "" };
        assert_eq!(&row[names.len() + 1], validation);
        assert_eq!(&row[names.len() + 2], record.events.join("; "));
    }
}

#[test]
fn csv_finds_columns_in_any_order_and_refuses_new_ones() {
    let mut written = Vec::new();
    let mut sink = Csv::new(&mut written);
    sink.record(&Record::new(0).with("a", 1.0).with("b", 2.0).with("c", 3.0)).expect("written");
    sink.record(&Record::new(1).with("c", 6.0).with("a", 4.0)).expect("written");
    let error = sink.record(&Record::new(2).with("a", 7.0).with("late", 8.0)).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("\"late\"") && error.contains("Csv::column"), "{error}");
    sink.record(&Record::new(3).with("b", 9.0)).expect("a refused record spoils nothing");
    assert_eq!(
        String::from_utf8(written).expect("UTF-8"),
        "step,a,b,c,events\n0,1,2,3,\n1,4,,6,\n3,,9,,\n"
    );
}

/// Takes some bytes, then no more.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 < bytes.len() {
            return Err(io::Error::other("no space left"));
        }
        self.0 -= bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn all_sinks_get_every_record_though_one_fails() {
    let (mut json, mut csv) = (Vec::new(), Vec::new());
    let mut sinks: Vec<Box<dyn Sink + '_>> = vec![
        Box::new(JsonLines::new(&mut json)),
        Box::new(JsonLines::new(Full(40))),
        Box::new(Csv::new(&mut csv)),
    ];
    let record = |step| Record::new(step).with("loss", 2.5);
    sinks.record(&record(0)).expect("it fits");
    for step in 1..3 {
        let error = sinks.record(&record(step)).unwrap_err().to_string();
        assert!(error.contains("JSON lines") && error.contains("no space left"), "{error}");
    }
    sinks.finish().expect("flushed");
    drop(sinks);
    assert_eq!(json.iter().filter(|&&byte| byte == b'\n').count(), 3);
    assert_eq!(csv.iter().filter(|&&byte| byte == b'\n').count(), 4);
}

#[test]
fn files_are_written_at_once_and_named_in_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run.jsonl");
    std::fs::write(&path, "an earlier run, longer than what comes").expect("written");
    let mut sink = JsonLines::create(&path).expect("a file");
    sink.record(&Record::new(0).with("loss", 1.5)).expect("written");
    // Nothing was flushed or dropped.
    let text = std::fs::read_to_string(&path).expect("a file");
    assert_eq!(text, "{\"step\":0,\"loss\":1.5}\n");

    let path = folder.path().join("missing/run.csv");
    match Csv::create(&path) {
        Err(Error::File { path: named, reason }) => {
            assert_eq!(named, path);
            assert!(reason.contains("cannot be written"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}
