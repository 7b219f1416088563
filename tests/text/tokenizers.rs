//! Ids of texts, texts of ids, all at once and one by one.

use std::time::{Duration, Instant};

use evenkeel::nn::GptConfig;
use evenkeel::text::Tokenizer;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::expected::{FOLDERS, expected, ids, texts, tokenizer};

fn each(test: impl Fn(&str, &Tokenizer, &serde_json::Value)) {
    let expected = expected();
    for (name, _) in FOLDERS {
        test(name, &tokenizer(name), &expected["tokenizers"][name]);
    }
}

pub fn ids_are_those_of_tokenizers() {
    let all = expected();
    let texts = texts(&all["texts"]);
    each(|name, tokenizer, expected| {
        for (text, expected) in texts.iter().zip(expected["ids"].as_array().expect("a list")) {
            let found = tokenizer.encode(text, false).expect("ids");
            assert_eq!(found, ids(expected), "{name}: {text:?}");
        }
        for (text, expected) in texts.iter().zip(expected["whole"].as_array().expect("a list")) {
            let found = tokenizer.encode(text, true).expect("ids");
            assert_eq!(found, ids(expected), "{name}, with special tokens: {text:?}");
        }
    });
}

pub fn special_tokens_are_those_of_the_folder() {
    each(|name, tokenizer, expected| {
        let id = |value: &serde_json::Value| value.as_u64().map(|id| id as u32);
        let special = tokenizer.special();
        assert_eq!(special.bos, id(&expected["bos"]), "{name}");
        assert_eq!(special.eos, id(&expected["eos"]), "{name}");
        assert_eq!(special.pad, id(&expected["pad"]), "{name}");
        assert_eq!(tokenizer.size() as u64, expected["size"].as_u64().expect("a size"), "{name}");
    });
    let stops = |name: &str| {
        let tokenizer = tokenizer(name);
        let token = |id: &u32| tokenizer.token(*id).expect("a token");
        tokenizer.special().stops.iter().map(token).collect::<Vec<_>>()
    };
    assert_eq!(stops("llama3"), ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]);
    assert_eq!(stops("qwen2"), ["<|endoftext|>", "<|im_end|>"]);
    assert_eq!(stops("gpt2"), ["<|im_end|>"]);
    assert_eq!(stops("gemma"), ["<eos>", "<end_of_turn>"]);
    let gemma = tokenizer("gemma");
    assert!(gemma.special().is_stop(5) && !gemma.special().is_stop(2));
    assert_eq!(gemma.id("<end_of_turn>"), Some(5));
}

pub fn texts_are_decoded_as_tokenizers_does() {
    each(|name, tokenizer, expected| {
        let decoded = texts(&expected["decoded"]);
        for (ids_of, text) in expected["ids"].as_array().expect("a list").iter().zip(decoded) {
            assert_eq!(tokenizer.decode(&ids(ids_of), false).expect("a text"), text, "{name}");
        }
        for drawn in expected["drawn"].as_array().expect("a list") {
            let ids = ids(&drawn["ids"]);
            let decode = |skip| tokenizer.decode(&ids, skip).expect("a text");
            assert_eq!(decode(false), drawn["text"].as_str().expect("a text"), "{name}");
            assert_eq!(decode(true), drawn["skipped"].as_str().expect("a text"), "{name}");
        }
    });
}

/// The parts that a stream gives, the last by its end.
fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip: bool) -> Vec<String> {
    let mut stream = tokenizer.decode_stream(skip);
    let mut parts: Vec<_> = ids.iter().map(|&id| stream.push(id).expect("a text")).collect();
    parts.push(stream.finish().expect("a text"));
    parts
}

