//! Tokens in a file: made once, made again where they are others or damaged.

use std::path::Path;
use std::{fs, iter};

use evenkeel::data::{CacheKey, Fingerprint, RecordOptions, RecordReader, Text, TokenCache};
use evenkeel::text::Tokenizer;
use evenkeel::{Error, Result};

use crate::{assert_says, file};

fn key(vocabulary: usize) -> CacheKey {
    CacheKey { tokenizer: "bytes".into(), source: "tests".into(), vocabulary, masked: false }
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("text {index} {}", "x".repeat(index * 7 % 300))).collect()
}

fn ids(text: &str) -> Result<Vec<u32>> {
    Ok(text.bytes().map(u32::from).collect())
}

fn open_or_build(path: &Path, key: &CacheKey, texts: &[String]) -> Result<TokenCache> {
    let text = |text: &String| Ok(Text { place: text[..6].to_owned(), text: text.clone() });
    TokenCache::open_or_build(path, key, || Ok(texts.iter().map(text)), ids, |_, _| {})
}

/// Opens what must be there.
fn reopen(path: &Path, key: &CacheKey) -> TokenCache {
    let texts = || -> Result<iter::Empty<_>> { panic!("it is there") };
    TokenCache::open_or_build(path, key, texts, ids, |_, _| {}).expect("a cache")
}

fn names(folder: &Path) -> Vec<String> {
    let names =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("one").file_name());
    names.map(|name| name.into_string().expect("UTF-8")).collect()
}

#[test]
fn tokens_are_those_of_the_texts_in_their_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let texts = texts(5000);
    let all: Vec<_> = texts.iter().flat_map(|text| ids(text).expect("bytes")).collect();
    for (vocabulary, width) in [(256, 2), (1 << 16, 2), ((1 << 16) + 1, 4)] {
        let path = folder.path().join("some.tokens");
        let cache = open_or_build(&path, &key(vocabulary), &texts).expect("a cache");
        assert!(cache.made_because().is_some());
        for cache in [cache, reopen(&path, &key(vocabulary))] {
            assert_eq!((cache.tokens(), cache.documents()), (all.len() as u64, 5000));
            assert_eq!(cache.read(0..cache.tokens()).expect("read"), all);
            assert_eq!(cache.read(7..7).expect("read"), [0; 0]);
            let mut start = 0;
            for (index, text) in texts.iter().enumerate() {
                let end = start + text.len() as u64;
                assert_eq!(cache.document(index as u64).expect("read"), start..end);
                start = end;
            }
            assert_eq!(cache.read(1234..1240).expect("read"), all[1234..1240]);
        }
        assert!(reopen(&path, &key(vocabulary)).made_because().is_none());
        let length = fs::metadata(&path).expect("there").len();
        let least = (all.len() * width + 8 * texts.len()) as u64;
        assert!((least..least + 400).contains(&length), "{length} {least}");
        fs::remove_file(&path).expect("there");
    }
}

#[test]
fn another_key_makes_another_cache() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("some.tokens");
    let texts = texts(20);
    let because = |key: &CacheKey| {
        let cache = open_or_build(&path, key, &texts).expect("a cache");
        assert!(reopen(&path, key).made_because().is_none());
        cache.made_because().map(str::to_owned).unwrap_or_default()
    };
    assert_eq!(because(&key(256)), "there is no cache yet");
    let other = CacheKey { tokenizer: "others".into(), ..key(256) };
    assert_eq!(because(&other), "it was made with another tokenizer");
    let other = CacheKey { source: "others".into(), ..other };
    assert_eq!(because(&other), "it was made of other texts");
    let error = TokenCache::open(&path, &key(256)).expect_err("another");
    assert_says(&error, &["some.tokens: it was made with another tokenizer"]);
    let other = CacheKey { vocabulary: 70_000, ..other };
    assert_eq!(because(&other), "it was made for another vocabulary");
    assert_eq!(names(folder.path()), ["some.tokens"]);
}

#[test]
fn what_is_damaged_is_made_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("some.tokens");
    let texts = texts(3);
    drop(open_or_build(&path, &key(256), &texts).expect("a cache"));
    let whole = fs::read(&path).expect("there");
    let check = |damaged: &[u8], at: usize| {
        fs::write(&path, damaged).expect("written");
        assert!(TokenCache::open(&path, &key(256)).is_err(), "{at}");
        let cache = open_or_build(&path, &key(256), &texts).expect("a cache");
        assert!(cache.made_because().is_some());
        assert!(fs::read(&path).expect("there") == whole, "{at}");
    };
    for at in 16..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        check(&damaged, at);
    }
    for length in 0..whole.len() {
        check(&whole[..length], length);
    }
    check(&[&whole[..], b"more"].concat(), whole.len());
}

