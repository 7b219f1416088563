//! A run that tunes a model: its steps, and what is measured, saved and asked between them.

use std::collections::{BTreeMap, VecDeque};

use evenkeel::hugging_face::{Adapter, AdapterExport};
use evenkeel::nn::{Gpt, GptConfig, LanguageModel, Lora};
use evenkeel::plan::Parameters;
use evenkeel::train::stability::SpikeGuard;
use evenkeel::train::{
    AdamW, Checkpoint, Clip, FrozenFingerprint, Schedule, Telemetry, Trainer, TrainerBuilder,
};
use evenkeel::watch::{Record, scalar};
use evenkeel::{Error, Gpu, Result};
use evenkeel_browser_shared::{Disturbed, History};

use crate::chat::{self, Chat};
use crate::data::Data;
use crate::model::Model;
use crate::{Base, ChatSettings, Disturbance, Key, ModelFiles, Settings, Written};

/// Steps between two snapshots on the host.
const SNAPSHOT_EVERY: u64 = 20;
/// Steps whose losses a spike is measured against.
const GUARD_WINDOW: u32 = 64;
/// Of all steps one in so many warms the learning rate up.
const WARMUP_SHARE: usize = 20;

/// Names of what a saved state says of its run.
const KEY: &str = "evenkeel finetune";
const SETTINGS: &str = "evenkeel finetune settings";

type Tuner = Trainer<Disturbed<LanguageModel>>;

/// What a run is.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The kind of model.
    pub family: String,
    /// Elements of the model and its adapter.
    pub parameters: usize,
    /// Elements of the adapter.
    pub trained: usize,
    /// Bytes on the device.
    pub bytes: u64,
    /// Examples to learn from.
    pub examples: usize,
    /// Examples to validate on.
    pub validation_examples: usize,
    /// Tokens of a step in the mean, without padding.
    pub tokens_per_step: f64,
    /// Steps of the whole run.
    pub steps: usize,
    /// What was read, and what a visitor should know of it.
    pub notes: Vec<String>,
    /// Whether the model has a chat template.
    pub has_template: bool,
    /// What a saved state must agree with.
    pub key: String,
}

/// A run on one device.
#[derive(Debug)]
pub struct Session {
    gpu: Gpu,
    model: Model,
    data: Data,
    settings: Settings,
    base: Base,
    lora: Lora,
    trainer: Tuner,
    frozen: FrozenFingerprint,
    key: Key,
    snapshot: Checkpoint,
    /// One entry per step to come.
    disturbances: VecDeque<Disturbance>,
    history: History,
    /// Tokens of steps that no telemetry told of yet.
    unread_tokens: usize,
    /// Steps that the last telemetry told of, and their tokens.
    fresh: (usize, usize),
    chat: Option<Chat>,
}

impl Session {
    /// Reads the model's configuration, tokenizer and lines, builds the run on the device, and brings
    /// the weights there.
    ///
    /// # Errors
    /// [`Error::ModelFile`], [`Error::Data`], [`Error::Setting`], [`Error::Unsupported`] for what is
    /// wrong with what was given, before anything is built; [`Error::Limit`], [`Error::OutOfMemory`].
    pub async fn open(
        gpu: Gpu,
        model: ModelFiles,
        data: BTreeMap<String, Vec<u8>>,
        settings: Settings,
    ) -> Result<Self> {
        let model = Model::open(model)?;
        let base = settings.base.unwrap_or_else(|| model.stored());
        let lora = settings.lora(&model.config().gpt)?;
        let mut data = Data::read(&data, &model, &settings)?;
        let layers = model.config().gpt.layers;
        if settings.layers > layers {
            data.notes.push(format!("The model has {layers} blocks, and all of them are tuned."));
        }
        if base != Base::F32 {
            data.notes.push(format!("The model's own weights lie in {}.", base.name()));
        }
        if !model.has_template() {
            data.notes.push("The model has no chat template: it goes on with texts.".to_owned());
        }
        let parts = Parts { model: &model, data: &data, settings: &settings, base, lora: &lora };
        let (trainer, frozen) = parts.build(&gpu).await?;
        let config = model.config().to_json(None)?;
        // What the base comes down to, whether or not it was said.
        let said = Settings { base: Some(base), ..settings.clone() }.to_json();
        let key = Key::new(&[&config, &frozen.to_string()], &said, data.fingerprint.clone());
        let snapshot = trainer.checkpoint_of_trained(&frozen).await?;
        Ok(Self {
            gpu,
            model,
            data,
            settings,
            base,
            lora,
            trainer,
            frozen,
            key,
            snapshot,
            disturbances: VecDeque::new(),
            history: History::default(),
            unread_tokens: 0,
            fresh: (0, 0),
            chat: None,
        })
    }

    /// What the run is.
    pub fn report(&self) -> Report {
        let report = self.trainer.report();
        let [examples, validation_examples] = self.data.examples();
        Report {
            family: self.model.config().family().to_string(),
            parameters: report.parameters + report.frozen_parameters,
            trained: report.parameters,
            bytes: report.total_bytes(),
            examples,
            validation_examples,
            tokens_per_step: self.data.tokens_per_step(),
            steps: self.settings.steps,
            notes: self.data.notes.clone(),
            has_template: self.model.has_template(),
            key: self.key.to_string(),
        }
    }

