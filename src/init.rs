//! Initial values of parameters: the usual schemes, resolved for a shape into a distribution that a
//! kernel of [`kernels::random`](crate::kernels::random) draws on the device.
//!
//! Shapes are (out, in) for linear layers and (out, in, kernel...) for convolutions, as in PyTorch,
//! whose formulas these are (`torch.nn.init`).

use crate::Gpu;
use crate::kernels::{
    Fill, FillParams, InitializeNormal, InitializeNormalParams, InitializeUniform,
    InitializeUniformParams,
};

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Every element the same.
    Constant(f32),
    /// Uniform in [low, high].
    Uniform {
        /// Lower bound.
        low: f32,
        /// Upper bound.
        high: f32,
    },
    /// Normal, cut at 5.3 standard deviations.
    Normal {
        /// Mean.
        mean: f32,
        /// Standard deviation.
        deviation: f32,
    },
    /// Uniform with standard deviation gain / √fan (He et al., "Delving deep into rectifiers").
    KaimingUniform {
        /// What follows the layer.
        nonlinearity: Nonlinearity,
        /// Which variance stays constant through the layer: of activations or of gradients.
        fan: Fan,
    },
    /// Normal with standard deviation gain / √fan.
    KaimingNormal {
        /// What follows the layer.
        nonlinearity: Nonlinearity,
        /// Which variance stays constant through the layer: of activations or of gradients.
        fan: Fan,
    },
    /// Uniform with standard deviation gain √(2 / (fan_in + fan_out)) (Glorot and Bengio,
    /// "Understanding the difficulty of training deep feedforward neural networks").
    XavierUniform {
        /// Factor on the standard deviation.
        gain: f32,
    },
    /// Normal with standard deviation gain √(2 / (fan_in + fan_out)).
    XavierNormal {
        /// Factor on the standard deviation.
        gain: f32,
    },
}

/// What follows a layer, for the gain that keeps the variance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Nonlinearity {
    /// Gain 1.
    Linear,
    /// Gain √2.
    Relu,
    /// Slope a below 0: gain √(2 / (1 + a²)).
    LeakyRelu(f32),
    /// Gain 5/3.
    Tanh,
    /// Gain 3/4.
    Selu,
}

impl Nonlinearity {
    /// Factor on the standard deviation.
    pub fn gain(self) -> f64 {
        match self {
            Self::Linear => 1.0,
            Self::Relu => 2f64.sqrt(),
            Self::LeakyRelu(slope) => (2.0 / (1.0 + f64::from(slope).powi(2))).sqrt(),
            Self::Tanh => 5.0 / 3.0,
            Self::Selu => 0.75,
        }
    }
}

/// Which side of a layer is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fan {
    /// Inputs of an output: keeps the variance of activations.
    In,
    /// Outputs of an input: keeps the variance of gradients.
    Out,
}

/// An [`Init`] resolved for a shape: what a kernel draws.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Every element the same.
    Constant(f32),
    /// Uniform in [low, high].
    Uniform {
        /// Lower bound.
        low: f32,
        /// Upper bound.
        high: f32,
    },
    /// Normal, cut at 5.3 standard deviations.
    Normal {
        /// Mean.
        mean: f32,
        /// Standard deviation.
        deviation: f32,
    },
}

impl Init {
    /// Zeros, as for biases.
    pub const ZERO: Self = Self::Constant(0.0);
    /// Ones, as for the weights of normalisation layers.
    pub const ONE: Self = Self::Constant(1.0);
    /// Weights and embeddings of GPT-2: normal, standard deviation 0.02.
    pub const GPT2: Self = Self::Normal { mean: 0.0, deviation: 0.02 };
    /// PyTorch's default for the weights of linear layers and convolutions: uniform within
    /// ±1 / √fan_in.
    pub const LINEAR: Self = Self::KaimingUniform {
        // √5 below 0: gain √(1/3).
        nonlinearity: Nonlinearity::LeakyRelu(2.236_068),
        fan: Fan::In,
    };

    /// Projections back into the residual stream of GPT-2: standard deviation 0.02 / √(2 layers),
    /// as each of `layers` blocks adds to the stream twice.
    ///
    /// # Panics
    /// If there are no layers.
    #[track_caller]
    pub fn gpt2_residual(layers: usize) -> Self {
        assert!(layers > 0, "a residual stream needs at least one layer");
        let deviation = (0.02 / (2.0 * layers as f64).sqrt()) as f32;
        Self::Normal { mean: 0.0, deviation }
    }

    /// The distribution for a tensor of this shape: (out, in) or (out, in, kernel...).
    ///
    /// # Panics
    /// If the scheme depends on fans and the shape has none: fewer than two dimensions, or a zero
    /// among them.
    #[track_caller]
    pub fn resolve(self, shape: &[usize]) -> Distribution {
        match self {
            Self::Constant(value) => Distribution::Constant(value),
            Self::Uniform { low, high } => Distribution::Uniform { low, high },
            Self::Normal { mean, deviation } => Distribution::Normal { mean, deviation },
            Self::KaimingUniform { nonlinearity, fan } => {
                uniform(nonlinearity.gain() / self.fan(fan, shape).sqrt())
            }
            Self::KaimingNormal { nonlinearity, fan } => {
                normal(nonlinearity.gain() / self.fan(fan, shape).sqrt())
            }
            Self::XavierUniform { gain } => uniform(f64::from(gain) * self.xavier(shape)),
            Self::XavierNormal { gain } => normal(f64::from(gain) * self.xavier(shape)),
        }
    }

