// What the spike guard remembers, and how it looks at a sample. src/kernels/policy.rs holds the
// Rust halves. The kernel binds `memory` and `state`.
const PENDING_NORM = 1u;
const PENDING_LOSS = 2u;
const PENDING_ANYWAY = 4u;

struct SpikeReaction {
    kind: u32,
    factor: f32,
    steps: u32,
}

struct SpikeMemory {
    loss_count: u32,
    loss_next: u32,
    norm_count: u32,
    norm_next: u32,
    pending: u32,
    pending_loss: f32,
    pending_norm: f32,
    quiet: u32,
    episode: u32,
    in_row: u32,
    cut_left: u32,
    cut_factor: f32,
    // Two windows, losses and norms; then two of each tensor, its mean norm and the pending one.
    samples: array<f32>,
}

// Takes in what the last step left, if it counted. Gives by how many the means of tensors go over.
fn take_in() -> u32 {
    let applied = state.verdict == APPLY;
    if applied { memory.cut_left -= min(memory.cut_left, 1u); }
    let pending = memory.pending;
    memory.pending = 0u;
    if pending == 0u || (!applied && (pending & PENDING_ANYWAY) == 0u) { return 0u; }
    if (pending & PENDING_LOSS) != 0u {
        memory.samples[memory.loss_next] = memory.pending_loss;
        memory.loss_next = (memory.loss_next + 1u) % params.window;
        memory.loss_count = min(memory.loss_count + 1u, params.window);
    }
    memory.samples[params.window + memory.norm_next] = memory.pending_norm;
    memory.norm_next = (memory.norm_next + 1u) % params.window;
    memory.norm_count = min(memory.norm_count + 1u, params.window);
    return memory.norm_count;
}

// Mean and deviation in units of 2^exponent, the power of two at or below the largest sample.
struct Window { mean: f32, deviation: f32, exponent: i32, is_active: bool }

// value / 2^exponent, at most 2^101. What vanishes beside the largest sample counts as 2^-126.
fn scaled(value: f32, exponent: i32) -> f32 {
    let bits = bitcast<u32>(value);
    let wide = widen(bits & 0x7fffffffu);
    let shifted = narrow(Wide(wide.significand, clamp(wide.exponent - exponent, -126, 100)));
    return bitcast<f32>(bitcast<u32>(shifted) | (bits & 0x80000000u));
}

// Mean and deviation (n - 1) of `count` samples from `first`. Every invocation must call it, in
// uniform control flow; every one gets the result. Differences below 2^-20 of the largest sample
// are what rounding makes, so the deviation is no less; a window of zeros is never active.
fn summarize(lane: u32, first: u32, count: u32) -> Window {
    var largest = 0u;
    for (var i = lane; i < count; i += LANES) {
        largest = max(largest, bitcast<u32>(memory.samples[first + i]) & 0x7fffffffu);
    }
    largest = workgroup_max_u32(lane, largest);
    let exponent = widen(largest).exponent;
    var sum = 0.0;
    for (var i = lane; i < count; i += LANES) {
        sum += scaled(memory.samples[first + i], exponent);
    }
    let mean = workgroup_sum(lane, sum) / f32(max(count, 1u));
    var squares = 0.0;
    for (var i = lane; i < count; i += LANES) {
        let difference = scaled(memory.samples[first + i], exponent) - mean;
        squares += difference * difference;
    }
    let variance = workgroup_sum(lane, squares) / f32(max(count, 2u) - 1u);
    let deviation = sqrt(max(variance, 9.094947e-13));
    return Window(mean, deviation, exponent, largest > 0u && count >= max(params.window / 2u, 2u));
}

// 0 while the window is not active.
fn z_score(value: f32, before: Window) -> f32 {
    let z = (scaled(value, before.exponent) - before.mean) / before.deviation;
    return select(0.0, z, before.is_active);
}

// Takes in the pending norm of a tensor if `count` is not 0, as one of the last `count`; then its
// norm beside its mean.
fn watch_tensor(t: u32, count: u32) -> Worst {
    let i = 2u * (params.window + t);
    if count > 0u {
        memory.samples[i] += (memory.samples[i + 1u] - memory.samples[i]) / f32(count);
    }
    memory.samples[i + 1u] = sample(tensor_norm(t));
    let mean = widen(bitcast<u32>(memory.samples[i]));
    var ratio = 0.0;
    if mean.significand > 0.0 { ratio = narrow(quotient(tensor_norm(t), mean)); }
    return Worst(ratio, t);
}
