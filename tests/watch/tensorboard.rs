//! Event files, read by a reader written from the published format, and by TensorBoard's own.

use std::path::Path;
use std::process::Command;

use evenkeel::watch::{Record, Sink, TensorBoard};
use serde_json::{Value, json};

use super::telemetry;

/// The run in `tests/fixtures/run.tfevents`.
fn run() -> Vec<Record> {
    let mut first = Record::from(&telemetry(0)).with("validation_loss", f64::NAN);
    first.add_tensor("gradient_norm", "blocks.0.attention.qkv.weight", 0.125);
    first.add_tensor("gradient_norm", "head.weight", f64::INFINITY);
    let mut second = Record::new(300).with("loss", f64::NEG_INFINITY).with("f64", 0.1);
    second.events =
        vec!["skipped: 3 gradient elements are NaN or Inf".into(), "zweites – 鍵".into()];
    // More than seven bits of length, more than 32 bits of step.
    let long = Record::new(5_000_000_000).with("n".repeat(300), -1.5);
    vec![first, second, long, Record::new(5_000_000_001)]
}

fn written() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut time = 1_700_000_000.0;
    let clock = || {
        time += 0.25;
        time
    };
    let mut sink = TensorBoard::new(&mut bytes, clock).expect("begun");
    run().iter().try_for_each(|record| sink.record(record)).expect("written");
    sink.finish().expect("flushed");
    bytes
}

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// CRC-32C bit by bit, as RFC 3720 defines it.
fn masked_crc(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in data {
        for bit in 0..8 {
            let odd = crc & 1 != u32::from(byte >> bit & 1);
            crc >>= 1;
            if odd {
                crc ^= 0x82f6_3b78;
            }
        }
    }
    let crc = !crc;
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The data of every frame.
fn frames(mut file: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    while !file.is_empty() {
        let length = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
        assert_eq!(word(&file[8..12]), masked_crc(&file[..8]), "the length's checksum");
        let data = &file[12..12 + length];
        assert_eq!(word(&file[12 + length..16 + length]), masked_crc(data), "the data's checksum");
        frames.push(data);
        file = &file[16 + length..];
    }
    frames
}

/// A field of a protocol-buffer message.
#[derive(Debug, PartialEq)]
enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

fn varint(message: &mut &[u8]) -> u64 {
    let mut value = 0;
    for at in 0.. {
        let byte = message[0];
        *message = &message[1..];
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            break;
        }
    }
    value
}

fn fields(mut message: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let field = match key & 7 {
            0 => Field::Varint(varint(&mut message)),
            1 => {
                let (value, rest) = message.split_at(8);
                message = rest;
                Field::Fixed64(u64::from_le_bytes(value.try_into().expect("eight bytes")))
            }
            2 => {
                let length = varint(&mut message) as usize;
                let (value, rest) = message.split_at(length);
                message = rest;
                Field::Bytes(value)
            }
            5 => {
                let (value, rest) = message.split_at(4);
                message = rest;
                Field::Fixed32(u32::from_le_bytes(value.try_into().expect("four bytes")))
            }
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, field));
    }
    fields
}

#[test]
fn an_event_file_has_the_published_form() {
    let file = written();
    let frames = frames(&file);
    let records = run();
    assert_eq!(frames.len(), 1 + records.len());
    let time = |index: usize| Field::Fixed64((1_700_000_000.25 + 0.25 * index as f64).to_bits());
    assert_eq!(fields(frames[0]), [(1, time(0)), (3, Field::Bytes(b"brain.Event:2"))]);
    for (index, (frame, record)) in frames[1..].iter().zip(&records).enumerate() {
        let event = fields(frame);
        assert_eq!(event[..2], [(1, time(index + 1)), (2, Field::Varint(record.step))]);
        let [(5, Field::Bytes(summary))] = event[2..] else { panic!("{event:?}") };
        let values: Vec<_> = fields(summary)
            .into_iter()
            .map(|(number, field)| match field {
                Field::Bytes(value) if number == 1 => fields(value),
                other => panic!("{other:?}"),
            })
            .collect();
        let text = usize::from(!record.events.is_empty());
        assert_eq!(values.len(), record.scalars().count() + text);
        for (value, (name, scalar)) in values.iter().zip(record.scalars()) {
            let bits = (scalar as f32).to_bits();
            assert_eq!(*value, [(1, Field::Bytes(name.as_bytes())), (2, Field::Fixed32(bits))]);
        }
    }
}