pub fn streams_give_the_text_of_all_tokens() {
    let all = expected();
    let texts = texts(&all["texts"]);
    each(|name, tokenizer, expected| {
        for drawn in expected["drawn"].as_array().expect("a list") {
            let ids = ids(&drawn["ids"]);
            let text = |skip| streamed(tokenizer, &ids, skip).concat();
            assert_eq!(text(false), drawn["text"].as_str().expect("a text"), "{name}: {ids:?}");
            assert_eq!(text(true), drawn["skipped"].as_str().expect("a text"), "{name}: {ids:?}");
        }
        for text in &texts {
            let ids = tokenizer.encode(text, true).expect("ids");
            let whole = tokenizer.decode(&ids, false).expect("a text");
            assert_eq!(streamed(tokenizer, &ids, false).concat(), whole, "{name}: {text:?}");
        }
        // Ids of all kinds, some without a token; every second one of those that are bytes, which
        // are often no UTF-8.
        let size = tokenizer.size() as u32;
        let id = prop_oneof![0..size + 3, 0..264_u32];
        let strategy = (proptest::collection::vec(id, 0..40), any::<bool>());
        let mut runner = TestRunner::new(Config { cases: 600, ..Config::default() });
        let result = runner.run(&strategy, |(ids, skip)| {
            let whole = tokenizer.decode(&ids, skip).expect("a text");
            prop_assert_eq!(streamed(tokenizer, &ids, skip).concat(), whole);
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{name}: {error}"));
    });
}

/// The token of a byte: in the alphabet of byte-level tokenizers, or `<0xE2>`.
fn byte(tokenizer: &Tokenizer, byte: u8) -> u32 {
    let is_itself = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..);
    let code = match is_itself(&byte) {
        true => u32::from(byte),
        false => 256 + (0..byte).filter(|byte| !is_itself(byte)).count() as u32,
    };
    let letter = char::from_u32(code).expect("a character").to_string();
    let id = tokenizer.id(&format!("<0x{byte:02X}>")).or(tokenizer.id(&letter));
    id.expect("a token of each byte")
}

pub fn streams_give_whole_characters_as_soon_as_they_are_there() {
    let bytes = |tokenizer: &Tokenizer, text: &str| -> Vec<u32> {
        text.bytes().map(|of| byte(tokenizer, of)).collect()
    };
    let llama3 = tokenizer("llama3");
    let parts = streamed(&llama3, &bytes(&llama3, "é한🚀!"), false);
    // Each comes with its last byte.
    assert_eq!(parts, ["", "é", "", "", "한", "", "", "", "🚀", "!", ""]);
    // One byte that is no UTF-8 would change all that stand with it here, so they come with what
    // is no byte.
    let llama2 = tokenizer("llama2");
    let mut ids = bytes(&llama2, "é한");
    ids.push(llama2.id("e").expect("a token"));
    ids.extend(bytes(&llama2, "🚀"));
    let parts = streamed(&llama2, &ids, false);
    assert_eq!(parts, ["", "", "", "", "", "é한e", "", "", "", "", "🚀"]);
    // What never becomes a character is given when that is certain, and at the end.
    let [first, letter] = [0xed, b'A'].map(|of| byte(&llama3, of));
    assert_eq!(
        streamed(&llama3, &[first, letter, first], false),
        ["", "\u{fffd}A", "", "\u{fffd}"]
    );
    assert_eq!(streamed(&llama3, &[first, first], false), ["", "\u{fffd}", "\u{fffd}"]);
}

pub fn streams_go_on_with_a_prompt() {
    let tokenizer = tokenizer("llama2");
    let ids = tokenizer.encode("the keel", false).expect("ids");
    let (prompt, rest) = ids.split_at(1);
    assert_eq!(tokenizer.decode(prompt, false).expect("a text"), "the");
    let alone = streamed(&tokenizer, rest, false).concat();
    assert_eq!(alone, "keel", "a text that begins has no space in front");
    let mut stream = tokenizer.decode_stream(false);
    stream.push(prompt[0]).expect("a text");
    let mut text: String = rest.iter().map(|&id| stream.push(id).expect("a text")).collect();
    text.push_str(&stream.finish().expect("a text"));
    assert_eq!(text, " keel");
}

pub fn long_texts_are_split_in_time() {
    // Patterns that look ahead must neither give up nor take the square of the length.
    let text = format!("{}x{}y{}", " ".repeat(40_000), "\n".repeat(40_000), "-".repeat(40_000));
    for name in ["llama3", "qwen2", "gpt2"] {
        let tokenizer = tokenizer(name);
        let start = Instant::now();
        let ids = tokenizer.encode(&text, false).expect("ids");
        assert_eq!(tokenizer.decode(&ids, false).expect("a text"), text, "{name}");
        // The last space belongs to the word.
        let short = tokenizer.encode("  x", false).expect("ids");
        let at = ids.iter().position(|id| id == short.last().expect("an id")).expect("there");
        let before = tokenizer.decode(&ids[..at], false).expect("a text");
        assert!(before.len() < 40_000 + 1 && before.chars().all(|c| c == ' '), "{name}");
        assert!(start.elapsed() < Duration::from_secs(60), "{name}: {:?}", start.elapsed());
    }
}

pub fn whitespace_that_patterns_give_up_on_is_refused() {
    let gpt2 = tokenizer("gpt2");
    let error = gpt2.encode(&" ".repeat(500_001), false).expect_err("too long").to_string();
    assert!(error.contains("whitespace characters in a row"), "{error}");
    // A pattern that gave up would leave the words behind in pieces.
    let text = format!("{}the keel", "\u{2003}".repeat(400_000));
    let ids = gpt2.encode(&text, false).expect("ids");
    let last = gpt2.encode("the keel", false).expect("ids");
    assert!(ids.ends_with(&last) && ids.len() > 400_000, "{}", ids.len());
}

pub fn vocabularies_must_fit_the_model() {
    let model = |vocabulary| GptConfig { vocabulary, ..GptConfig::gpt2(8, 8, 1, 1, 8) };
    let qwen2 = tokenizer("qwen2");
    assert_eq!(qwen2.size(), 568);
    qwen2.check(&model(568)).expect("it fits");
    qwen2.check(&model(640)).expect("tables are padded");
    let error = qwen2.check(&model(564)).expect_err("too few").to_string();
    let parts =
        ["564 tokens, and the tokenizer 4 more", "\"</tool_call>\" (564)", ", ...", "belongs"];
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    // The token of an image, behind all others, needs no row in a model of text.
    let gemma = tokenizer("gemma");
    assert_eq!(gemma.id("<image_soft_token>"), Some(595));
    gemma.check(&model(595)).expect("all but the image's");
    assert!(gemma.check(&model(594)).is_err());
}
