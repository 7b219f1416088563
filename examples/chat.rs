//! Talks with a model of Hugging Face's or llama.cpp's, with an adapter if there is one.
//!
//! ```text
//! cargo run --release --example chat -- SmolLM2-135M-Instruct
//! cargo run --release --example chat -- smollm2.gguf --base-format q4_1 --prompt "What is a keel?"
//! cargo run --release --example chat -- SmolLM2-135M-Instruct --adapter adapter
//! ```
//!
//! Each line of standard input is a message; the answer is printed as it comes, up to a token that
//! ends a turn. What was said stays in the model's cache, so that an answer costs what is new. At
//! the end it says how fast that was.

use std::path::PathBuf;
use std::process::ExitCode;
use std::{io, iter};

use clap::Parser;
use evenkeel::graph::{Graph, Phase};
use evenkeel::hugging_face::Adapter;
use evenkeel::nn::{
    Generation, GenerationSpeed, Generator, GeneratorSettings, Gpt, GptConfig, Sampling,
};
use evenkeel::plan::Parameters;
use evenkeel::run::{Source, block_format, finish, print_bytes, say};
use evenkeel::text::{ChatOptions, Conversation, Message};
use evenkeel::{BlockFormat, Error, Gpu, Precision, Result};

/// Talks with a model.
#[derive(Debug, Parser)]
#[command(name = "chat")]
struct Options {
    /// A folder with config.json, model.safetensors and tokenizer.json, or a .gguf file.
    model: PathBuf,
    /// A folder with an adapter of PEFT's form, such as the example finetune writes.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// A folder with another tokenizer than the model's own.
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Keeps the weights in blocks: q4_0, q4_1 or q8_0.
    #[arg(long, value_name = "FORMAT", value_parser = block_format)]
    base_format: Option<BlockFormat>,
    /// Answers this and ends.
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// What the model is told before the first message.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Tokens of an answer at most.
    #[arg(long, value_name = "N", default_value_t = 512)]
    tokens: usize,
    /// Tokens that the model sees at most; 2048 or what it takes if not given.
    #[arg(long, value_name = "T")]
    context: Option<usize>,
    /// Below 1 answers keep to what is likely; 0 always takes the most likely token.
    #[arg(long, value_name = "X", default_value_t = 0.7, allow_negative_numbers = true)]
    temperature: f64,
    /// Draws among the likeliest tokens that are this probable together.
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    top_p: f64,
    /// Seed of the draws.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u32,
}

fn main() -> ExitCode {
    finish(pollster::block_on(talk(&Options::parse())))
}

async fn talk(options: &Options) -> Result<()> {
    let source = Source::open(&options.model, options.tokenizer.as_deref())?;
    let gpu = Gpu::new().await?;
    let (gpt, parameters) = load(options, &source, &gpu).await?;
    let context = options.context.unwrap_or(gpt.config().context.min(2048));
    let settings = GeneratorSettings { context: Some(context), ..GeneratorSettings::default() };
    let generator = Generator::with_settings(&gpu, &parameters, &gpt, &settings).await?;
    let mut chat = Chat::new(options, &source, &generator);
    let lines: Box<dyn Iterator<Item = io::Result<String>>> = match &options.prompt {
        Some(prompt) => Box::new(iter::once(Ok(prompt.clone()))),
        None => Box::new(io::stdin().lines()),
    };
    for line in lines {
        let line = line.map_err(|error| Error::File {
            path: "standard input".into(),
            reason: format!("cannot be read: {error}"),
        })?;
        if !line.trim().is_empty() {
            chat.answer(line.trim()).await?;
        }
    }
    chat.say_speed();
    Ok(())
}