#[test]
fn what_is_no_cache_stays() {
    let (folder, path) = file("notes.txt", b"all that I ever wrote");
    let error = open_or_build(&path, &key(256), &texts(3)).expect_err("no cache");
    assert_says(&error, &["notes.txt: this is no cache of tokens; choose another name"]);
    assert_eq!(fs::read(&path).expect("there"), b"all that I ever wrote");
    assert_eq!(names(folder.path()), ["notes.txt"]);
    assert!(open_or_build(folder.path(), &key(256), &texts(3)).is_err());
}

#[test]
fn faults_leave_the_old_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("some.tokens");
    drop(open_or_build(&path, &key(256), &texts(3)).expect("a cache"));
    let old = fs::read(&path).expect("there");
    let other = CacheKey { source: "others".into(), ..key(256) };
    let fails = |texts: Vec<Result<Text>>, parts: &[&str]| {
        let encode = |text: &str| match text {
            "bad" => Err(Error::Data { what: "a character".into(), reason: "is unknown".into() }),
            text => Ok(text.chars().map(u32::from).collect()),
        };
        let error = TokenCache::open_or_build(&path, &other, || Ok(texts), encode, |_, _| {});
        assert_says(&error.expect_err("a fault"), parts);
        assert!(fs::read(&path).expect("there") == old);
        assert_eq!(names(folder.path()), ["some.tokens"]);
    };
    let text = |text: &str| Ok(Text { place: "a.jsonl, line 7".into(), text: text.into() });
    fails(vec![text("a"), text("bad")], &["a.jsonl, line 7: a character: is unknown"]);
    fails(vec![text("ā")], &["a.jsonl, line 7: it has the token 257", "256 tokens"]);
    let error = Error::Data { what: "b.jsonl, line 1".into(), reason: "it is empty".into() };
    fails(vec![text("a"), Err(error)], &["b.jsonl, line 1: it is empty"]);
    fails(vec![], &["some.tokens: there are no tokens in the texts"]);
    fails(vec![text("")], &["there are no tokens in the texts"]);
}

/// A cache, how many records were skipped for it, and what was told of its progress.
type Built = (TokenCache, u64, Vec<(u64, u64)>);

#[test]
fn records_become_tokens_of_a_tokenizer() {
    let lines = ["{\"text\": \"The keel is even.\"}", "{\"text\": ", "{\"text\": \"So it goes.\"}"];
    let (folder, records) = file("train.jsonl", lines.join("\n").as_bytes());
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text/gpt2");
    let tokenizer = Tokenizer::open(&fixture).expect("a tokenizer");
    let fingerprint = |path: &Path| Fingerprint::new().with_file(path).map(|all| all.to_string());
    let path = folder.path().join("train.tokens");
    let build = || -> Result<Built> {
        let key = CacheKey {
            tokenizer: fingerprint(&fixture.join("tokenizer.json"))?,
            source: fingerprint(&records)?,
            vocabulary: tokenizer.size(),
            masked: false,
        };
        let options = RecordOptions { skip_damaged: true, ..RecordOptions::default() };
        let mut reader = RecordReader::open([&records], options)?;
        let mut told = Vec::new();
        let encode = |text: &str| tokenizer.encode(text, true);
        let progress = |texts, tokens| told.push((texts, tokens));
        let cache =
            TokenCache::open_or_build(&path, &key, || Ok(reader.texts("text")), encode, progress)?;
        Ok((cache, reader.skipped().count, told))
    };
    let (cache, skipped, told) = build().expect("a cache");
    let expected = ["The keel is even.", "So it goes."];
    for (index, text) in expected.into_iter().enumerate() {
        let ids = cache.read(cache.document(index as u64).expect("a text")).expect("read");
        assert_eq!(ids, tokenizer.encode(text, true).expect("ids"));
    }
    assert_eq!((skipped, told.last()), (1, Some(&(2, cache.tokens()))));
    assert_eq!((build().expect("there").0.made_because(), build().expect("there").1), (None, 0));

    fs::write(&records, "{\"text\": \"Other words.\"}").expect("written");
    let cache = build().expect("a cache").0;
    assert_eq!(cache.made_because(), Some("it was made of other texts"));
    assert_eq!(cache.documents(), 1);
}
