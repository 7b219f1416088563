//! Text from a language model, one token at a time.

mod cache;
mod generation;
mod recorded;
mod sampling;

use std::time::Duration;

use futures::lock::Mutex;

pub(super) use cache::CachedRows;
pub use generation::{Generation, GenerationSpeed, PausedGeneration};
use recorded::Recorded;
pub use sampling::Sampling;

use crate::error::{Error, Result};
use crate::gpu::{Gpu, Pacing, SUBMIT_BUDGET};
use crate::kernel::Precision;
use crate::nn::{Gpt, GptConfig};
use crate::plan::{Parameters, SharedBuffers};

/// What a [`Generator`] is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneratorSettings {
    /// Texts that are written at once.
    pub sequences: usize,
    /// Positions of a text that the model sees, at most those of the model; `None` for all of them.
    /// The cache has room for so many: 2 kv_heads head_dim numbers for each layer, text and position.
    pub context: Option<usize>,
    /// Storage of the values that the model computes. Parameters in another storage are copied.
    pub precision: Precision,
    /// Storage of the cache, and of what is computed with it: queries, and what attention gives; its
    /// sums are f32. `None` for that of all other values.
    pub cache: Option<Precision>,
    /// Tokens of each text that are read at a time where there are more than one.
    pub block: usize,
}

impl Default for GeneratorSettings {
    /// One text, the model's context, all in f32, 64 tokens at a time.
    fn default() -> Self {
        let precision = Precision::F32;
        Self { sequences: 1, context: None, precision, cache: None, block: 64 }
    }
}

impl GeneratorSettings {
    fn context_of(&self, config: &GptConfig) -> usize {
        self.context.unwrap_or(config.context)
    }

    fn validate(&self, config: &GptConfig) -> Result<()> {
        let context = self.context_of(config);
        for (setting, value, fits, range) in [
            ("sequences", self.sequences, self.sequences > 0, "at least 1"),
            ("block", self.block, self.block > 0, "at least 1 token"),
            (
                "context",
                context,
                (1..=config.context).contains(&context),
                "at least 1, at most that of the model",
            ),
        ] {
            if !fits {
                return Err(Error::Setting { setting, value: value.to_string(), range });
            }
        }
        Ok(())
    }
}

/// Submits of the two plans.
#[derive(Debug)]
struct Pacings {
    block: Pacing,
    token: Pacing,
    /// The generation whose text the cache holds; 0 for none.
    generation: u64,
}

/// Generates text with a [`Gpt`].
///
/// The parameters are shared with the trainer, not copied. Keys and values of what was read stay in a
/// cache on the device, so that a token costs a pass over one position: there is a plan for a block
/// of tokens and one for a single token, over the same cache. Tokens are drawn on the device; the host
/// reads nothing else. The logits are those of the whole context but for the order in which attention
/// adds up, and do not depend on how a text is cut into blocks.
///
/// ```no_run
/// # use evenkeel::nn::{Generator, Gpt, Sampling};
/// # use evenkeel::{Gpu, plan::Parameters};
/// # async fn example(gpu: &Gpu, parameters: &Parameters, gpt: &Gpt) -> evenkeel::Result<()> {
/// const STOP: u32 = 2;
/// let generator = Generator::new(gpu, parameters, gpt).await?;
/// let sampling = Sampling { temperature: 0.8, top_p: 0.95, seed: 1, ..Sampling::default() };
/// let mut generation = generator.start(&[(&[1, 15, 7], sampling)]).await?;
/// for _ in 0..100 {
///     match generation.next().await?[0] {
///         Some(STOP) => generation.finish(0),
///         Some(token) => println!("{token}"),
///         None => break,
///     }
/// }
/// println!("{} tokens/s", generation.speed().tokens_per_second());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Generator {
    gpu: Gpu,
    block: Recorded,
    token: Recorded,
    /// Held while texts are written, whose inputs and cache others would overwrite.
    pacings: Mutex<Pacings>,
    sequences: usize,
    context: usize,
    vocabulary: u32,
}

impl Generator {
    /// A generator for one text at a time, in f32, of the model's whole context.
    ///
    /// # Errors
    /// As [`Plan::new`](crate::plan::Plan::new).
    pub async fn new(gpu: &Gpu, parameters: &Parameters, gpt: &Gpt) -> Result<Self> {
        Self::with_settings(gpu, parameters, gpt, &GeneratorSettings::default()).await
    }

