//! A training run of one of the models.

use evenkeel::nn::{Classifier, LanguageModel};
use evenkeel::train::{Adam, AdamW, Clip, Model, Optimizer, Trainer};
use evenkeel::{Gpu, Result};

use crate::problem;

/// The global norm that gradients are clipped to where they are.
const MAX_NORM: f32 = 0.1;

/// One of the models in training.
#[derive(Debug)]
pub enum Run {
    /// `mlp`
    Classifier(Trainer<Classifier>),
    /// `gpt` or `gpt-0.8m`
    LanguageModel(Trainer<LanguageModel>),
}

impl Run {
    /// Builds `mlp` or `gpt` with Adam, or `gpt-0.8m` with AdamW, with or without clipping by the
    /// global norm.
    ///
    /// # Errors
    /// As of the trainer.
    ///
    /// # Panics
    /// For another name.
    pub async fn new(gpu: &Gpu, model: &str, clip: bool) -> Result<Self> {
        let (adam, adamw) = (Adam::default(), AdamW::default());
        match model {
            "mlp" => {
                let model = problem::classifier();
                Ok(Self::Classifier(trainer(gpu, model, adam, clip).await?))
            }
            "gpt" => {
                let model = problem::language_model(problem::gpt())?;
                Ok(Self::LanguageModel(trainer(gpu, model, adam, clip).await?))
            }
            "gpt-0.8m" => {
                let model = problem::language_model(problem::gpt_of_0_8m())?;
                Ok(Self::LanguageModel(trainer(gpu, model, adamw, clip).await?))
            }
            _ => panic!("no model {model}: mlp, gpt or gpt-0.8m"),
        }
    }

    /// Submits one step.
    ///
    /// # Errors
    /// As of the trainer.
    pub async fn step(&mut self) -> Result<()> {
        match self {
            Self::Classifier(trainer) => {
                let batch = problem::rows(trainer.model(), trainer.steps() as usize);
                trainer.step(&batch).await
            }
            Self::LanguageModel(trainer) => {
                let batch = problem::tokens(trainer.model(), trainer.steps() as usize);
                trainer.step(&batch).await
            }
        }
    }

    /// The losses of the steps since the last call. Waits for them.
    ///
    /// # Errors
    /// As of the trainer.
    pub async fn losses(&mut self) -> Result<Vec<f32>> {
        let records = match self {
            Self::Classifier(trainer) => trainer.telemetry().await?,
            Self::LanguageModel(trainer) => trainer.telemetry().await?,
        };
        Ok(records.iter().map(|record| record.loss).collect())
    }
}

async fn trainer<M: Model>(
    gpu: &Gpu,
    model: M,
    optimizer: impl Optimizer + 'static,
    clip: bool,
) -> Result<Trainer<M>> {
    let clip = if clip { Clip::Norm(MAX_NORM) } else { Clip::None };
    let trainer = Trainer::builder(model).optimizer(optimizer).clip(clip).build(gpu).await?;
    for spec in trainer.parameters().specs() {
        trainer.parameters().write(&spec.name, &problem::initial(spec))?;
    }
    Ok(trainer)
}
