use evenkeel::kernels::*;
use evenkeel::step::{StepInput, TelemetryRecord};

use crate::bench::{Family, SHAPES, bind};
use crate::update::{Layout, applied};

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
    let layout = Layout::new(family, 148);
    let (scan, norm) = (layout.scan(), layout.norm());
    family.gpu.run(&scan);
    family.moves_its_buffers("10 M in 148 tensors", &scan);
    family.moves_its_buffers(format_args!("{} partials", layout.chunk_count), &norm);
    family.moves_its_buffers("148 tensors", &layout.verdict());
}
