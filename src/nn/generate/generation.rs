//! Texts that are being written.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join;
use futures::lock::MutexGuard;
use web_time::Instant;

use super::recorded::Piece;
use super::sampling::not_finite;
use super::{Generator, Pacings, Sampling};
use crate::error::{Error, Result};
use crate::plan::parameters;

/// How fast texts were read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GenerationSpeed {
    /// Tokens that were read several at a time: prompts, and what was
    /// [appended](Generation::append).
    pub prompt_tokens: usize,
    /// How long that took, with the draw of the tokens behind them.
    pub prompt_time: Duration,
    /// Tokens that were drawn otherwise, of all texts.
    pub tokens: usize,
    /// How long that took.
    pub time: Duration,
}

impl GenerationSpeed {
    /// Tokens read in a second; 0 where none were.
    pub fn prompt_tokens_per_second(&self) -> f64 {
        per_second(self.prompt_tokens, self.prompt_time)
    }

    /// Tokens drawn in a second, of all texts together; 0 where none were.
    pub fn tokens_per_second(&self) -> f64 {
        per_second(self.tokens, self.time)
    }
}

fn per_second(count: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

#[derive(Debug)]
struct Text {
    tokens: Vec<u32>,
    sampling: Sampling,
    /// Tokens drawn so far.
    drawn: u32,
    is_finished: bool,
    /// The first token of those that the model sees.
    first: usize,
    /// How many of those from there on the cache has.
    held: usize,
}

impl Text {
    /// Forgets what the cache has where the model no longer sees its first token: then all others
    /// have other positions.
    fn slide(&mut self, context: usize) {
        let first = self.tokens.len().saturating_sub(context);
        if first != self.first {
            (self.first, self.held) = (first, 0);
        }
    }

    /// What the cache does not have yet, and the last token in any case: what follows it is asked.
    fn piece(&self) -> Piece<'_> {
        let position = self.held.min(self.tokens.len() - self.first - 1);
        let start = self.first + position;
        let tokens = if self.is_finished { &[] } else { &self.tokens[start..] };
        Piece { tokens, position }
    }
}

/// Texts that a [`Generator`] goes on with, token by token: [`Generator::start`] makes one. Another
/// of the same generator waits until it is dropped.
///
/// Each text has its own sampling and is the same, whatever texts are beside it. The weights must not
/// change meanwhile, for the cache has what earlier ones made of the text.
#[derive(Debug)]
pub struct Generation<'a> {
    generator: &'a Generator,
    pacings: MutexGuard<'a, Pacings>,
    texts: Vec<Text>,
    speed: GenerationSpeed,
    number: u64,
}

/// Texts that were set aside: [`Generation::pause`] makes it, [`Generator::resume`] goes on with it.
#[derive(Debug)]
pub struct PausedGeneration {
    texts: Vec<Text>,
    speed: GenerationSpeed,
    number: u64,
}

