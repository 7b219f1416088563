use evenkeel::kernel::HeadQuads;
use evenkeel::kernels::*;

use crate::bench::{Family, Shape, bind};

const BATCH: u32 = 8;
const HEADS: u32 = 4;
const HEAD_DIM: u32 = 32;
const SCALE: f32 = 0.176_776_7;

/// The parameters, the same for all kernels of online attention.
macro_rules! params {
    ($Params:ident, $time:expr) => {
        $Params {
            batch: BATCH,
            time: $time,
            heads: HEADS,
            kv_heads: HEADS,
            head_quads: HEAD_DIM / 4,
            scale: SCALE,
            soft_cap: 0.0,
        }
    };
}

pub fn run(family: &mut Family<'_>) {
    for time in [64, 256] {
        online(family, time);
        causal_softmax(family, time);
    }
}

/// Arithmetic counts the pairs of a position with itself and those before it: per pair and element
/// of a head two operations for each product that the kernel makes.
fn online(family: &mut Family<'_>, time: u32) {
    let size = format!("{BATCH} x {time}, {HEADS} heads of {HEAD_DIM}");
    let pairs = u64::from(BATCH * HEADS) * u64::from(time * (time + 1) / 2);
    let product = 2 * u64::from(HEAD_DIM) * pairs;
    let (rows, width) = (BATCH * time, HEADS * HEAD_DIM);
    let heads = HeadQuads::fitting(HEAD_DIM / 4);
    let unroll_quads = if family.gpu.is_software() { 0 } else { HEAD_DIM / 4 };
    let [qkv, qkv_gradient] = family.tensors(Shape { rows, cols: 3 * width });
    let [output, output_gradient] = family.tensors(Shape { rows, cols: width });
    let [statistics, delta] = [2, 1].map(|numbers| family.vector(numbers * rows * HEADS));
    let row_logits = family.vector(2 * rows * HEADS);
    let row_logits = bind(&row_logits);
    let [qkv, qkv_gradient, output, output_gradient, statistics, delta] =
        [&qkv, &qkv_gradient, &output, &output_gradient, &statistics, &delta].map(bind);
    let forward = Attention {
        params: params!(AttentionParams, time),
        unroll_quads,
        qkv: qkv.clone(),
        output: output.clone(),
        statistics: statistics.clone(),
        watch: 0,
        row_logits: row_logits.clone(),
    };
    family.gpu.run_as(&forward, heads);
    family.computes_as(heads, &size, 2 * product, &forward);
    let watching = Attention { watch: 1, ..forward };
    family.computes_as(heads, format!("{size}, watched"), 2 * product, &watching);
    let subtracted = AttentionDelta {
        params: params!(AttentionDeltaParams, time),
        unroll_quads,
        output,
        output_gradient: output_gradient.clone(),
        delta: delta.clone(),
    };
    family.gpu.run(&subtracted);
    family.moves_its_buffers(&size, &subtracted);
    let backward = AttentionBackwardQuery {
        params: params!(AttentionBackwardQueryParams, time),
        unroll_quads,
        qkv: qkv.clone(),
        output_gradient: output_gradient.clone(),
        statistics: statistics.clone(),
        delta: delta.clone(),
        qkv_gradient: qkv_gradient.clone(),
    };
    family.computes_as(heads, &size, 3 * product, &backward);
    let backward = AttentionBackwardKeyValue {
        params: params!(AttentionBackwardKeyValueParams, time),
        unroll_quads,
        qkv,
        output_gradient,
        statistics,
        delta,
        qkv_gradient,
    };
    family.computes_as(heads, &size, 4 * product, &backward);
}

/// Half of the scores are never read.
fn causal_softmax(family: &mut Family<'_>, time: u32) {
    let shape = Shape { rows: BATCH * HEADS * time, cols: time };
    let [scores, probabilities] = family.tensors(shape);
    let params = CausalSoftmaxParams { rows: shape.rows, time, scale: SCALE, soft_cap: 0.0 };
    let bytes = scores.size() / 2 + probabilities.size();
    let [scores, probabilities] = [&scores, &probabilities].map(bind);
    family.moves(shape, bytes, &CausalSoftmax { params, scores, probabilities });
}
