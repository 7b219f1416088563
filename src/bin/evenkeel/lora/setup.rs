//! A run as it was asked for, with all that can be wrong with it found before anything is trained.

use evenkeel::hugging_face::{Adapter, MlxLora};
use evenkeel::nn::{Gpt, GptConfig, LanguageModel, Lora};
use evenkeel::run::{CompileBar, Source, say};
use evenkeel::train::ranks::DiLoCoSettings;
use evenkeel::train::{
    Batch, Clip, Ema, MemoryPlan, SnapshotRing, SpikeGuard, Trainer, TrainerBuilder,
};
use evenkeel::{Error, Gpu, Result};

use super::data::{Data, Set};
use super::memory;
use super::optimizer;
use super::settings::{FineTuneType, Settings, SpikeReaction};
use super::storage;
use crate::ranks::{Ranks, Share, rounds};

/// The model, the data, what is trained of the one on the other, and what that takes.
pub struct Setup {
    pub settings: Settings,
    pub source: Source,
    pub data: Data,
    /// The adapter, unless weights themselves are trained.
    pub lora: Option<Lora>,
    pub plan: MemoryPlan,
    /// Who else takes part, and what this rank has of a step.
    pub ranks: Ranks,
    pub share: Share,
    /// Where ranks meet once in some steps.
    pub diloco: Option<DiLoCoSettings>,
    /// What precision and storage were chosen, and why.
    stored: Option<String>,
    quiet: bool,
}

impl Setup {
    /// Opens the model, reads the data, and works out what the run takes.
    ///
    /// # Errors
    /// Whatever is wrong with them, and [`Error::OutOfMemory`].
    pub fn new(settings: Settings, gpu: &Gpu, quiet: bool) -> Result<Self> {
        let read = read(&settings)?;
        Self::with(settings, read, (gpu, &Ranks::default()), quiet)
    }

    /// Of what was read, on one of several ranks; and what the settings leave open is chosen.
    ///
    /// # Errors
    /// As [`with`](Self::with).
    pub async fn choosing(
        settings: Settings,
        (source, data): Read,
        (gpu, ranks): (&Gpu, &Ranks),
        quiet: bool,
    ) -> Result<Self> {
        let chosen = storage::choose(settings, (&source, &data), (gpu, ranks.size())).await?;
        let (settings, stored) = chosen;
        Ok(Self { stored, ..Self::with(settings, (source, data), (gpu, ranks), quiet)? })
    }

    /// Of what was read, on one of several ranks.
    ///
    /// # Errors
    /// As [`new`](Self::new), and for a step that has no equal parts.
    pub fn with(
        settings: Settings,
        (source, data): Read,
        (gpu, ranks): (&Gpu, &Ranks),
        quiet: bool,
    ) -> Result<Self> {
        let gpt = &source.config().gpt;
        let lora = adapter(&settings, &source, gpt)?;
        let most = gpt.layers as i64;
        if settings.num_layers > most && settings.num_layers != Settings::default().num_layers {
            evenkeel::run::warn(format!(
                "num_layers is {}, and the model has {most} blocks: all of them are tuned",
                settings.num_layers
            ));
        }
        let share = settings.share(ranks.size())?;
        if settings.train && settings.shard_optimizer && !quiet {
            ranks.warn_of_no_shards();
        }
        let builder = builder(&settings.of_rank(share), gpt, lora.clone(), &data)?;
        let diloco = settings.rounds().settings()?;
        let builder = if diloco.is_some() { builder } else { ranks.over(builder) };
        let plan = memory::plan(&builder, gpu, &settings)?;
        let ranks = ranks.clone();
        Ok(Self { settings, source, data, lora, plan, ranks, share, diloco, stored: None, quiet })
    }

