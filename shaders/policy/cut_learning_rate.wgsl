// learning rate of this step *= factor while steps with a cut are left. One invocation.
struct CutLearningRateParams { factor: f32 }

@group(0) @binding(0) var<uniform> params: CutLearningRateParams;
@group(0) @binding(1) var<storage, read> memory: RollbackMemory;
@group(0) @binding(2) var<storage, read_write> state: StepState;

@compute @workgroup_size(1)
fn main() {
    if state.gave_up == 0u && memory.cut_left > 0u {
        state.learning_rate_factor *= params.factor;
        state.events |= EVENT_LEARNING_RATE_CUT;
    }
}
