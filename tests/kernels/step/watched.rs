//! What telemetry of tensors is made of: the scan of an update, and the record of each tensor.

use evenkeel::kernels::*;
use evenkeel::reference::step::{self as reference, UpdateRange};
use evenkeel::step::{StepInput, StepState, TensorRecord, TensorState, UpdatePartial};
use evenkeel::{Gpu, WeightStorage};

use super::super::support::{Tolerance, assert_close, block_on, values, wide};
use super::NONFINITE;
use super::judge::{Flat, flatten};

/// A step over tensors of several chunks: chunk partials and the telemetry of each tensor.
struct Watched {
    partials: Vec<UpdatePartial>,
    ring: Vec<TensorRecord>,
}

const WATCHED: [usize; 5] = [5, 2049, 0, 3000, 1];

fn watch(
    gpu: &Gpu,
    storage: WeightStorage,
    gradient: &Flat,
    old: &[f32],
    weight: &[f32],
) -> Watched {
    let state = StepState {
        gradient_scale: 0.5,
        clip_value: 0.25,
        step_loss_scale: 2.0,
        ..StepState::new(4.0, 1)
    };
    let tensor = TensorState { clip_coefficient: 0.75, ..Default::default() };
    let (count, chunk_count) = (gradient.table.len(), gradient.chunks.len());
    let segments = tensor_segments(&gradient.chunks, count as u32);
    let partials = gpu.buffer("partials", (chunk_count * size_of::<UpdatePartial>()) as u64);
    let ring = gpu.buffer("ring", (3 * count * size_of::<TensorRecord>()) as u64);
    let state = gpu.upload("state", &[state]);
    let weight = storage.encode(weight).concat();
    gpu.run_as(
        &UpdateScan {
            params: UpdateScanParams { chunk_count: chunk_count as u32 },
            state: state.as_entire_buffer_binding(),
            chunks: gpu.upload("chunks", &gradient.chunks).as_entire_buffer_binding(),
            tensors: gpu.upload("tensors", &vec![tensor; count]).as_entire_buffer_binding(),
            gradient: gpu.upload("gradient", &gradient.elements).as_entire_buffer_binding(),
            old: gpu.upload("old", old).as_entire_buffer_binding(),
            weight: gpu.upload("weight", &weight).as_entire_buffer_binding(),
            partials: partials.as_entire_buffer_binding(),
        },
        storage,
    );
    // Step 14, every second one: record 7, in a ring of three.
    let input = StepInput { step: 14, ..Default::default() };
    gpu.run(&TensorTelemetry {
        params: TensorTelemetryParams { tensor_count: count as u32, every: 2, capacity: 3 },
        input: gpu.upload("input", &[input]).as_entire_buffer_binding(),
        state: state.as_entire_buffer_binding(),
        segments: gpu.upload("segments", &segments).as_entire_buffer_binding(),
        partials: partials.as_entire_buffer_binding(),
        eps_shares: gpu.upload("shares", &[0.25f32; 5]).as_entire_buffer_binding(),
        ring: ring.as_entire_buffer_binding(),
    });
    let ring: Vec<TensorRecord> = block_on(gpu.read(&ring, 0, 3 * count)).expect("readable");
    let (mine, others): (Vec<_>, Vec<_>) =
        ring.into_iter().enumerate().partition(|(i, _)| (count..2 * count).contains(i));
    assert!(others.iter().all(|(_, record)| *record == TensorRecord::default()));
    Watched {
        partials: block_on(gpu.read(&partials, 0, chunk_count)).expect("readable"),
        ring: mine.into_iter().map(|(_, record)| record).collect(),
    }
}

/// Flat buffers of a step with zeros, weights that stand still, and sizes over f32's range.
fn watched_step(scale: f32, storage: WeightStorage) -> (Flat, Vec<f32>, Vec<f32>) {
    let tensors: Vec<_> = (1..).zip(WATCHED).map(|(seed, n)| values(seed, n)).collect();
    let mut gradient = flatten(&tensors);
    gradient.elements.iter_mut().for_each(|g| *g *= scale);
    gradient.elements.iter_mut().step_by(5).for_each(|g| *g = 0.0);
    let count = gradient.elements.len();
    let rounded = |x: Vec<f32>| {
        let [weights, beside] = storage.encode(&x);
        storage.decode(&weights, &beside)
    };
    let old = rounded(values(50, count).iter().map(|x| x * scale.recip()).collect());
    let mut weight =
        rounded(old.iter().zip(values(60, count)).map(|(w, d)| w + 0.3 * d * w).collect());
    for i in (0..count).step_by(3) {
        weight[i] = old[i];
    }
    (gradient, old, weight)
}