    /// The trainer of the run, not yet on the device.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub async fn trainer(&self, gpu: &Gpu) -> Result<Trainer<LanguageModel>> {
        self.trainer_watching(gpu, 0).await
    }

    /// The same, which measures all tensors every so many steps; 0 for never.
    ///
    /// # Errors
    /// As [`trainer`](Self::trainer).
    pub async fn trainer_watching(&self, gpu: &Gpu, every: u32) -> Result<Trainer<LanguageModel>> {
        let builder = || {
            let gpt = &self.source.config().gpt;
            let settings = self.settings.of_rank(self.share);
            let builder = builder(&settings, gpt, self.lora.clone(), &self.data)?;
            Ok::<_, Error>(builder.watch_tensors(every))
        };
        let compiling = CompileBar::new(gpu, self.quiet);
        let built = self.ranks.build(builder()?, gpu, self.diloco.is_some()).await;
        drop(compiling);
        let mut trainer = match built {
            Ok(trainer) => trainer,
            Err(error) => {
                return Err(memory::with_advice(error, &builder()?, gpu, &self.settings));
            }
        };
        let loaded = trainer.load_weights(&mut self.source.reader()).await;
        self.ranks.agree(loaded)?;
        Ok(trainer)
    }

    /// Batches to measure the loss on, so many or all for -1, as they fit this rank.
    ///
    /// # Errors
    /// As [`Share::pieces`].
    pub fn measured(&self, set: &Set, most: i64) -> Result<Vec<Batch>> {
        let rows = self.settings.batch_size;
        let batches = set.measured(most);
        let pieces = batches.iter().map(|batch| self.share.pieces(batch, rows));
        Ok(pieces.collect::<Result<Vec<_>>>()?.concat())
    }

    /// The settings as YAML, and behind a # what the run takes.
    ///
    /// # Errors
    /// [`Error::Data`] for settings that are no YAML.
    pub fn print(&self, gpu: &Gpu) -> Result<()> {
        say!("{}", self.yaml()?.trim_end());
        let memory = self.plan.to_string();
        let lines = memory.trim_end().lines();
        if let Some(stored) = &self.stored {
            say!("# precision {stored}");
        }
        say!("# on {} ({:?}):", gpu.info.name, gpu.info.backend);
        lines.for_each(|line| say!("# {line}"));
        Ok(())
    }

    /// The settings as a configuration file.
    ///
    /// # Errors
    /// As [`print`](Self::print).
    pub fn yaml(&self) -> Result<String> {
        serde_saphyr::to_string(&self.settings).map_err(|error| Error::Data {
            what: "the settings".to_owned(),
            reason: error.to_string(),
        })
    }

    /// Says what was read, and how much of the model is trained.
    pub fn say_what_is_trained(&self) {
        self.data.summaries.iter().for_each(|summary| say!("{summary}"));
        let MemoryPlan { parameters, frozen_parameters, .. } = self.plan;
        let all = parameters + frozen_parameters;
        let millions = |count: usize| count as f64 / 1e6;
        if self.ranks.are_several() {
            let (ranks, Share { batch, accumulation }) = (self.ranks.size(), self.share);
            let sharded = if self.settings.shard_optimizer {
                " and the moments of a part of what is trained"
            } else {
                ""
            };
            say!("{ranks} ranks, each with {accumulation} x {batch} sequences of a step{sharded}");
        }
        say!(
            "Trainable parameters: {:.3}% ({:.3}M/{:.3}M)",
            100.0 * parameters as f64 / all.max(1) as f64,
            millions(parameters),
            millions(all)
        );
        if let Some(stored) = &self.stored {
            say!("Precision {stored}.");
        }
        if let Some(diloco) = &self.diloco {
            say!("DiLoCo: {}.", rounds::outer(diloco, parameters));
        }
        let gib = self.plan.total_bytes() as f64 / f64::from(1 << 30);
        say!("Memory: {gib:.3} GiB on the device");
    }

    pub fn is_quiet(&self) -> bool {
        self.quiet
    }
}

/// The model and the records.
pub type Read = (Source, Data);

/// Opens the model, and reads the records.
///
/// # Errors
/// What is wrong with them.
pub fn read(settings: &Settings) -> Result<Read> {
    // The weights themselves are the model, where they were trained.
    let is_trained = !settings.train && !settings.is_adapter();
    let path = if is_trained { &settings.adapter_path } else { settings.model()? };
    let source = Source::open(path, settings.tokenizer.as_deref())?;
    let data = Data::read(settings, &source.tokenizer, source.config().gpt.context)?;
    Ok((source, data))
}