    /// Submits a step; it waits only while two earlier ones have not finished. An answer that is not
    /// at its end ends.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub async fn step(&mut self) -> Result<()> {
        if let Some(chat) = &mut self.chat {
            chat.end();
        }
        let index = self.trainer.steps();
        let factor = self.disturbances.front().map_or(1.0, |one| one.loss_factor());
        let batch = self.data.batch(index).with("disturbance", &[factor][..]);
        self.trainer.step(&batch).await?;
        self.disturbances.pop_front();
        self.unread_tokens += self.data.tokens(index);
        Ok(())
    }

    /// Disturbs the loss of the next step; returns its number.
    ///
    /// # Errors
    /// [`Error::Setting`] for a disturbance that is not one of the loss.
    pub fn disturb(&mut self, disturbance: Disturbance) -> Result<u64> {
        if disturbance.loss_factor() == 1.0 {
            let (setting, value) = ("disturbance", format!("{disturbance:?}"));
            return Err(Error::Setting { setting, value, range: "nan, inf or spike" });
        }
        self.disturbances.push_back(disturbance);
        Ok(self.trainer.steps() + self.disturbances.len() as u64 - 1)
    }

    /// What the steps since the last call left behind. Waits for the device, and takes a snapshot
    /// where one is due.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn telemetry(&mut self) -> Result<Vec<Telemetry>> {
        let telemetry = self.trainer.telemetry().await?;
        self.fresh = (telemetry.len(), std::mem::take(&mut self.unread_tokens));
        for step in &telemetry {
            let mut record = Record::from(step);
            record.events.extend(step.events().map(|event| format!("{event:?}")));
            self.history.push(record);
        }
        if self.trainer.steps() >= self.snapshot.steps() + SNAPSHOT_EVERY {
            self.snapshot = self.trainer.checkpoint_of_trained(&self.frozen).await?;
        }
        Ok(telemetry)
    }

    /// Says how long the steps of the last [`telemetry`](Self::telemetry) took; the session has no
    /// clock.
    pub fn set_seconds(&mut self, seconds: f64) {
        let (count, tokens) = self.fresh;
        let first = self.trainer.steps().saturating_sub(count as u64);
        for step in first..self.trainer.steps() {
            if let Some(record) = self.history.at(step).filter(|_| seconds > 0.0) {
                record.set(scalar::TOKENS_PER_SECOND, tokens as f64 / seconds);
            }
        }
    }

    /// The loss on what is never trained on. Waits for the device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn validate(&mut self) -> Result<f64> {
        let batches = self.data.validation_batches();
        let loss = f64::from(self.trainer.evaluate_all(&batches).await?);
        let last = self.trainer.steps().checked_sub(1);
        if let Some(record) = last.and_then(|step| self.history.at(step)) {
            record.set(scalar::VALIDATION_LOSS, loss);
        }
        Ok(loss)
    }

    /// All that the run takes to go on bit by bit, beside the model and the data: a safetensors file.
    /// Waits for the device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn save(&self) -> Result<Vec<u8>> {
        let checkpoint = self.trainer.checkpoint_of_trained(&self.frozen).await?;
        let checkpoint = checkpoint.with_note(KEY, self.key.to_string());
        Ok(checkpoint.with_note(SETTINGS, self.settings.to_json()).to_bytes())
    }

    /// Goes on from such a file; returns its step.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for one of another model, other settings or other data, and for a
    /// damaged one: the run is as it was then. [`Error::DeviceLost`].
    pub async fn restore(&mut self, bytes: &[u8]) -> Result<u64> {
        let checkpoint = Checkpoint::from_bytes(bytes)?;
        self.key.check(checkpoint.note(KEY))?;
        self.trainer.restore_trained(&checkpoint, &self.frozen).await?;
        self.snapshot = checkpoint;
        Ok(self.go_on())
    }

    /// The adapter as PEFT has it: the contents of its files by their names. Waits for the device.
    ///
    /// # Errors
    /// [`Error::ModelFile`] for numbers that are not finite, [`Error::DeviceLost`].
    pub async fn adapter(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let export = AdapterExport::new(self.model.config(), self.lora.clone())?;
        export.to_files(self.trainer.parameters()).await
    }

    /// Takes the weights of an adapter that was trained before, of the same modules and rank.
    ///
    /// # Errors
    /// [`Error::ModelFile`] for another one, [`Error::DeviceLost`].
    pub async fn load_adapter(&mut self, adapter: &Adapter) -> Result<()> {
        self.trainer.load_weights(&mut adapter.reader()).await
    }

    /// The model with its adapter.
    pub fn gpt(&self) -> &Gpt {
        &self.trainer.model().0.gpt
    }

    /// Its weights.
    pub fn parameters(&self) -> &Parameters {
        self.trainer.parameters()
    }

    /// Begins an answer to a conversation: a list of messages in JSON.
    /// [`next`](Self::next) gives it.
    ///
    /// # Errors
    /// [`Error::Data`] for what is no conversation, or too long a one, [`Error::DeviceLost`].
    pub async fn begin_chat(&mut self, messages: &str, settings: &ChatSettings) -> Result<()> {
        let prompt = chat::prompt(&self.model, messages)?;
        let is_there = |chat: &Chat| chat.is_adapted() == settings.adapted;
        if !self.chat.as_ref().is_some_and(is_there) {
            // First the memory of the other one is free.
            self.chat = None;
            let gpt = &self.trainer.model().0.gpt;
            let parameters = self.trainer.parameters();
            self.chat = Some(Chat::new(&self.gpu, parameters, gpt, settings.adapted).await?);
        }
        match &mut self.chat {
            Some(chat) => chat.begin(&prompt, settings).await,
            None => unreachable!("just made"),
        }
    }

    /// Up to `count` tokens more of the answer, as whole characters.
    ///
    /// # Errors
    /// [`Error::NonFinite`] where the weights have become useless, [`Error::DeviceLost`].
    pub async fn next(&mut self, count: usize) -> Result<Written> {
        match &mut self.chat {
            Some(chat) => chat.next(&self.model.tokenizer, count).await,
            None => Ok(Written { text: String::new(), is_done: true }),
        }
    }

    /// Destroys the device, as a driver's reset would.
    pub fn lose_device(&self) {
        self.gpu.device.destroy();
    }

    /// Steps taken at the last snapshot on the host, for [`recover`](Self::recover); there is one
    /// from the start on.
    pub fn snapshot_steps(&self) -> u64 {
        self.snapshot.steps()
    }

    /// After the device was lost: takes a new one, reads the model again, and goes on from the last
    /// snapshot. Returns the step.
    ///
    /// # Errors
    /// As [`open`](Self::open); the session is as it was then.
    pub async fn recover(&mut self, gpu: Gpu) -> Result<u64> {
        let Self { model, data, settings, base, lora, .. } = self;
        let parts = Parts { model, data, settings, base: *base, lora };
        let (mut trainer, frozen) = parts.build(&gpu).await?;
        trainer.restore_trained(&self.snapshot, &frozen).await?;
        (self.gpu, self.trainer, self.frozen) = (gpu, trainer, frozen);
        Ok(self.go_on())
    }

    /// The trainer is now elsewhere in the run. Returns its step.
    fn go_on(&mut self) -> u64 {
        self.disturbances.clear();
        self.chat = None;
        (self.unread_tokens, self.fresh) = (0, (0, 0));
        self.history.truncate(self.steps());
        self.steps()
    }

    /// The run's records as JSON lines.
    ///
    /// # Errors
    /// None in practice.
    pub fn json_lines(&self) -> Result<Vec<u8>> {
        self.history.json_lines()
    }

    /// Steps submitted so far.
    pub fn steps(&self) -> u64 {
        self.trainer.steps()
    }
}

