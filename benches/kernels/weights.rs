use evenkeel::WeightStorage;
use evenkeel::kernels::*;
use evenkeel::step::{APPLY, StepState};

use crate::bench::{Family, bind};
use crate::update::{Layout, PARAMETERS};

const HALVES: [WeightStorage; 3] =
    [WeightStorage::Bf16Stochastic, WeightStorage::Bf16Kahan, WeightStorage::Bf16Split];

/// The same values in and out of each storage, AdamW over it, and the average of it. Other rows of f32
/// are in the table already: the optimizer's.
pub fn run(family: &mut Family<'_>) {
    let mut layout = Layout::new(family, PARAMETERS, 148);
    let (parameters, quads) = (u64::from(PARAMETERS), PARAMETERS / 4);
    let values = family.vector(PARAMETERS);
    let state = StepState { verdict: APPLY, applied_total: 100, ..StepState::default() };
    let state = family.gpu.upload("state", &[state]);
    // The weight is read, the average read and written.
    let kernel = average(&state, &layout.weight, &values);
    family.moves_as(WeightStorage::F32, "10 M in f32", 12 * parameters, &kernel);
    for storage in HALVES {
        let bytes = u64::from(quads) * storage.quad_bytes();
        layout.weight = family.gpu.buffer("weight", bytes);
        let size = format!("10 M in {storage}");
        let store = StoreWeights {
            params: StoreWeightsParams { first: 0, quads },
            x: bind(&values),
            weight: bind(&layout.weight),
        };
        // The filter may leave this row out; AdamW needs weights all the same.
        family.gpu.run_as(&store, storage);
        family.moves_as(storage, &size, 4 * parameters + bytes, &store);
        let load = LoadWeights {
            params: LoadWeightsParams { quads },
            weight: bind(&layout.weight),
            y: bind(&values),
        };
        family.moves_as(storage, &size, 4 * parameters + bytes, &load);
        // The gradient is read; weight and moments are read and written.
        let moved = 20 * parameters + 2 * bytes;
        family.moves_as(storage, &size, moved, &layout.adamw());
        let kernel = average(&state, &layout.weight, &values);
        family.moves_as(storage, &size, 8 * parameters + bytes, &kernel);
    }
}

fn average<'a>(
    state: &'a wgpu::Buffer,
    weight: &'a wgpu::Buffer,
    average: &'a wgpu::Buffer,
) -> AverageWeights<'a> {
    AverageWeights {
        params: AverageWeightsParams { quads: PARAMETERS / 4, share: 1e-3, warms_up: 1 },
        state: bind(state),
        weight: bind(weight),
        average: bind(average),
    }
}
