//! Talks with a model of Hugging Face's or llama.cpp's, with an adapter if there is one: a program
//! in one file, to copy and to begin with.
//!
//! ```text
//! cargo run --release --example chat -- SmolLM2-135M-Instruct
//! cargo run --release --example chat -- SmolLM2-135M-Instruct --adapter adapter
//! ```
//!
//! Each line of standard input is a message; the answer is printed as it comes, up to a token that
//! ends a turn. `evenkeel chat` is the program with all else around it.

use std::io::stdin;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use evenkeel::graph::{Graph, Phase};
use evenkeel::hugging_face::Adapter;
use evenkeel::nn::{Generator, GeneratorSettings, Gpt, Sampling};
use evenkeel::plan::Parameters;
use evenkeel::run::{Source, finish, print_bytes, say};
use evenkeel::text::{ChatOptions, Conversation, Message};
use evenkeel::{Gpu, Precision, Result};

/// Tokens that the model sees at most, of those that it can; the cache has room for them.
const CONTEXT: usize = 2048;
/// Tokens of an answer at most.
const LONGEST: usize = 512;

/// Talks with a model.
#[derive(Debug, Parser)]
#[command(name = "chat")]
struct Options {
    /// A folder with config.json, model.safetensors and tokenizer.json, or a .gguf file.
    model: PathBuf,
    /// A folder with an adapter of PEFT's form, such as the example finetune writes.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Below 1 answers keep to what is likely; 0 always takes the most likely token.
    #[arg(long, value_name = "X", default_value_t = 0.7, allow_negative_numbers = true)]
    temperature: f64,
}

fn main() -> ExitCode {
    finish(pollster::block_on(talk(&Options::parse())))
}

async fn talk(options: &Options) -> Result<()> {
    let source = Source::open(&options.model, None)?;
    let open = |folder| Adapter::open(folder, source.config());
    let adapter = options.adapter.as_ref().map(open).transpose()?;
    let gpu = Gpu::new().await?;

    // Nothing is trained, so there is no trainer: a graph says which weights there are.
    let gpt = adapter.as_ref().map_or_else(|| source.config().gpt.clone(), Adapter::gpt);
    let gpt = Gpt::new(gpt)?;
    let mut graph = Graph::in_precision(Phase::Evaluate, Precision::F32);
    let tokens = graph.tokens("tokens", [1, 1], gpt.config().vocabulary);
    gpt.logits(&mut graph, tokens);
    let parameters = Parameters::new(&gpu, &graph, 0).await?;
    parameters.load(&mut source.reader()).await?;
    if let Some(adapter) = &adapter {
        parameters.load(&mut adapter.reader()).await?;
    }

    let context = Some(gpt.config().context.min(CONTEXT));
    let settings = GeneratorSettings { context, ..GeneratorSettings::default() };
    let generator = Generator::with_settings(&gpu, &parameters, &gpt, &settings).await?;
    let sampling =
        Sampling { temperature: options.temperature, top_p: 0.95, ..Sampling::default() };
    let tokenizer = &source.tokenizer;
    let asks = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
    let mut conversation = Conversation::new();
    for line in stdin().lines().map_while(std::result::Result::ok) {
        if line.trim().is_empty() {
            continue;
        }
        conversation.push(Message::new("user", line.trim()));
        // The model's own template makes one text of all that was said.
        let prompt = tokenizer.encode_chat(&conversation, &asks)?;
        let mut generation = generator.start(&[(&prompt, sampling)]).await?;
        let (mut stream, mut answer) = (tokenizer.decode_stream(true), String::new());
        for _ in 0..LONGEST {
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
        conversation.push(Message::new("assistant", &(answer + &rest)));
    }
    Ok(())
}
