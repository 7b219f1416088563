//! What a file says of its tokens.

use std::collections::BTreeMap;

use super::value::{Array, Value};
use crate::error::Result;
use crate::hugging_face::all_or_none;

/// What a token is, by llama.cpp's `llama_token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// Not said.
    Undefined,
    /// A piece of text.
    Normal,
    /// What stands for text that no token has.
    Unknown,
    /// A sign for the model, such as the beginning of a text, that is no text.
    Control,
    /// A text that is never split.
    UserDefined,
    /// Not in use.
    Unused,
    /// A single byte.
    Byte,
}

impl TokenKind {
    const ALL: [Self; 7] = [
        Self::Undefined,
        Self::Normal,
        Self::Unknown,
        Self::Control,
        Self::UserDefined,
        Self::Unused,
        Self::Byte,
    ];

    fn code(self) -> i32 {
        Self::ALL
            .into_iter()
            .zip(0..)
            .find_map(|(kind, code)| (kind == self).then_some(code))
            .unwrap_or(0)
    }

    fn of_code(code: i32) -> Option<Self> {
        Self::ALL.get(usize::try_from(code).ok()?).copied()
    }
}

/// The tokenizer of a GGUF file, as the file describes it: `tokenizer.ggml.*` and
/// `tokenizer.chat_template`. What else there is of it is among the
/// [metadata](super::File::metadata). With the feature `text`, `text::Tokenizer::from_gguf` makes
/// one of it that reads and writes texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Tokenizer {
    /// Its kind: `gpt2` for byte-level pairs, `llama` for SentencePiece, and others.
    pub model: String,
    /// How text is split in front of the pairs, by a name of llama.cpp's.
    pub pre: Option<String>,
    /// The text of each token, in the order of their ids.
    pub tokens: Vec<String>,
    /// How likely each is; as many as tokens, or none.
    pub scores: Vec<f32>,
    /// What each is; as many as tokens, or none.
    pub kinds: Vec<TokenKind>,
    /// Pairs of tokens that become one, with a space between them, first ones first.
    pub merges: Vec<String>,
    /// The token of the beginning of a text.
    pub bos: Option<u32>,
    /// The token of its end.
    pub eos: Option<u32>,
    /// The token of the end of a turn, where that is another.
    pub eot: Option<u32>,
    /// The token of what is unknown.
    pub unknown: Option<u32>,
    /// The token that fills sequences up.
    pub padding: Option<u32>,
    /// Whether [`bos`](Self::bos) goes in front of a text.
    pub adds_bos: Option<bool>,
    /// Whether [`eos`](Self::eos) goes behind it.
    pub adds_eos: Option<bool>,
    /// Whether a space goes in front of it.
    pub adds_space: Option<bool>,
    /// The form of conversations, in Jinja.
    pub chat_template: Option<String>,
}

impl Tokenizer {
    /// The text of an id without a token, as llama.cpp's converter has it.
    pub(crate) fn unused(id: usize) -> String {
        format!("[PAD{id}]")
    }

    /// What a file with so many tokens says of it.
    pub(super) fn metadata(&self, tokens: usize) -> Vec<(String, Value)> {
        let beyond = self.tokens.len()..tokens;
        let mut texts = self.tokens.clone();
        texts.extend(beyond.clone().map(Self::unused));
        let mut kinds: Vec<_> = match &*self.kinds {
            [] => vec![TokenKind::Normal.code(); self.tokens.len()],
            kinds => kinds.iter().map(|kind| kind.code()).collect(),
        };
        kinds.extend(beyond.clone().map(|_| TokenKind::Unused.code()));
        let text = |text: &Option<String>| text.clone().map(Value::String);
        let scores = (!self.scores.is_empty()).then(|| {
            let all = self.scores.iter().copied().chain(beyond.map(|_| 0.0));
            Value::Array(Array::F32(all.collect()))
        });
        let merges =
            (!self.merges.is_empty()).then(|| Value::Array(Array::String(self.merges.clone())));
        let values = [
            ("ggml.model", Some(Value::String(self.model.clone()))),
            ("ggml.pre", text(&self.pre)),
            ("ggml.tokens", Some(Value::Array(Array::String(texts)))),
            ("ggml.scores", scores),
            ("ggml.token_type", Some(Value::Array(Array::I32(kinds)))),
            ("ggml.merges", merges),
            ("ggml.bos_token_id", self.bos.map(Value::U32)),
            ("ggml.eos_token_id", self.eos.map(Value::U32)),
            ("ggml.eot_token_id", self.eot.map(Value::U32)),
            ("ggml.unknown_token_id", self.unknown.map(Value::U32)),
            ("ggml.padding_token_id", self.padding.map(Value::U32)),
            ("ggml.add_bos_token", self.adds_bos.map(Value::Bool)),
            ("ggml.add_eos_token", self.adds_eos.map(Value::Bool)),
            ("ggml.add_space_prefix", self.adds_space.map(Value::Bool)),
            ("chat_template", text(&self.chat_template)),
        ];
        let named = |(name, value): (&str, Option<Value>)| {
            value.map(|value| (format!("tokenizer.{name}"), value))
        };
        values.into_iter().filter_map(named).collect()
    }
}

