//! Which tokens count, in a file beside the tokens.

use std::fs;
use std::sync::Arc;

use evenkeel::Result;
use evenkeel::data::{CacheKey, CachedWindows, Encoded, Text, TokenCache};
use evenkeel::train::{Batch, IGNORE};
use tempfile::TempDir;

use crate::assert_says;

fn key(masked: bool) -> CacheKey {
    CacheKey { tokenizer: "bytes".into(), source: "masks".into(), vocabulary: 256, masked }
}

/// Texts of 0 to 12 bytes; capitals do not count, and of every third text nothing is said.
fn texts() -> Vec<Text> {
    let text = |index: usize| "aBcDeFGhijKl"[..index * 5 % 13].to_owned();
    (0..60).map(|index| Text { place: index.to_string(), text: text(index) }).collect()
}

fn encode(text: &Text) -> Result<Encoded> {
    let tokens = text.text.bytes().map(u32::from).collect();
    let counts = text.text.bytes().map(|byte| byte.is_ascii_lowercase()).collect();
    let is_said = !text.place.parse::<usize>().expect("a number").is_multiple_of(3);
    Ok(Encoded { tokens, counts: is_said.then_some(counts) })
}

fn build(folder: &TempDir, masked: bool) -> Result<TokenCache> {
    let path = folder.path().join("some.tokens");
    let texts = || Ok(texts().into_iter().map(Ok));
    TokenCache::open_or_encode(path, &key(masked), texts, encode, |_, _| {})
}

#[test]
fn masks_are_those_that_were_given() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut tokens, mut counts, mut documents) = (Vec::new(), Vec::new(), Vec::new());
    for (index, text) in texts().iter().enumerate() {
        let encoded = encode(text).expect("bytes");
        counts.extend(encoded.counts.unwrap_or(vec![true; encoded.tokens.len()]));
        documents.extend(vec![index as u64; encoded.tokens.len()]);
        tokens.extend(encoded.tokens);
    }
    assert!(!counts.iter().all(|&counts| counts));
    for _ in 0..2 {
        let cache = build(&folder, true).expect("a cache");
        assert!(cache.is_masked());
        let all = cache.tokens();
        assert_eq!(cache.read(0..all).expect("read"), tokens);
        for range in [0..all, 3..all - 2, 8..16, 9..10, 5..5, all..all] {
            let expected = &counts[range.start as usize..range.end as usize];
            assert_eq!(cache.counts(range).expect("read"), expected);
        }
        let found = (0..all).map(|token| cache.document_of(token).expect("read"));
        assert_eq!(found.collect::<Vec<_>>(), documents);
    }
    let plain = build(&folder, false).expect("a cache");
    assert_eq!(plain.made_because(), Some("it was made with another mask"));
    assert!(!plain.is_masked() && plain.counts(0..9).expect("read") == [true; 9]);
}

#[test]
fn targets_that_do_not_count_are_ignored() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = Arc::new(build(&folder, true).expect("a cache"));
    let (training, validation) =
        CachedWindows::split(&cache, "bytes", 0.25, 7).expect("long enough");
    assert_eq!(training.tokens() + validation.tokens(), cache.tokens());
    for windows in [training, validation] {
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        for start in windows.starts(3, 5, 4) {
            let ids = cache.read(start..start + 8).expect("read");
            let counts = cache.counts(start..start + 8).expect("read");
            tokens.extend_from_slice(&ids[..7]);
            let target = |at: usize| if counts[at] { ids[at] } else { IGNORE };
            targets.extend((1..8).map(target));
        }
        assert!(targets.contains(&IGNORE));
        let expected = Batch::new().with("tokens", tokens).with("targets", targets);
        assert_eq!(windows.batch(3, 5, 4).expect("read"), expected);
    }
    let error = CachedWindows::split(&cache, "bytes", 0.25, 1000).expect_err("too short");
    assert_says(&error, &["bytes: the text has ", "a context of 1000 needs 2002"]);
}

#[test]
fn damage_shows_and_masks_of_other_lengths_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("some.tokens");
    drop(build(&folder, true).expect("a cache"));
    let whole = fs::read(&path).expect("there");
    // The last bytes of the mask, in front of counts and checksum.
    for at in [whole.len() - 33, whole.len() - 48] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, damaged).expect("written");
        let cache = build(&folder, true).expect("a cache");
        assert_eq!(cache.made_because(), Some("it is damaged: its checksum is another"));
        assert!(fs::read(&path).expect("there") == whole);
    }
    let text = Text { place: "a.jsonl, line 2".into(), text: "ab".into() };
    let short = |_: &Text| Ok(Encoded { tokens: vec![1, 2], counts: Some(vec![true]) });
    let path = folder.path().join("other.tokens");
    let error = TokenCache::open_or_encode(path, &key(true), || Ok([Ok(text)]), short, |_, _| {});
    assert_says(&error.expect_err("a fault"), &["a.jsonl, line 2: it has 2 tokens, and for 1"]);
}
