//! A conversation with a model, in the terminal.

mod input;

use std::io::{BufRead, IsTerminal, stdin, stdout};

use evenkeel::Result;
use evenkeel::nn::{Generation, GenerationSpeed, Generator, GeneratorSettings, Sampling};
use evenkeel::run::{Ending, Signal, Signals, print_aside, print_bytes, say};
use evenkeel::text::{ChatOptions, Conversation, Message, Tokenizer};

use crate::loaded::{Loaded, ModelOptions, Opened};
use crate::writing::{Ends, SamplingOptions, Writing, note_speed};
use input::{Input, read};

/// Positions that there is room for where nobody says: a cache takes as much memory as it has
/// positions.
const CONTEXT: usize = 2048;

/// Answers go to standard output, all else to the error output. Ctrl-C ends an answer, and the program
/// where it waits.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    model: ModelOptions,
    /// What the model is told before the first message
    #[arg(long, value_name = "TEXT")]
    system_prompt: Option<String>,
    #[command(flatten)]
    sampling: SamplingOptions,
    /// Tokens that the model sees at most; 2048 or what it takes if not given
    #[arg(long, value_name = "N")]
    max_kv_size: Option<usize>,
    /// Do not say how fast it was
    #[arg(long)]
    quiet: bool,
}

/// What is said to who asks for help.
const HELP: &str = "\
/reset  forget what was said
/help   this list
/quit   end (also Ctrl-D)
A message of several lines stands between two lines of \"\"\", or has a \\ at the end of each line but \
the last. Ctrl-C ends an answer, and the program where it waits.";

pub async fn run(options: Options) -> Result<Ending> {
    let (sampling, most) = (options.sampling.sampling()?, options.sampling.max_tokens(512)?);
    let opened = options.model.open()?;
    let tokenizer = &opened.source.tokenizer;
    // Says where a model has no template, before its weights are read.
    tokenizer.template_for(&Conversation::new())?;
    let ends = options.sampling.ends(tokenizer)?;
    let signals = Signals::listen()?;
    signals.end_at_once();
    let loaded = opened.load().await?;
    let generator = generator(&options, &opened, &loaded).await?;
    let first = options.system_prompt.as_deref().map(|system| Message::new("system", system));
    let (conversation, speed) = (Conversation::new(), GenerationSpeed::default());
    let generation = None;
    let mut chat = Chat {
        tokenizer,
        generator: &generator,
        ends,
        sampling,
        most,
        first,
        conversation,
        generation,
        speed,
    };
    chat.reset();
    let ending = chat.talk(&mut stdin().lock(), &signals).await?;
    if !options.quiet {
        chat.note_speed();
    }
    Ok(ending)
}

async fn generator(options: &Options, opened: &Opened, loaded: &Loaded) -> Result<Generator> {
    let context = options.max_kv_size.unwrap_or(opened.gpt.config().context.min(CONTEXT));
    let settings = GeneratorSettings { context: Some(context), ..GeneratorSettings::default() };
    Generator::with_settings(&loaded.gpu, &loaded.parameters, &opened.gpt, &settings).await
}

/// A conversation with a model.
struct Chat<'a> {
    tokenizer: &'a Tokenizer,
    generator: &'a Generator,
    ends: Ends,
    sampling: Sampling,
    most: usize,
    /// What the model is told first.
    first: Option<Message>,
    conversation: Conversation,
    /// What the cache holds.
    generation: Option<Generation<'a>>,
    /// That of generations that are no more.
    speed: GenerationSpeed,
}

impl<'a> Chat<'a> {
    /// Answers message after message.
    async fn talk(&mut self, lines: &mut impl BufRead, signals: &Signals) -> Result<Ending> {
        let is_shown = stdin().is_terminal() && stdout().is_terminal();
        if is_shown {
            print_aside(format_args!("{HELP}"));
        }
        loop {
            match read(lines, is_shown)? {
                Input::End => return Ok(Ending::Done),
                Input::Reset => self.reset(),
                Input::Help => print_aside(format_args!("{HELP}")),
                Input::Unknown(command) => {
                    print_aside(format_args!("{command} is not known here; /help says what is"));
                }
                Input::Message(message) => {
                    signals.forget();
                    self.answer(&message, signals).await?;
                    match signals.received() {
                        Some(signal) if signal != Signal::INTERRUPT => {
                            return Ok(Ending::Stopped(signal));
                        }
                        // From here on a second one ends the program.
                        _ => signals.end_at_once(),
                    }
                }
            }
        }
    }

    fn reset(&mut self) {
        self.conversation = Conversation::new();
        if let Some(first) = &self.first {
            self.conversation.push(first.clone());
        }
        self.forget();
    }

    /// Forgets what the cache holds.
    fn forget(&mut self) {
        if let Some(generation) = self.generation.take() {
            let speed = generation.speed();
            self.speed.prompt_tokens += speed.prompt_tokens;
            self.speed.prompt_time += speed.prompt_time;
            self.speed.tokens += speed.tokens;
            self.speed.time += speed.time;
        }
    }

    /// Prints the answer to a message as it comes, up to its end or a signal.
    async fn answer(&mut self, message: &str, signals: &Signals) -> Result<()> {
        self.conversation.push(Message::new("user", message));
        let asks = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
        let prompt = self.tokenizer.encode_chat(&self.conversation, &asks)?;
        let mut generation = self.go_on_with(&prompt).await?;
        let mut writing = Writing::new(self.tokenizer, self.ends.clone(), &[])?;
        while writing.tokens < self.most && !writing.is_ended && signals.received().is_none() {
            let Some(token) = generation.next().await?[0] else { break };
            print_bytes(writing.push(token)?.as_bytes());
        }
        say!("{}", writing.finish()?);
        self.conversation.push(Message::new("assistant", &writing.text));
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
            self.generation = Some(generation);
            self.forget();
        }
        self.generator.start(&[(prompt, self.sampling)]).await
    }

    fn note_speed(&mut self) {
        self.forget();
        note_speed(self.speed);
    }
}
