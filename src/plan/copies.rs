//! Copies of parameters in another precision than that of their storage, to compute with: one
//! dispatch per segment casts all of them at the start of a step.

use std::collections::BTreeMap;

use super::{ParameterLayout, Parameters, parameters};
use crate::error::Result;
use crate::gpu::{Gpu, Origin, Stage};
use crate::graph::{Graph, Source, Value};
use crate::kernel::{Precision, Variant};
use crate::kernels::{CastFromF32, CastFromF32Params, LoadWeights, LoadWeightsParams};
use crate::record::{Recorder, Slot, to_u32};

/// A copy of a parameter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copied {
    /// Parameter of the graph.
    pub parameter: usize,
    pub precision: Precision,
    pub value: Value,
}

/// Takes the copies out of the nodes that are recorded one by one. A copy of a copy stays one of
/// them, unless the parameter lies in parts: then both lie as it does. `parameter_index` says which
/// parameter of the layout a parameter of the graph is.
pub(super) fn take_copies(
    graph: &Graph,
    layout: &ParameterLayout,
    parameter_index: &[usize],
    needed: &mut [bool],
) -> Vec<Copied> {
    let mut copied = Vec::new();
    for (parameter, from, value) in graph.parameter_copies() {
        let is_copied_twice = matches!(graph.nodes()[from.node].source, Source::Op(_));
        if is_copied_twice && !layout.is_in_parts(parameter_index[parameter]) {
            continue;
        }
        if std::mem::replace(&mut needed[value.node], false) {
            let precision = graph.shape(value).precision;
            copied.push(Copied { parameter, precision, value });
        }
    }
    copied
}

/// Bytes of the buffers of copies in one precision.
pub(super) fn copy_bytes(
    layout: &ParameterLayout,
    precision: Precision,
) -> impl Iterator<Item = u64> {
    layout.segments().iter().map(move |quads| quads * precision.quad_bytes())
}

/// The copies a plan needs. Each precision has flat buffers of its own, laid out as the
/// parameters.
#[derive(Debug)]
pub(super) struct Copies {
    values: Vec<Copied>,
    buffers: BTreeMap<Precision, Vec<wgpu::Buffer>>,
    /// Bytes of those that no other plan had before.
    new_bytes: u64,
}

impl Copies {
    /// `shared` are the buffers of plans over the same parameters, and then those of this one too.
    pub async fn new(
        gpu: &Gpu,
        parameters: &Parameters,
        values: Vec<Copied>,
        shared: &mut BTreeMap<Precision, Vec<wgpu::Buffer>>,
    ) -> Result<Self> {
        let precisions = values.iter().map(|copied| (copied.precision, Vec::new()));
        let (mut buffers, mut new_bytes): (BTreeMap<_, Vec<wgpu::Buffer>>, _) =
            (precisions.collect(), 0);
        for (precision, buffers) in &mut buffers {
            if let Some(shared) = shared.get(precision) {
                buffers.clone_from(shared);
                continue;
            }
            let sizes: Vec<_> = copy_bytes(parameters.layout(), *precision).collect();
            let what = format!("the weights in {precision}");
            *buffers = parameters::allocate(gpu, &what, sizes.iter().sum(), || {
                sizes.iter().map(|&bytes| gpu.buffer("weight copies", bytes)).collect()
            })
            .await?;
            new_bytes += sizes.iter().sum::<u64>();
            shared.insert(*precision, buffers.clone());
        }
        Ok(Self { values, buffers, new_bytes })
    }

    /// Where each copy lies; `parameter_index` as for [`take_copies`].
    pub fn slots<'a>(
        &'a self,
        parameters: &'a Parameters,
        parameter_index: &'a [usize],
    ) -> impl Iterator<Item = (Value, Slot)> + 'a {
        self.values.iter().map(|&Copied { parameter, precision, value }| {
            let (flat, index) = (&self.buffers[&precision], parameter_index[parameter]);
            (value, parameters.copy_slot_in(flat, index, precision))
        })
    }

    /// Records the casts. Copies in f32 get all that the storage knows of a weight; halves are made
    /// of them where the storage has other halves.
    pub fn record(&self, parameters: &Parameters, recorder: &mut Recorder<'_>) {
        recorder.set_origin(Origin::of_step("weight_copies", Stage::Prologue));
        for (&precision, buffers) in &self.buffers {
            recorder.set_variant(Variant {
                precision,
                weights: parameters.storage(),
                ..Variant::default()
            });
            let from = match self.buffers.get(&Precision::F32) {
                Some(single) if precision != Precision::F32 => single,
                _ => parameters.weights(),
            };
            for ((from, &quads), copy) in from.iter().zip(parameters.segments()).zip(buffers) {
                let quads = to_u32(quads as usize);
                let (stored, y) = (bind(from), bind(copy));
                if precision == Precision::F32 {
                    let params = LoadWeightsParams { quads };
                    recorder.dispatch(&LoadWeights { params, weight: stored, y });
                } else {
                    let params = CastFromF32Params { quads };
                    recorder.dispatch(&CastFromF32 { params, x: stored, y });
                }
            }
        }
        recorder.set_variant(Precision::F32);
    }

    /// Bytes of the copies that no other plan had before.
    pub fn bytes(&self) -> u64 {
        self.new_bytes
    }
}

fn bind(buffer: &wgpu::Buffer) -> wgpu::BufferBinding<'_> {
    buffer.as_entire_buffer_binding()
}
