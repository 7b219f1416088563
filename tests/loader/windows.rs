//! Windows out of a file of tokens: those of the same tokens in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use evenkeel::data::{
    BatchSource, CacheKey, CachedWindows, Corpus, Prefetch, Text, TokenCache, WindowOrder,
};
use evenkeel::train::Batch;
use tempfile::TempDir;

/// So many bytes that can be told apart from their neighbours, in memory and in a file.
fn corpus(length: usize) -> (Corpus, Arc<TokenCache>, TempDir) {
    let text: String = (0..length).map(|at| char::from((at % 127) as u8)).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let (tokenizer, source) = ("bytes".into(), "text".into());
    let key = CacheKey { tokenizer, source, vocabulary: 256, masked: false };
    let corpus = Corpus::bytes("text", text.as_bytes()).expect("a text");
    let texts = || Ok([Ok(Text { place: "text".into(), text: text.clone() })]);
    let encode = |text: &str| Ok(text.bytes().map(u32::from).collect());
    let path = folder.path().join("text.tokens");
    let cache = TokenCache::open_or_build(path, &key, texts, encode, |_, _| {});
    (corpus, Arc::new(cache.expect("a cache")), folder)
}

/// The batch of the windows that begin at these tokens.
fn batch(starts: &[u32], context: u32) -> Batch {
    let window = |shift: u32| {
        let one = move |&start: &u32| (0..context).map(move |at| (start + shift + at) % 127);
        starts.iter().flat_map(one).collect::<Vec<_>>()
    };
    Batch::new().with("tokens", window(0)).with("targets", window(1))
}

#[test]
fn batches_are_those_of_memory() {
    let (corpus, cache, _folder) = corpus(1000);
    let split = corpus.split(0.1, 8).expect("long enough");
    let parts = [(split.training, 0..900), (split.validation, 900..1000)];
    for (windows, range) in parts {
        let cached = CachedWindows::new(cache.clone(), range, 8).expect("long enough");
        assert_eq!(cached.tokens(), windows.tokens() as u64);
        let source = cached.source(WindowOrder::Random, 7, 5).expect("rows");
        let loader = Prefetch::new(source, 3, 2).expect("a loader");
        for (index, batch) in (3..20).zip(loader) {
            assert_eq!(batch.expect("read"), windows.batch(7, index, 5));
        }
    }
}

#[test]
fn shuffled_windows_come_once_in_an_epoch() {
    // 11 windows of 10 and 3 tokens over: epochs begin at tokens 0, 1, 2, 3, 0 and so on.
    let (_, cache, _folder) = corpus(120);
    let windows = CachedWindows::new(cache, 5..119, 10).expect("long enough");
    assert_eq!(windows.per_epoch(), 11);
    let source = windows.source(WindowOrder::Shuffled, 7, 1).expect("rows");
    let all: Vec<_> = source.batches_from(0).take(66).map(|one| one.expect("read")).collect();
    for (epoch, part) in all.chunks(11).enumerate() {
        let mut counts = BTreeMap::new();
        for found in part {
            let starts = (0..11).map(|one| 5 + epoch as u32 % 4 + 10 * one);
            let start = starts.into_iter().find(|&start| *found == batch(&[start], 10));
            *counts.entry(start.expect("a window of this epoch")).or_insert(0) += 1;
        }
        assert!(counts.len() == 11 && counts.values().all(|&count| count == 1), "{counts:?}");
    }
    assert_ne!(all[..11], all[44..55]);
}

#[test]
fn shuffled_batches_go_on_from_any_position() {
    let (_, cache, _folder) = corpus(120);
    let windows = CachedWindows::new(cache, 0..120, 10).expect("long enough");
    let source = windows.clone().source(WindowOrder::Shuffled, 7, 4).expect("rows");
    let all: Vec<_> = source.batches_from(0).take(13).map(|one| one.expect("read")).collect();
    for position in 0..12 {
        let loader = Prefetch::new(source.clone(), position, 3).expect("a loader");
        let rest: Vec<_> = loader.take(2).map(|one| one.expect("read")).collect();
        assert_eq!(rest, all[position as usize..][..2]);
    }
    let other = windows.source(WindowOrder::Shuffled, 8, 4).expect("rows");
    assert_ne!(other.batches_from(0).next().expect("one").expect("read"), all[0]);
}

#[test]
fn what_makes_no_window_is_refused() {
    let (_, cache, _folder) = corpus(20);
    let refused = |range, context, part: &str| {
        let error = CachedWindows::new(cache.clone(), range, context).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(0..21, 4, "text.tokens: there are 20 tokens, and windows of 0 to 21");
    refused(3..7, 4, "takes 5 tokens, and there are 4");
    refused(0..20, 0, "context of a window is 0");
    let windows = CachedWindows::new(cache.clone(), 3..8, 4).expect("one window");
    assert_eq!(windows.per_epoch(), 1);
    assert!(windows.source(WindowOrder::Random, 1, 0).is_err());
}
