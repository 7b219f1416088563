//! Every kernel of every optimizer, recorded as a trainer records it.

use std::collections::BTreeSet;

use evenkeel::gpu::Dispatch;
use evenkeel::graph::{ParameterSpec, Shape};
use evenkeel::kernel::MomentStorage;
use evenkeel::kernels::*;
use evenkeel::nn::Init;
use evenkeel::record::{Recorder, StepBuffers};
use evenkeel::step::StepInput;
use evenkeel::train::optimizers::{Segment, SegmentTensor};
use evenkeel::train::{self, Optimizer};

use crate::bench::{Family, Work, bind};
use crate::update::{Layout, PARAMETERS};

/// The tensors of [`Layout`] when there are 148, the last of which is shorter.
const MATRIX: [usize; 2] = [103, 656];
const MATRICES: usize = 147;
/// As many as Muon orthogonalises together.
const BATCH: usize = 100;

pub fn run(family: &mut Family<'_>) {
    let layout = Layout::new(family, PARAMETERS, 148);
    let adamw = layout.adamw();
    family.moves_its_buffers("10 M in 148 tensors", &adamw);
    let AdamwParams {
        chunk_count,
        beta1,
        one_minus_beta1,
        beta2,
        one_minus_beta2,
        eps,
        weight_decay,
    } = adamw.params;
    let adam = Adam {
        params: AdamParams {
            chunk_count,
            beta1,
            one_minus_beta1,
            beta2,
            one_minus_beta2,
            eps,
            weight_decay,
        },
        state: bind(&layout.state),
        chunks: bind(&layout.chunks),
        tensors: bind(&layout.tensors),
        gradient: bind(&layout.gradient),
        weight: bind(&layout.weight),
        m: bind(&layout.m),
        v: bind(&layout.v),
    };
    family.moves_its_buffers("10 M in 148 tensors", &adam);
    let params =
        SgdParams { chunk_count, momentum: 0.9, dampening: 0.0, nesterov: 0, weight_decay };
    let sgd = Sgd {
        params,
        state: bind(&layout.state),
        chunks: bind(&layout.chunks),
        tensors: bind(&layout.tensors),
        gradient: bind(&layout.gradient),
        weight: bind(&layout.weight),
        momentum_buffer: bind(&layout.m),
    };
    family.moves_its_buffers("10 M in 148 tensors", &sgd);

    let amsgrad = train::AdamW { amsgrad: true, ..Default::default() };
    let cautious = train::AdamW { cautious: true, ..Default::default() };
    let packed = train::Muon { hidden: |_| false, ..Default::default() };
    let compact = |storage| {
        let (adamw, adam) = (train::AdamW::default(), train::Adam::default());
        let lion = train::Lion::default();
        [adamw.with_moments(storage), adam.with_moments(storage), lion.with_moments(storage)]
    };
    let [in_bf16, in_blocks] = [MomentStorage::Bf16, MomentStorage::Blocks8].map(compact);
    let optimizers: [(&str, &dyn Optimizer, usize); 14] = [
        ("AMSGrad", &amsgrad, MATRICES),
        ("cautious AdamW", &cautious, MATRICES),
        ("StableAdamW", &train::StableAdamW::default(), MATRICES),
        ("Adam-atan2", &train::AdamAtan2::default(), MATRICES),
        ("Lion", &train::Lion::default(), MATRICES),
        ("Adafactor", &train::Adafactor::default(), MATRICES),
        ("Muon", &train::Muon::default(), BATCH),
        ("Muon without matrices", &packed, MATRICES),
        ("AdamW in bf16", &in_bf16[0], MATRICES),
        ("Adam in bf16", &in_bf16[1], MATRICES),
        ("Lion in bf16", &in_bf16[2], MATRICES),
        ("AdamW in 8 bits", &in_blocks[0], MATRICES),
        ("Adam in 8 bits", &in_blocks[1], MATRICES),
        ("Lion in 8 bits", &in_blocks[2], MATRICES),
    ];
    // Measured by the family of a step.
    let mut seen = BTreeSet::from(["gradient_scan"]);
    for (name, optimizer, matrices) in optimizers {
        let (update, look) = record(family, &layout, optimizer, matrices);
        let size = format!("{} k in {matrices} tensors", matrices * MATRIX[0] * MATRIX[1] / 1000);
        let moved = |name| moved_bytes(name, matrices as u64);
        for dispatch in update.iter().chain(&look) {
            if let Some(bytes) = moved(dispatch.name).filter(|_| seen.insert(dispatch.name)) {
                let dispatches = std::slice::from_ref(dispatch);
                family.measure(dispatch.name, &size, Work::Bytes(bytes), dispatches);
            }
        }
        // The products of Muon count no bytes.
        let all = format!("{name}, {} dispatches", update.len());
        let bytes = update.iter().filter_map(|dispatch| moved(dispatch.name)).sum();
        family.measure(&all, &size, Work::Bytes(bytes), &update);
    }
}

