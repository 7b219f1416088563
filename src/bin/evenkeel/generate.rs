//! A model goes on with a text.

use std::io::{Read, stdin};

use evenkeel::nn::{Generation, GenerationSpeed, Generator, GeneratorSettings, Sampling};
use evenkeel::run::{Ending, Signals, print_bytes, say, warn};
use evenkeel::text::{ChatOptions, Conversation, Message, Tokenizer};
use evenkeel::{Error, Result};
use serde_json::json;

use crate::loaded::ModelOptions;
use crate::writing::{SamplingOptions, Writing, note_speed};

/// What is written goes to standard output, how fast that was to the error output.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    model: ModelOptions,
    /// What to go on with, or to answer where the model has a chat template; - reads it from standard input
    #[arg(long, short, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    /// What the model is told before the prompt
    #[arg(long, value_name = "TEXT")]
    system_prompt: Option<String>,
    /// Take the prompt as it is, though the model has a chat template
    #[arg(long, conflicts_with = "system_prompt")]
    ignore_chat_template: bool,
    #[command(flatten)]
    sampling: SamplingOptions,
    /// Texts to write at once, each with a seed of its own, one above the other
    #[arg(long, value_name = "N", default_value_t = 1)]
    num_samples: usize,
    /// Print a line of JSON for each text instead
    #[arg(long)]
    json: bool,
    /// Do not say how fast it was
    #[arg(long)]
    quiet: bool,
}

pub async fn run(options: Options) -> Result<Ending> {
    let sampling = options.sampling.sampling()?;
    let most = options.sampling.max_tokens(100)?;
    let count = options.num_samples;
    if count == 0 {
        let (setting, value) = ("--num-samples", "0".to_owned());
        return Err(Error::Setting { setting, value, range: "at least 1" });
    }
    let opened = options.model.open()?;
    let tokenizer = &opened.source.tokenizer;
    let (prompt, is_chat) = prompt(&options, tokenizer)?;
    let ends = options.sampling.ends(tokenizer)?;
    let signals = Signals::listen()?;
    let loaded = opened.load().await?;
    let context = context(&prompt, most, opened.gpt.config().context);
    let settings = GeneratorSettings {
        sequences: count,
        context: Some(context),
        ..GeneratorSettings::default()
    };
    let generator =
        Generator::with_settings(&loaded.gpu, &loaded.parameters, &opened.gpt, &settings).await?;
    let seed = |index: usize| sampling.seed.wrapping_add(index as u32);
    let prompts: Vec<_> =
        (0..count).map(|index| (&*prompt, Sampling { seed: seed(index), ..sampling })).collect();
    let before = if is_chat { &[][..] } else { &prompt };
    let writings = (0..count).map(|_| Writing::new(tokenizer, ends.clone(), before));
    let mut writings: Vec<_> = writings.collect::<Result<_>>()?;
    let mut generation = generator.start(&prompts).await?;
    write(&options, &mut generation, &mut writings, most, &signals).await?;
    let (speed, signal) = (generation.speed(), signals.received());
    for (index, writing) in writings.iter().enumerate() {
        if options.json {
            say!("{}", described(writing, seed(index), prompt.len(), speed, signal.is_some()));
        } else if count > 1 {
            say!("== seed {}\n{}", seed(index), writing.text);
        }
    }
    if !options.quiet {
        note_speed(speed);
    }
    Ok(signal.map_or(Ending::Done, Ending::Stopped))
}

/// The ids of the prompt, and whether a chat template was around it.
fn prompt(options: &Options, tokenizer: &Tokenizer) -> Result<(Vec<u32>, bool)> {
    let text = match &*options.prompt {
        "-" => {
            let (path, mut text) = ("standard input".into(), String::new());
            let read = stdin().read_to_string(&mut text);
            read.map_err(|error| Error::File { path, reason: format!("cannot be read: {error}") })?;
            text
        }
        text => text.to_owned(),
    };
    if text.is_empty() {
        let (setting, value) = ("--prompt", "empty".to_owned());
        return Err(Error::Setting { setting, value, range: "at least one character" });
    }
    let has_template = tokenizer.chat_template("default").is_some();
    if !has_template && options.system_prompt.is_some() {
        return Err(Error::Unsupported {
            what: "--system-prompt with a model without a chat template".to_owned(),
            instead: "put it in front of the prompt".to_owned(),
        });
    }
    if !has_template || options.ignore_chat_template {
        return Ok((tokenizer.encode(&text, true)?, false));
    }
    let mut conversation = Conversation::new();
    if let Some(system) = &options.system_prompt {
        conversation.push(Message::new("system", system));
    }
    conversation.push(Message::new("user", &text));
    let asks = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
    Ok((tokenizer.encode_chat(&conversation, &asks)?, true))
}

/// Positions that there is to be room for.
fn context(prompt: &[u32], most: usize, longest: usize) -> usize {
    let wanted = prompt.len().saturating_add(most);
    if wanted > longest {
        warn(format!(
            "the prompt has {} tokens, and with up to {most} more it is longer than the model's \
             context of {longest}: what comes then sees the last {longest} tokens, and costs more",
            prompt.len()
        ));
    }
    wanted.min(longest)
}

/// Writes until all texts have ended. One alone is shown as it comes.
async fn write(
    options: &Options,
    generation: &mut Generation<'_>,
    writings: &mut [Writing<'_>],
    most: usize,
    signals: &Signals,
) -> Result<()> {
    let is_shown = writings.len() == 1 && !options.json;
    let show = |text: &str| {
        if is_shown && !text.is_empty() {
            print_bytes(text.as_bytes());
        }
    };
    for _ in 0..most {
        if signals.received().is_some() || writings.iter().all(|writing| writing.is_ended) {
            break;
        }
        for (index, token) in generation.next().await?.into_iter().enumerate() {
            let Some(token) = token else { continue };
            show(&writings[index].push(token)?);
            if writings[index].is_ended {
                generation.finish(index);
            }
        }
    }
    for writing in writings {
        show(&writing.finish()?);
    }
    if is_shown {
        say!();
    }
    Ok(())
}

fn described(
    writing: &Writing<'_>,
    seed: u32,
    prompt_tokens: usize,
    speed: GenerationSpeed,
    is_stopped: bool,
) -> serde_json::Value {
    let reason = match (writing.is_ended, is_stopped) {
        (true, _) => "stop",
        (false, true) => "interrupt",
        (false, false) => "length",
    };
    json!({
        "text": writing.text,
        "finish_reason": reason,
        "seed": seed,
        "tokens": writing.tokens,
        "prompt_tokens": prompt_tokens,
        "tokens_per_second": speed.tokens_per_second(),
        "prompt_tokens_per_second": speed.prompt_tokens_per_second(),
    })
}
