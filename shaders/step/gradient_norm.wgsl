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

const PARTS = FOLD * FOLD;
// Partials added up before they join a part: keeps chains of additions short.
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

// Every PARTS-th of the partials, in blocks.
fn joined(part: u32) -> ScanPartial {
    var total = ScanPartial();
    for (var start = part; start < params.partial_count; start += PARTS * BLOCK) {
        var block = ScanPartial();
        let end = min(start + PARTS * BLOCK, params.partial_count);
        // A few at once, so that a GPU does not wait for one after the other; not all, which
        // compilers would write out.
        for (var first = start; first < end; first += PARTS * AT_ONCE) {
            for (var k = 0u; k < AT_ONCE; k++) {
                let i = first + k * PARTS;
                if i < end { block = combine(block, partials[i]); }
            }
        }
        total = combine(total, block);
    }
    return total;
}

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(local_invocation_index) lane: u32) {
    for (var column = lane; column < COLUMNS; column += INVOCATIONS) {
        var sum = ScanPartial();
        for (var part = column; part < PARTS; part += COLUMNS) { sum = combine(sum, joined(part)); }
        folded[column] = sum;
    }
    let total = fold_columns(lane);
    for (var t = lane; t < params.tensor_count; t += INVOCATIONS) {
        tensors[t].clip_coefficient = 1.0;
    }
    if lane == 0u {
        open_step(scaled_norm(total), total.nonfinite_count, total.zero_count);
    }
}