/// Bytes that a kernel moves for this many matrices; none for products.
fn moved_bytes(kernel: &str, matrices: u64) -> Option<u64> {
    let [rows, cols] = MATRIX.map(|n| n as u64);
    let chunks = (rows * cols).div_ceil(4 * u64::from(CHUNK_QUADS));
    let numbers = match kernel {
        "amsgrad" => 9 * rows * cols,
        "adamw_scaled" | "adam_atan2" | "adamw_packed" => 7 * rows * cols,
        // Gradient and weight as f32, moments of 2 bytes.
        "adamw_bf16" | "adam_bf16" => 5 * rows * cols,
        "lion_bf16" => 4 * rows * cols,
        // Moments of a byte; scales hardly count.
        "adamw_blocks" | "adam_blocks" => 4 * rows * cols,
        "lion_blocks" => 7 * rows * cols / 2,
        "lion" => 5 * rows * cols,
        "muon_momentum" => 4 * rows * cols,
        "adafactor" | "muon" => 3 * rows * cols,
        "agreement" | "squared_ratio" | "muon_normalize" => 2 * rows * cols,
        "moment_statistics" | "weight_squares" | "adafactor_scan" | "adafactor_squares" => {
            rows * cols
        }
        "muon_polynomial" => 3 * rows * rows.next_multiple_of(4),
        // Three tiles side by side and two below each other; the variances are read and written.
        "adafactor_factors" => (3 + 2) * rows + (2 + 2) * cols,
        "muon_norm" => 4 * chunks,
        "gradient_scan" => rows * cols,
        "tensor_factors" => chunks,
        _ => return None,
    };
    Some(4 * numbers * matrices)
}

/// The dispatches of an optimizer over the first matrices of the layout, and of a look at its
/// second moments.
fn record(
    family: &Family<'_>,
    layout: &Layout,
    optimizer: &dyn Optimizer,
    matrices: usize,
) -> (Vec<Dispatch>, Vec<Dispatch>) {
    let shape = Shape::real(MATRIX);
    let spec = |index: usize| ParameterSpec {
        name: format!("blocks.{index}.weight"),
        shape: shape.clone(),
        init: Init::Constant(0.0),
        stream: 0,
        requires_grad: true,
    };
    let specs: Vec<_> = (0..matrices).map(spec).collect();
    let quads = shape.quads() as u32;
    let tensors = (0..).zip(&specs).map(|(index, spec)| {
        SegmentTensor::new(spec, index, index * quads, index * quads.div_ceil(CHUNK_QUADS))
    });
    let tensors: Vec<_> = tensors.collect();
    let gpu = family.gpu;
    let sizes = optimizer.moment_bytes(&tensors);
    let moments: Vec<_> = sizes.iter().map(|&bytes| gpu.buffer("moment", bytes)).collect();
    let chunk_count = matrices as u32 * quads.div_ceil(CHUNK_QUADS);
    let segment = Segment {
        chunks: &layout.chunks,
        chunk_count,
        tensors: &layout.tensors,
        gradient: &layout.gradient,
        weight: &layout.weight,
        moments: &moments,
        layout: &tensors,
    };
    let input = gpu.upload("input", &[StepInput::default()]);
    let buffers = StepBuffers { input, state: layout.state.clone() };
    let mut recorder = Recorder::new(gpu, &buffers);
    optimizer.record(&mut recorder, &segment);
    let shares = gpu.buffer("shares", 4 * matrices as u64);
    let update = recorder.take();
    optimizer.record_eps_shares(&mut recorder, &segment, &shares);
    (update, recorder.take())
}