/// The model and its weights on the device. Nothing is trained, so there is no trainer.
async fn load(options: &Options, source: &Source, gpu: &Gpu) -> Result<(Gpt, Parameters)> {
    let adapter = options.adapter.as_ref().map(|folder| Adapter::open(folder, source.config()));
    let adapter = adapter.transpose()?;
    let base = source.config().gpt.clone();
    let config = adapter.as_ref().map_or(base, Adapter::gpt);
    let gpt = Gpt::new(GptConfig { base_format: options.base_format, ..config })?;
    let mut graph = Graph::in_precision(Phase::Evaluate, Precision::F32);
    let tokens = graph.tokens("tokens", [1, 1], gpt.config().vocabulary);
    gpt.logits(&mut graph, tokens);
    let parameters = Parameters::new(gpu, &graph, 0).await?;
    parameters.load(&mut source.reader()).await?;
    if let Some(adapter) = &adapter {
        parameters.load(&mut adapter.reader()).await?;
    }
    Ok((gpt, parameters))
}

/// A conversation with a model.
struct Chat<'a> {
    options: &'a Options,
    source: &'a Source,
    generator: &'a Generator,
    conversation: Conversation,
    /// What the cache holds.
    generation: Option<Generation<'a>>,
    /// That of generations that are no more.
    speed: GenerationSpeed,
}

impl<'a> Chat<'a> {
    fn new(options: &'a Options, source: &'a Source, generator: &'a Generator) -> Self {
        let mut conversation = Conversation::new();
        if let Some(system) = &options.system {
            conversation.push(Message::new("system", system));
        }
        let (generation, speed) = (None, GenerationSpeed::default());
        Self { options, source, generator, conversation, generation, speed }
    }

    /// Prints the answer to a message as it comes.
    async fn answer(&mut self, message: &str) -> Result<()> {
        self.conversation.push(Message::new("user", message));
        let asks = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
        let tokenizer = &self.source.tokenizer;
        let prompt = tokenizer.encode_chat(&self.conversation, &asks)?;
        let mut generation = self.go_on_with(&prompt).await?;
        let mut stream = tokenizer.decode_stream(true);
        let mut answer = String::new();
        for _ in 0..self.options.tokens {
            let Some(token) = generation.next().await?[0] else { break };
            if tokenizer.special().is_stop(token) {
                break;
            }
            let text = stream.push(token)?;
            print_bytes(text.as_bytes());
            answer.push_str(&text);
        }
        let rest = stream.finish()?;
        say!("{rest}");
        answer.push_str(&rest);
        self.conversation.push(Message::new("assistant", &answer));
        self.generation = Some(generation);
        Ok(())
    }

    /// The text so far with these tokens. Where it begins as they do, which a template need not let
    /// it, only what is new is read.
    async fn go_on_with(&mut self, prompt: &[u32]) -> Result<Generation<'a>> {
        if let Some(mut generation) = self.generation.take() {
            if let Some(new) = prompt.strip_prefix(generation.text(0)) {
                generation.append(0, new)?;
                return Ok(generation);
            }
            // The next one waits until this one is no more.
            self.add(generation.speed());
        }
        let &Options { temperature, top_p, seed, .. } = self.options;
        let sampling = Sampling { temperature, top_p, seed, ..Sampling::default() };
        self.generator.start(&[(prompt, sampling)]).await
    }

    fn add(&mut self, speed: GenerationSpeed) {
        self.speed.prompt_tokens += speed.prompt_tokens;
        self.speed.prompt_time += speed.prompt_time;
        self.speed.tokens += speed.tokens;
        self.speed.time += speed.time;
    }

    fn say_speed(&mut self) {
        if let Some(generation) = self.generation.take() {
            self.add(generation.speed());
        }
        let (read, written) = (self.speed.prompt_tokens, self.speed.tokens);
        let rates = [self.speed.prompt_tokens_per_second(), self.speed.tokens_per_second()];
        let [reading, writing] = rates;
        say!("read {read} tokens, {reading:.1} tokens/s; wrote {written}, {writing:.1} tokens/s");
    }
}
