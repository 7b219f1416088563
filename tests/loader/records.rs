//! JSON lines as they come: damaged, empty, too long, in other encodings.

use evenkeel::data::{JsonRecord, RecordOptions, RecordReader, TextEncoding};

use crate::{assert_says, file};

const SKIP: fn() -> RecordOptions =
    || RecordOptions { skip_damaged: true, ..RecordOptions::default() };

/// The texts of a file, and what was skipped.
fn texts(contents: &[u8], options: RecordOptions) -> evenkeel::Result<(Vec<String>, Vec<String>)> {
    let (_folder, path) = file("records.jsonl", contents);
    let mut reader = RecordReader::open([path], options)?;
    let texts: evenkeel::Result<Vec<_>> = reader.texts("text").collect();
    let texts = texts?.into_iter().map(|text| text.text).collect();
    assert_eq!(reader.skipped().count, reader.skipped().first.len() as u64);
    assert_eq!(reader.progress(), (contents.len() as u64, contents.len() as u64));
    Ok((texts, reader.skipped().first.clone()))
}

#[test]
fn records_come_with_file_and_line() {
    let (_a, first) =
        file("a.jsonl", b"{\"text\": \"one\", \"n\": [1]}\r\n{\"text\": \"two\"}\n\n \n");
    let (_b, second) = file("b.jsonl", b"{\"text\": \"three\"}");
    let reader = RecordReader::open([&first, &second], RecordOptions::default()).expect("files");
    let records: evenkeel::Result<Vec<JsonRecord>> = reader.collect();
    let records = records.expect("records");
    assert_eq!(records[0].fields["n"][0], 1);
    let places: Vec<_> = records.iter().map(JsonRecord::place).collect();
    let place = |path: &std::path::Path, line| format!("{}, line {line}", path.display());
    assert_eq!(places, [place(&first, 1), place(&first, 2), place(&second, 1)]);
    assert_eq!(records[2].text("text"), Ok("three"));
}

#[test]
fn what_is_damaged_is_named_and_fatal_or_skipped() {
    let long = format!("{{\"text\": \"{}\"}}", "x".repeat(200));
    for (damaged, part) in [
        (&b"{\"text\": "[..], "it is no JSON: EOF while parsing a value at column 9"),
        (b"", "it is empty"),
        (b" \t\r", "it is empty"),
        (b"[\"text\"]", "it is no JSON object"),
        (b"{}", "it has no fields"),
        (b"{\"body\": \"c\", \"id\": 1}", "it has no field \"text\", but body, id"),
        (b"{\"text\": \" \"}", "its text is empty"),
        (b"{\"text\": 7}", "its text is 7, which is no text"),
        (b"{\"text\": \"a\", \"text\": \"b\"}", "it has the key \"text\" twice at column 20"),
        (b"{\"text\": \"a\", \"m\": {\"k\": 1, \"k\": 2}}", "it has the key \"k\" twice"),
        (b"{\"text\": \"caf\xe9\"}", "byte 0xE9 at byte 13 of the line is no UTF-8"),
        (b"{\"text\": \"a\0\"}", "control character"),
        (long.as_bytes(), "it has 212 bytes, more than the limit of 100"),
    ] {
        let good = |text: &str| format!("{{\"text\": \"{text}\"}}");
        let contents =
            [good("one").as_bytes(), b"\n", damaged, b"\n", good("two").as_bytes()].concat();
        let limits = RecordOptions { longest: 100, ..RecordOptions::default() };
        let error = texts(&contents, limits).expect_err(part);
        assert_says(&error, &["records.jsonl, line 2: ", part]);

        let limits = RecordOptions { longest: 100, ..SKIP() };
        let (left, skipped) = texts(&contents, limits).expect("the rest");
        assert_eq!(left, ["one", "two"]);
        assert!(skipped.len() == 1 && skipped[0].contains(part), "{skipped:?}");
        assert!(skipped[0].contains("records.jsonl, line 2: "), "{skipped:?}");
    }
}

