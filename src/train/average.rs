//! An average of the weights beside the weights, which the verdict rules as it does all else.

use super::{Model, Trainer};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::Element;
use crate::kernel::{Precision, WeightStorage};
use crate::kernels::{
    AverageWeightsParams, LoadWeights, LoadWeightsParams, StoreWeights, StoreWeightsParams,
};
use crate::plan::{ParameterLayout, Parameters, parameters};
use crate::record::{Slot, to_u32};

/// An exponential moving average (EMA) of all trained weights (Polyak and Juditsky 1992; Tarvainen
/// and Valpola 2017; Morales-Brotons et al. 2024): after each applied step `average = decay average + (1 -
/// decay) weight`. It is often better than the weights themselves while the learning rate is high,
/// and takes the place of a part of its decay.
///
/// The average is kept in f32, whatever the storage of the weights, and is changed on the device under
/// the verdict: a skipped step leaves every bit of it, a rollback takes it back with the weights, and
/// nothing is read back. It takes 4 bytes for each trained element, and moves 8 and those of the
/// weight in a step. It starts as the weights that the trainer is built with, or begins anew with.
/// Where an update takes a weight out of f32, its average stays as it was.
///
/// Frozen tensors have no average, since they do not move. States, such as the running statistics of
/// BatchNorm, are not averaged: those of the run serve both.
///
/// [`Trainer::evaluate_averaged`] has the loss of the averages; [`Trainer::averaged`] gives them as
/// parameters, to predict and generate with, to export, and to go on with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ema {
    /// What stays of the average in each applied step, in \[0, 1): it looks back over about
    /// 1 / (1 - decay) of them.
    pub decay: f64,
    /// Whether early steps count for more: the decay is then min(decay, (1 + t) / (10 + t)) in the
    /// t-th applied step, counted from 1, so that the initial weights are soon forgotten. As
    /// TensorFlow's `tf.train.ExponentialMovingAverage` with `num_updates`.
    pub warmup: bool,
}

impl Default for Ema {
    /// A decay of 0.999, with a warm-up.
    fn default() -> Self {
        Self { decay: 0.999, warmup: true }
    }
}

impl Ema {
    /// Fails for a decay that is no share.
    pub(super) fn validate(self) -> Result<()> {
        if (0.0..1.0).contains(&self.decay) {
            return Ok(());
        }
        Err(Error::Setting {
            setting: "decay of the average of the weights",
            value: self.decay.to_string(),
            range: "at least 0 and below 1",
        })
    }

    /// For a segment of so many quads.
    pub(super) fn params(self, quads: u64) -> AverageWeightsParams {
        AverageWeightsParams {
            quads: to_u32(quads as usize),
            share: (1.0 - self.decay) as f32,
            warms_up: u32::from(self.warmup),
        }
    }
}

/// Bytes of the averages of each trained segment.
pub(super) fn average_bytes(layout: &ParameterLayout) -> impl Iterator<Item = u64> {
    layout.trained_segments().iter().map(|quads| quads * Precision::F32.quad_bytes())
}

/// The averages of the trained weights on the device.
#[derive(Debug)]
pub(super) struct Average {
    pub ema: Ema,
    /// By trained segment, in f32, laid out as gradients are.
    pub values: Vec<wgpu::Buffer>,
    /// The same as parameters, once somebody wants them so.
    parameters: Option<Parameters>,
}

impl Average {
    /// Averages that start as the weights are now.
    pub async fn new(gpu: &Gpu, ema: Ema, of: &Parameters) -> Result<Self> {
        let sizes: Vec<_> = average_bytes(of.layout()).collect();
        let what = "the average of the weights";
        let values = parameters::allocate(gpu, what, sizes.iter().sum(), || {
            sizes.iter().map(|&bytes| gpu.buffer("averages", bytes)).collect()
        });
        let average = Self { ema, values: values.await?, parameters: None };
        average.start(gpu, of);
        Ok(average)
    }

