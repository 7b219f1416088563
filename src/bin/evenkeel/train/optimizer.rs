//! The optimizers by their names.

use evenkeel::nn::LanguageModel;
use evenkeel::train::{
    Adafactor, Adam, AdamAtan2, AdamW, Lion, Muon, MuonScale, Sgd, StableAdamW, TrainerBuilder,
};

use super::options::Rule;
use super::settings::Settings;

impl Rule {
    /// From one that suits AdamW. Lion's is a tenth (Chen et al. 2023,
    /// <https://arxiv.org/abs/2302.06675>: 3 to 10 times lower); Muon's updates are scaled to AdamW's.
    pub fn learning_rate(self, of_adamw: f64) -> f64 {
        match self {
            Self::Lion => of_adamw / 10.0,
            Self::Adafactor => Adafactor::default().learning_rate,
            Self::Sgd => 0.1,
            _ => of_adamw,
        }
    }

    /// Lion's is that much higher; a penalty in the gradient is another thing.
    pub fn weight_decay(self, of_adamw: f64) -> f64 {
        match self {
            Self::Lion => of_adamw * 10.0,
            Self::Adam | Self::Sgd | Self::Adafactor => 0.0,
            _ => of_adamw,
        }
    }
}

impl Settings {
    /// The optimizer of a trainer.
    pub fn with_optimizer(
        &self,
        builder: TrainerBuilder<LanguageModel>,
    ) -> TrainerBuilder<LanguageModel> {
        let &Self { learning_rate, weight_decay, .. } = self;
        // The second moment forgets faster than by default, which short runs are better for.
        let betas = [0.9, 0.99];
        let adamw = AdamW { learning_rate, betas, weight_decay, ..AdamW::default() };
        match self.rule {
            Rule::Adamw => builder.optimizer(adamw),
            Rule::Adam => {
                builder.optimizer(Adam { learning_rate, betas, weight_decay, ..Adam::default() })
            }
            Rule::AdamAtan2 => {
                let default = AdamAtan2::default();
                builder.optimizer(AdamAtan2 { learning_rate, betas, weight_decay, ..default })
            }
            Rule::StableAdamw => {
                let default = StableAdamW::default();
                builder.optimizer(StableAdamW { learning_rate, betas, weight_decay, ..default })
            }
            Rule::Lion => {
                builder.optimizer(Lion { learning_rate, weight_decay, ..Lion::default() })
            }
            Rule::Adafactor => {
                builder.optimizer(Adafactor { learning_rate, weight_decay, ..Adafactor::default() })
            }
            Rule::Muon => {
                let scale = MuonScale::MatchRmsAdamW;
                let default = Muon::default();
                builder.optimizer(Muon { learning_rate, weight_decay, scale, adamw, ..default })
            }
            Rule::Sgd => builder.optimizer(Sgd {
                learning_rate,
                weight_decay,
                momentum: 0.9,
                ..Sgd::default()
            }),
        }
    }
}