#[test]
fn empty_lines_are_counted_each_where_others_follow() {
    let contents = b"\n\n{\"text\": \"one\"}\n\n{\"text\": \"two\"}\n\n\n";
    let (left, skipped) = texts(contents, SKIP()).expect("the rest");
    assert_eq!(left, ["one", "two"]);
    let lines: Vec<_> = skipped.iter().map(|one| one.split(", line ").nth(1)).collect();
    assert_eq!(lines, ["1: it is empty", "2: it is empty", "4: it is empty"].map(Some));
    for contents in [&b""[..], b"\n \n", b"\xef\xbb\xbf"] {
        let error = texts(contents, RecordOptions::default()).expect_err("no records");
        assert_says(&error, &["records.jsonl: there are no lines in it"]);
        let (left, skipped) = texts(contents, SKIP()).expect("nothing");
        assert_eq!((left.len(), skipped.len()), (0, 1));
    }
}

#[test]
fn encodings_are_those_of_the_mark_or_as_said() {
    let text = "{\"text\": \"böse 😀\"}\n{\"text\": \"ਊ\"}";
    let expected = ["böse 😀", "ਊ"];
    let marked = format!("\u{feff}{text}");
    let wide = |bytes: fn(u16) -> [u8; 2]| marked.encode_utf16().flat_map(bytes).collect();
    let encoded: [Vec<u8>; 4] =
        [text.into(), marked.clone().into(), wide(u16::to_le_bytes), wide(u16::to_be_bytes)];
    for contents in encoded {
        assert_eq!(texts(&contents, RecordOptions::default()).expect("texts").0, expected);
    }
    let latin = b"{\"text\": \"b\xf6se\"}\n";
    let error = texts(latin, RecordOptions::default()).expect_err("Latin-1");
    assert_says(&error, &["line 1: byte 0xF6", "windows-1252 for Latin-1", "save it as UTF-8"]);
    let encoding = TextEncoding::named("latin1").expect("known");
    let options = RecordOptions { encoding, ..RecordOptions::default() };
    assert_eq!(texts(latin, options).expect("texts").0, ["böse"]);
}

#[test]
fn a_reader_may_refuse_and_ends_with_an_error() {
    let (_folder, path) = file("a.jsonl", b"{\"a\": 1}\n{\"a\": 2}\n{\"a\": 3}\n");
    let mut reader = RecordReader::open([&path], RecordOptions::default()).expect("a file");
    let record = reader.next().expect("one").expect("a record");
    let error = reader.refuse(&record.place(), "it is odd".into()).expect_err("fatal");
    assert_says(&error, &["a.jsonl, line 1: it is odd"]);
    assert!(reader.next().is_none());

    let mut reader = RecordReader::open([&path], SKIP()).expect("a file");
    let mut even = Vec::new();
    while let Some(record) = reader.next() {
        let record = record.expect("a record");
        match record.fields["a"].as_u64() {
            Some(number) if number % 2 == 0 => even.push(number),
            _ => reader.refuse(&record.place(), "it is odd".into()).expect("skipped"),
        }
    }
    assert_eq!((even, reader.skipped().count), (vec![2], 2));
}

#[test]
fn files_are_looked_at_before_the_first_record() {
    let (folder, path) = file("a.jsonl", b"{\"a\": 1}\n");
    for wrong in [folder.path().to_owned(), folder.path().join("none.jsonl")] {
        let error = RecordReader::open([path.clone(), wrong.clone()], SKIP()).err().expect("none");
        assert_says(&error, &[&wrong.display().to_string()]);
    }
}

#[test]
fn many_faults_are_counted_and_some_described() {
    let contents = "{\n".repeat(1000);
    let (_folder, path) = file("a.jsonl", contents.as_bytes());
    let mut reader = RecordReader::open([path], SKIP()).expect("a file");
    assert!(reader.next().is_none());
    assert_eq!((reader.skipped().count, reader.skipped().first.len()), (1000, 100));
}
