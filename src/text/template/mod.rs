//! Chat templates: Jinja programs that make one text of a conversation.

mod environment;
mod generation;
mod json;
mod methods;
mod python;
mod time;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use minijinja::Value;
use minijinja::value::Serde;

use super::conversation::{Conversation, Message};
use super::load::{CHAT_TEMPLATE, invalid};
use super::special::SpecialTokens;
use crate::error::{Error, Result};
use environment::{Environment, Refused, environment};

/// The name of the template of conversations.
pub(super) const DEFAULT: &str = "default";
/// The name of the template of conversations with tools, where there is one.
pub(super) const TOOL_USE: &str = "tool_use";
/// The name of the one template of an environment.
const NAME: &str = "chat_template";

/// A chat template, compiled. It has what transformers gives templates: `raise_exception`,
/// `strftime_now`, `tojson` without HTML's escapes, Python's methods of texts, `break` and
/// `continue`, `{% generation %}`, and the special tokens by name (`bos_token`); blocks are trimmed
/// on both sides.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Environment,
    special: BTreeMap<String, String>,
    marks_answers: bool,
    source: String,
}

/// What a template is given beside the conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatOptions {
    /// Whether the text ends with what an answer begins with.
    pub add_generation_prompt: bool,
    /// Further variables of the template, such as `enable_thinking` or `date_string`. They come
    /// before special tokens of the same name.
    pub variables: BTreeMap<String, serde_json::Value>,
    /// The time that `strftime_now` formats, in seconds since 1970 began, of whatever time zone;
    /// that of the host's clock in UTC where it is absent. Templates that name the day make another
    /// text of the same conversation tomorrow.
    pub now: Option<i64>,
}

/// The text of a conversation, and what of it the template itself says is answers.
pub(super) struct Marked {
    pub text: String,
    /// Bytes of the text that are answers.
    pub answers: Vec<Range<usize>>,
}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`Error::ModelFile`] with what is wrong with it, and in which line.
    pub fn new(source: &str, special: &SpecialTokens) -> Result<Self> {
        Self::in_file(CHAT_TEMPLATE, source, special)
    }

    pub(super) fn in_file(file: &str, source: &str, special: &SpecialTokens) -> Result<Self> {
        // Jinja ends all lines alike.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let (compiled, marks_answers) = generation::as_filters(&source);
        let mut environment = environment();
        environment
            .add_template_owned(NAME, compiled)
            .map_err(|error| invalid(file, format!("its chat template: {}", chain(&error))))?;
        Ok(Self { environment, special: special.named.clone(), marks_answers, source })
    }

    /// What it was compiled of, in Jinja.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// [`Error::Data`] with the template's own message, where it refuses the conversation
    /// (`raise_exception`), or with what went wrong, and in which line.
    pub fn render(&self, chat: &Conversation, options: &ChatOptions) -> Result<String> {
        self.render_part(chat, chat.messages(), options)
    }

    /// The text of the first messages of a conversation.
    pub(super) fn render_part(
        &self,
        chat: &Conversation,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<String> {
        let mut environment = self.environment.clone();
        environment::set_clock(&mut environment, options.now);
        self.run(&environment, chat, messages, options)
    }

    /// Whether the template says what of its text is answers (`{% generation %}`).
    pub fn marks_answers(&self) -> bool {
        self.marks_answers
    }

    /// The text of the first messages, and what of it are answers by the template's own marks.
    pub(super) fn render_marked(
        &self,
        chat: &Conversation,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<Marked> {
        let mut environment = self.environment.clone();
        environment::set_clock(&mut environment, options.now);
        let text = self.run(&environment, chat, messages, options)?;
        environment.add_filter(generation::FILTER, generation::mark);
        let marked = self.run(&environment, chat, messages, options)?;
        let answers = generation::spans(&text, &marked).map_err(failed)?;
        Ok(Marked { text, answers })
    }

    fn run(
        &self,
        environment: &Environment,
        chat: &Conversation,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<String> {
        let special = self.special.iter().map(|(name, token)| (name.clone(), Value::from(token)));
        let given = options.variables.iter();
        let given = given.map(|(name, value)| (name.clone(), Value::from(Serde(value.clone()))));
        let own = [
            ("messages", messages.iter().map(|message| message.fields.clone()).collect()),
            ("tools", chat.tools().cloned().unwrap_or(().into())),
            ("add_generation_prompt", options.add_generation_prompt.into()),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        let documents = ("documents".to_owned(), Value::from(()));
        let variables = special.chain([documents]).chain(given).chain(own);
        let template = environment.get_template(NAME).expect("it was compiled");
        template.render(Value::from_pairs(variables)).map_err(|error| failed(reason(&error)))
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("marks_answers", &self.marks_answers)
            .finish_non_exhaustive()
    }
}

fn failed(reason: String) -> Error {
    Error::Data { what: "the chat template".to_owned(), reason }
}

/// What the template says itself, or what went wrong in it.
fn reason(error: &minijinja::Error) -> String {
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = at {
        if let Some(Refused(message)) = error.downcast_ref::<Refused>() {
            return format!("it refuses the conversation: {message}");
        }
        at = error.source();
    }
    chain(error)
}

/// An error and what caused it.
fn chain(error: &minijinja::Error) -> String {
    let mut text = error.to_string();
    let mut at = std::error::Error::source(error);
    while let Some(source) = at {
        text.push_str(&format!(": {source}"));
        at = source.source();
    }
    text
}