/// What a trainer is made of.
struct Parts<'a> {
    model: &'a Model,
    data: &'a Data,
    settings: &'a Settings,
    base: Base,
    lora: &'a Lora,
}

impl Parts<'_> {
    /// The trainer on a device, with the model's weights, and what those are known again by.
    async fn build(&self, gpu: &Gpu) -> Result<(Tuner, FrozenFingerprint)> {
        let mut trainer = self.builder()?.build(gpu).await.map_err(with_advice)?;
        trainer.load_weights(&mut self.model.reader()).await?;
        let frozen = trainer.fingerprint_of_frozen().await?;
        Ok((trainer, frozen))
    }

    fn builder(&self) -> Result<TrainerBuilder<Disturbed<LanguageModel>>> {
        let Self { model, data, settings, base, lora } = self;
        let gpt = Gpt::new(GptConfig {
            lora: Some((*lora).clone()),
            base_format: base.blocks(),
            recompute: settings.recompute,
            ..model.config().gpt.clone()
        })?;
        let (batch, time) = (settings.batch, data.lengths.longest());
        let (learning_rate, total) = (settings.learning_rate, settings.steps);
        let warmup = total / WARMUP_SHARE;
        Ok(Trainer::builder(Disturbed(LanguageModel { gpt, batch, time }))
            .optimizer(AdamW { learning_rate, weight_decay: 0.0, ..AdamW::default() })
            .schedule(Schedule::Cosine { warmup, total, final_factor: 0.1 })
            .clip(if settings.clip > 0.0 { Clip::Norm(settings.clip) } else { Clip::None })
            .policy(SpikeGuard { window: GUARD_WINDOW, ..SpikeGuard::default() })
            .lengths(data.lengths.clone())
            .seed(settings.seed))
    }
}

/// With what a visitor can do about it.
fn with_advice(error: Error) -> Error {
    match error {
        Error::OutOfMemory { what, bytes, .. } => Error::OutOfMemory {
            what,
            bytes,
            advice:
                "keep the model's own weights in blocks (base q4_0), take a shorter context, a \
                     smaller batch or recompute, or a smaller model"
                    .to_owned(),
        },
        other => other,
    }
}