    #[track_caller]
    fn fan(self, fan: Fan, shape: &[usize]) -> f64 {
        assert!(
            shape.len() >= 2 && !shape.contains(&0),
            "{self:?} needs a shape (out, in, ...) without zeros, not {shape:?}; give vectors such \
             as biases a Constant, Uniform or Normal"
        );
        let kernel: usize = shape[2..].iter().product();
        match fan {
            Fan::In => (shape[1] * kernel) as f64,
            Fan::Out => (shape[0] * kernel) as f64,
        }
    }

    #[track_caller]
    fn xavier(self, shape: &[usize]) -> f64 {
        (2.0 / (self.fan(Fan::In, shape) + self.fan(Fan::Out, shape))).sqrt()
    }
}

/// Uniform about 0 with this standard deviation.
fn uniform(deviation: f64) -> Distribution {
    let high = (3f64.sqrt() * deviation) as f32;
    Distribution::Uniform { low: -high, high }
}

/// Normal about 0 with this standard deviation.
fn normal(deviation: f64) -> Distribution {
    Distribution::Normal { mean: 0.0, deviation: deviation as f32 }
}

/// Which numbers a tensor is drawn from, and its size.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// Rows of the tensor before those that are drawn.
    pub first_row: u32,
    /// Rows.
    pub rows: u32,
    /// Elements in a row, without padding.
    pub cols: u32,
    /// Seed of the run.
    pub seed: u32,
    /// Which sequence of the seed; one per tensor.
    pub stream: u32,
}

impl Distribution {
    /// Fills `w`, (rows, cols) as f32 quads, on the device; padding becomes 0.
    pub fn write(self, gpu: &Gpu, draw: Draw, w: wgpu::BufferBinding<'_>) {
        let Draw { first_row, rows, cols, seed, stream } = draw;
        match self {
            Self::Constant(value) => {
                gpu.run(&Fill { params: FillParams { rows, cols, value }, w });
            }
            Self::Uniform { low, high } => {
                let params =
                    InitializeUniformParams { first_row, rows, cols, seed, stream, low, high };
                gpu.run(&InitializeUniform { params, w });
            }
            Self::Normal { mean, deviation } => {
                let params =
                    InitializeNormalParams { first_row, rows, cols, seed, stream, mean, deviation };
                gpu.run(&InitializeNormal { params, w });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deviation(distribution: Distribution) -> f64 {
        match distribution {
            Distribution::Constant(_) => 0.0,
            Distribution::Uniform { low, high } => f64::from(high - low) / 12f64.sqrt(),
            Distribution::Normal { deviation, .. } => f64::from(deviation),
        }
    }

    /// The expected deviations of PyTorch's own tests: √(2 / ((1 + a²) fan)), √(2 / (in + out)).
    #[test]
    fn deviations_are_those_of_pytorch() {
        for (shape, fan_in, fan_out) in
            [(vec![30, 70], 70.0f64, 30.0f64), (vec![16, 8, 3, 5], 120.0, 240.0)]
        {
            for (fan, count) in [(Fan::In, fan_in), (Fan::Out, fan_out)] {
                for a in [0.0f64, 0.3, 1.0] {
                    let nonlinearity = Nonlinearity::LeakyRelu(a as f32);
                    let expected = (2.0 / ((1.0 + a * a) * count)).sqrt();
                    for init in [
                        Init::KaimingUniform { nonlinearity, fan },
                        Init::KaimingNormal { nonlinearity, fan },
                    ] {
                        let actual = deviation(init.resolve(&shape));
                        assert!((actual / expected - 1.0).abs() < 1e-6, "{init:?}: {actual}");
                    }
                }
            }
            for gain in [1.0f32, 0.25] {
                let expected = f64::from(gain) * (2.0 / (fan_in + fan_out)).sqrt();
                for init in [Init::XavierUniform { gain }, Init::XavierNormal { gain }] {
                    let actual = deviation(init.resolve(&shape));
                    assert!((actual / expected - 1.0).abs() < 1e-6, "{init:?}: {actual}");
                }
            }
        }
    }

    #[test]
    fn named_schemes() {
        let Distribution::Uniform { low, high } = Init::LINEAR.resolve(&[3, 16]) else {
            panic!("uniform");
        };
        assert!((high - 0.25).abs() < 1e-7 && low == -high, "{low} {high}");
        let deviation = deviation(Init::gpt2_residual(12).resolve(&[768, 3072]));
        assert!((deviation - 0.02 / 24f64.sqrt()).abs() < 1e-9);
        let gains = [
            (Nonlinearity::Linear, 1.0),
            (Nonlinearity::Relu, 2f64.sqrt()),
            (Nonlinearity::LeakyRelu(0.0), 2f64.sqrt()),
            (Nonlinearity::Tanh, 5.0 / 3.0),
            (Nonlinearity::Selu, 0.75),
        ];
        for (nonlinearity, gain) in gains {
            assert_eq!(nonlinearity.gain(), gain, "{nonlinearity:?}");
        }
    }

    #[test]
    #[should_panic(expected = "not [5]; give vectors such as biases a Constant")]
    fn a_vector_has_no_fans() {
        Init::XavierNormal { gain: 1.0 }.resolve(&[5]);
    }

    #[test]
    #[should_panic(expected = "not [0, 4]")]
    fn an_empty_tensor_has_no_fans() {
        let nonlinearity = Nonlinearity::Relu;
        Init::KaimingUniform { nonlinearity, fan: Fan::Out }.resolve(&[0, 4]);
    }
}
