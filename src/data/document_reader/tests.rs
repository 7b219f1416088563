//! Documents out of files of all kinds.

use std::fs;

use super::*;
use crate::data::{Documents, TextEncoding};

fn place(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, contents) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, contents).expect("written");
    }
    folder
}

/// All documents, and what was skipped.
fn read(paths: &[PathBuf], reading: Reading) -> Result<(Vec<Document>, Skipped)> {
    let mut reader = Documents::find(paths, reading)?.read();
    let all = reader.by_ref().collect::<Result<Vec<_>>>()?;
    assert_eq!(reader.progress().0, reader.progress().1);
    Ok((all, reader.skipped().clone()))
}

fn texts(found: &[Document]) -> Vec<String> {
    found.iter().map(|document| document.text().into_owned()).collect()
}

#[test]
fn folders_files_and_records_are_read_in_order() {
    let folder = place(&[
        ("b.txt", b"\xef\xbb\xbftwo\r\n"),
        ("a/records.jsonl", b"{\"text\": \"zero\"}\n{\"n\": 1, \"text\": \"one\\n\"}\n\n"),
        (".hidden/no.txt", b"no"),
        (".no.txt", b"no"),
    ]);
    let (found, skipped) = read(&[folder.path().to_owned()], Reading::default()).expect("texts");
    assert_eq!(texts(&found), ["zero", "one\n", "two\n"]);
    let whole = DocumentKind::Part { is_first: true, is_last: true };
    let kinds: Vec<_> = found.iter().map(|one| (one.kind, one.line)).collect();
    assert_eq!(kinds, [(DocumentKind::Line, 1), (DocumentKind::Line, 2), (whole, 1)]);
    assert!(found[2].file.ends_with("b.txt") && skipped == Skipped::default());
}

#[test]
fn what_is_damaged_is_named_and_left_out_on_request() {
    for (bytes, line, left, part) in [
        (&b"{\"text\": \"a\"}\n{\"text\": "[..], 2, 1, "EOF while parsing"),
        (b"{\"text\": \"a\"}\n\n{\"text\": \"b\"}", 2, 2, "it is empty"),
        (b"{\"text\": \" \"}\n{\"text\": \"b\"}", 1, 1, "its text is empty"),
        (b"{\"text\": 7}\n{\"text\": \"b\"}", 1, 1, "its text is 7, which is no text"),
        (b"{\"body\": \"c\"}\n{\"text\": \"b\"}", 1, 1, "it has no field \"text\", but body"),
        (b"[1]\n{\"text\": \"b\"}", 1, 1, "it is no JSON object"),
        (b"{\"text\": \"a\", \"text\": \"b\"}\n{\"text\": \"b\"}", 1, 1, "\"text\" twice"),
        (b"{\"text\": \"\xff\"}\n{\"text\": \"b\"}", 1, 1, "is no UTF-8"),
    ] {
        let folder = place(&[("records.jsonl", bytes)]);
        let paths = [folder.path().join("records.jsonl")];
        let read = |bad_records| read(&paths, Reading { bad_records, ..Reading::default() });
        let error = read(BadRecords::Fail).expect_err(part).to_string();
        let place = format!("records.jsonl, line {line}: ");
        assert!(error.contains(&place) && error.contains(part), "{error}");
        assert!(error.contains("--bad-records skip"), "{error}");
        let (found, skipped) = read(BadRecords::Skip).expect("the rest");
        assert_eq!((found.len(), skipped.count), (left, 1), "{skipped:?}");
        assert!(skipped.first[0].contains(&place), "{skipped:?}");
    }
}

#[test]
fn another_field_raw_files_and_examples() {
    let folder = place(&[
        ("a.jsonl", b"{\"text\": \"no\", \"body\": \"yes\"}"),
        ("b.bin", b"\xff\xfea\r\n"),
        ("c.gz", b"packed"),
        ("d.jsonl", b"{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"messages\": []}"),
    ]);
    let path = |name: &str| folder.path().join(name);
    let reading = Reading { field: Some("body".into()), raw: true, ..Reading::default() };
    let (found, _) = read(&[path("a.jsonl"), path("b.bin")], reading.clone()).expect("both");
    assert_eq!(found[0].contents, b"yes");
    assert_eq!(found[1].contents, b"\xff\xfea\r\n");
    let error = read(&[path("c.gz")], reading).expect_err("packed").to_string();
    assert!(error.contains("c.gz: files that end in .gz are not read"), "{error}");
    let (found, _) = read(&[path("d.jsonl")], Reading::default()).expect("examples");
    assert!(found.iter().all(|one| one.kind == DocumentKind::Example), "{found:?}");
    assert_eq!(found[1].contents, b"{\"messages\": []}");
    let empty = tempfile::tempdir().expect("a folder");
    assert!(Documents::find(&[empty.path().to_owned()], Reading::default()).is_err());
}

#[test]
fn what_is_left_of_a_run_of_damaged_files_is_nothing() {
    let folder = place(&[("a.txt", b" \n"), ("b.jsonl", b"\n"), ("c.txt", b"caf\xe9")]);
    let reading = Reading { bad_records: BadRecords::Skip, ..Reading::default() };
    let error = read(&[folder.path().to_owned()], reading).expect_err("nothing").to_string();
    assert!(error.contains("nothing is left to learn from; the first skipped: "), "{error}");
    assert!(error.contains("a.txt: the text is empty"), "{error}");
    let encoding = TextEncoding::named("latin1").expect("known");
    let reading = Reading { encoding, ..Reading::default() };
    let (found, _) = read(&[folder.path().join("c.txt")], reading).expect("a text");
    assert_eq!(texts(&found), ["café"]);
}

#[test]
fn fingerprints_are_of_contents_and_of_how_they_are_read() {
    let folder = place(&[("a.jsonl", b"{\"text\": \"a\"}"), ("b.jsonl", b"{\"text\": \"a\"}")]);
    let of = |name: &str, reading| {
        let documents = Documents::find(&[folder.path().join(name)], reading).expect("a file");
        documents.fingerprint(|_, _| {}).expect("read").to_string()
    };
    let first = of("a.jsonl", Reading::default());
    assert_eq!(first, of("b.jsonl", Reading::default()));
    let other = Reading { bad_records: BadRecords::Skip, ..Reading::default() };
    assert_ne!(first, of("a.jsonl", other));
    fs::write(folder.path().join("b.jsonl"), b"{\"text\": \"b\"}").expect("written");
    assert_ne!(first, of("b.jsonl", Reading::default()));
}
