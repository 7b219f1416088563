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

/// What the lines of a file have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A `prompt` and a `completion`, with `tools` if there are any.
    Completions,
    /// `messages`, with `tools` if there are any.
    Conversations,
    /// A `text`.
    Texts,
}

impl Form {
    /// The fields that make it, all of which a line must have, and those that it may have.
    const fn fields(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Completions => (&["prompt", "completion"], &["tools"]),
            Self::Conversations => (&["messages"], &["tools"]),
            Self::Texts => (&["text"], &[]),
        }
    }

    /// The first of them whose fields are there, in the order of mlx-lm.
    fn of(fields: &[(String, Value)]) -> Option<Self> {
        let has = |name: &&str| fields.iter().any(|(field, _)| field == name);
        let all = [Self::Completions, Self::Conversations, Self::Texts];
        all.into_iter().find(|form| form.fields().0.iter().all(has))
    }
}

/// Examples out of a file, one a line.
#[derive(Clone, Debug)]
pub struct Examples {
    name: String,
    examples: Vec<Example>,
    form: Option<Form>,
    passed_over: Vec<String>,
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
        Ok(Self { name, examples, form: None, passed_over: Vec::new() })
    }

    /// Reads the contents of such a file as mlx-lm does: the first line decides which form all of
    /// them have, the first one of [`Form`]'s whose fields it has. Other fields are
    /// [passed over](Self::passed_over).
    ///
    /// # Errors
    /// [`Error::Data`] with the line that has not the fields of that form.
    pub fn parse_as_first(name: impl Into<String>, contents: &[u8]) -> Result<Self> {
        let name = name.into();
        let text = decode(&name, contents)?;
        let text = text.trim_end_matches(|c: char| c.is_ascii_whitespace());
        let (mut examples, mut form, mut passed_over) = (Vec::new(), None, Vec::new());
        for (index, line) in text.split('\n').enumerate().filter(|_| !text.is_empty()) {
            let example = Example::of_form(line, &mut form, &mut passed_over);
            examples.push(example.map_err(|reason| at_line(&name, index + 1, reason))?);
        }
        if examples.is_empty() {
            let reason = "there are no lines in it; give some to learn from".to_owned();
            return Err(Error::Data { what: name, reason });
        }
        Ok(Self { name, examples, form, passed_over })
    }

    /// The form of all lines, where the first one decided.
    pub fn form(&self) -> Option<Form> {
        self.form
    }

    /// Names of the fields that were not read, where the first line decided.
    pub fn passed_over(&self) -> &[String] {
        &self.passed_over
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

/// The object in a line, and its fields.
fn object(line: &str) -> Result<(Value, Vec<(String, Value)>), String> {
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
    Ok((value, fields))
}

impl Example {
    /// The example in a line of JSON: of the first [`Form`] whose fields it has. Other fields are
    /// passed over.
    ///
    /// # Errors
    /// What is wrong with the line, in words.
    pub fn parse(line: &str) -> Result<Self, String> {
        Self::of_form(line, &mut None, &mut Vec::new())
    }

    fn from_json(line: &str) -> Result<Self, String> {
        let (value, fields) = object(line)?;
        let has = |name: &str| fields.iter().any(|(field, _)| field == name);
        if has("messages") {
            return Conversation::from_value(&value).map(Self::Conversation);
        }
        let known: &[&str] = if has("text") { &["text"] } else { &["prompt", "completion"] };
        if let Some((name, _)) = fields.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            return Err(not_known(name));
        }
        Self::from_texts(&fields)
    }

    /// An example of a form, or of the first one that fits where it is not known yet; other fields
    /// are noted.
    fn of_form(
        line: &str,
        form: &mut Option<Form>,
        passed_over: &mut Vec<String>,
    ) -> Result<Self, String> {
        let (_, mut fields) = object(line)?;
        let found = form.or_else(|| Form::of(&fields));
        let found = found.ok_or("it has neither prompt and completion, nor messages, nor text")?;
        let form = *form.insert(found);
        let (needed, possible) = form.fields();
        if let Some(missing) = needed.iter().find(|&&name| fields.iter().all(|(n, _)| n != name)) {
            let first = needed.join(" and ");
            return Err(format!("it has no {missing:?}, and the first line has {first}"));
        }
        fields.retain(|(name, _)| {
            let is_read = needed.contains(&name.as_str()) || possible.contains(&name.as_str());
            if !is_read && !passed_over.contains(name) {
                passed_over.push(name.clone());
            }
            is_read
        });
        fields.retain(|(name, value)| name != "tools" || !value.is_none());
        match form {
            Form::Texts => Self::from_texts(&fields),
            Form::Conversations => {
                Conversation::from_value(&Value::from_pairs(fields)).map(Self::Conversation)
            }
            Form::Completions if fields.len() == needed.len() => Self::from_texts(&fields),
            Form::Completions => Self::with_tools(&fields),
        }
    }

    /// A prompt and its completion with tools: only a conversation can have those.
    fn with_tools(fields: &[(String, Value)]) -> Result<Self, String> {
        let Self::Completion { prompt, completion } = Self::from_texts(fields)? else {
            unreachable!("fields of a completion");
        };
        let message = |role: &str, content: String| {
            Value::from_pairs([("role", role.to_owned()), ("content", content)])
        };
        let messages = vec![message("user", prompt), message("assistant", completion)];
        let tools = fields.iter().find(|(name, _)| name == "tools").map(|(_, tools)| tools.clone());
        let all = [("messages", Value::from(messages)), ("tools", tools.unwrap_or_default())];
        Conversation::from_value(&Value::from_pairs(all)).map(Self::Conversation)
    }

    /// A text, or a prompt and its completion.
    fn from_texts(fields: &[(String, Value)]) -> Result<Self, String> {
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
        if fields.iter().any(|(field, _)| field == "text") {
            return field("text").map(Self::Text);
        }
        Ok(Self::Completion { prompt: field("prompt")?, completion: field("completion")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &[&str]) -> Result<Examples> {
        Examples::parse_as_first("lines", lines.join("\n").as_bytes())
    }

    #[test]
    fn the_first_line_decides() {
        let both = r#"{"text": "t", "messages": [], "prompt": "a", "completion": "b", "id": 7}"#;
        let read = parse(&[both, r#"{"prompt": "c", "completion": "d", "id": 8}"#]);
        let read = read.expect("completions");
        assert_eq!(read.form(), Some(Form::Completions));
        assert_eq!(read.passed_over(), ["text", "messages", "id"]);
        let Example::Completion { prompt, completion } = &read.examples()[1] else {
            panic!("{read:?}");
        };
        assert_eq!((&**prompt, &**completion), ("c", "d"));

        let error = parse(&[r#"{"text": "t"}"#, r#"{"prompt": "c", "completion": "d"}"#]);
        let error = error.expect_err("another form").to_string();
        assert!(error.contains("lines, line 2") && error.contains("no \"text\""), "{error}");
        let error = parse(&[r#"{"question": "t"}"#]).expect_err("no form").to_string();
        assert!(error.contains("neither prompt and completion, nor messages"), "{error}");
        assert!(parse(&[""]).is_err());
    }

    #[test]
    fn tools_of_a_completion_make_it_a_conversation() {
        let line = r#"{"prompt": "a", "completion": "b", "tools": [{"name": "f"}]}"#;
        let read = parse(&[line, r#"{"prompt": "a", "completion": "b", "tools": null}"#]);
        let read = read.expect("completions");
        let Example::Conversation(chat) = &read.examples()[0] else { panic!("{read:?}") };
        assert_eq!(chat.messages().len(), 2);
        assert_eq!(chat.messages()[1].content().as_deref(), Some("b"));
        assert!(chat.tools().is_some());
        assert!(matches!(read.examples()[1], Example::Completion { .. }));
    }
}
