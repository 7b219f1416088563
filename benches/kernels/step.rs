use evenkeel::kernels::*;
use evenkeel::step::{StepInput, TelemetryRecord, TensorRecord, UpdatePartial};

use crate::bench::{Family, SHAPES, bind};
use crate::update::{Layout, PARAMETERS, applied};

const RING: u32 = 1024;

pub fn run(family: &mut Family<'_>) {
    frame(family);
    let state = family.gpu.upload("state", &[applied()]);
    for shape in SHAPES {
        let quads = shape.quads();
        let [x, y] = family.tensors(shape);
        let bytes = x.size() + y.size();
        let [state, x, y] = [&state, &x, &y].map(bind);
        let params = CommitParams { quads };
        let commit = Commit { params, state, staged: x.clone(), committed: y.clone() };
        family.moves(shape, bytes, &commit);
        let params = AccumulateParams { quads, factor: 0.5, accumulate: 1 };
        // The sum is read and written.
        family.moves(shape, bytes / 2 * 3, &Accumulate { params, x, y });
    }
    let input = family.gpu.upload("input", &[StepInput::default()]);
    let ring = u64::from(RING) * size_of::<TelemetryRecord>() as u64;
    let (loss, ring) = (family.vector(1), family.gpu.buffer("ring", ring));
    let [state, input, loss, ring] = [&state, &input, &loss, &ring].map(bind);
    let params = SeedGradientParams { factor: 1.0 };
    family.moves_its_buffers("1", &SeedGradient { params, state: state.clone(), y: loss.clone() });
    let params = TelemetryParams { capacity: RING };
    let bytes = 3 * size_of::<TelemetryRecord>() as u64;
    family.moves("1", bytes, &Telemetry { params, input, state, loss, ring });
}

fn frame(family: &mut Family<'_>) {
    let layout = Layout::new(family, PARAMETERS, 148);
    let (scan, norm) = (layout.scan(), layout.norm());
    family.gpu.run(&scan);
    family.moves_its_buffers("10 M in 148 tensors", &scan);
    family.moves_its_buffers(format_args!("{} partials", layout.chunk_count), &norm);
    family.moves_its_buffers("148 tensors", &layout.verdict());
    watched(family, &layout);
}

/// What a watched step adds behind its update. Old weights are those of now: the work is the same.
fn watched(family: &mut Family<'_>, layout: &Layout) {
    let gpu = family.gpu;
    let (chunk_count, tensor_count) = (layout.chunk_count, layout.tensor_count);
    let bytes = |count: u32, size: usize| u64::from(count) * size as u64;
    let partials = gpu.buffer("partials", bytes(chunk_count, size_of::<UpdatePartial>()));
    let scan = UpdateScan {
        params: UpdateScanParams { chunk_count },
        state: bind(&layout.state),
        chunks: bind(&layout.chunks),
        tensors: bind(&layout.tensors),
        gradient: bind(&layout.gradient),
        old: bind(&layout.m),
        weight: bind(&layout.weight),
        partials: bind(&partials),
    };
    family.moves_its_buffers("10 M in 148 tensors", &scan);
    let segments = tensor_segments(&layout.chunk_table, tensor_count);
    let segments = gpu.upload("segments", &segments);
    let eps_shares = family.vector(tensor_count);
    let ring = gpu.buffer("ring", bytes(tensor_count, size_of::<TensorRecord>()));
    let kernel = TensorTelemetry {
        params: TensorTelemetryParams { tensor_count, every: 1, capacity: 1 },
        input: bind(&layout.input),
        state: bind(&layout.state),
        segments: bind(&segments),
        partials: bind(&partials),
        eps_shares: bind(&eps_shares),
        ring: bind(&ring),
    };
    family.moves_its_buffers("148 tensors", &kernel);
}
