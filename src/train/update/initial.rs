//! Before the first step: no parameter, trained or frozen, is NaN or Inf.

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernel::WeightStorage;
use crate::kernels::{LoadWeights, LoadWeightsParams, OVERFLOW_NONFINITE};
use crate::plan::{Parameters, parameters};
use crate::record::{Recorder, StepBuffers, to_u32};
use crate::step::ScanPartial;
use crate::train::Norm;
use crate::train::chunk_tables::ChunkTables;

/// Scans the weights, and fails with the one that is not finite. `gradients` are overwritten.
pub(super) async fn check(
    gpu: &Gpu,
    step: &StepBuffers,
    parameters: &Parameters,
    gradients: &[wgpu::Buffer],
) -> Result<()> {
    let tables = ChunkTables::of_all(gpu, parameters, Norm::L2.partial_bytes());
    let mut recorder = Recorder::new(gpu, step);
    if parameters.storage() == WeightStorage::F32 {
        for (index, weight) in parameters.weights().iter().enumerate() {
            Norm::L2.record_scan(&mut recorder, &tables, index, weight, OVERFLOW_NONFINITE);
        }
    } else {
        record_halves(&mut recorder, parameters, &tables, gradients).await?;
    }
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    gpu.encode(&mut encoder, &recorder.take());
    gpu.submit(encoder);
    let ChunkTables { partials, partial_count, .. } = &tables;
    let found: Vec<ScanPartial> = gpu.read(partials, 0, *partial_count as usize).await?;
    if found.iter().all(|partial| partial.nonfinite_count == 0) {
        return Ok(());
    }
    for spec in parameters.specs() {
        let values = parameters.read(&spec.name).await?;
        if let Some(index) = values.iter().position(|x| !x.is_finite()) {
            return Err(Error::NonFinite {
                what: format!("the initial value of parameter {}", spec.name),
                index,
                value: values[index],
                advice: "check its initialiser or the file it was read from".into(),
            });
        }
    }
    unreachable!("the scan found a value that is not finite")
}

/// Records the scan of the weights in f32, one segment after the other, where the gradients will be
/// or in a buffer for the largest.
async fn record_halves(
    recorder: &mut Recorder<'_>,
    parameters: &Parameters,
    tables: &ChunkTables,
    gradients: &[wgpu::Buffer],
) -> Result<()> {
    let gpu = recorder.gpu();
    let frozen = parameters.segments().iter().skip(gradients.len());
    let bytes = 16 * frozen.max().copied().unwrap_or(0);
    let what = "frozen weights in f32";
    let values =
        parameters::allocate(gpu, what, bytes, || gpu.buffer("weights in f32", bytes)).await?;
    for (index, weight) in parameters.weights().iter().enumerate() {
        let values = gradients.get(index).unwrap_or(&values);
        let quads = to_u32(parameters.segments()[index] as usize);
        recorder.set_variant(parameters.storage());
        recorder.dispatch(&LoadWeights {
            params: LoadWeightsParams { quads },
            weight: weight.as_entire_buffer_binding(),
            y: values.as_entire_buffer_binding(),
        });
        recorder.set_variant(WeightStorage::F32);
        Norm::L2.record_scan(recorder, tables, index, values, OVERFLOW_NONFINITE);
    }
    Ok(())
}
