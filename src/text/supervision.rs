//! Which tokens of a text count for the loss.

use std::ops::Range;

use super::conversation::Message;
use super::examples::at_line;
use super::{
    ChatOptions, ChatTemplate, Conversation, Example, Examples, Sample, Summary, Tokenizer,
    Truncated,
};
use crate::error::{Error, Result};

/// What of a text counts for the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LossOn {
    /// Everything.
    All,
    /// What is to be learned: of a conversation the answers of the assistant, each with what ends
    /// it; of a prompt with its completion the completion; of a text alone everything.
    #[default]
    Answers,
    /// The same, but of a conversation the last message alone, which must be an answer: what mlx-lm
    /// does with `--mask-prompt`. It also suits templates that render earlier answers otherwise,
    /// such as those that leave out their reasoning.
    LastAnswer,
}

/// How a prompt and its completion are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Completions {
    /// As one text, the completion right behind the prompt, as trl does: for models of text.
    #[default]
    Plain,
    /// As a conversation of a user and the assistant, as mlx-lm does: for models of chats.
    Chat,
}

/// How texts become samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Supervision {
    /// What counts for the loss.
    pub loss_on: LossOn,
    /// How prompts and completions are put together.
    pub completions: Completions,
    /// The most inputs of a sample; what is longer is cut at its end, and reported. By default
    /// nothing is cut.
    pub context: Option<usize>,
    /// What chat templates are given. Whether a generation is to follow is not among what counts.
    pub chat: ChatOptions,
}

impl Supervision {
    /// Makes samples of all lines, in their order, but for those of which nothing counts, and says
    /// what was cut and left out.
    ///
    /// # Errors
    /// [`Error::Data`] with the line, as [`encode`](Self::encode), and where no sample is left;
    /// [`Error::Setting`] for a context of 0.
    pub fn encode_all(
        &self,
        tokenizer: &Tokenizer,
        examples: &Examples,
    ) -> Result<(Vec<Sample>, Summary)> {
        if self.context == Some(0) {
            let (setting, value) = ("context of samples", "0".to_owned());
            return Err(Error::Setting { setting, value, range: "at least 1" });
        }
        let (mut samples, mut summary) = (Vec::new(), Summary::default());
        for (index, example) in examples.examples().iter().enumerate() {
            let line = index + 1;
            let mut sample = self
                .encode(tokenizer, example)
                .map_err(|error| at_line(examples.name(), line, error.to_string()))?;
            summary.truncated.extend(self.truncate(&mut sample, line));
            if sample.counted() == 0 {
                summary.left_out.push(line);
                continue;
            }
            summary.samples += 1;
            summary.tokens += sample.inputs().len();
            summary.counted += sample.counted();
            samples.push(sample);
        }
        if samples.is_empty() {
            let reason = format!("nothing in it counts for the loss: {summary}");
            return Err(Error::Data { what: examples.name().to_owned(), reason });
        }
        Ok((samples, summary))
    }

    fn truncate(&self, sample: &mut Sample, line: usize) -> Option<Truncated> {
        let (tokens, counted) = (sample.tokens.len(), sample.counted());
        let kept = self.context?.saturating_add(1);
        if tokens <= kept {
            return None;
        }
        sample.tokens.truncate(kept);
        sample.counts.truncate(kept);
        Some(Truncated { line, tokens, kept, counted: counted - sample.counted() })
    }

    /// The ids of a text, whole, and which of them count. Behind texts that are no conversations
    /// comes the token that ends a text, if the tokenizer has one.
    ///
    /// # Errors
    /// [`Error::Data`] and [`Error::Unsupported`]: a conversation that the template refuses, that
    /// has no answers, or whose answers cannot be told from the rest; a prompt whose end is in one
    /// token with the beginning of its completion.
    pub fn encode(&self, tokenizer: &Tokenizer, example: &Example) -> Result<Sample> {
        match example {
            Example::Conversation(chat) => self.conversation(tokenizer, chat),
            Example::Completion { prompt, completion } => match self.completions {
                Completions::Plain => self.completion(tokenizer, prompt, completion),
                Completions::Chat => {
                    let chat = Conversation::new().with("user", prompt);
                    self.conversation(tokenizer, &chat.with("assistant", completion))
                }
            },
            Example::Text(text) => {
                let tokens = with_end(tokenizer, tokenizer.encode(text, true)?);
                Ok(counted(tokens, |_| true))
            }
        }
    }

    fn completion(&self, tokenizer: &Tokenizer, prompt: &str, completion: &str) -> Result<Sample> {
        let text = format!("{prompt}{completion}");
        let tokens = tokenizer.encode(&text, true)?;
        let [text, prompt] = [&*text, prompt].map(|text| tokenizer.encode(text, false));
        let (text, prompt) = (text?, prompt?);
        if self.loss_on != LossOn::All && !text.starts_with(&prompt) {
            let reason = "the end of the prompt and the beginning of the completion are one token; \
                          let the space between them, or the line's end, be part of the completion";
            return Err(Error::Data {
                what: "a prompt and its completion".to_owned(),
                reason: reason.to_owned(),
            });
        }
        // The special tokens in front count as little as the prompt.
        let in_front = (0..=tokens.len()).find(|&at| tokens[at..].starts_with(&text)).unwrap_or(0);
        let start = if self.loss_on == LossOn::All { 0 } else { in_front + prompt.len() };
        Ok(counted(with_end(tokenizer, tokens), |at| at >= start))
    }

