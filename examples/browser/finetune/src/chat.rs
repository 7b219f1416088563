//! Answers of the model, a few tokens at a time.

use evenkeel::nn::{Generator, GeneratorSettings, Gpt, GptConfig, PausedGeneration, Sampling};
use evenkeel::plan::Parameters;
use evenkeel::text::{ChatOptions, Conversation, Tokenizer};
use evenkeel::{Error, Gpu, Result};

use crate::model::Model;
use crate::settings::Fields;

/// Tokens of a conversation at most, its last answer included: a cache takes as much memory as it
/// has positions.
const CONTEXT: usize = 2048;

/// How an answer is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChatSettings {
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Tokens of an answer at most.
    pub max_tokens: usize,
    /// Whether the adapter counts; without it, the model answers that it was.
    pub adapted: bool,
}

impl Default for ChatSettings {
    fn default() -> Self {
        let sampling = Sampling { temperature: 0.7, top_p: 0.95, ..Sampling::default() };
        Self { sampling, max_tokens: 256, adapted: true }
    }
}

impl ChatSettings {
    /// Reads an object of JSON with `temperature`, `topP`, `maxTokens`, `seed` and `adapted`. What is
    /// missing or null is as by [default](Self::default).
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Data`] for what is no such object.
    pub fn from_json(text: &str) -> Result<Self> {
        let mut fields = Fields::read("the settings of the chat", text)?;
        let default = Self::default();
        let sampling = Sampling {
            temperature: fields.number("temperature")?.unwrap_or(default.sampling.temperature),
            top_p: fields.number("topP")?.unwrap_or(default.sampling.top_p),
            seed: fields.count("seed")?.map_or(default.sampling.seed, |seed| seed as u32),
            ..default.sampling
        };
        let max_tokens = fields.count("maxTokens")?.unwrap_or(default.max_tokens);
        let adapted = fields.switch("adapted")?.unwrap_or(default.adapted);
        fields.finish()?;
        if max_tokens == 0 {
            let (setting, value) = ("maxTokens", "0".to_owned());
            return Err(Error::Setting { setting, value, range: "at least 1" });
        }
        sampling.validate()?;
        Ok(Self { sampling, max_tokens, adapted })
    }
}

/// What came of an answer since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Whole characters.
    pub text: String,
    /// Whether nothing more will come.
    pub is_done: bool,
}

/// An answer that grows.
#[derive(Debug)]
struct Answer {
    tokens: Vec<u32>,
    most: usize,
    paused: PausedGeneration,
}

/// What answers: the model with its adapter, or without.
#[derive(Debug)]
pub struct Chat {
    generator: Generator,
    is_adapted: bool,
    context: usize,
    answer: Option<Answer>,
}

impl Chat {
    /// Records the passes over the weights that are trained, which are shared and not copied.
    ///
    /// # Errors
    /// As [`Generator::with_settings`].
    pub async fn new(
        gpu: &Gpu,
        parameters: &Parameters,
        gpt: &Gpt,
        is_adapted: bool,
    ) -> Result<Self> {
        let config = gpt.config();
        let lora = config.lora.clone().filter(|_| is_adapted);
        let gpt = Gpt::new(GptConfig { lora, recompute: false, ..config.clone() })?;
        let context = config.context.min(CONTEXT);
        let settings = GeneratorSettings { context: Some(context), ..GeneratorSettings::default() };
        let generator = Generator::with_settings(gpu, parameters, &gpt, &settings).await?;
        Ok(Self { generator, is_adapted, context, answer: None })
    }

    pub fn is_adapted(&self) -> bool {
        self.is_adapted
    }

    /// Begins an answer.
    ///
    /// # Errors
    /// [`Error::Data`] for a conversation that leaves no room for one, [`Error::DeviceLost`].
    pub async fn begin(&mut self, prompt: &[u32], settings: &ChatSettings) -> Result<()> {
        self.answer = None;
        let room = self.context.saturating_sub(prompt.len());
        if room == 0 {
            let (length, context) = (prompt.len(), self.context);
            let reason = format!("it has {length} tokens of at most {context}; begin a new one");
            return Err(Error::Data { what: "the conversation".to_owned(), reason });
        }
        let paused = self.generator.start(&[(prompt, settings.sampling)]).await?.pause();
        let most = settings.max_tokens.min(room);
        self.answer = Some(Answer { tokens: Vec::new(), most, paused });
        Ok(())
    }

    /// Up to `count` tokens more.
    ///
    /// # Errors
    /// [`Error::NonFinite`] where the weights have become useless, [`Error::DeviceLost`]; the answer
    /// is over then.
    pub async fn next(&mut self, tokenizer: &Tokenizer, count: usize) -> Result<Written> {
        let Some(Answer { mut tokens, most, paused }) = self.answer.take() else {
            return Ok(Written { text: String::new(), is_done: true });
        };
        // What was given is known from the tokens that it was made of.
        let mut stream = tokenizer.decode_stream(true);
        for &token in &tokens {
            stream.push(token)?;
        }
        let mut generation = self.generator.resume(paused).await?;
        let mut text = String::new();
        for _ in 0..count {
            let token = generation.next().await?[0];
            let Some(token) = token.filter(|&token| !tokenizer.special().is_stop(token)) else {
                text.push_str(&stream.finish()?);
                return Ok(Written { text, is_done: true });
            };
            text.push_str(&stream.push(token)?);
            tokens.push(token);
            if tokens.len() == most {
                // A character whose last bytes would have come with the next token is left out.
                text.push_str(stream.finish()?.trim_end_matches(char::REPLACEMENT_CHARACTER));
                return Ok(Written { text, is_done: true });
            }
        }
        self.answer = Some(Answer { tokens, most, paused: generation.pause() });
        Ok(Written { text, is_done: false })
    }

    /// Ends the answer: the weights change.
    pub fn end(&mut self) {
        self.answer = None;
    }
}

/// The ids of a conversation, as JSON has it, that ask for an answer: by the chat template, or
/// without one the last message as it is.
///
/// # Errors
/// [`Error::Data`] for what is no conversation.
pub fn prompt(model: &Model, messages: &str) -> Result<Vec<u32>> {
    let conversation = Conversation::from_json(messages)?;
    if model.has_template() {
        let asks = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
        return model.tokenizer.encode_chat(&conversation, &asks);
    }
    let last = conversation.messages().last().and_then(|message| message.content());
    let ids = model.tokenizer.encode(&last.unwrap_or_default(), true)?;
    if ids.is_empty() {
        let reason = "its last message is empty; write something to go on from".to_owned();
        return Err(Error::Data { what: "the conversation".to_owned(), reason });
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_a_chat_are_read() {
        assert_eq!(ChatSettings::from_json("{}").unwrap(), ChatSettings::default());
        let given =
            r#"{"temperature": 0, "topP": 0.5, "maxTokens": 3, "seed": 7, "adapted": false}"#;
        let sampling = Sampling { temperature: 0.0, top_p: 0.5, seed: 7, ..Sampling::default() };
        let expected = ChatSettings { sampling, max_tokens: 3, adapted: false };
        assert_eq!(ChatSettings::from_json(given).unwrap(), expected);
        for (text, word) in [
            (r#"{"maxTokens": 0}"#, "maxTokens is 0"),
            (r#"{"topP": 2}"#, "top_p is 2"),
            (r#"{"top_p": 1}"#, "top_p is not known"),
        ] {
            let error = ChatSettings::from_json(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