const WATCHED_SUM: Tolerance = Tolerance {
    absolute: 1e-6,
    relative: 4e-6,
    because: "squares and some tens of additions of terms of one sign; ratios to f64",
};

pub fn update_scan(gpu: &Gpu) {
    for (scale, storage) in [
        (1.0, WeightStorage::F32),
        (1e25, WeightStorage::F32),
        (1e-25, WeightStorage::F32),
        (1.0, WeightStorage::Bf16Stochastic),
        (1.0, WeightStorage::Bf16Kahan),
        (1.0, WeightStorage::Bf16Split),
    ] {
        for bad in [false, true] {
            let (mut gradient, old, weight) = watched_step(scale, storage);
            if bad {
                for i in [1, 2100, 4000] {
                    gradient.elements[i] = f32::from_bits(NONFINITE[i % NONFINITE.len()]);
                }
            }
            let watched = watch(gpu, storage, &gradient, &old, &weight);
            for (chunk, partial) in gradient.chunks.iter().zip(&watched.partials) {
                let share = chunk.offset as usize * 4..(chunk.offset + chunk.quads) as usize * 4;
                let part = |x: &[f32]| wide(&x[share.clone()]);
                let expected = reference::update_scan(
                    &part(&gradient.elements),
                    &part(&old),
                    &part(&weight),
                    0.5 * 0.75,
                    0.25,
                );
                assert_update(&format!("{scale:e} {storage} {chunk:?}"), partial, &expected);
            }
        }
    }
}

#[track_caller]
fn assert_update(what: &str, found: &UpdatePartial, expected: &UpdateRange) {
    let counts = [found.nonfinite_count, found.zero_count, found.frozen_count];
    let wanted = [expected.nonfinite_count, expected.zero_count, expected.frozen_count];
    assert_eq!(counts, wanted, "{what}");
    // NaN is above no bound.
    assert!(found.cut_count.abs_diff(expected.cut_count) <= expected.nonfinite_count, "{what}");
    for (name, max_bits, sum, (largest, squares)) in [
        ("gradient", found.gradient_max_bits, found.gradient_sum, expected.gradient),
        ("weight", found.weight_max_bits, found.weight_sum, expected.weight),
        ("update", found.update_max_bits, found.update_sum, expected.update),
    ] {
        let exponent = ((max_bits >> 23).max(1) as i32 - 127).min(126);
        let ratio =
            if squares == 0.0 { 1.0 } else { f64::from(sum) * 4f64.powi(exponent) / squares };
        assert_close(&format!("{what}, {name}"), &[ratio as f32], &[1.0], WATCHED_SUM);
        let ratio =
            if largest == 0.0 { 1.0 } else { f64::from(f32::from_bits(max_bits)) / largest };
        assert_close(&format!("{what}, largest {name}"), &[ratio as f32], &[1.0], WATCHED_SUM);
    }
}

pub fn tensor_telemetry(gpu: &Gpu) {
    for scale in [1.0, 1e25, 1e-25] {
        let (mut gradient, old, weight) = watched_step(scale, WeightStorage::F32);
        // One chunk of a tensor far larger than the others.
        gradient.elements[2060] = 1e30;
        let watched = watch(gpu, WeightStorage::F32, &gradient, &old, &weight);
        for (tensor, record) in watched.ring.iter().enumerate() {
            assert_eq!((record.step, record.loss_scale, record.eps_share), (14, 2.0, 0.25));
            let chunks = gradient.chunks.iter().filter(|chunk| chunk.tensor as usize == tensor);
            let parts: Vec<_> = chunks
                .map(|chunk| {
                    let share =
                        chunk.offset as usize * 4..(chunk.offset + chunk.quads) as usize * 4;
                    let part = |x: &[f32]| wide(&x[share.clone()]);
                    reference::update_scan(
                        &part(&gradient.elements),
                        &part(&old),
                        &part(&weight),
                        0.5 * 0.75,
                        0.25,
                    )
                })
                .collect();
            let expected = reference::tensor_telemetry(&parts);
            let words: [u32; 13] = bytemuck::cast(*record);
            let found: UpdatePartial =
                bytemuck::cast::<[u32; 10], _>(words[2..12].try_into().unwrap());
            assert_update(&format!("{scale:e}, tensor {tensor}"), &found, &expected);
        }
    }
}
