//! What would make the training of a language model fit into memory.

use std::fmt;

use crate::error::{Error, Result};
use crate::gpu::MemoryLimits;
use crate::kernel::{BlockFormat, MomentStorage, Precision};
use crate::nn::{Gpt, GptConfig, LanguageModel};
use crate::train::{MemoryPlan, TrainerBuilder, Variation};

/// One change to a run that makes it smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Smaller microbatches, and as many more of them, so that a step has the same sequences.
    Microbatches {
        /// Sequences of a microbatch.
        batch: usize,
        /// Microbatches of a step.
        accumulation: usize,
    },
    /// [`GptConfig::recompute`]: the same bits, for a third more arithmetic.
    Recompute,
    /// A smaller [`GptConfig::logits_budget`], in bytes.
    LogitsBudget(u64),
    /// Moments in fewer bits.
    Moments(MomentStorage),
    /// Activations in half precision.
    Precision(Precision),
    /// The frozen base in blocks ([`GptConfig::base_format`]).
    BaseFormat(BlockFormat),
    /// A lower rank of the adapters; alpha falls with it, so that their scale stays.
    Rank(usize),
    /// Shorter sequences: what a model learns of distant positions goes with them.
    Context(usize),
}

/// The kinds of change, those first that cost the least quality.
const KINDS: [Kind; 8] = [
    Kind::Microbatches,
    Kind::Recompute,
    Kind::LogitsBudget,
    Kind::Moments,
    Kind::Precision,
    Kind::BaseFormat,
    Kind::Rank,
    Kind::Context,
];

#[derive(Clone, Copy, Debug)]
enum Kind {
    Microbatches,
    Recompute,
    LogitsBudget,
    Moments,
    Precision,
    BaseFormat,
    Rank,
    Context,
}

/// Changes that make a run fit, and what it takes with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion {
    /// One change, or several where no single one is enough; none for a run that fits.
    pub changes: Vec<Change>,
    /// What the run takes then.
    pub memory: MemoryPlan,
}

/// A run with changes: its model, and what of its settings is otherwise.
#[derive(Clone, Debug)]
struct Run {
    model: LanguageModel,
    variation: Variation,
    microbatches: usize,
    /// Positions of the longest sequences.
    time: usize,
    precision: Precision,
    moments: MomentStorage,
}

impl Run {
    fn of(builder: &TrainerBuilder<LanguageModel>) -> Self {
        let model = builder.model().clone();
        Self {
            variation: Variation::default(),
            microbatches: builder.microbatches(),
            time: builder.longest().unwrap_or(model.time),
            precision: builder.precision_of_values(),
            moments: builder.moment_storage(),
            model,
        }
    }

    fn config(&self) -> &GptConfig {
        self.model.gpt.config()
    }

    /// The changes of a kind that would make it smaller, the mildest first.
    fn changes(&self, kind: Kind) -> Vec<Change> {
        let config = self.config();
        let halves = |value: usize, least: usize| {
            std::iter::successors(Some(value / 2), |value| Some(value / 2))
                .take_while(move |&value| value >= least)
        };
        match kind {
            Kind::Microbatches => {
                let batch = self.model.batch;
                let fewer = (1..batch).rev().filter(|fewer| batch.is_multiple_of(*fewer));
                let accumulation = |fewer: usize| self.microbatches * (batch / fewer);
                fewer
                    .map(|batch| Change::Microbatches { batch, accumulation: accumulation(batch) })
                    .collect()
            }
            Kind::Recompute if config.recompute => Vec::new(),
            Kind::Recompute => vec![Change::Recompute],
            Kind::LogitsBudget => {
                let budgets = [256, 64, 16, 4].map(|mib: u64| mib << 20);
                let smaller = budgets.into_iter().filter(|&bytes| bytes < config.logits_budget);
                smaller.map(Change::LogitsBudget).collect()
            }
            Kind::Moments => {
                let fewer = [MomentStorage::Bf16, MomentStorage::Blocks8].into_iter();
                let is_smaller =
                    |storage: &MomentStorage| storage.quad_bytes() < self.moments.quad_bytes();
                fewer.filter(is_smaller).map(Change::Moments).collect()
            }
            Kind::Precision if self.precision != Precision::F32 => Vec::new(),
            Kind::Precision => vec![Change::Precision(Precision::Bf16)],
            Kind::BaseFormat if config.lora.is_none() => Vec::new(),
            Kind::BaseFormat => {
                let block_bytes = config.base_format.map_or(usize::MAX, BlockFormat::bytes);
                let formats = [BlockFormat::Q8_0, BlockFormat::Q4_1, BlockFormat::Q4_0];
                let smaller = formats.into_iter().filter(|format| format.bytes() < block_bytes);
                smaller.map(Change::BaseFormat).collect()
            }
            Kind::Rank => {
                let rank = config.lora.as_ref().map_or(0, |lora| lora.rank);
                halves(rank, 1).map(Change::Rank).collect()
            }
            Kind::Context => halves(self.time, 32).map(Change::Context).collect(),
        }
    }

