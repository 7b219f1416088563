//! A training run that can be steered, hurt, saved and resumed.

use std::collections::VecDeque;

use evenkeel::gpu::Numerics;
use evenkeel::nn::LanguageModel;
use evenkeel::nn::{Generator, Sampling};
use evenkeel::train::{Checkpoint, Telemetry, Trainer, TrainerReport, group_norms};
use evenkeel::watch::{Record, scalar};
use evenkeel::{Error, Gpu, Result};
use evenkeel_browser_shared::History;

use crate::addition::Part;
use crate::task::Solver;
use crate::{Answer, Disturbance, Disturbed, Settings, Task};

/// Batches that a validation loss is the mean of; always the same ones.
const VALIDATION_BATCHES: u64 = 2;
/// Problems that the share of right answers is measured on.
const PROBLEMS: usize = 100;
/// Tokens of a text that a sample begins with.
const PROMPT: usize = 24;

/// L2 norms of the gradients of one watched step.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNorms {
    /// Number of the step.
    pub step: u64,
    /// By layer, in the order of [`Session::layers`].
    pub norms: Vec<f64>,
}

/// A text that grows.
#[derive(Debug)]
struct Sample {
    tokens: Vec<u32>,
    prompt: usize,
    sampling: Sampling,
}

/// A run on one device.
#[derive(Debug)]
pub struct Session {
    gpu: Gpu,
    task: Task,
    settings: Settings,
    trainer: Trainer<Disturbed<LanguageModel>>,
    /// Set now, while the trainer was built for `settings.learning_rate`.
    learning_rate: f64,
    /// One entry per step to come.
    disturbances: VecDeque<Disturbance>,
    layers: Vec<String>,
    history: History,
    /// Steps that the last telemetry told of.
    fresh: usize,
    solver: Option<Solver>,
    generator: Option<Generator>,
    sample: Option<Sample>,
}

impl Session {
    /// Builds the model on the device.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Data`], [`Error::Limit`], [`Error::OutOfMemory`].
    pub async fn new(gpu: Gpu, task: Task, settings: Settings) -> Result<Self> {
        task.batch(&settings, 0)?;
        let trainer = settings.trainer(&gpu, &task).await?;
        let mut layers: Vec<String> = Vec::new();
        for spec in trainer.parameters().specs() {
            let layer = layer_of(&spec.name);
            if !layers.iter().any(|known| known == layer) {
                layers.push(layer.to_owned());
            }
        }
        Ok(Self {
            gpu,
            task,
            settings,
            trainer,
            learning_rate: settings.learning_rate,
            disturbances: VecDeque::new(),
            layers,
            history: History::default(),
            fresh: 0,
            solver: None,
            generator: None,
            sample: None,
        })
    }

