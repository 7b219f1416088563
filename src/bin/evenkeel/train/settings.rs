//! The settings of a run: a preset or a dial with what was given in its place, checked.

use evenkeel::hugging_face::{Config, Family};
use evenkeel::nn::{Gpt, GptConfig, LanguageModel, Sampling};
use evenkeel::train::ranks::DiLoCoSettings;
use evenkeel::train::{Clip, DecayShape, Ema, Schedule, Trainer, TrainerBuilder};
use evenkeel::{Error, Gpu, Precision, Result};

use super::budget::Budget;
use super::dial::{self, Reason};
use super::options::{Form, Options, Rule, Shape, Storage};
use super::presets::{Preset, Sizes};
use crate::ranks::{Ranks, Share};

/// A run, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    pub name: String,
    /// What the model is, as its folder says.
    pub config: Config,
    pub gpt: Gpt,
    pub rule: Rule,
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub shape: Shape,
    pub final_factor: f64,
    /// Steps at the end in which the learning rate falls, of schedules that have such a part.
    pub decay: usize,
    pub ema: Option<Ema>,
    pub steps: usize,
    pub warmup: usize,
    pub batch: usize,
    pub accumulation: usize,
    pub context: usize,
    pub clip: f32,
    pub precision: Precision,
    pub watch_every: u32,
    /// Whether each of several ranks keeps the moments of a part of the weights.
    pub shard_optimizer: bool,
    /// Where ranks meet once in some steps.
    pub diloco: Option<DiLoCoSettings>,
    pub seed: u32,
    pub report_every: usize,
    pub evaluate_every: usize,
    pub save_every: usize,
    pub keep: usize,
    pub milestones: Vec<u64>,
    pub sample: usize,
    pub sampling: Sampling,
    pub validation_share: f64,
}

/// What settings depend on beside options.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    pub is_software: bool,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// The model that is gone on with.
    pub base: Option<&'a Config>,
}

/// Settings, all options as they now are, and why.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub settings: Settings,
    pub options: Options,
    pub reasons: Vec<Reason>,
}

/// Checks options, with what a preset, the dial or the model says where nothing was given.
///
/// # Errors
/// [`Error::Setting`] and [`Error::Unsupported`] name the option.
pub fn resolve(options: &Options, ground: Ground<'_>) -> Result<Resolved> {
    let (sizes, reasons) = sizes(options, ground)?;
    let settings = checked(options, &sizes, ground)?;
    let options = settings.resolved(options, ground.base.is_none());
    Ok(Resolved { settings, options, reasons })
}

fn sizes(options: &Options, ground: Ground<'_>) -> Result<(Sizes, Vec<Reason>)> {
    if let Some(base) = ground.base {
        return Ok((of_model(&base.gpt), Vec::new()));
    }
    if let Some(depth) = options.depth {
        check("--depth", depth, (1..=1024).contains(&depth), "at least 1 and at most 1024")?;
        return Ok(dial::sizes(depth, options, ground.vocabulary, ground.is_software));
    }
    let default = if ground.is_software { Preset::Tiny } else { Preset::Small };
    Ok((options.preset.unwrap_or(default).sizes(), Vec::new()))
}

/// For a model that knows something already: short steps, and not many.
fn of_model(gpt: &GptConfig) -> Sizes {
    Sizes {
        name: "the model".to_owned(),
        steps: 500,
        batch: 4,
        context: gpt.context.min(512),
        learning_rate: 1e-5,
        weight_decay: 0.0,
        ..Preset::Tiny.sizes()
    }
}