    /// The run with a change.
    ///
    /// # Errors
    /// [`Error::Setting`] where the model cannot have it.
    fn with(&self, change: Change) -> Result<Self> {
        let mut run = self.clone();
        let mut config = self.config().clone();
        match change {
            Change::Microbatches { batch, accumulation } => {
                run.model.batch = batch;
                run.microbatches = accumulation;
                run.variation.microbatches = Some(accumulation);
            }
            Change::Recompute => config.recompute = true,
            Change::LogitsBudget(bytes) => config.logits_budget = bytes,
            Change::Moments(storage) => {
                run.moments = storage;
                run.variation.moments = Some(storage);
            }
            Change::Precision(precision) => {
                run.precision = precision;
                run.variation.precision = Some(precision);
            }
            Change::BaseFormat(format) => config.base_format = Some(format),
            Change::Rank(rank) => {
                let Some(lora) = &mut config.lora else { return Err(without_adapters()) };
                let before = lora.scale();
                lora.rank = rank;
                let after = lora.scale();
                lora.alpha *= before / after;
            }
            Change::Context(time) => {
                (run.time, run.model.time) = (time, time);
                run.variation.longest = Some(time);
            }
        }
        run.model.gpt = Gpt::new(config)?;
        Ok(run)
    }
}

fn without_adapters() -> Error {
    Error::Setting {
        setting: "rank",
        value: "changed".into(),
        range: "that of a model with adapters",
    }
}

/// A run, what it takes, and the changes that led to it.
#[derive(Clone)]
struct Candidate {
    run: Run,
    changes: Vec<Change>,
    memory: Option<MemoryPlan>,
}

impl Candidate {
    /// Bytes on the device; the most there may be where the device cannot have it at all.
    fn bytes(&self) -> u64 {
        self.memory.as_ref().map_or(u64::MAX, MemoryPlan::total_bytes)
    }

    fn suggestion(self) -> Option<Suggestion> {
        Some(Suggestion { changes: self.changes, memory: self.memory? })
    }
}

/// The search for what fits.
struct Search<'a> {
    builder: &'a TrainerBuilder<LanguageModel>,
    limits: MemoryLimits,
    budget: u64,
}

