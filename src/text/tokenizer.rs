//! A tokenizer: texts to ids and back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use super::load::{self, Files, Loaded, TOKENIZER, invalid};
use super::template::{ChatOptions, ChatTemplate, DEFAULT, TOOL_USE};
use super::{Conversation, DecodeStream, SpecialTokens};
use crate::error::{Error, Result};
use crate::nn::GptConfig;

/// The most whitespace characters in a row.
const LONGEST_RUN: usize = 500_000;

/// A `tokenizer.json` of Hugging Face's, with what the files beside it say of special tokens and
/// chats. It runs without C code, in pages too.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialTokens,
    /// Tokens that stand for images and sounds, of which a model of text has no embedding.
    media: BTreeSet<u32>,
    templates: BTreeMap<String, ChatTemplate>,
    size: usize,
    has_single_bytes: bool,
}

impl Tokenizer {
    /// Names of the files that [`from_files`](Self::from_files) reads, beside templates in a folder
    /// of their own, `additional_chat_templates`.
    pub const FILES: [&str; 6] = load::FILES;

    /// Reads the tokenizer in a folder: `tokenizer.json`, and what is there of the files that
    /// [the module](super) lists.
    ///
    /// # Errors
    /// [`Error::File`] for files that cannot be read, [`Error::ModelFile`] for those that are
    /// damaged or do not belong together.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(folder: impl AsRef<std::path::Path>) -> Result<Self> {
        Self::from_files(&load::read_folder(folder.as_ref())?)
    }

    /// The files of the tokenizer in a folder by their names there, as they are: to write it beside
    /// another model. A chat template may lie in a folder of its own.
    ///
    /// # Errors
    /// [`Error::File`] for files that cannot be read.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn files_in(folder: impl AsRef<std::path::Path>) -> Result<BTreeMap<String, Vec<u8>>> {
        load::read_named(folder.as_ref(), &load::OWN_FILES)
    }

    /// The same with the contents of the files, by their names. Others may be among them.
    ///
    /// # Errors
    /// [`Error::ModelFile`] as `Tokenizer::open`.
    pub fn from_files(files: &BTreeMap<String, Vec<u8>>) -> Result<Self> {
        Ok(Self::of(load::load(files)?))
    }

    /// A `tokenizer.json` alone: without chat templates, and without special tokens but those that
    /// it adds to texts itself.
    ///
    /// # Errors
    /// [`Error::ModelFile`].
    pub fn from_bytes(tokenizer_json: &[u8]) -> Result<Self> {
        Self::from_files(&Files::from([(TOKENIZER.to_owned(), tokenizer_json.to_vec())]))
    }

    /// The contents of a `tokenizer.json` that makes the same ids.
    ///
    /// # Errors
    /// [`Error::ModelFile`] for a tokenizer that cannot be written.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let failed = |error: tokenizers::Error| load::invalid(TOKENIZER, error.to_string());
        Ok(self.inner.to_string(false).map_err(failed)?.into_bytes())
    }

    fn of(loaded: Loaded) -> Self {
        let Loaded { inner, special, media, templates } = loaded;
        let last = inner.get_vocab(true).into_values().max();
        let size = last.map_or(0, |last| last as usize + 1);
        let decoder = inner.get_decoder().map(serde_json::to_string);
        let has_single_bytes = matches!(decoder, Some(Ok(text)) if text.contains("ByteFallback"));
        Self { inner, special, media, templates, size, has_single_bytes }
    }

    /// The ids of a text. Special tokens that are written in it are found; `add_special_tokens`
    /// puts those around it that the model has learned texts with, such as one that begins it.
    ///
    /// # Errors
    /// [`Error::Data`] where the tokenizer has no token for something in the text, and for more than
    /// half a million whitespace characters in a row, which patterns do not match.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        check_runs(text)?;
        let encoding = self.inner.encode_fast(text, add_special_tokens);
        Ok(encoding.map_err(unencodable)?.get_ids().to_vec())
    }

    /// The ids, and which bytes of the text each stands for.
    pub(super) fn encode_with_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
        check_runs(text)?;
        let encoding = self.inner.encode(text, false).map_err(unencodable)?;
        let offsets = encoding.get_offsets().iter().map(|&(start, end)| start..end);
        Ok((encoding.get_ids().to_vec(), offsets.collect()))
    }

    /// The text of ids, as the decoder of the tokenizer has it. Bytes that are no UTF-8 become
    /// U+FFFD. An id without a token has no text: the tables of models are often longer than their
    /// tokenizers. `skip_special_tokens` leaves special tokens out.
    ///
    /// # Errors
    /// [`Error::Data`] where the decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.inner.decode(ids, skip_special_tokens).map_err(|error| Error::Data {
            what: "the tokens".to_owned(),
            reason: format!("they cannot be decoded: {error}"),
        })
    }

    /// To decode tokens one by one.
    pub fn decode_stream(&self, skip_special_tokens: bool) -> DecodeStream<'_> {
        DecodeStream::new(self, skip_special_tokens)
    }

    /// Whether [`decode`](Self::decode) makes anything of an id.
    pub(super) fn has_text(&self, id: u32, skip_special_tokens: bool) -> bool {
        let is_special = |token: &str| self.inner.get_added_vocabulary().is_special_token(token);
        let token = self.inner.id_to_token(id);
        token.is_some_and(|token| !skip_special_tokens || !is_special(&token))
    }

    /// Whether the decoder takes a token for one byte, such as `<0xE2>`.
    pub(super) fn is_single_byte(&self, id: u32) -> bool {
        let byte = |token: String| {
            let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
            u8::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 2)
        };
        self.has_single_bytes && self.inner.id_to_token(id).and_then(byte).is_some()
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id, as the vocabulary has it: often no text (`Ġkeel`, `▁keel`).
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The tokens that are found whole in texts, by their ids.
    pub(super) fn whole_tokens(&self) -> BTreeMap<u32, tokenizers::AddedToken> {
        self.inner.get_added_tokens_decoder().into_iter().collect()
    }

    /// The tokens with a meaning of their own.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// The first id above all tokens.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Fails unless a model has a row in its table for each token. It may have more: tables are
    /// often padded. Tokens that stand for images or sounds need none.
    ///
    /// # Errors
    /// [`Error::ModelFile`] that names the tokens without one.
    pub fn check(&self, model: &GptConfig) -> Result<()> {
        let rows = model.vocabulary;
        let ids = rows.min(self.size) as u32..self.size as u32;
        let beyond: Vec<_> = ids
            .filter(|id| !self.media.contains(id))
            .filter_map(|id| Some(format!("{:?} ({id})", self.token(id)?)))
            .collect();
        if beyond.is_empty() {
            return Ok(());
        }
        let named = beyond[..beyond.len().min(3)].join(", ");
        let more = if beyond.len() > 3 { ", ..." } else { "" };
        let reason = format!(
            "the model has {rows} tokens, and the tokenizer {} more: {named}{more}; take the \
             tokenizer that belongs to the model, or leave out what was added to it",
            beyond.len()
        );
        Err(invalid(TOKENIZER, reason))
    }

    /// A chat template by name: `default`, or of another purpose, such as `tool_use`.
    pub fn chat_template(&self, name: &str) -> Option<&ChatTemplate> {
        self.templates.get(name)
    }

    /// Sets the default chat template, for models that come without one.
    ///
    /// # Errors
    /// [`Error::ModelFile`] with what is wrong with it, and where.
    pub fn set_chat_template(&mut self, source: &str) -> Result<()> {
        let template = ChatTemplate::new(source, &self.special)?;
        self.templates.insert(DEFAULT.to_owned(), template);
        Ok(())
    }

    /// The template of a conversation: `tool_use` for one with tools, if there is one, and otherwise
    /// the default.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where there is none.
    pub fn template_for(&self, conversation: &Conversation) -> Result<&ChatTemplate> {
        let for_tools = conversation.tools().and(self.templates.get(TOOL_USE));
        for_tools.or(self.templates.get(DEFAULT)).ok_or_else(|| {
            let names: Vec<_> = self.templates.keys().map(String::as_str).collect();
            let there = match &*names {
                [] => "set one (Tokenizer::set_chat_template), or give plain texts".to_owned(),
                names => format!("there are {}; render with one of them", names.join(", ")),
            };
            Error::Unsupported {
                what: "a conversation with a tokenizer that has no default chat template"
                    .to_owned(),
                instead: there,
            }
        })
    }

    /// A conversation as the text that the model has learned conversations with.
    ///
    /// # Errors
    /// Those of [`template_for`](Self::template_for) and [`ChatTemplate::render`].
    pub fn render_chat(&self, chat: &Conversation, options: &ChatOptions) -> Result<String> {
        self.template_for(chat)?.render(chat, options)
    }

    /// The ids of that text, to which nothing is added: a template has the special tokens.
    ///
    /// # Errors
    /// As [`render_chat`](Self::render_chat) and [`encode`](Self::encode).
    pub fn encode_chat(&self, chat: &Conversation, options: &ChatOptions) -> Result<Vec<u32>> {
        self.encode(&self.render_chat(chat, options)?, false)
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("size", &self.size)
            .field("special", &self.special)
            .field("templates", &self.templates.keys())
            .finish_non_exhaustive()
    }
}

/// Fails where there is more whitespace in a row than `\s+(?!\S)` is matched on: it may give back
/// each character, and at a million fancy-regex gives up, which tokenizers does not tell.
fn check_runs(text: &str) -> Result<()> {
    let is_run = |run: &str| run.len() > LONGEST_RUN && run.chars().count() > LONGEST_RUN;
    if text.len() <= LONGEST_RUN || !text.split(|c: char| !c.is_whitespace()).any(is_run) {
        return Ok(());
    }
    Err(Error::Data {
        what: "the text".to_owned(),
        reason: format!(
            "it has more than {LONGEST_RUN} whitespace characters in a row, which patterns of \
             tokenizers are not matched on; leave some out, or encode it in parts"
        ),
    })
}

fn unencodable(error: tokenizers::Error) -> Error {
    Error::Data {
        what: "the text".to_owned(),
        reason: format!("the tokenizer cannot encode it: {error}"),
    }
}
