//! Text of tokens that come one by one.

use super::Tokenizer;
use crate::error::{Error, Result};

/// What stands for bytes that are no UTF-8, also for those that are the beginning of a character.
const REPLACEMENT: char = '\u{fffd}';

/// Decodes tokens as they come. What [`push`](Self::push) and [`finish`](Self::finish) give, put
/// together, is what [`Tokenizer::decode`] gives for all tokens at once, and no part of it ends
/// within a character: a token that does waits for those that go on. Of tokens that stand for single
/// bytes (`<0xE2>`) all wait that follow each other, since one that is no UTF-8 makes U+FFFD of all.
///
/// To go on with a prompt, and not with a text that begins, push the tokens of the prompt first:
/// some tokenizers leave out the space before the first word.
#[derive(Debug)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special_tokens: bool,
    /// The last token whose text has been given, and all since: that one's neighbourhood decides
    /// about spaces.
    window: Vec<u32>,
    /// What has been given of the text of the window.
    given: String,
}

impl<'a> DecodeStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special_tokens: bool) -> Self {
        Self { tokenizer, skip_special_tokens, window: Vec::new(), given: String::new() }
    }

    /// Takes the next token, and gives the text that it completes, which may be none.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`], and where the decoder changes text that was given before.
    pub fn push(&mut self, id: u32) -> Result<String> {
        if !self.tokenizer.has_text(id, self.skip_special_tokens) {
            return Ok(String::new());
        }
        self.window.push(id);
        if self.tokenizer.is_single_byte(id) {
            return Ok(String::new());
        }
        let text = self.tokenizer.decode(&self.window, false)?;
        // Of an incomplete character one stands at the end. It may also be one that stays, which
        // then comes with the next token.
        let settled = text.strip_suffix(REPLACEMENT).unwrap_or(&text);
        if self.given.starts_with(settled) && settled.len() < text.len() {
            return Ok(String::new());
        }
        let new = self.new_in(settled)?;
        if settled.len() == text.len() {
            self.given = self.tokenizer.decode(&[id], false)?;
            self.window = vec![id];
        } else {
            self.given.push_str(&new);
        }
        Ok(new)
    }

    /// The text of tokens that have waited for more: U+FFFD for bytes that are no character.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(self) -> Result<String> {
        let text = self.tokenizer.decode(&self.window, false)?;
        self.new_in(&text)
    }

    /// What of the window's text has not been given.
    fn new_in(&self, text: &str) -> Result<String> {
        text.strip_prefix(&self.given).map(str::to_owned).ok_or_else(|| Error::Unsupported {
            what: format!(
                "decoding {:?} token by token, where the decoder of the tokenizer makes {text:?} of \
                 what was {:?}",
                self.window, self.given
            ),
            instead: "decode all tokens at once".to_owned(),
        })
    }
}
