//! The tokenizer of a GGUF file, made into the files of the folder that the model came from.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Tokenizer;
use super::load::{GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG, invalid};
use crate::error::{Error, Result};
use crate::gguf::{self, TokenKind};

/// What errors call it.
const METADATA: &str = "tokenizer.ggml";

/// Control tokens that end a turn or a text, beside the one that the file calls its end, which is
/// often that of texts where chats end with another. llama.cpp knows them by their texts too.
pub(super) const ENDS: [&str; 8] = [
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "</s>",
];

/// How llama.cpp calls the ways of splitting that are known.
pub(super) const SPLITTINGS: [&str; 4] = ["gpt-2", "smollm", "llama-bpe", "qwen2"];

/// GPT-4's pattern, as Llama 3 and Qwen 2 have it, with another one for digits each.
const WORDS: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

impl Tokenizer {
    /// The tokenizer that a GGUF file describes, with its chat template. It is the one of the
    /// folder that the file was made of, for the kinds of byte-level pairs (`gpt2`) that llama.cpp
    /// calls `gpt-2`, `smollm`, `llama-bpe` (Llama 3) and `qwen2` (Qwen 2, 2.5 and 3).
    ///
    /// A generation ends with the tokens that the file calls the ends of a text and of a turn, and with
    /// all control tokens that are known to be such.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another kind: of such a model take the folder's `tokenizer.json`
    /// ([`Tokenizer::from_bytes`]). [`Error::ModelFile`] for one whose parts do not fit.
    pub fn from_gguf(tokenizer: &gguf::Tokenizer) -> Result<Self> {
        Self::from_files(&Self::files_of_gguf(tokenizer)?)
    }

    /// The files of a folder that has this tokenizer, by their names: `tokenizer.json`,
    /// `tokenizer_config.json` with the chat template, and `generation_config.json`.
    ///
    /// # Errors
    /// As [`from_gguf`](Self::from_gguf).
    pub fn files_of_gguf(tokenizer: &gguf::Tokenizer) -> Result<BTreeMap<String, Vec<u8>>> {
        let text = |id: u32| tokenizer.tokens[id as usize].as_str();
        // What transformers opens it as: it takes everything from the files.
        let mut config =
            Map::from_iter([("tokenizer_class".to_owned(), "PreTrainedTokenizerFast".into())]);
        for (name, id) in [
            ("bos_token", tokenizer.bos),
            ("eos_token", tokenizer.eos),
            ("unk_token", tokenizer.unknown),
            ("pad_token", tokenizer.padding),
        ] {
            let Some(id) = id else { continue };
            let Some(token) = tokenizer.tokens.get(id as usize) else {
                let count = tokenizer.tokens.len();
                let reason = format!("{name} is {id}, and there are {count} tokens");
                return Err(invalid(METADATA, reason));
            };
            config.insert(name.to_owned(), token.as_str().into());
        }
        if let Some(template) = &tokenizer.chat_template {
            config.insert("chat_template".to_owned(), template.as_str().into());
        }
        let is_end = |&id: &u32| ENDS.contains(&text(id)) && is_control(tokenizer, id);
        let ends = (0..tokenizer.tokens.len() as u32).filter(is_end);
        let ends: Vec<_> = tokenizer.eos.into_iter().chain(tokenizer.eot).chain(ends).collect();
        let generation = json!({ "eos_token_id": ends });
        let files = [
            (TOKENIZER, described(tokenizer)?),
            (TOKENIZER_CONFIG, Value::Object(config)),
            (GENERATION_CONFIG, generation),
        ];
        let file = |(name, contents): (&str, Value)| {
            (name.to_owned(), format!("{contents:#}\n").into_bytes())
        };
        Ok(files.into_iter().map(file).collect())
    }
}

fn kind_of(tokenizer: &gguf::Tokenizer, id: u32) -> TokenKind {
    tokenizer.kinds.get(id as usize).copied().unwrap_or(TokenKind::Normal)
}

fn is_control(tokenizer: &gguf::Tokenizer, id: u32) -> bool {
    matches!(kind_of(tokenizer, id), TokenKind::Control | TokenKind::Unknown)
}

/// How texts are split in front of the pairs.
pub(super) struct Splitting {
    pub normalizer: Value,
    pub steps: Vec<Value>,
    /// Whether a piece that is a token is not made of pairs.
    pub whole_pieces: bool,
    /// Whether a token begins texts, where the file does not say.
    adds_bos: bool,
}

/// A step that makes letters of bytes; with `use_regex` it first splits texts as GPT-2 does.
fn byte_level(tokenizer: &gguf::Tokenizer, use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": tokenizer.adds_space == Some(true),
        "trim_offsets": true,
        "use_regex": use_regex,
    })
}

/// A step that splits texts into words and numbers of so many digits.
fn words(digits: &str) -> Value {
    json!({
        "type": "Split",
        "pattern": { "Regex": WORDS.replace("DIGITS", digits) },
        "behavior": "Isolated",
        "invert": false,
    })
}

