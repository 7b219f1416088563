//! What grows in each series, and what stays.

use evenkeel::graph::{Graph, Shape};
use evenkeel::init::Init;
use evenkeel::nn::GptConfig;
use evenkeel::train::{Model, ModelOutput};

/// Sizes of one kind, and what is trained at each.
pub struct Series {
    pub name: &'static str,
    pub about: &'static str,
    pub sizes: &'static [usize],
    /// The largest size for software drivers.
    pub software: usize,
    pub subject: fn(usize) -> Subject,
}

/// Something to train.
pub enum Subject {
    Gpt { config: Box<GptConfig>, batch: usize },
    Tensors(Sum),
}

pub const SERIES: [Series; 7] = [
    Series {
        name: "parameters",
        about: "GPTs of 0.1 to 202 million parameters, 2 sequences of 64 tokens",
        sizes: &[110_336, 813_824, 4_780_032, 14_257_920, 37_911_552, 85_178_880, 201_705_472],
        software: 5_000_000,
        subject: |parameters| {
            let (layers, width) = match parameters {
                110_336 => (2, 64),
                813_824 => (4, 128),
                4_780_032 => (6, 256),
                14_257_920 => (8, 384),
                37_911_552 => (12, 512),
                85_178_880 => (12, 768),
                _ => (16, 1024),
            };
            gpt([96, 64, layers, width / 32, width], 2)
        },
    },
    Series {
        name: "tensors",
        about: "10 million parameters (those of 10,000 tensors) in so many tensors",
        sizes: &[1, 10, 100, 1_000, 10_000],
        software: 10_000,
        subject: |tensors| Subject::Tensors(Sum { tensors, length: PARAMETERS / tensors }),
    },
    Series {
        name: "layers",
        about: "width 32, 1 sequence of 16 tokens: next to nothing but dispatches",
        sizes: &[1, 4, 16, 64],
        software: 64,
        subject: |layers| gpt([96, 16, layers, 2, 32], 1),
    },
    Series {
        name: "context",
        about: "1 layer of 2 heads and width 64, 1 sequence of so many tokens",
        sizes: &[64, 128, 256, 512, 1024, 2048, 4096, 8192],
        software: 1024,
        subject: |context| gpt([96, context, 1, 2, 64], 1),
    },
    Series {
        name: "vocabulary",
        about: "1 layer of width 64, 2 sequences of 64 tokens",
        sizes: &[96, 512, 2048, 8192, 50_257],
        software: 8192,
        subject: |vocabulary| gpt([vocabulary, 64, 1, 2, 64], 2),
    },
    Series {
        name: "heads",
        about: "1 layer of width 128, 2 sequences of 128 tokens",
        sizes: &[1, 2, 4, 8, 16, 32],
        software: 32,
        subject: |heads| gpt([96, 128, 1, heads, 128], 2),
    },
    Series {
        name: "batch",
        about: "2 layers of 4 heads and width 128, so many sequences of 64 tokens",
        sizes: &[1, 2, 4, 8, 16, 32, 64],
        software: 8,
        subject: |batch| gpt([96, 64, 2, 4, 128], batch),
    },
];

/// All parameters of the series of tensors.
const PARAMETERS: usize = 10_000_000;

fn gpt([vocabulary, context, layers, heads, width]: [usize; 5], batch: usize) -> Subject {
    let config = GptConfig::gpt2(vocabulary, context, layers, heads, width);
    Subject::Gpt { config: Box::new(config), batch }
}

/// A loss that is next to linear: the squared distance of the sum of all tensors, made small, from
/// numbers far away. Every tensor has the same gradient, whatever it holds, and there is next to no
/// model however many tensors there are.
pub struct Sum {
    pub tensors: usize,
    pub length: usize,
}

impl Model for Sum {
    fn build(&self, graph: &mut Graph) -> ModelOutput {
        let shape = [1, self.length];
        let mut sum = graph.parameter("0", shape, Init::GPT2);
        for tensor in 1..self.tensors {
            let weight = graph.parameter(&tensor.to_string(), shape, Init::GPT2);
            sum = graph.add(sum, weight);
        }
        // d/dw mean (s w + 2⁴⁰ g)² is g, where s is count / 2⁴¹ and s w lost beside 2⁴⁰ g.
        let small = graph.scale(sum, self.length as f32 * 0.5f32.powi(41));
        let gradient = (0..self.length).map(|i| (i % 17) as f32 / 8.0 - 1.0);
        let far: Vec<_> = gradient.map(|g| g * -(2f32.powi(40))).collect();
        let far = graph.constant("far", Shape::real(shape), &far);
        let loss = graph.mean_squared_error(small, far);
        ModelOutput { loss, prediction: small }
    }
}