    /// Starts again with all that is known of the weights.
    pub fn start(&self, gpu: &Gpu, of: &Parameters) {
        let segments = of.trained_weights().iter().zip(of.trained_segments());
        for ((weight, &quads), average) in segments.zip(&self.values) {
            let load = LoadWeights {
                params: LoadWeightsParams { quads: to_u32(quads as usize) },
                weight: weight.as_entire_buffer_binding(),
                y: average.as_entire_buffer_binding(),
            };
            gpu.run_as(&load, of.storage());
        }
    }

    /// Where the average of trained tensor `index` lies.
    pub fn slot(&self, of: &Parameters, index: usize) -> Slot {
        of.slot_in(&self.values, index, Element::F32)
    }

    /// The averages as parameters, once they were brought.
    pub fn parameters(&self) -> Option<&Parameters> {
        self.parameters.as_ref()
    }

    /// The averages as parameters in the storage of the weights, as they are now. In f32 they are
    /// the averages themselves, in other storages a copy that is made again by each call.
    async fn brought(&mut self, gpu: &Gpu, of: &Parameters) -> Result<&Parameters> {
        let storage = of.storage();
        if self.parameters.is_none() {
            let trained = match storage {
                WeightStorage::F32 => self.values.clone(),
                _ => {
                    let sizes: Vec<_> = of.trained_weights().iter().map(|b| b.size()).collect();
                    let what = "the average of the weights in their storage";
                    parameters::allocate(gpu, what, sizes.iter().sum(), || {
                        sizes.iter().map(|&bytes| gpu.buffer("averaged weights", bytes)).collect()
                    })
                    .await?
                }
            };
            self.parameters = Some(of.with_trained_weights(trained));
        }
        let brought = self.parameters.as_ref().expect("made above");
        if storage != WeightStorage::F32 {
            let segments = brought.trained_weights().iter().zip(of.trained_segments());
            for ((weight, &quads), average) in segments.zip(&self.values) {
                let store = StoreWeights {
                    params: StoreWeightsParams { first: 0, quads: to_u32(quads as usize) },
                    x: average.as_entire_buffer_binding(),
                    weight: weight.as_entire_buffer_binding(),
                };
                gpu.run_as(&store, storage);
            }
        }
        Ok(brought)
    }
}

impl<M: Model> Trainer<M> {
    /// The parameters with the [averages](Ema) of the trained ones in their place, after all steps
    /// submitted so far: for a [`Predictor`](super::Predictor), a
    /// [`Generator`](crate::nn::Generator), an [`Export`](crate::hugging_face::Export), or by
    /// [`Parameters::copy`] for another trainer. Frozen tensors and states are those of the run.
    ///
    /// Weights in f32 are the average itself, which goes on with the run and takes no more memory. In
    /// other storages they are a copy in that storage, rounded to nearest, which each call (and
    /// [`evaluate_averaged`](Self::evaluate_averaged)) brings up to date; it takes the bytes of the
    /// trained weights once more, from the first call on, which [`report`](Self::report) leaves out.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a trainer without [`TrainerBuilder::ema`],
    /// [`Error::OutOfMemory`], [`Error::DeviceLost`].
    ///
    /// [`TrainerBuilder::ema`]: super::TrainerBuilder::ema
    pub async fn averaged(&mut self) -> Result<&Parameters> {
        self.gpu.check()?;
        let Some(average) = &mut self.average else {
            return Err(Error::Unsupported {
                what: "averaged weights of a trainer that keeps none".into(),
                instead: "have them kept with TrainerBuilder::ema".into(),
            });
        };
        average.brought(&self.gpu, &self.parameters).await
    }

    /// The buffers of averages, by trained segment; none where none are kept.
    pub(super) fn averages(&self) -> &[wgpu::Buffer] {
        self.average.as_ref().map_or(&[], |average| &average.values)
    }

    /// How the weights are averaged, if they are.
    pub fn ema(&self) -> Option<Ema> {
        self.average.as_ref().map(|average| average.ema)
    }
}