    fn conversation(&self, tokenizer: &Tokenizer, chat: &Conversation) -> Result<Sample> {
        let template = tokenizer.template_for(chat)?;
        if self.loss_on == LossOn::All {
            let text = self.render(template, chat, chat.messages(), false)?;
            return Ok(counted(tokenizer.encode(&text, false)?, |_| true));
        }
        let messages = chat.messages();
        if !messages.iter().any(Message::is_answer) {
            return Err(unclear("it has no message of the assistant, so nothing of it counts"));
        }
        if self.loss_on == LossOn::LastAnswer && !messages.last().is_some_and(Message::is_answer) {
            return Err(unclear("its last message is not of the assistant, so nothing counts"));
        }
        if template.marks_answers() {
            self.by_marks(tokenizer, template, chat)
        } else {
            self.by_prefixes(tokenizer, template, chat)
        }
    }

    /// The messages that are to be learned from.
    fn wanted(&self, messages: &[Message]) -> Vec<usize> {
        let first = if self.loss_on == LossOn::LastAnswer { messages.len() - 1 } else { 0 };
        let is_wanted = |&at: &usize| messages[at].is_answer() && messages[at].counts;
        (first..messages.len()).filter(is_wanted).collect()
    }

    fn render(
        &self,
        template: &ChatTemplate,
        chat: &Conversation,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String> {
        let options = ChatOptions { add_generation_prompt, ..self.chat.clone() };
        template.render_part(chat, messages, &options)
    }

    /// An answer is what lies between the text that asks for it and the text that ends with it.
    fn by_prefixes(
        &self,
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
        chat: &Conversation,
    ) -> Result<Sample> {
        let messages = chat.messages();
        let ids = |count: usize, asks: bool| {
            tokenizer.encode(&self.render(template, chat, &messages[..count], asks)?, false)
        };
        let whole = ids(messages.len(), false)?;
        let mut answers: Vec<Range<usize>> = Vec::new();
        for index in self.wanted(messages) {
            let before = ids(index, true)?;
            let with = ids(index + 1, false)?;
            for (part, name) in [(&before, "before"), (&with, "with")] {
                if !whole.starts_with(part) {
                    return Err(unclear(&format!(
                        "the template renders what is there {name} message {} (of the assistant) \
                         otherwise when more follows, or in one token with it, so it cannot be told \
                         which tokens are the answer; let the last answer alone count, or all \
                         tokens, or mark answers in the template ({{% generation %}})",
                        index + 1
                    )));
                }
            }
            answers.push(before.len()..with.len());
        }
        Ok(counted(whole, |at| answers.iter().any(|answer| answer.contains(&at))))
    }

    /// The template itself says what is an answer.
    fn by_marks(
        &self,
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
        chat: &Conversation,
    ) -> Result<Sample> {
        let messages = chat.messages();
        let options = ChatOptions { add_generation_prompt: false, ..self.chat.clone() };
        let marks = |count| template.render_marked(chat, &messages[..count], &options);
        let whole = marks(messages.len())?;
        let wanted = self.wanted(messages);
        let are_all = messages.iter().filter(|message| message.is_answer()).count() == wanted.len();
        let answers = if are_all {
            whole.answers
        } else {
            // A message has the marks that come with it.
            let mut answers = Vec::new();
            for index in wanted {
                let before = if index == 0 { 0 } else { marks(index)?.answers.len() };
                let with = marks(index + 1)?.answers.len();
                let own = whole
                    .answers
                    .get(before..with)
                    .ok_or_else(|| unclear("the template marks other answers when more follows"))?;
                answers.extend_from_slice(own);
            }
            answers
        };
        let (tokens, offsets) = tokenizer.encode_with_offsets(&whole.text)?;
        let is_answer = |at: usize| {
            let token = &offsets[at];
            answers.iter().any(|answer| token.start < answer.end && token.end > answer.start)
        };
        Ok(counted(tokens, is_answer))
    }
}

fn unclear(reason: &str) -> Error {
    Error::Data { what: "a conversation".to_owned(), reason: reason.to_owned() }
}

/// A sample of which these ids count.
fn counted(tokens: Vec<u32>, counts: impl Fn(usize) -> bool) -> Sample {
    let counts = (0..tokens.len()).map(|at| at > 0 && counts(at)).collect();
    Sample { tokens, counts }
}

/// Ends a text with the token for that, if there is one and it is not there.
fn with_end(tokenizer: &Tokenizer, mut tokens: Vec<u32>) -> Vec<u32> {
    let end = tokenizer.special().eos.filter(|end| tokens.last() != Some(end));
    tokens.extend(end);
    tokens
}
