// max_norm = percentile of the last norms (AutoClip), which are sorted in workgroup memory. One
// workgroup.
struct ClipByPercentileParams {
    history: u32,
    sorted: u32,
    share: f32,
    warmup: u32,
}

@group(0) @binding(0) var<uniform> params: ClipByPercentileParams;
@group(0) @binding(1) var<storage, read_write> memory: PercentileMemory;
@group(0) @binding(2) var<storage, read_write> state: StepState;

struct PercentileMemory {
    count: u32,
    next: u32,
    is_pending: u32,
    pending: f32,
    // (history)
    norms: array<f32>,
}

const INVOCATIONS = 256u;
const LARGEST = 3.4028234e38;

var<workgroup> norms: array<f32, 1024>;
var<workgroup> held: u32;

fn take_in() -> u32 {
    if memory.is_pending == 1u && state.verdict == APPLY {
        memory.norms[memory.next] = memory.pending;
        memory.next = (memory.next + 1u) % params.history;
        memory.count = min(memory.count + 1u, params.history);
    }
    memory.is_pending = select(0u, 1u, is_judged());
    memory.pending = sample(global_norm());
    return memory.count;
}

// Exchanges elements i and i ^ distance if they are out of order in their run of `run` elements,
// which alternate between rising and falling.
fn exchange(i: u32, run: u32, distance: u32) {
    let j = i ^ distance;
    if j > i && (norms[i] > norms[j]) == ((i & run) == 0u) {
        let kept = norms[i];
        norms[i] = norms[j];
        norms[j] = kept;
    }
}

// Linear between the two nearest ranks, as numpy.percentile.
fn percentile(count: u32) -> f32 {
    let rank = params.share * f32(count - 1u);
    let below = min(u32(rank), count - 1u);
    let low = norms[below];
    let high = norms[min(below + 1u, count - 1u)];
    return low + (rank - f32(below)) * (high - low);
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    if lane == 0u { held = take_in(); }
    storageBarrier();
    let count = workgroupUniformLoad(&held);
    // Read once: FXC takes what is read in a loop that lanes leave at different times for varying,
    // and rejects barriers that depend on it.
    let sorted = params.sorted;
    for (var i = lane; i < sorted; i += INVOCATIONS) {
        norms[i] = LARGEST;
        if i < count { norms[i] = memory.norms[i]; }
    }
    for (var run = 2u; run <= sorted; run <<= 1u) {
        for (var distance = run >> 1u; distance > 0u; distance >>= 1u) {
            workgroupBarrier();
            for (var i = lane; i < sorted; i += INVOCATIONS) { exchange(i, run, distance); }
        }
    }
    workgroupBarrier();
    if lane == 0u && is_judged() && count >= params.warmup {
        let bound = percentile(count);
        if bound > 0.0 && lower_max_norm(bound) {
            let excess = quotient(global_norm(), widen(bitcast<u32>(bound)));
            note_event(EVENT_CLIPPED_HARDER, narrow(excess), 0u);
        }
    }
}
