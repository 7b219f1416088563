//! Sizes of models and runs that go together.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A named set of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// A few minutes on a CPU.
    Tiny,
    /// A few minutes on a GPU.
    Small,
    /// GPT-2's smallest model, over characters.
    Gpt2,
}

/// The sizes of a preset.
pub(super) struct Sizes {
    pub name: &'static str,
    pub steps: usize,
    pub batch: usize,
    pub accumulation: usize,
    pub context: usize,
    pub layers: usize,
    pub heads: usize,
    pub width: usize,
    pub dropout: f32,
    pub learning_rate: f64,
}

impl Preset {
    pub(super) fn sizes(self) -> Sizes {
        match self {
            Self::Tiny => Sizes {
                name: "tiny",
                steps: 2000,
                batch: 8,
                accumulation: 1,
                context: 64,
                layers: 2,
                heads: 4,
                width: 64,
                dropout: 0.0,
                learning_rate: 4e-3,
            },
            Self::Small => Sizes {
                name: "small",
                steps: 3000,
                batch: 32,
                accumulation: 1,
                context: 256,
                layers: 6,
                heads: 6,
                width: 384,
                dropout: 0.1,
                learning_rate: 1e-3,
            },
            Self::Gpt2 => Sizes {
                name: "gpt2",
                steps: 5000,
                batch: 8,
                accumulation: 4,
                context: 1024,
                layers: 12,
                heads: 12,
                width: 768,
                dropout: 0.1,
                learning_rate: 6e-4,
            },
        }
    }
}