    /// Submits a step; it waits only while two earlier ones have not finished.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub async fn step(&mut self) -> Result<()> {
        let index = self.trainer.steps();
        let disturbance = self.disturbances.front().copied();
        let batch = match disturbance {
            Some(Disturbance::Outlier) => self.task.outlier_batch(&self.settings, index),
            _ => self.task.batch(&self.settings, index)?,
        };
        let loss_factor = disturbance.map_or(1.0, Disturbance::loss_factor);
        let rate_factor = disturbance.map_or(1.0, Disturbance::rate_factor);
        let rate = (self.learning_rate / self.settings.learning_rate) as f32;
        self.trainer.set_learning_rate_factor(rate * rate_factor);
        self.trainer.step(&batch.with("disturbance", &[loss_factor][..])).await?;
        self.disturbances.pop_front();
        Ok(())
    }

    /// Disturbs the next steps; returns the number of the first.
    pub fn disturb(&mut self, disturbance: Disturbance) -> u64 {
        let first = self.trainer.steps() + self.disturbances.len() as u64;
        self.disturbances.extend(std::iter::repeat_n(disturbance, disturbance.steps()));
        first
    }

    /// What the steps since the last call left behind. Waits for the device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn telemetry(&mut self) -> Result<(Vec<Telemetry>, Vec<LayerNorms>)> {
        let telemetry = self.trainer.telemetry().await?;
        let tensors = self.trainer.tensor_telemetry().await?;
        self.fresh = telemetry.len();
        for step in &telemetry {
            let mut record = Record::from(step);
            record.events.extend(step.events().map(|event| format!("{event:?}")));
            self.history.push(record);
        }
        let mut watched = Vec::new();
        for step in tensors.chunk_by(|a, b| a.step == b.step) {
            let groups = group_norms(step, layer_of);
            let norm = |layer: &String| groups.get(layer.as_str()).copied().unwrap_or(f64::NAN);
            let norms: Vec<_> = self.layers.iter().map(norm).collect();
            if let Some(record) = self.history.at(step[0].step) {
                for (layer, &norm) in self.layers.iter().zip(&norms) {
                    record.add_tensor(scalar::GRADIENT_NORM, layer, norm);
                }
            }
            watched.push(LayerNorms { step: step[0].step, norms });
        }
        Ok((telemetry, watched))
    }

    /// Says how long the steps of the last [`telemetry`](Self::telemetry) took; the session has no
    /// clock.
    pub fn set_seconds(&mut self, seconds: f64) {
        let rate = (self.fresh * self.tokens_per_step()) as f64 / seconds;
        let first = self.trainer.steps() - self.fresh as u64;
        for step in first..self.trainer.steps() {
            if let Some(record) = self.history.at(step).filter(|_| seconds > 0.0) {
                record.set(scalar::TOKENS_PER_SECOND, rate);
            }
        }
    }

    /// The loss on what is never trained on. Waits for the device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn validate(&mut self) -> Result<f64> {
        let batch = |index| self.task.validation_batch(&self.settings, index);
        let batches: Vec<_> = (0..VALIDATION_BATCHES).map(batch).collect::<Result<_, _>>()?;
        let loss = f64::from(self.trainer.evaluate_all(&batches).await?);
        let last = self.trainer.steps().checked_sub(1);
        if let Some(record) = last.and_then(|step| self.history.at(step)) {
            record.set(scalar::VALIDATION_LOSS, loss);
        }
        Ok(loss)
    }

    /// The model's answers to problems that it was never trained on; none for a text. Waits for
    /// the device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn answers(&mut self) -> Result<Vec<Answer>> {
        let Task::Addition(addition) = self.task else { return Ok(Vec::new()) };
        let problems = addition.problems(Part::HeldOut, 0, 0, PROBLEMS);
        self.solver().await?.solve(&problems).await
    }

    async fn solver(&mut self) -> Result<&Solver> {
        let Task::Addition(addition) = self.task else { unreachable!("only asked for addition") };
        if self.solver.is_none() {
            let solver = Solver::new(&self.gpu, &self.trainer, addition, PROBLEMS);
            self.solver = Some(solver.await?);
        }
        Ok(self.solver.as_ref().expect("just made"))
    }

    /// Answers one question of the visitor.
    ///
    /// # Errors
    /// [`Error::Data`] for what is no question, [`Error::DeviceLost`].
    pub async fn ask(&mut self, question: &str) -> Result<Option<Answer>> {
        let Task::Addition(addition) = self.task else { return Ok(None) };
        let problem = addition.parse(question)?;
        Ok(self.solver().await?.solve(&[problem]).await?.pop())
    }

    /// Begins a text with `prompt`, or with the beginning of the part that is not trained on.
    /// [`write`](Self::write) goes on with it. Returns what it begins with.
    ///
    /// # Errors
    /// [`Error::Data`] for characters that the training text does not have.
    pub async fn begin_text(&mut self, prompt: Option<&str>, seed: u32) -> Result<String> {
        let Task::Text(corpus) = &self.task else { return Ok(String::new()) };
        let tokens = match prompt.filter(|prompt| !prompt.is_empty()) {
            Some(prompt) => corpus.vocabulary().encode(prompt)?,
            None => {
                let tokens = corpus.tokens();
                tokens[..tokens.len().min(PROMPT)].to_vec()
            }
        };
        let text = corpus.vocabulary().decode(&tokens);
        if self.generator.is_none() {
            let gpt = &self.trainer.model().0.gpt;
            let generator = Generator::new(&self.gpu, self.trainer.parameters(), gpt);
            self.generator = Some(generator.await?);
        }
        let sampling = Sampling { temperature: 0.7, seed, ..Sampling::default() };
        self.sample = Some(Sample { prompt: tokens.len(), tokens, sampling });
        Ok(text)
    }

    /// Writes up to `count` tokens more with the weights of this moment, and returns all that was
    /// written since the prompt. Waits for the device.
    ///
    /// # Errors
    /// [`Error::NonFinite`] where the weights have become useless, [`Error::DeviceLost`].
    pub async fn write(&mut self, count: usize) -> Result<String> {
        let Task::Text(corpus) = &self.task else { return Ok(String::new()) };
        let (Some(sample), Some(generator)) = (&mut self.sample, &self.generator) else {
            return Ok(String::new());
        };
        for _ in 0..count {
            let logits = generator.logits(&sample.tokens).await?;
            let index = sample.tokens.len() - sample.prompt;
            sample.tokens.push(sample.sampling.draw(&logits, index as u32)?);
        }
        Ok(corpus.vocabulary().decode(&sample.tokens[sample.prompt..]))
    }

    /// The learning rate from the next step on.
    ///
    /// # Errors
    /// [`Error::Setting`] for one that is not positive and finite.
    pub fn set_learning_rate(&mut self, rate: f64) -> Result<()> {
        if !(rate > 0.0 && rate <= 10.0) {
            let (setting, value) = ("learning rate", rate.to_string());
            return Err(Error::Setting { setting, value, range: "above 0, at most 10" });
        }
        self.learning_rate = rate;
        Ok(())
    }

    /// Goes on with another clip threshold, or with stability features on or off. Waits for the
    /// device.
    ///
    /// # Errors
    /// [`Error::Setting`] for a threshold that is none, [`Error::DeviceLost`].
    pub async fn set_stability(&mut self, stability: bool, clip: f32) -> Result<()> {
        let settings = Settings { stability, clip, ..self.settings };
        let mut trainer = settings.trainer(&self.gpu, &self.task).await?;
        trainer.restore(&self.trainer.checkpoint().await?).await?;
        (self.settings, self.trainer) = (settings, trainer);
        self.drop_readers();
        Ok(())
    }

    /// What shares buffers with a trainer that is replaced goes with it.
    fn drop_readers(&mut self) {
        self.solver = None;
        self.generator = None;
        self.sample = None;
    }

    /// The run as a safetensors file. Waits for the device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn checkpoint(&self) -> Result<Vec<u8>> {
        Ok(self.trainer.checkpoint().await?.to_bytes())
    }

    /// Goes on from such a file, with the batches of its seed; returns its step.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for one of another model, [`Error::DeviceLost`].
    pub async fn load(&mut self, bytes: &[u8]) -> Result<u64> {
        self.trainer.restore(&Checkpoint::from_bytes(bytes)?).await?;
        self.settings.seed = self.trainer.seed();
        Ok(self.go_on())
    }

    /// Steps taken at the last snapshot of the run that the host has, for
    /// [`recover`](Self::recover).
    pub fn snapshot_steps(&mut self) -> Option<u64> {
        self.trainer.host_snapshot_steps()
    }

    /// After the device was lost: takes a new one and goes on from the last snapshot, from the
    /// start if there is none. Returns the step.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] or [`Error::NoDevice`] where there is no new one.
    pub async fn recover(&mut self, gpu: Gpu) -> Result<u64> {
        if self.snapshot_steps().is_some() {
            self.trainer.rebuild(&gpu).await?;
        } else {
            self.trainer = self.settings.trainer(&gpu, &self.task).await?;
        }
        self.gpu = gpu;
        self.drop_readers();
        Ok(self.go_on())
    }

    /// The trainer is now elsewhere in the run. Returns its step.
    fn go_on(&mut self) -> u64 {
        self.disturbances.clear();
        self.sample = None;
        self.history.truncate(self.steps());
        self.steps()
    }

    /// Destroys the device, as a driver's reset would.
    pub fn lose_device(&self) {
        self.gpu.device.destroy();
    }

    /// What the adapter does with numbers.
    ///
    /// # Errors
    /// As [`Gpu::numerics`].
    pub async fn numerics(&self) -> Result<Numerics> {
        self.gpu.numerics().await
    }

    /// The run's records as JSON lines.
    ///
    /// # Errors
    /// None in practice.
    pub fn json_lines(&self) -> Result<Vec<u8>> {
        self.history.json_lines()
    }

    /// The run's records as a table.
    ///
    /// # Errors
    /// None in practice.
    pub fn csv(&self) -> Result<Vec<u8>> {
        self.history.csv()
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Memory and dispatches.
    pub fn report(&self) -> TrainerReport {
        self.trainer.report()
    }

    /// Names of the layers whose gradients are shown.
    pub fn layers(&self) -> &[String] {
        &self.layers
    }

    /// Steps submitted so far.
    pub fn steps(&self) -> u64 {
        self.trainer.steps()
    }

    /// Seed of the run; that of a checkpoint once it is loaded.
    pub fn seed(&self) -> u32 {
        self.settings.seed
    }

    /// Tokens of a step.
    pub fn tokens_per_step(&self) -> usize {
        self.settings.batch * self.task.context(&self.settings)
    }
}

/// `blocks.0.attention` of `blocks.0.attention.qkv.weight`: what stands in front of the layer's own
/// tensors; norms of a block count to its parts.
fn layer_of(parameter: &str) -> &str {
    let depth = if parameter.starts_with("blocks.") { 3 } else { 1 };
    let end = parameter.match_indices('.').nth(depth - 1).map(|(at, _)| at);
    end.map_or(parameter, |at| &parameter[..at])
}