fn checked(options: &Options, sizes: &Sizes, ground: Ground<'_>) -> Result<Settings> {
    let in_step = |sizes: &Sizes| sizes.batch * sizes.accumulation * sizes.context;
    let batch = options.batch.unwrap_or(sizes.batch);
    let accumulation = options.accumulation.unwrap_or(sizes.accumulation);
    let context = options.context.unwrap_or(sizes.context);
    // A budget of tokens has as many steps as it has room for.
    let of_budget = match options.budget {
        Some(Budget::Tokens(tokens)) => {
            let given = Sizes { batch, accumulation, context, ..sizes.clone() };
            Some((tokens as usize).div_ceil(in_step(&given).max(1)))
        }
        _ => None,
    };
    let steps = options.steps.or(of_budget).unwrap_or(sizes.steps);
    let tenth = (steps / 10).max(1);
    let evaluate_every = options.evaluate_every.unwrap_or(tenth);
    let report_every = options.report_every.unwrap_or(10);
    for (setting, value) in [
        ("--steps", steps),
        ("--batch", batch),
        ("--accumulation", accumulation),
        ("--context", context),
        ("--report-every", report_every),
        ("--evaluate-every", evaluate_every),
        ("--keep", options.keep.unwrap_or(2)),
    ] {
        // The schedule and the telemetry ring have an entry per step.
        let range = "at least 1 and at most 10 million";
        check(setting, value, (1..=10_000_000).contains(&value), range)?;
    }
    let rule = options.optimizer.unwrap_or(Rule::Adamw);
    let learning_rate = options.lr.unwrap_or(rule.learning_rate(sizes.learning_rate));
    let is_rate = learning_rate.is_finite() && learning_rate > 0.0;
    check("--lr", learning_rate, is_rate, "finite and above 0")?;
    let not_negative = |value: f64| value.is_finite() && value >= 0.0;
    let clip = options.clip.unwrap_or(1.0);
    check("--clip", clip, not_negative(clip.into()), "finite and above 0, or 0 for none")?;
    let final_factor = options.final_lr.unwrap_or(0.1);
    check("--final-lr", final_factor, not_negative(final_factor), "finite and not negative")?;
    let ema = options.ema.unwrap_or(0.0);
    check("--ema", ema, (0.0..1.0).contains(&ema), "at least 0 and below 1")?;
    let temperature = options.temperature.unwrap_or(0.8);
    check("--temperature", temperature, not_negative(temperature), "finite and not negative")?;
    check("--top-k", 0, options.top_k != Some(0), "at least 1")?;
    check("--milestones", 0, !options.milestones.contains(&0), "at least 1 each")?;
    let warmup = options.warmup.unwrap_or((steps / 20).clamp(1, 200)).min(steps);
    let decay = options.decay.unwrap_or((steps / 5).max(1)).min(steps - warmup);
    let (config, gpt) = model(options, sizes, context, ground)?;
    let seed = options.seed.unwrap_or(0);
    Ok(Settings {
        name: sizes.name.clone(),
        config,
        gpt,
        rule,
        learning_rate,
        weight_decay: options.weight_decay.unwrap_or(rule.weight_decay(sizes.weight_decay)),
        shape: options.schedule.unwrap_or(Shape::Cosine),
        final_factor,
        decay,
        ema: (ema > 0.0).then_some(Ema { decay: ema, warmup: true }),
        steps,
        warmup,
        batch,
        accumulation,
        context,
        clip,
        precision: match options.precision.unwrap_or(Storage::Auto) {
            // Until it is measured.
            Storage::Auto | Storage::F32 => Precision::F32,
            Storage::F16 => Precision::F16,
            Storage::Bf16 => Precision::Bf16,
        },
        // For the report's heat strip and TensorBoard's charts.
        watch_every: match (&options.report, &options.tensorboard) {
            (None, None) => 0,
            _ => report_every as u32,
        },
        shard_optimizer: options.shard_optimizer,
        diloco: options.rounds().settings()?,
        seed,
        report_every,
        evaluate_every,
        save_every: options.save_every.unwrap_or(tenth),
        keep: options.keep.unwrap_or(2),
        milestones: options.milestones.clone(),
        sample: options.sample.unwrap_or(500),
        sampling: Sampling { temperature, top_k: options.top_k, seed, ..Sampling::default() },
        validation_share: options.validation_share.unwrap_or(0.1),
    })
}

