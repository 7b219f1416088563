//! How texts are drawn, and a text that is being written.

use evenkeel::Result;
use evenkeel::nn::{GenerationSpeed, Sampling};
use evenkeel::run::print_aside;
use evenkeel::text::{DecodeStream, StopTexts, Tokenizer};

/// How tokens are drawn, and how many.
#[derive(Debug, clap::Args)]
pub struct SamplingOptions {
    /// Tokens to write at most
    #[arg(long, short, value_name = "N")]
    max_tokens: Option<usize>,
    /// Below 1 texts keep to what is likely; 0 always takes the most likely token
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    temp: f64,
    /// Draw among the likeliest tokens that are this probable together
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f64,
    /// Draw among this many of the likeliest tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Draw among tokens at least this many times as probable as the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    min_p: f64,
    /// Above 1 against repetition, 1 for none
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    repetition_penalty: f64,
    /// Seed of the draws
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u32,
    /// A text that ends what is written, where it appears; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// A token that ends what is written, beside the model's own; may be given several times
    #[arg(long, value_name = "TOKEN")]
    extra_eos_token: Vec<String>,
}

impl SamplingOptions {
    /// Checks the settings, and gives them.
    pub fn sampling(&self) -> Result<Sampling> {
        let sampling = Sampling {
            temperature: self.temp,
            top_k: (self.top_k > 0).then_some(self.top_k),
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        };
        sampling.validate()?;
        Ok(sampling)
    }

    pub fn max_tokens(&self, default: usize) -> Result<usize> {
        match self.max_tokens.unwrap_or(default) {
            0 => {
                let (setting, value) = ("--max-tokens", "0".to_owned());
                Err(evenkeel::Error::Setting { setting, value, range: "at least 1" })
            }
            count => Ok(count),
        }
    }

    /// What ends a text.
    pub fn ends(&self, tokenizer: &Tokenizer) -> Result<Ends> {
        let id = |token: &String| {
            tokenizer.id(token).ok_or_else(|| evenkeel::Error::Data {
                what: format!("--extra-eos-token {token:?}"),
                reason: "the tokenizer has no such token; to end at a text give it with --stop"
                    .to_owned(),
            })
        };
        let mut tokens: Vec<_> = self.extra_eos_token.iter().map(id).collect::<Result<_>>()?;
        tokens.extend(&tokenizer.special().stops);
        Ok(Ends { tokens, texts: StopTexts::new(self.stop.iter().cloned()) })
    }
}

/// What ends a text.
#[derive(Clone, Debug)]
pub struct Ends {
    tokens: Vec<u32>,
    texts: StopTexts,
}

/// A text that is being written.
#[derive(Debug)]
pub struct Writing<'a> {
    ends: Ends,
    stream: Option<DecodeStream<'a>>,
    /// All that was written so far, and may be shown.
    pub text: String,
    /// Tokens that were drawn for it.
    pub tokens: usize,
    /// Whether it came to its own end.
    pub is_ended: bool,
}

impl<'a> Writing<'a> {
    /// Begins a text behind the tokens that it goes on from; none of it is shown.
    pub fn new(tokenizer: &'a Tokenizer, ends: Ends, goes_on_from: &[u32]) -> Result<Self> {
        let mut stream = tokenizer.decode_stream(true);
        for &token in goes_on_from {
            stream.push(token)?;
        }
        let (text, stream) = (String::new(), Some(stream));
        Ok(Self { ends, stream, text, tokens: 0, is_ended: false })
    }

    /// Takes the next token, and gives what is to be shown now.
    pub fn push(&mut self, token: u32) -> Result<String> {
        self.tokens += 1;
        if self.ends.tokens.contains(&token) {
            self.is_ended = true;
            return Ok(String::new());
        }
        let Some(stream) = &mut self.stream else { return Ok(String::new()) };
        let new = self.ends.texts.push(&stream.push(token)?);
        self.is_ended = self.ends.texts.is_found();
        self.text.push_str(&new);
        Ok(new)
    }

    /// What was held back until it is known that nothing follows.
    pub fn finish(&mut self) -> Result<String> {
        let rest = self.stream.take().map_or(Ok(String::new()), DecodeStream::finish)?;
        let mut rest = self.ends.texts.push(&rest);
        rest.push_str(&self.ends.texts.finish());
        self.text.push_str(&rest);
        Ok(rest)
    }
}

/// Says how fast texts were read and written.
pub fn note_speed(speed: GenerationSpeed) {
    let GenerationSpeed { prompt_tokens, tokens, .. } = speed;
    let [reading, writing] = [speed.prompt_tokens_per_second(), speed.tokens_per_second()];
    print_aside(format_args!("prompt: {prompt_tokens} tokens, {reading:.1} tokens/s"));
    print_aside(format_args!("generation: {tokens} tokens, {writing:.1} tokens/s"));
}