impl Splitting {
    fn new(normalizer: Value, steps: Vec<Value>) -> Self {
        Self { normalizer, steps, whole_pieces: false, adds_bos: false }
    }

    pub fn of(tokenizer: &gguf::Tokenizer) -> Result<Self> {
        let pre = tokenizer.pre.as_deref().unwrap_or("none");
        let byte_level = |use_regex| byte_level(tokenizer, use_regex);
        match (tokenizer.model.as_str(), pre) {
            ("gpt2", "gpt-2") => Ok(Self::new(Value::Null, vec![byte_level(true)])),
            ("gpt2", "smollm") => {
                let digits = json!({ "type": "Digits", "individual_digits": true });
                Ok(Self::new(Value::Null, vec![digits, byte_level(true)]))
            }
            ("gpt2", "llama-bpe") => {
                let steps = vec![words(r"\p{N}{1,3}"), byte_level(false)];
                let splitting = Self::new(Value::Null, steps);
                Ok(Self { whole_pieces: true, adds_bos: true, ..splitting })
            }
            ("gpt2", "qwen2") => {
                let steps = vec![words(r"\p{N}"), byte_level(false)];
                Ok(Self::new(json!({ "type": "NFC" }), steps))
            }
            (model, _) => Err(Error::Unsupported {
                what: format!("the tokenizer {model:?} with the splitting {pre:?} of a GGUF file"),
                instead: "take the tokenizer.json of the folder that the model came from; without \
                          it gpt2 is read, with gpt-2, smollm, llama-bpe and qwen2"
                    .to_owned(),
            }),
        }
    }
}

/// The contents of a `tokenizer.json`.
fn described(tokenizer: &gguf::Tokenizer) -> Result<Value> {
    let splitting = Splitting::of(tokenizer)?;
    let entries = tokenizer.tokens.iter().zip(0u32..);
    let entries = entries.map(|(token, id)| (token.clone(), Value::from(id)));
    let vocabulary: Map<String, Value> = entries.collect();
    if vocabulary.len() != tokenizer.tokens.len() {
        return Err(invalid(METADATA, "tokens has a text twice"));
    }
    let pair = |merge: &String| {
        let pair = merge.split_once(' ').map(|(first, second)| json!([first, second]));
        pair.ok_or_else(|| invalid(METADATA, format!("merges has {merge:?}, which is no pair")))
    };
    let merges: Vec<Value> = tokenizer.merges.iter().map(pair).collect::<Result<_>>()?;
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": whole_tokens(tokenizer),
        "normalizer": splitting.normalizer,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": splitting.steps },
        "post_processor": around(tokenizer, splitting.adds_bos)?,
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
        },
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": splitting.whole_pieces,
            "vocab": vocabulary,
            "merges": merges,
        },
    }))
}

/// The tokens that are found whole in texts.
fn whole_tokens(tokenizer: &gguf::Tokenizer) -> Vec<Value> {
    let token = |(token, id): (&String, u32)| {
        let special = is_control(tokenizer, id);
        let is_whole = special || kind_of(tokenizer, id) == TokenKind::UserDefined;
        is_whole.then(|| {
            json!({
                "id": id,
                "content": token,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": special,
            })
        })
    };
    tokenizer.tokens.iter().zip(0u32..).filter_map(token).collect()
}

/// What is put around a text.
fn around(tokenizer: &gguf::Tokenizer, adds_bos: bool) -> Result<Value> {
    let offsets = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true,
    });
    let token = |name: &str, is_added: bool, id: Option<u32>| match (is_added, id) {
        (false, _) => Ok(None),
        (true, Some(id)) => Ok(Some(id)),
        (true, None) => {
            Err(invalid(METADATA, format!("add_{name}_token is true, and there is none")))
        }
    };
    let bos = token("bos", tokenizer.adds_bos.unwrap_or(adds_bos), tokenizer.bos)?;
    let eos = token("eos", tokenizer.adds_eos.unwrap_or(false), tokenizer.eos)?;
    if bos.is_none() && eos.is_none() {
        return Ok(offsets);
    }
    let text = |id: u32| tokenizer.tokens[id as usize].as_str();
    let part = |sequence: &str, of: u32| {
        let special = |id: u32| json!({ "SpecialToken": { "id": text(id), "type_id": of } });
        let whole = json!({ "Sequence": { "id": sequence, "type_id": of } });
        let parts = bos.map(special).into_iter().chain([whole]).chain(eos.map(special));
        parts.collect::<Vec<_>>()
    };
    let special = bos.into_iter().chain(eos).map(|id| {
        let text = text(id);
        (text.to_owned(), json!({ "id": text, "ids": [id], "tokens": [text] }))
    });
    let template = json!({
        "type": "TemplateProcessing",
        "single": part("A", 0),
        "pair": ([part("A", 0), part("B", 1)].concat()),
        "special_tokens": special.collect::<Map<String, Value>>(),
    });
    Ok(json!({ "type": "Sequence", "processors": [offsets, template] }))
}
