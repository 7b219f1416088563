// norm = |g| / loss_scale over all partials, which opens the step: norm and counts go to the state,
// and what policies may set is reset. One workgroup; its invocation 0 writes the state.
struct GradientNormParams {
    partial_count: u32,
    tensor_count: u32,
    norm: u32,
    max_norm: f32,
}

@group(0) @binding(0) var<uniform> params: GradientNormParams;
@group(0) @binding(1) var<storage, read> partials: array<ScanPartial>;
@group(0) @binding(2) var<storage, read_write> tensors: array<TensorState>;
@group(0) @binding(3) var<storage, read_write> state: StepState;

const INVOCATIONS = FOLD * FOLD;
// Partials added up before they join an invocation's total: keeps chains of additions short.
const BLOCK = 16u;
const AT_ONCE = 4u;
const NORM_MAX = 1u;

// Norm of the gradients as they are, loss scale included.
fn scaled_norm(total: ScanPartial) -> Wide {
    if params.norm == NORM_MAX || total.max_bits == 0u { return widen(total.max_bits); }
    let root = widen(bitcast<u32>(sqrt(total.scaled_sum)));
    let exponent = i32(exponent_bits(total.max_bits)) - 127;
    return Wide(root.significand, root.exponent + exponent);
}

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(local_invocation_index) lane: u32) {
    var total = ScanPartial();
    for (var start = lane; start < params.partial_count; start += INVOCATIONS * BLOCK) {
        var block = ScanPartial();
        let end = min(start + INVOCATIONS * BLOCK, params.partial_count);
        // A few at once, so that a GPU does not wait for one after the other; not all, which
        // compilers would write out.
        for (var first = start; first < end; first += INVOCATIONS * AT_ONCE) {
            for (var k = 0u; k < AT_ONCE; k++) {
                let i = first + k * INVOCATIONS;
                if i < end { block = combine(block, partials[i]); }
            }
        }
        total = combine(total, block);
    }
    total = fold(lane, total);
    for (var t = lane; t < params.tensor_count; t += INVOCATIONS) {
        tensors[t].clip_coefficient = 1.0;
    }
    if lane == 0u {
        open_step(scaled_norm(total), total.nonfinite_count, total.zero_count);
    }
}