    /// The same with other settings.
    ///
    /// # Errors
    /// [`Error::Setting`], and as [`Plan::new`](crate::plan::Plan::new).
    pub async fn with_settings(
        gpu: &Gpu,
        parameters: &Parameters,
        gpt: &Gpt,
        settings: &GeneratorSettings,
    ) -> Result<Self> {
        gpu.check()?;
        settings.validate(gpt.config())?;
        let context = settings.context_of(gpt.config());
        let rows = settings.block.min(context);
        let mut shared = SharedBuffers::default();
        let block = Recorded::new(gpu, parameters, gpt, settings, rows, &mut shared).await?;
        let token = Recorded::new(gpu, parameters, gpt, settings, 1, &mut shared).await?;
        let pacings = Mutex::new(pacings(SUBMIT_BUDGET, &block, &token));
        let (sequences, vocabulary) = (settings.sequences, gpt.config().vocabulary as u32);
        Ok(Self { gpu: gpu.clone(), block, token, pacings, sequences, context, vocabulary })
    }

    /// With another budget than [`SUBMIT_BUDGET`] for each of its submits.
    #[must_use]
    pub fn with_submit_budget(self, budget: Duration) -> Self {
        let pacings = Mutex::new(pacings(budget, &self.block, &self.token));
        Self { pacings, ..self }
    }

    /// Begins texts with prompts, each with a sampling of its own; the first token of each comes with
    /// [`Generation::next`]. Waits until the generation before it is dropped.
    ///
    /// # Errors
    /// [`Error::Data`] for more prompts than the generator has sequences and for a prompt without
    /// tokens, [`Error::TokenOutOfRange`], [`Error::Setting`], [`Error::DeviceLost`].
    pub async fn start(&self, prompts: &[(&[u32], Sampling)]) -> Result<Generation<'_>> {
        self.gpu.check()?;
        Generation::new(self, prompts).await
    }

    /// Goes on with texts that were [set aside](Generation::pause). Where nothing else was generated
    /// meanwhile, the cache still has them; else they are read again. Waits until the generation
    /// before it is dropped.
    ///
    /// # Errors
    /// As [`start`](Self::start), for texts of another generator.
    pub async fn resume(&self, paused: PausedGeneration) -> Result<Generation<'_>> {
        self.gpu.check()?;
        Generation::resumed(self, paused).await
    }

    /// The logits of the token that follows `tokens`, of which the last `context` count.
    ///
    /// # Errors
    /// [`Error::Data`] without tokens, [`Error::TokenOutOfRange`], [`Error::DeviceLost`].
    pub async fn logits(&self, tokens: &[u32]) -> Result<Vec<f32>> {
        let mut generation = self.start(&[(tokens, Sampling::greedy())]).await?;
        Ok(generation.logits().await?.swap_remove(0))
    }

    /// Appends `count` tokens to `prompt` and returns them. `on_token` sees each as it is drawn.
    ///
    /// # Errors
    /// As [`start`](Self::start) and [`Generation::next`].
    pub async fn generate(
        &self,
        prompt: &[u32],
        count: usize,
        sampling: &Sampling,
        mut on_token: impl FnMut(u32),
    ) -> Result<Vec<u32>> {
        let mut generation = self.start(&[(prompt, *sampling)]).await?;
        let mut tokens = Vec::with_capacity(count);
        for _ in 0..count {
            for token in generation.next().await?.into_iter().flatten() {
                on_token(token);
                tokens.push(token);
            }
        }
        Ok(tokens)
    }

    /// The plan for so many tokens of the text that has most to be read.
    fn plan_for(&self, longest: usize) -> &Recorded {
        if longest > 1 { &self.block } else { &self.token }
    }

    /// Words of the set of tokens that a text has.
    fn seen_words(&self) -> usize {
        self.vocabulary.div_ceil(32) as usize
    }

    fn check(&self, tokens: &[u32]) -> Result<()> {
        if tokens.is_empty() {
            let reason = "it has no tokens; give at least one to go on from".into();
            return Err(Error::Data { what: "the prompt".into(), reason });
        }
        match tokens.iter().position(|&token| token >= self.vocabulary) {
            None => Ok(()),
            Some(position) => Err(Error::TokenOutOfRange {
                name: "prompt".into(),
                position,
                token: tokens[position],
                bound: self.vocabulary,
            }),
        }
    }
}

fn pacings(budget: Duration, block: &Recorded, token: &Recorded) -> Pacings {
    let [block, token] =
        [block, token].map(|recorded| Pacing::new(budget, recorded.plan.first.len()));
    Pacings { block, token, generation: 0 }
}