#[test]
fn an_event_file_is_what_tensorboard_read() {
    let golden = fixture("run.tfevents");
    if std::env::var_os("EVENKEEL_WRITE_FIXTURES").is_some() {
        std::fs::write(&golden, written()).expect("written");
    }
    assert!(written() == std::fs::read(golden).expect("a fixture"), "other bytes than the fixture");
    let decoded = std::fs::read_to_string(fixture("run.tfevents.jsonl")).expect("a fixture");
    check_decoded(&decoded);
}

#[test]
fn tensorboard_reads_an_event_file_here() {
    let python = std::env::var("EVENKEEL_PYTHON").unwrap_or_else(|_| "python3".into());
    let importable = Command::new(&python).args(["-c", "import tensorboard"]).output();
    if !importable.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: {python} has no tensorboard; name one that has in EVENKEEL_PYTHON");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("run.tfevents");
    std::fs::write(&file, written()).expect("written");
    let mut command = Command::new(&python);
    let output = command.arg(fixture("read_events.py")).arg(&file).output().expect("it starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    check_decoded(&String::from_utf8(output.stdout).expect("UTF-8"));
}

/// What `read_events.py` prints for the run.
fn check_decoded(decoded: &str) {
    let lines: Vec<Value> =
        decoded.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let mut expected =
        vec![json!({"wall_time": 1_700_000_000.25, "step": 0, "file_version": "brain.Event:2"})];
    for (index, record) in run().iter().enumerate() {
        let wall_time = 1_700_000_000.5 + 0.25 * index as f64;
        let mut push = |plugin: &str, tag: &str, value: Value| {
            let step = record.step;
            expected.push(json!({
                "wall_time": wall_time, "step": step, "plugin": plugin, "tag": tag, "value": value
            }));
        };
        for (name, value) in record.scalars() {
            let value = match value {
                f64::INFINITY => json!("Infinity"),
                f64::NEG_INFINITY => json!("-Infinity"),
                value if value.is_nan() => json!("NaN"),
                value => json!(f64::from(value as f32)),
            };
            push("scalars", name, value);
        }
        if !record.events.is_empty() {
            push("text", "events", json!(record.events.join("\n\n")));
        }
    }
    assert_eq!(lines, expected);
}

#[test]
fn every_run_has_a_file_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let logs = folder.path().join("logs/run");
    for step in 0..3 {
        let mut sink = TensorBoard::create(&logs).expect("a file");
        sink.record(&Record::new(step).with("loss", 1.0)).expect("written");
    }
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(&logs).expect("the folder was made") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_str().expect("UTF-8");
        let rest = name.strip_prefix("events.out.tfevents.").expect(name);
        let seconds: u64 = rest.split('.').next().expect("seconds").parse().expect("a number");
        assert!(seconds > 1_700_000_000, "{name}");
        let file = std::fs::read(&path).expect("a file");
        let frames = frames(&file);
        assert_eq!(frames.len(), 2);
        let event = fields(frames[1]);
        let step = event.iter().find(|(number, _)| *number == 2);
        let Some((_, Field::Varint(step))) = step else { panic!("{event:?}") };
        seen.push(*step);
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2]);
}

#[test]
fn a_run_that_goes_on_says_from_which_step() {
    let mut bytes = Vec::new();
    let sink = TensorBoard::new(&mut bytes, || 1.5).expect("begun");
    let mut sink = sink.continuing(300).expect("said");
    sink.record(&Record::new(300).with("loss", 1.0)).expect("written");
    drop(sink);
    let frames = frames(&bytes);
    assert_eq!(frames.len(), 3);
    // event.proto: step is field 2; session_log field 7, whose status (field 1) START is 1.
    let wall_time = [&[0x09][..], &1.5_f64.to_le_bytes()].concat();
    assert_eq!(frames[1], [&wall_time[..], &[0x10, 0xac, 0x02, 0x3a, 2, 0x08, 1]].concat());
}