/// What a folder says of the model, and the model as it is trained.
fn model(
    options: &Options,
    sizes: &Sizes,
    context: usize,
    ground: Ground<'_>,
) -> Result<(Config, Gpt)> {
    let dropout = options.dropout.unwrap_or(sizes.dropout);
    check("--dropout", dropout, (0.0..1.0).contains(&dropout), "in [0, 1)")?;
    let config = match ground.base {
        Some(base) => {
            let own = base.gpt.context;
            let together = format!("{context} for a model of {own} positions");
            check("--context", together, context <= own, "at most as many")?;
            base.clone()
        }
        None => from_nothing(options, sizes, context, ground.vocabulary)?,
    };
    let gpt = GptConfig { dropout, recompute: options.recompute, ..config.gpt.clone() };
    Ok((config, Gpt::new(gpt)?))
}

fn from_nothing(
    options: &Options,
    sizes: &Sizes,
    context: usize,
    vocabulary: usize,
) -> Result<Config> {
    let layers = options.layers.unwrap_or(sizes.layers);
    let heads = options.heads.unwrap_or(sizes.heads);
    let width = options.width.unwrap_or(sizes.width);
    for (setting, value) in [("--layers", layers), ("--heads", heads), ("--width", width)] {
        check(setting, value, value > 0, "at least 1")?;
    }
    let together = format!("{heads} with a --width of {width}");
    check("--heads", together, width.is_multiple_of(heads), "a divisor of the width")?;
    let form = options.family.unwrap_or(sizes.form);
    let gpt = match form {
        Form::Gpt2 => {
            if options.kv_heads.is_some_and(|kv_heads| kv_heads != heads) {
                return Err(Error::Unsupported {
                    what: "--kv-heads with the family gpt2".to_owned(),
                    instead: "take --family llama".to_owned(),
                });
            }
            GptConfig::gpt2(vocabulary, context, layers, heads, width)
        }
        Form::Llama => {
            let half = if heads.is_multiple_of(2) { heads / 2 } else { heads };
            let follows = sizes.kv_heads.filter(|kv_heads| heads.is_multiple_of(*kv_heads));
            let kv_heads = options.kv_heads.or(follows).unwrap_or(half);
            let divides = kv_heads > 0 && heads.is_multiple_of(kv_heads);
            let together = format!("{kv_heads} with {heads} --heads");
            check("--kv-heads", together, divides, "a divisor of the heads")?;
            GptConfig::llama(vocabulary, context, layers, [heads, kv_heads], width)
        }
    };
    Config::new(form.family(), gpt)
}

impl Settings {
    /// Tokens in a step.
    pub fn tokens_per_step(&self) -> usize {
        self.batch * self.accumulation * self.context
    }

    /// The part of each of several ranks.
    ///
    /// # Errors
    /// As [`Share::of`].
    pub fn share(&self, ranks: usize) -> Result<Share> {
        Share::of(("--batch", self.batch), ("--accumulation", self.accumulation), ranks)
    }

    /// A trainer of a rank that takes this part of each step, not built yet.
    pub fn builder_of(&self, share: Share) -> TrainerBuilder<LanguageModel> {
        let Share { batch, accumulation } = share;
        Self { batch, accumulation, ..self.clone() }.builder()
    }

    /// That trainer, on the device.
    ///
    /// # Errors
    /// As [`Ranks::build`].
    pub async fn build_of(
        &self,
        share: Share,
        gpu: &Gpu,
        ranks: &Ranks,
    ) -> Result<Trainer<LanguageModel>> {
        ranks.build(self.builder_of(share), gpu, self.diloco.is_some()).await
    }

    /// Whether the run is saved at some step after one and up to another.
    pub fn saves(&self, after: u64, until: u64) -> bool {
        let is_milestone = |step: &u64| (after + 1..=until).contains(step);
        passes(self.save_every, after, until) || self.milestones.iter().any(is_milestone)
    }

    /// The same of measuring the validation loss.
    pub fn validates(&self, after: u64, until: u64) -> bool {
        let last = self.steps as u64;
        passes(self.evaluate_every, after, until) || (after + 1..=until).contains(&last)
    }