/// What the settings say of the adapter of a model, or where one is only tested, what its folder
/// says.
pub fn adapter(settings: &Settings, source: &Source, gpt: &GptConfig) -> Result<Option<Lora>> {
    if !settings.is_adapter() {
        return Ok(None);
    }
    if !settings.train && !settings.adapter_path.as_os_str().is_empty() {
        let adapter = Adapter::open_any(&settings.adapter_path, source.config())?;
        return Ok(Some(adapter.lora().clone()));
    }
    let parameters = &settings.lora_parameters;
    let mlx = MlxLora {
        dora: settings.fine_tune_type == FineTuneType::Dora,
        num_layers: settings.num_layers,
        rank: parameters.rank,
        scale: parameters.scale(),
        dropout: parameters.dropout,
        keys: parameters.keys.clone(),
    };
    mlx.lora(gpt).map(Some)
}

/// Whether a parameter is one of the blocks that are tuned, where weights themselves are.
fn is_tuned(name: &str, first: usize) -> bool {
    let block = name.strip_prefix("blocks.").and_then(|rest| rest.split('.').next());
    block.and_then(|block| block.parse::<usize>().ok()).is_some_and(|block| block >= first)
}

/// The trainer that the settings ask for, not built yet.
pub fn builder(
    settings: &Settings,
    base: &GptConfig,
    lora: Option<Lora>,
    data: &Data,
) -> Result<TrainerBuilder<LanguageModel>> {
    let freezes = lora.is_none();
    let gpt = Gpt::new(GptConfig {
        lora,
        base_format: settings.block_format(),
        recompute: settings.grad_checkpoint,
        ..base.clone()
    })?;
    let time = data.lengths.longest();
    let model = LanguageModel { gpt, batch: settings.batch_size, time };
    let mut builder = Trainer::builder(model)
        .clip(if settings.clip > 0.0 { Clip::Norm(settings.clip) } else { Clip::None })
        .give_up_after(settings.give_up_after)
        .accumulation(settings.grad_accumulation_steps)
        .precision(settings.precision())
        .shard_optimizer_state(settings.shard_optimizer)
        .lengths(data.lengths.clone())
        .seed(settings.seed);
    // What is only measured is what lies in the files.
    if settings.train && settings.ema > 0.0 {
        builder = builder.ema(Ema { decay: settings.ema, warmup: true });
    }
    if freezes {
        let count = usize::try_from(settings.num_layers).unwrap_or(0);
        let first = if count == 0 { 0 } else { base.layers.saturating_sub(count) };
        builder = builder.freeze(move |spec| !is_tuned(&spec.name, first));
    }
    let guard = SpikeGuard { threshold: settings.spike_threshold, ..SpikeGuard::default() };
    builder = match settings.spike_guard {
        SpikeReaction::Off => builder,
        SpikeReaction::Skip => builder.policy(guard),
        SpikeReaction::Rollback => {
            let threshold = settings.spike_threshold;
            let guard = SpikeGuard { threshold, ..SpikeGuard::with_rollback() };
            builder.policy(guard).policy(SnapshotRing::default())
        }
    };
    optimizer::apply(builder, settings)
}

/// Measures the loss on test data of an adapter that was saved, or of the model alone.
///
/// # Errors
/// As those of files and device.
pub async fn test_saved(setup: &Setup, gpu: &Gpu) -> Result<Option<f64>> {
    let mut trainer = setup.trainer(gpu).await?;
    let path = &setup.settings.adapter_path;
    if setup.lora.is_some() && !path.as_os_str().is_empty() {
        let adapter = Adapter::open_any(path, setup.source.config())?;
        trainer.load_weights(&mut adapter.reader()).await?;
    }
    say_test_loss(setup, &mut trainer).await
}

/// Prints the loss on test data, where there are such, and the perplexity.
///
/// # Errors
/// [`Error::DeviceLost`].
pub async fn say_test_loss(
    setup: &Setup,
    trainer: &mut Trainer<LanguageModel>,
) -> Result<Option<f64>> {
    let Some(test) = &setup.data.test else { return Ok(None) };
    let batches = setup.measured(test, setup.settings.test_batches)?;
    let loss = loss_on(trainer, &batches).await?;
    say!("Test loss {loss:.3}, Test ppl {:.3}.", loss.exp());
    Ok(Some(loss))
}

/// The loss of what was learned: of the averages of the weights where they are kept.
///
/// # Errors
/// [`Error::DeviceLost`].
pub async fn loss_on(trainer: &mut Trainer<LanguageModel>, batches: &[Batch]) -> Result<f64> {
    let loss = match trainer.ema() {
        Some(_) => trainer.evaluate_averaged_all(batches).await?,
        None => trainer.evaluate_all(batches).await?,
    };
    Ok(loss.into())
}
