//! What is learned: addition, or a text.

use evenkeel::data::{Corpus, Split};
use evenkeel::nn::Gpt;
use evenkeel::reference::random::threefry4x32;
use evenkeel::train::{Batch, Predictor, Trainer};
use evenkeel::{Gpu, Result};

use crate::addition::{Addition, Part, Problem, VOCABULARY};
use crate::{Disturbed, Settings};
use evenkeel::nn::LanguageModel;

/// Share of a text that is kept for validation.
const VALIDATION_SHARE: f64 = 0.1;
/// Seed of what is measured on, whatever the run's own seed is.
const VALIDATION_SEED: u32 = 0;
/// Key word of the random stream of outlier batches, apart from those of the library.
const DOMAIN_OUTLIER: u32 = 103;

/// What is learned.
#[derive(Clone, Debug)]
pub enum Task {
    /// Sums of two numbers.
    Addition(Addition),
    /// The next character of a text.
    Text(Corpus),
}

/// What the model makes of a problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The problem, as a person writes it.
    pub question: String,
    /// The digits that the model wrote, the first one first.
    pub answer: String,
    /// Whether they are the sum.
    pub right: bool,
}

impl Task {
    /// Positions of a sequence.
    pub fn context(&self, settings: &Settings) -> usize {
        match self {
            Self::Addition(addition) => addition.context(),
            Self::Text(_) => settings.context,
        }
    }

    /// Number of tokens.
    pub fn vocabulary_size(&self) -> usize {
        match self {
            Self::Addition(_) => VOCABULARY,
            Self::Text(corpus) => corpus.vocabulary().size(),
        }
    }

    fn split<'a>(&self, corpus: &'a Corpus, settings: &Settings) -> Result<Split<'a>> {
        corpus.split(VALIDATION_SHARE, settings.context)
    }

    /// Batch `index` to train on.
    ///
    /// # Errors
    /// [`Error::Data`](evenkeel::Error::Data) for a text too short for the context.
    pub fn batch(&self, settings: &Settings, index: u64) -> Result<Batch> {
        let &Settings { seed, batch, .. } = settings;
        Ok(match self {
            Self::Addition(addition) => addition.batch(Part::Training, seed, index, batch),
            Self::Text(corpus) => self.split(corpus, settings)?.training.batch(seed, index, batch),
        })
    }

    /// Batch `index` of what is never trained on.
    ///
    /// # Errors
    /// As [`batch`](Self::batch).
    pub fn validation_batch(&self, settings: &Settings, index: u64) -> Result<Batch> {
        let (seed, batch) = (VALIDATION_SEED, settings.batch);
        Ok(match self {
            Self::Addition(addition) => addition.batch(Part::HeldOut, seed, index, batch),
            Self::Text(corpus) => {
                self.split(corpus, settings)?.validation.batch(seed, index, batch)
            }
        })
    }

    /// Random tokens and targets in place of batch `index`.
    pub fn outlier_batch(&self, settings: &Settings, index: u64) -> Batch {
        let count = settings.batch * self.context(settings);
        let size = self.vocabulary_size() as u32;
        let ids = |which: u32| -> Vec<u32> {
            let key = [settings.seed, index as u32, which, DOMAIN_OUTLIER];
            (0..count as u32).map(|i| threefry4x32([i, 0, 0, 0], key)[0] % size).collect()
        };
        Batch::new().with("tokens", ids(0)).with("targets", ids(1))
    }
}

/// Answers sums: the model writes digit by digit, always the most likely one.
#[derive(Debug)]
pub struct Solver {
    predictor: Predictor,
    addition: Addition,
    rows: usize,
}

impl Solver {
    /// Records the forward pass over `rows` problems at once.
    ///
    /// # Errors
    /// As [`Predictor::new`].
    pub async fn new(
        gpu: &Gpu,
        trainer: &Trainer<Disturbed<LanguageModel>>,
        addition: Addition,
        rows: usize,
    ) -> Result<Self> {
        let gpt: &Gpt = &trainer.model().0.gpt;
        let build = |graph: &mut evenkeel::graph::Graph| {
            let tokens = graph.tokens("tokens", [rows, addition.context()], VOCABULARY);
            vec![gpt.logits(graph, tokens)]
        };
        let predictor = Predictor::new(gpu, trainer.parameters(), build).await?;
        Ok(Self { predictor, addition, rows })
    }

    /// Answers problems, as many as it was made for at most.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](evenkeel::Error::DeviceLost).
    pub async fn solve(&self, problems: &[Problem]) -> Result<Vec<Answer>> {
        let (context, positions) = (self.addition.context(), self.addition.sum_positions());
        let mut tokens = self.addition.questions(problems);
        tokens.resize(self.rows * context, 0);
        let mut written = vec![Vec::new(); problems.len()];
        for position in positions {
            let outputs = self.predictor.run(&Batch::new().with("tokens", &tokens[..])).await?;
            for (row, digits) in written.iter_mut().enumerate() {
                let at = (row * context + position) * VOCABULARY;
                let digit = most_likely(&outputs[0][at..][..VOCABULARY]);
                digits.push(digit);
                if position + 1 < context {
                    tokens[row * context + position + 1] = digit;
                }
            }
        }
        let answer = |(&Problem { a, b }, digits): (&Problem, &Vec<u32>)| Answer {
            question: format!("{a} + {b}"),
            answer: Addition::digits_text(digits),
            right: Addition::sum(digits) == Some(a + b),
        };
        Ok(problems.iter().zip(&written).map(answer).collect())
    }
}

/// The index of the largest logit, the first among equals.
fn most_likely(logits: &[f32]) -> u32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|&logit| logit == largest).unwrap_or(0) as u32
}