/// Another number each time, never 0.
fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl<'a> Generation<'a> {
    pub(super) async fn new(
        generator: &'a Generator,
        prompts: &[(&[u32], Sampling)],
    ) -> Result<Self> {
        let text = |(tokens, sampling): &(&[u32], Sampling)| Text {
            tokens: tokens.to_vec(),
            sampling: *sampling,
            drawn: 0,
            is_finished: false,
            first: 0,
            held: 0,
        };
        let texts = prompts.iter().map(text).collect();
        let speed = GenerationSpeed::default();
        Self::resumed(generator, PausedGeneration { texts, speed, number: number() }).await
    }

    pub(super) async fn resumed(
        generator: &'a Generator,
        paused: PausedGeneration,
    ) -> Result<Self> {
        let PausedGeneration { mut texts, speed, number } = paused;
        if texts.len() > generator.sequences {
            let reason = format!(
                "there are {} for the {} sequences of the generator; make one with more",
                texts.len(),
                generator.sequences
            );
            return Err(Error::Data { what: "the prompts".into(), reason });
        }
        for text in &texts {
            text.sampling.validate()?;
            generator.check(&text.tokens)?;
        }
        let mut pacings = generator.pacings.lock().await;
        let is_held = std::mem::replace(&mut pacings.generation, number) == number;
        if !is_held {
            texts.iter_mut().for_each(|text| text.held = 0);
            // Both plans read the same copies.
            generator.block.copy_weights(&generator.gpu, &mut pacings.block).await?;
        }
        let generation = Self { generator, pacings, texts, speed, number };
        if !is_held {
            generation.mark_all();
        }
        Ok(generation)
    }

    /// Sets the texts aside, for [`Generator::resume`] to go on with them: what keeps them so borrows
    /// nothing. The weights must not change meanwhile either.
    pub fn pause(self) -> PausedGeneration {
        let Self { texts, speed, number, .. } = self;
        PausedGeneration { texts, speed, number }
    }

    /// The words of the tokens that each text has.
    fn mark_all(&self) {
        let words = self.generator.seen_words();
        let mut seen = vec![0u32; words * self.generator.sequences];
        for (text, seen) in self.texts.iter().zip(seen.chunks_mut(words)) {
            for &token in &text.tokens {
                seen[token as usize / 32] |= 1 << (token % 32);
            }
        }
        let buffer = self.generator.token.input("seen");
        self.generator.gpu.write(buffer, 0, bytemuck::cast_slice(&seen));
    }

    /// Writes the word of a token that text `index` just got.
    fn mark(&self, index: usize, token: u32) {
        let text = &self.texts[index];
        if text.sampling.repetition_penalty == 1.0 {
            return;
        }
        let word = token / 32;
        let of_word = text.tokens.iter().filter(|&&token| token / 32 == word);
        let bits = of_word.fold(0u32, |bits, token| bits | 1 << (token % 32));
        let at = index * self.generator.seen_words() + word as usize;
        let buffer = self.generator.token.input("seen");
        self.generator.gpu.write(buffer, 4 * at as u64, &bits.to_ne_bytes());
    }

    /// Draws the next token of each text that is not [finished](Self::finish), in their order; `None`
    /// for those that are. A token costs a pass over what the cache does not have yet, and one read
    /// of 16 bytes for each text.
    ///
    /// A text longer than the context goes on with its last tokens, which costs a pass over the whole
    /// context for each token: all of them have new positions.
    ///
    /// # Errors
    /// [`Error::NonFinite`] where a logit is NaN or Inf: no text has got a token then.
    /// [`Error::DeviceLost`].
    pub async fn next(&mut self) -> Result<Vec<Option<u32>>> {
        let (begun, generator) = (Instant::now(), self.generator);
        let longest = longest(&pieces(&mut self.texts, generator));
        if longest == 0 {
            return Ok(vec![None; self.texts.len()]);
        }
        let (buffer, count) =
            (&generator.plan_for(longest).sampled.buffer, 4 * generator.sequences);
        let sampled: Vec<u32> = self.read_texts(generator.gpu.read(buffer, 0, count)).await?;
        let rows = || self.texts.iter().zip(sampled.chunks_exact(4));
        if let Some((_, row)) = rows().find(|(text, row)| !text.is_finished && row[1] == 0) {
            return Err(not_finite(row[2] as usize, f32::from_bits(row[3])));
        }
        let token = |(text, row): (&Text, &[u32])| (!text.is_finished).then_some(row[0]);
        let drawn: Vec<_> = rows().map(token).collect();
        for (index, token) in drawn.iter().enumerate() {
            let Some(token) = *token else { continue };
            let text = &mut self.texts[index];
            text.drawn = text.drawn.wrapping_add(1);
            text.tokens.push(token);
            self.mark(index, token);
        }
        if longest > 1 {
            self.speed.prompt_time += begun.elapsed();
        } else {
            self.speed.tokens += drawn.iter().flatten().count();
            self.speed.time += begun.elapsed();
        }
        Ok(drawn)
    }

    /// Draws no more tokens for a text, the first being 0: it has ended, with a stop token, say.
    ///
    /// # Panics
    /// Without such a text.
    pub fn finish(&mut self, text: usize) {
        self.texts[text].is_finished = true;
    }

    /// Puts tokens behind a text: the next part of a conversation. It goes on, if it was finished.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`].
    ///
    /// # Panics
    /// Without such a text.
    pub fn append(&mut self, text: usize, tokens: &[u32]) -> Result<()> {
        if !tokens.is_empty() {
            self.generator.check(tokens)?;
        }
        self.texts[text].tokens.extend_from_slice(tokens);
        self.texts[text].is_finished = false;
        self.mark_all();
        Ok(())
    }

    /// All tokens of a text, its prompt included.
    ///
    /// # Panics
    /// Without such a text.
    pub fn text(&self, text: usize) -> &[u32] {
        &self.texts[text].tokens
    }

    /// How fast it went so far.
    pub fn speed(&self) -> GenerationSpeed {
        self.speed
    }

    /// The logits of the next token of each text, before any penalty; none of those that are
    /// [finished](Self::finish). Nothing is drawn.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn logits(&mut self) -> Result<Vec<Vec<f32>>> {
        let generator = self.generator;
        let longest = longest(&pieces(&mut self.texts, generator));
        if longest == 0 {
            return Ok(vec![Vec::new(); self.texts.len()]);
        }
        let logits = &generator.plan_for(longest).logits;
        let logits = self.read_texts(parameters::read_slot(&generator.gpu, logits)).await?;
        let rows = self.texts.iter().zip(logits.chunks(generator.vocabulary as usize));
        let row = |(text, row): (&Text, &[f32])| {
            if text.is_finished { Vec::new() } else { row.to_vec() }
        };
        Ok(rows.map(row).collect())
    }

    /// Runs the model over what the cache does not have, and `read` behind it.
    async fn read_texts<T>(&mut self, read: impl Future<Output = Result<T>>) -> Result<T> {
        let generator = self.generator;
        generator.gpu.check()?;
        let settings = self.texts.iter().flat_map(|text| text.sampling.at(text.drawn).words());
        let settings: Vec<_> = settings.collect();
        let pieces = pieces(&mut self.texts, generator);
        let longest = longest(&pieces);
        let all: usize = pieces.iter().map(|piece| piece.tokens.len()).sum();
        let recorded = generator.plan_for(longest);
        generator.gpu.write(recorded.input("settings"), 0, bytemuck::cast_slice(&settings));
        let Pacings { block, token, .. } = &mut *self.pacings;
        let pacing = if longest > 1 { block } else { token };
        let blocks = longest.div_ceil(recorded.rows);
        let mut before = None;
        for index in 0..blocks {
            let parts: Vec<_> =
                pieces.iter().map(|piece| piece.block(index, blocks, recorded.rows)).collect();
            let is_last = index + 1 == blocks;
            let submitted = recorded.submit(&generator.gpu, pacing, &parts, is_last).await?;
            // At most two blocks are under way.
            if let Some(before) = before.replace(submitted) {
                pacing.finish(&generator.gpu, before).await?;
            }
        }
        let finish = async {
            match before {
                Some(submitted) => pacing.finish(&generator.gpu, submitted).await,
                None => Ok(()),
            }
        };
        let (finished, result) = join(finish, read).await;
        finished?;
        for text in self.texts.iter_mut().filter(|text| !text.is_finished) {
            text.held = text.tokens.len() - text.first;
        }
        if longest > 1 {
            self.speed.prompt_tokens += all;
        }
        result
    }
}

/// What the cache does not have of each sequence.
fn pieces<'a>(texts: &'a mut [Text], generator: &Generator) -> Vec<Piece<'a>> {
    texts.iter_mut().for_each(|text| text.slide(generator.context));
    let mut pieces: Vec<_> = texts.iter().map(Text::piece).collect();
    pieces.resize(generator.sequences, Piece { tokens: &[], position: 0 });
    pieces
}

fn longest(pieces: &[Piece<'_>]) -> usize {
    pieces.iter().map(|piece| piece.tokens.len()).max().unwrap_or(0)
}
