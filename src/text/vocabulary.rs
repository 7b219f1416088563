//! Tokenizers for models that begin from nothing, as the contents of a `tokenizer.json`.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer as Inner};

use super::load::{Files, TOKENIZER, TOKENIZER_CONFIG, invalid};
use crate::error::{Error, Result};

/// The token that stands between two texts, in the vocabularies that [`byte_level_bpe`] makes.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// The fewest tokens of such a vocabulary: all bytes and [`END_OF_TEXT`].
pub const SMALLEST: usize = 257;

/// Learns byte pairs from texts (Sennrich et al. 2016, <https://arxiv.org/abs/1508.07909>, over
/// bytes as GPT-2's): the files of a tokenizer with at most `size` tokens, fewer where the texts have
/// no more pairs. [`END_OF_TEXT`] is its first and ends texts. The same texts make the same tokens.
///
/// # Errors
/// [`Error::Setting`] for a size below [`SMALLEST`].
pub fn byte_level_bpe(
    texts: impl Iterator<Item = String> + Send,
    size: usize,
) -> Result<BTreeMap<String, Vec<u8>>> {
    if size < SMALLEST {
        let setting = "the size of the vocabulary";
        return Err(Error::Setting { setting, value: size.to_string(), range: "at least 257" });
    }
    let failed = |error: tokenizers::Error| invalid(TOKENIZER, error.to_string());
    let bytes = ByteLevel::new(false, true, true);
    let mut tokenizer = Inner::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(bytes));
    tokenizer.with_decoder(Some(bytes));
    let trainer = BpeTrainer::builder()
        .vocab_size(size)
        .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    let mut trainer = TrainerWrapper::from(trainer);
    tokenizer.train(&mut trainer, texts).map_err(failed)?;
    let config = json!({ "eos_token": END_OF_TEXT, "clean_up_tokenization_spaces": false });
    Ok(Files::from([
        (TOKENIZER.to_owned(), tokenizer.to_string(false).map_err(failed)?.into_bytes()),
        (TOKENIZER_CONFIG.to_owned(), config.to_string().into_bytes()),
    ]))
}

/// A tokenizer whose tokens are these characters, by their places in the list. What is none of them
/// cannot be encoded.
pub fn of_characters(characters: &[char]) -> Vec<u8> {
    let vocabulary: serde_json::Map<String, Value> =
        characters.iter().enumerate().map(|(id, c)| (c.to_string(), id.into())).collect();
    tokenizer_json(
        json!({
            "type": "Split", "pattern": { "Regex": "(?s)." }, "behavior": "Isolated",
            "invert": false,
        }),
        json!({ "type": "Fuse" }),
        json!({ "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" }),
    )
}

/// A tokenizer whose tokens are the 256 bytes.
pub fn of_bytes() -> Vec<u8> {
    let vocabulary: serde_json::Map<String, Value> =
        (0..=255).map(|byte| (character_of(byte).to_string(), byte.into())).collect();
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    });
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
        "ignore_merges": false, "vocab": vocabulary, "merges": [],
    });
    tokenizer_json(bytes.clone(), bytes, model)
}

fn tokenizer_json(pre_tokenizer: Value, decoder: Value, model: Value) -> Vec<u8> {
    let whole = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": pre_tokenizer, "post_processor": null,
        "decoder": decoder, "model": model,
    });
    whole.to_string().into_bytes()
}

/// The character that stands for a byte in byte-level vocabularies: itself where it can be printed,
/// and one of those from U+0100 on in the order of the others where not.
fn character_of(byte: u8) -> char {
    let is_printed = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if is_printed(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&byte| !is_printed(byte)).count() as u32;
    char::from_u32(256 + before).expect("a character")
}

#[cfg(test)]
mod tests {
    use super::super::Tokenizer;
    use super::*;

    #[test]
    fn characters_and_bytes_are_their_own_tokens() {
        let text = "öl\n\r\n Tür 'a'  \u{1f6a4}\0";
        let mut characters: Vec<_> = text.chars().collect();
        characters.sort_unstable();
        characters.dedup();
        let tokenizer = Tokenizer::from_bytes(&of_characters(&characters)).expect("a tokenizer");
        let ids = tokenizer.encode(text, true).expect("known characters");
        let place = |c| characters.binary_search(&c).expect("known") as u32;
        assert_eq!(ids, text.chars().map(place).collect::<Vec<_>>());
        assert_eq!(tokenizer.decode(&ids, false).expect("text"), text);
        assert_eq!(tokenizer.size(), characters.len());
        assert!(tokenizer.encode("x", true).is_err());

        let tokenizer = Tokenizer::from_bytes(&of_bytes()).expect("a tokenizer");
        let ids = tokenizer.encode(text, true).expect("bytes");
        assert_eq!(ids, text.bytes().map(u32::from).collect::<Vec<_>>());
        assert_eq!(tokenizer.decode(&ids, false).expect("text"), text);
        assert_eq!(tokenizer.size(), 256);
    }

    #[test]
    fn pairs_are_learned() {
        let texts = || (0..40).map(|n| format!("the keel keeps the boat even, {n} times\n"));
        let files = byte_level_bpe(texts(), 300).expect("a tokenizer");
        assert_eq!(files, byte_level_bpe(texts(), 300).expect("again"));
        let tokenizer = Tokenizer::from_files(&files).expect("it is read");
        assert_eq!(tokenizer.size(), 300);
        assert_eq!(tokenizer.special().eos, Some(0));
        let text = "the boat keeps even — ü\n";
        let ids = tokenizer.encode(text, true).expect("ids");
        assert!(ids.len() < text.len() / 2, "{ids:?}");
        assert_eq!(tokenizer.decode(&ids, true).expect("text"), text);
        assert!(byte_level_bpe(texts(), 256).is_err());
    }
}