/// The metadata of a tokenizer, and what is wrong with them.
struct Reading<'a> {
    metadata: &'a BTreeMap<String, Value>,
    problems: Vec<String>,
}

impl Reading<'_> {
    /// A value of the kind that it is to have.
    fn value<T>(
        &mut self,
        name: &str,
        kind: &str,
        parse: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        let name = format!("tokenizer.{name}");
        let parsed = parse(self.metadata.get(&name)?);
        if parsed.is_none() {
            self.problems.push(format!("{name} is not {kind}"));
        }
        parsed
    }

    fn text(&mut self, name: &str) -> Option<String> {
        self.value(name, "a text", |value| value.as_str().map(str::to_owned))
    }

    fn flag(&mut self, name: &str) -> Option<bool> {
        self.value(name, "true or false", Value::as_bool)
    }

    fn texts(&mut self, name: &str) -> Vec<String> {
        let texts = |value: &Value| Some(value.as_array()?.as_strings()?.to_vec());
        self.value(name, "a list of texts", texts).unwrap_or_default()
    }

    /// A token, of which there are so many.
    fn token(&mut self, name: &str, tokens: usize) -> Option<u32> {
        let is_one = |id: &u32| (*id as usize) < tokens;
        let id = |value: &Value| u32::try_from(value.as_u64()?).ok().filter(is_one);
        self.value(name, &format!("one of the {tokens} tokens"), id)
    }

    /// A list with something for each of so many tokens.
    fn by_token<T>(
        &mut self,
        name: &str,
        tokens: usize,
        parse: impl Fn(&Array) -> Option<Vec<T>>,
    ) -> Vec<T> {
        let fits = |list: &Vec<T>| list.len() == tokens;
        let list = |value: &Value| parse(value.as_array()?).filter(fits);
        let kind = format!("a list with one for each of the {tokens} tokens");
        self.value(name, &kind, list).unwrap_or_default()
    }
}

/// The tokenizer among the metadata of a file with this name, if there is one.
///
/// # Errors
/// [`Error::ModelFile`](crate::Error::ModelFile) that names all that is of another kind, or does
/// not fit.
pub(super) fn tokenizer(
    file: &str,
    metadata: &BTreeMap<String, Value>,
) -> Result<Option<Tokenizer>> {
    let mut reading = Reading { metadata, problems: Vec::new() };
    let model = reading.text("ggml.model");
    let tokens = reading.texts("ggml.tokens");
    let count = tokens.len();
    let scores = |list: &Array| if let Array::F32(list) = list { Some(list.clone()) } else { None };
    let kinds = |list: &Array| {
        let Array::I32(codes) = list else { return None };
        codes.iter().map(|&code| TokenKind::of_code(code)).collect::<Option<Vec<_>>>()
    };
    let tokenizer = model.map(|model| Tokenizer {
        model,
        pre: reading.text("ggml.pre"),
        tokens,
        scores: reading.by_token("ggml.scores", count, scores),
        kinds: reading.by_token("ggml.token_type", count, kinds),
        merges: reading.texts("ggml.merges"),
        bos: reading.token("ggml.bos_token_id", count),
        eos: reading.token("ggml.eos_token_id", count),
        eot: reading.token("ggml.eot_token_id", count),
        unknown: reading.token("ggml.unknown_token_id", count),
        padding: reading.token("ggml.padding_token_id", count),
        adds_bos: reading.flag("ggml.add_bos_token"),
        adds_eos: reading.flag("ggml.add_eos_token"),
        adds_space: reading.flag("ggml.add_space_prefix"),
        chat_template: reading.text("chat_template"),
    });
    all_or_none(file, reading.problems)?;
    Ok(tokenizer)
}