    /// The place where another shape is added: a variant of [`Shape`], and its schedule here.
    fn schedule(&self) -> Schedule {
        let &Self { warmup, decay, steps: total, final_factor, .. } = self;
        let stable =
            |shape| Schedule::WarmupStableDecay { warmup, decay, total, shape, final_factor };
        match self.shape {
            Shape::Constant => Schedule::Constant { warmup },
            Shape::Linear => Schedule::Linear { warmup, total, final_factor },
            Shape::Cosine => Schedule::Cosine { warmup, total, final_factor },
            Shape::Wsd => stable(DecayShape::OneMinusSqrt),
            Shape::WsdLinear => stable(DecayShape::Linear),
            Shape::InverseSqrt => Schedule::InverseSquareRoot { warmup },
        }
    }

    /// A trainer of it, not built yet.
    pub fn builder(&self) -> TrainerBuilder<LanguageModel> {
        let model = LanguageModel { gpt: self.gpt.clone(), batch: self.batch, time: self.context };
        let builder = self.with_optimizer(Trainer::builder(model));
        let builder = match self.ema {
            Some(ema) => builder.ema(ema),
            None => builder,
        };
        builder
            .clip(if self.clip > 0.0 { Clip::Norm(self.clip) } else { Clip::None })
            .schedule(self.schedule())
            .precision(self.precision)
            .watch_tensors(self.watch_every)
            .shard_optimizer_state(self.shard_optimizer)
            .accumulation(self.accumulation)
            .seed(self.seed)
            .telemetry_capacity(self.report_every as u32)
    }

    /// Says what the preset and the defaults said, for a run that goes on elsewhere or in a later
    /// version.
    fn resolved(&self, options: &Options, from_nothing: bool) -> Options {
        let gpt = self.gpt.config();
        let of_model = |value: usize| from_nothing.then_some(value);
        let form = match self.config.family() {
            Family::Gpt2 => Form::Gpt2,
            _ => Form::Llama,
        };
        let is_llama = form == Form::Llama;
        Options {
            family: from_nothing.then_some(form),
            layers: of_model(gpt.layers),
            heads: of_model(gpt.heads),
            kv_heads: of_model(gpt.kv_heads).filter(|_| is_llama),
            width: of_model(gpt.width),
            context: Some(self.context),
            dropout: Some(gpt.dropout),
            steps: Some(self.steps),
            batch: Some(self.batch),
            accumulation: Some(self.accumulation),
            lr: Some(self.learning_rate),
            optimizer: Some(self.rule),
            schedule: Some(self.shape),
            warmup: Some(self.warmup),
            final_lr: Some(self.final_factor),
            decay: matches!(self.shape, Shape::Wsd | Shape::WsdLinear).then_some(self.decay),
            weight_decay: Some(self.weight_decay),
            clip: Some(self.clip),
            diloco_steps: self.diloco.map(|diloco| diloco.inner_steps),
            diloco_lr: self.diloco.map(|diloco| diloco.learning_rate),
            diloco_momentum: self.diloco.map(|diloco| diloco.momentum),
            diloco_format: self.diloco.map(|diloco| diloco.encoding.into()),
            precision: Some(self.precision.into()),
            seed: Some(self.seed),
            validation_share: Some(self.validation_share),
            report_every: Some(self.report_every),
            evaluate_every: Some(self.evaluate_every),
            save_every: Some(self.save_every),
            keep: Some(self.keep),
            sample: Some(self.sample),
            temperature: Some(self.sampling.temperature),
            ..options.clone()
        }
    }
}

/// Whether a multiple of `every` lies after one step and up to another; never for 0.
fn passes(every: usize, after: u64, until: u64) -> bool {
    let every = every as u64;
    every != 0 && until / every != after / every
}

fn check(
    setting: &'static str,
    value: impl ToString,
    allowed: bool,
    range: &'static str,
) -> Result<()> {
    if allowed { Ok(()) } else { Err(Error::Setting { setting, value: value.to_string(), range }) }
}
