//! Sizes of models and runs that go together.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::options::Form;

/// A named set of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// A few minutes on a CPU
    Tiny,
    /// A few minutes on a GPU
    Small,
    /// GPT-2's smallest model
    Gpt2,
}

/// What stands where nothing else was given.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    pub name: String,
    pub form: Form,
    pub steps: usize,
    pub batch: usize,
    pub accumulation: usize,
    pub context: usize,
    pub layers: usize,
    pub heads: usize,
    /// `None` for half of the heads.
    pub kv_heads: Option<usize>,
    pub width: usize,
    pub dropout: f32,
    /// For AdamW.
    pub learning_rate: f64,
    pub weight_decay: f64,
}

impl Preset {
    pub fn sizes(self) -> Sizes {
        let base = Sizes {
            name: "tiny".to_owned(),
            form: Form::Gpt2,
            steps: 2000,
            batch: 8,
            accumulation: 1,
            context: 64,
            layers: 2,
            heads: 4,
            kv_heads: None,
            width: 64,
            dropout: 0.0,
            learning_rate: 4e-3,
            weight_decay: 0.1,
        };
        match self {
            Self::Tiny => base,
            Self::Small => Sizes {
                name: "small".to_owned(),
                steps: 3000,
                batch: 32,
                context: 256,
                layers: 6,
                heads: 6,
                width: 384,
                dropout: 0.1,
                learning_rate: 1e-3,
                ..base
            },
            Self::Gpt2 => Sizes {
                name: "gpt2".to_owned(),
                steps: 5000,
                accumulation: 4,
                context: 1024,
                layers: 12,
                heads: 12,
                width: 768,
                dropout: 0.1,
                learning_rate: 6e-4,
                ..base
            },
        }
    }
}