impl Search<'_> {
    fn memory(&self, run: &Run) -> Result<MemoryPlan> {
        self.builder.memory_of(&run.model, &run.variation, self.limits)
    }

    fn fits(&self, candidate: &Candidate) -> bool {
        candidate.memory.is_some() && candidate.bytes() <= self.budget
    }

    /// The run as it is.
    fn start(&self) -> Result<Candidate> {
        let run = Run::of(self.builder);
        let memory = match self.memory(&run) {
            Ok(memory) => Some(memory),
            Err(Error::Limit { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(Candidate { run, changes: Vec::new(), memory })
    }

    /// The run of a candidate with one more change, if it can be built.
    fn changed(&self, from: &Candidate, change: Change) -> Option<Candidate> {
        let run = from.run.with(change).ok()?;
        let memory = match self.memory(&run) {
            Ok(memory) => Some(memory),
            Err(Error::Limit { .. }) => None,
            Err(_) => return None,
        };
        let changes = from.changes.iter().copied().chain([change]).collect();
        Some(Candidate { run, changes, memory })
    }

    /// The mildest change of this kind with which it fits, or else the one that saves the most.
    fn best(&self, from: &Candidate, kind: Kind) -> Option<Candidate> {
        // Given parameters are laid out already.
        if self.builder.has_parameters() && matches!(kind, Kind::BaseFormat | Kind::Rank) {
            return None;
        }
        let mut smallest: Option<Candidate> = None;
        for change in from.run.changes(kind) {
            let Some(candidate) = self.changed(from, change) else { continue };
            if self.fits(&candidate) {
                return Some(candidate);
            }
            if smallest.as_ref().is_none_or(|smallest| candidate.bytes() < smallest.bytes()) {
                smallest = Some(candidate);
            }
        }
        smallest
    }

    /// Changes of several kinds, each as strong as is needed.
    fn combined(&self, start: &Candidate) -> Option<Candidate> {
        let mut found = start.clone();
        for kind in KINDS {
            let Some(next) = self.best(&found, kind) else { continue };
            if self.fits(&next) {
                return Some(self.pruned(start, next));
            }
            if next.bytes() < found.bytes() {
                found = next;
            }
        }
        None
    }

    /// Without the changes that are not needed, the most costly tried first.
    fn pruned(&self, start: &Candidate, mut found: Candidate) -> Candidate {
        for index in (0..found.changes.len()).rev() {
            let mut others = found.changes.clone();
            others.remove(index);
            let again = others
                .into_iter()
                .try_fold(start.clone(), |from, change| self.changed(&from, change));
            if let Some(again) = again.filter(|again| self.fits(again)) {
                found = again;
            }
        }
        found
    }
}

impl TrainerBuilder<LanguageModel> {
    /// What would make the run fit into so many bytes on the device: of each kind the mildest
    /// single change that is enough, those first that cost the least quality; or, where no single
    /// one is, one suggestion of several. For a run that fits, one without changes; none where
    /// nothing helps. Nothing is allocated.
    ///
    /// ```
    /// use evenkeel::gpu::MemoryLimits;
    /// use evenkeel::nn::{Gpt, GptConfig, LanguageModel};
    /// use evenkeel::train::Trainer;
    ///
    /// let gpt = Gpt::new(GptConfig::gpt2(96, 64, 4, 4, 128))?;
    /// let builder = Trainer::builder(LanguageModel { gpt, batch: 8, time: 64 });
    /// let budget = builder.memory(MemoryLimits::DEFAULT)?.total_bytes() - 1;
    /// let suggestions = builder.fitting(MemoryLimits::DEFAULT, budget)?;
    /// for suggestion in &suggestions {
    ///     println!("{suggestion}");
    /// }
    /// let builder = builder.with_changes(&suggestions[0].changes)?;
    /// assert!(builder.memory(MemoryLimits::DEFAULT)?.total_bytes() <= budget);
    /// # Ok::<(), evenkeel::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`memory`](Self::memory), but for what is too large for a binding.
    pub fn fitting(&self, limits: impl Into<MemoryLimits>, budget: u64) -> Result<Vec<Suggestion>> {
        let search = Search { builder: self, limits: limits.into(), budget };
        let start = search.start()?;
        if search.fits(&start) {
            return Ok(start.suggestion().into_iter().collect());
        }
        let single = KINDS.into_iter().filter_map(|kind| search.best(&start, kind));
        let single: Vec<_> = single.filter(|candidate| search.fits(candidate)).collect();
        let found =
            if single.is_empty() { search.combined(&start).into_iter().collect() } else { single };
        Ok(found.into_iter().filter_map(Candidate::suggestion).collect())
    }

    /// The run with the changes of a [`Suggestion`], made one after the other.
    ///
    /// # Errors
    /// [`Error::Setting`] for a change that the model or the optimizer cannot have.
    pub fn with_changes(self, changes: &[Change]) -> Result<Self> {
        let start = Run::of(&self);
        let run = changes.iter().try_fold(start, |run, &change| run.with(change))?;
        self.varied(run.model, &run.variation)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Microbatches { batch, accumulation } => {
                write!(f, "{accumulation} microbatches of {batch} sequences")
            }
            Self::Recompute => write!(f, "recompute the activations of blocks"),
            Self::LogitsBudget(bytes) => write!(f, "a logits budget of {} MiB", bytes >> 20),
            Self::Moments(storage) => write!(f, "moments in {storage}"),
            Self::Precision(precision) => write!(f, "activations in {precision}"),
            Self::BaseFormat(format) => write!(f, "the base in blocks of {format}"),
            Self::Rank(rank) => write!(f, "adapters of rank {rank}"),
            Self::Context(time) => write!(f, "sequences of {time} positions"),
        }
    }
}

impl fmt::Display for Suggestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changes: Vec<_> = self.changes.iter().map(Change::to_string).collect();
        let changes = if changes.is_empty() { "as it is".into() } else { changes.join(", ") };
        let mib = self.memory.total_bytes() as f64 / f64::from(1 << 20);
        write!(f, "{changes}: {mib:.2} MiB")
    }
}
