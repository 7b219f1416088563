//! Conversations, as transformers and OpenAI write them.

use minijinja::Value;
use minijinja::value::ValueKind;

use crate::error::{Error, Result};

/// What a message may have. What else there is would be passed over by most templates.
const FIELDS: [&str; 9] = [
    "role",
    "content",
    "name",
    "tool_calls",
    "tool_call_id",
    "reasoning_content",
    "thinking",
    "reasoning",
    "weight",
];

/// The names of reasoning before an answer. The first is the one that templates read.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A message of a conversation.
#[derive(Clone, Debug)]
pub struct Message {
    role: String,
    /// What the template is given.
    pub(super) fields: Value,
    /// Whether it is to be learned from, if it is an answer.
    pub(super) counts: bool,
}

/// Messages in turn, and the tools that the assistant may call.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    messages: Vec<Message>,
    tools: Option<Value>,
}

impl Message {
    /// A message of `system`, `user`, `assistant`, or another role that the template knows.
    pub fn new(role: &str, content: &str) -> Self {
        let fields = Value::from_pairs([("role", role), ("content", content)]);
        Self { role: role.to_owned(), fields, counts: true }
    }

    /// Whose message it is.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// What it says, where that is a text and not a list of parts.
    pub fn content(&self) -> Option<String> {
        let content = self.fields.get_attr("content").ok()?;
        content.as_str().map(str::to_owned)
    }

    pub(super) fn is_answer(&self) -> bool {
        self.role == "assistant"
    }

    fn from_value(value: &Value) -> Result<Self, String> {
        if value.kind() != ValueKind::Map {
            return Err("it is no JSON object".to_owned());
        }
        // As transformers does: fields that are null are as if they were not there.
        let all = pairs(value).into_iter().filter(|(_, value)| !value.is_none());
        let mut fields: Vec<_> = all.collect();
        if let Some((name, _)) = fields.iter().find(|(name, _)| !FIELDS.contains(&name.as_str())) {
            return Err(not_known(name));
        }
        let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, v)| v);
        let role = field("role").and_then(Value::as_str).filter(|role| !role.is_empty());
        let role = role.ok_or("it has no role that is a text")?.to_owned();
        match field("content") {
            Some(content) => check_content(content)?,
            None if field("tool_calls").is_some() => {}
            None => return Err("it has no content".to_owned()),
        }
        let counts = match field("weight") {
            None => true,
            Some(_) if role != "assistant" => {
                return Err(format!("it is of {role:?} and has a weight; only answers have one"));
            }
            Some(weight) => match weight.as_i64() {
                Some(0) => false,
                Some(1) => true,
                _ => return Err(format!("its weight is {weight}, and not 0 or 1")),
            },
        };
        fields.retain(|(name, _)| name != "weight");
        Ok(Self { role, fields: Value::from_pairs(with_reasoning(fields)), counts })
    }
}

impl Conversation {
    /// No messages yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a message.
    #[must_use]
    pub fn with(mut self, role: &str, content: &str) -> Self {
        self.messages.push(Message::new(role, content));
        self
    }

    /// Adds a message.
    pub fn push(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Reads a conversation: an object with a list `messages` and, if there are any, a list of
    /// `tools`, or the list of messages alone. A message has a `role`, and a `content` that is a
    /// text, or a list of parts of the type `text`. It may have a `name`, `tool_calls` (then also
    /// no content), a `tool_call_id`, `reasoning_content`, and an answer a `weight` of 0 or 1:
    /// whether it is to be learned from.
    ///
    /// # Errors
    /// [`Error::Data`] that says what is wrong.
    pub fn from_json(text: &str) -> Result<Self> {
        let value = serde_json::from_str::<Value>(text).map_err(|error| error.to_string());
        value
            .and_then(|value| Self::from_value(&value))
            .map_err(|reason| Error::Data { what: "a conversation".to_owned(), reason })
    }

    pub(super) fn from_value(value: &Value) -> Result<Self, String> {
        if value.kind() == ValueKind::Seq {
            return Self::from_parts(value, None);
        }
        let (mut messages, mut tools) = (None, None);
        for (name, value) in pairs(value) {
            match &*name {
                "messages" => messages = Some(value),
                "tools" => tools = Some(value).filter(|tools| !tools.is_none()),
                _ => return Err(not_known(&name)),
            }
        }
        Self::from_parts(&messages.ok_or("it has no messages")?, tools)
    }

    fn from_parts(messages: &Value, tools: Option<Value>) -> Result<Self, String> {
        let list = items(messages).ok_or("messages is no list")?;
        if list.is_empty() {
            return Err("there are no messages".to_owned());
        }
        let message = |(index, value): (usize, &Value)| {
            Message::from_value(value).map_err(|reason| format!("message {}: {reason}", index + 1))
        };
        let messages = list.iter().enumerate().map(message).collect::<Result<_, _>>()?;
        if let Some(tools) = &tools {
            let list = items(tools).ok_or("tools is no list")?;
            if list.iter().any(|tool| tool.kind() != ValueKind::Map) {
                return Err("one of the tools is no JSON object".to_owned());
            }
        }
        Ok(Self { messages, tools })
    }

    /// Its messages.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    pub(super) fn tools(&self) -> Option<&Value> {
        self.tools.as_ref()
    }
}

/// What is wrong with a field that nobody asked for.
pub(super) fn not_known(name: &str) -> String {
    format!("it has {name:?}, which is not known here; delete it if it is nothing to learn from")
}

/// The fields of an object, in their order.
pub(super) fn pairs(object: &Value) -> Vec<(String, Value)> {
    let pairs = object.as_object().and_then(|object| object.try_iter_pairs());
    let pairs = pairs.into_iter().flatten();
    pairs.map(|(name, value)| (name.to_string(), value)).collect()
}

/// The items of a list.
fn items(list: &Value) -> Option<Vec<Value>> {
    (list.kind() == ValueKind::Seq).then(|| list.try_iter().into_iter().flatten().collect())
}

/// A text, or parts that are texts.
fn check_content(content: &Value) -> Result<(), String> {
    if content.kind() == ValueKind::String {
        return Ok(());
    }
    let parts = items(content).ok_or("its content is neither a text nor a list of parts")?;
    for part in parts {
        let field = |name: &str| part.get_attr(name).unwrap_or_default();
        let (kind, text) = (field("type"), field("text"));
        if kind.as_str() != Some("text") {
            return Err(format!(
                "its content has a part of the type {:?}; only text is read",
                kind.to_string()
            ));
        }
        if text.kind() != ValueKind::String {
            return Err("its content has a part of the type text without a text".to_owned());
        }
    }
    Ok(())
}

/// Gives reasoning the names that templates read it under, as transformers does.
fn with_reasoning(mut fields: Vec<(String, Value)>) -> Vec<(String, Value)> {
    let reasoning = REASONING.iter().find_map(|&name| find(&fields, name).cloned());
    let Some(reasoning) = reasoning else { return fields };
    if find(&fields, "thinking").is_none() {
        fields.insert(0, ("thinking".to_owned(), reasoning.clone()));
    }
    match fields.iter_mut().find(|(name, _)| name == REASONING[0]) {
        Some((_, value)) => *value = reasoning,
        None => fields.push((REASONING[0].to_owned(), reasoning)),
    }
    fields
}

fn find<'a>(fields: &'a [(String, Value)], name: &str) -> Option<&'a Value> {
    fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
}
