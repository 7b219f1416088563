//! Files of JSON lines with texts to learn from.

use minijinja::Value;
use minijinja::value::ValueKind;

use super::conversation::{Conversation, not_known, pairs};
use crate::data::decode;
use crate::error::{Error, Result};

/// A text to learn from.
#[derive(Clone, Debug)]
pub enum Example {
    /// A conversation: `{"messages": [{"role": "user", "content": "..."}, ...]}`, with `tools` if
    /// there are any.
    Conversation(Conversation),
    /// `{"prompt": "...", "completion": "..."}`
    Completion {
        /// What there is first.
        prompt: String,
        /// How it goes on.
        completion: String,
    },
    /// `{"text": "..."}`
    Text(String),
}

/// Examples out of a file, one a line.
#[derive(Clone, Debug)]
pub struct Examples {
    name: String,
    examples: Vec<Example>,
}

impl Examples {
    /// Reads a file of JSON lines.
    ///
    /// # Errors
    /// [`Error::File`] where it cannot be read, and as [`parse`](Self::parse).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read(path: impl AsRef<std::path::Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::parse(path.display().to_string(), &crate::data::read(path)?)
    }

    /// Reads the contents of such a file: a JSON object a line, as mlx-lm, transformers and OpenAI
    /// have them, of the forms that [`Example`] lists. `name` stands in messages. A line that has
    /// anything else, or two forms at once, is an error: what is there is to be learned from, or to
    /// be deleted. Lines may be of different forms, and empty ones may end the file.
    ///
    /// # Errors
    /// [`Error::Data`] with the line and what is wrong with it.
    pub fn parse(name: impl Into<String>, contents: &[u8]) -> Result<Self> {
        let name = name.into();
        let text = decode(&name, contents)?;
        let lines = text.trim_end_matches(|c: char| c.is_ascii_whitespace()).split('\n');
        let example = |(index, line): (usize, &str)| {
            Example::from_json(line).map_err(|reason| at_line(&name, index + 1, reason))
        };
        let examples = match text.trim().is_empty() {
            true => {
                let reason = "there are no lines in it; give some to learn from".to_owned();
                return Err(Error::Data { what: name, reason });
            }
            false => lines.enumerate().map(example).collect::<Result<_>>()?,
        };
        Ok(Self { name, examples })
    }

    /// Where they come from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One of each line, in their order.
    pub fn examples(&self) -> &[Example] {
        &self.examples
    }
}

/// What is wrong with a line, counted from 1.
pub(super) fn at_line(name: &str, line: usize, reason: String) -> Error {
    Error::Data { what: format!("{name}, line {line}"), reason }
}

impl Example {
    fn from_json(line: &str) -> Result<Self, String> {
        if line.trim().is_empty() {
            return Err("it is empty".to_owned());
        }
        let value: Value = serde_json::from_str(line).map_err(|error| {
            // There is one line, whichever it is in the file.
            let error = error.to_string();
            let error = error.replace(" at line 1 column ", " at column ");
            format!("it is no JSON: {error}")
        })?;
        if value.kind() != ValueKind::Map {
            return Err("it is no JSON object; a line is one, and the file no list".to_owned());
        }
        let fields = pairs(&value);
        let has = |name: &str| fields.iter().any(|(field, _)| field == name);
        if has("messages") {
            return Conversation::from_value(&value).map(Self::Conversation);
        }
        let known: &[&str] = if has("text") { &["text"] } else { &["prompt", "completion"] };
        if let Some((name, _)) = fields.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            return Err(not_known(name));
        }
        let field = |name: &str| match fields.iter().find(|(field, _)| field == name) {
            None => Err(format!(
                "it has no {name:?}; it may have messages, prompt and completion, \
                                 or text"
            )),
            Some((_, value)) => match value.as_str() {
                Some("") => Err(format!("its {name} is empty")),
                Some(text) => Ok(text.to_owned()),
                None => Err(format!("its {name} is no text; conversations are called messages")),
            },
        };
        if has("text") {
            return field("text").map(Self::Text);
        }
        Ok(Self::Completion { prompt: field("prompt")?, completion: field("completion")? })
    }
}
