use evenkeel::kernels::*;
use evenkeel::step::{APPLY, StepInput, StepState};

use crate::bench::{Family, SHAPES, Shape, bind};

const BATCH: u32 = 8;
const HEADS: u32 = 4;

pub fn run(family: &mut Family<'_>) {
    for shape in SHAPES {
        head_norm(family, shape);
        qk_clip(family, shape);
        summaries(family, shape);
    }
}

/// QK-norm of the fused projection of `shape`, in the form of [`HEADS`] heads.
fn head_norm(family: &mut Family<'_>, shape: Shape) {
    let (rows, head_quads) = (shape.rows, shape.cols / 4 / HEADS);
    let [x, y, dy] = family.tensors(Shape { rows, cols: 3 * shape.cols });
    let [query_weight, key_weight] = [(); 2].map(|()| family.vector(4 * head_quads));
    let (rows_per_block, blocks) = head_norm_blocks(rows);
    let [query_partials, key_partials] =
        family.tensors(Shape { rows: blocks, cols: 4 * head_quads });
    let [x, y, dy, query_weight, key_weight, query_partials, key_partials] =
        [&x, &y, &dy, &query_weight, &key_weight, &query_partials, &key_partials].map(bind);
    let (heads, kv_heads, centered, eps, weight_offset) = (HEADS, HEADS, 0, 1e-5, 0.0);
    let forward = HeadNorm {
        params: HeadNormParams { rows, heads, kv_heads, head_quads, centered, eps, weight_offset },
        x: x.clone(),
        query_weight: query_weight.clone(),
        key_weight: key_weight.clone(),
        y: y.clone(),
    };
    family.moves_its_buffers(shape, &forward);
    let backward = HeadNormBackward {
        params: HeadNormBackwardParams {
            rows,
            heads,
            kv_heads,
            head_quads,
            centered,
            eps,
            rows_per_block,
            blocks,
            weight_offset,
        },
        x,
        query_weight,
        key_weight,
        dy,
        x_gradient: y,
        query_partials,
        key_partials,
    };
    family.moves_its_buffers(shape, &backward);
}

/// The projection that `shape` passes: queries and keys are read and written, values are not.
fn qk_clip(family: &mut Family<'_>, shape: Shape) {
    let weight = family.tensor(3 * shape.cols, shape.cols);
    // By so little above the threshold that many repetitions change nothing much.
    let max_logit = family.gpu.upload("largest logits", &[100.000_01f32; HEADS as usize]);
    let state = family.gpu.upload("state", &[StepState { verdict: APPLY, ..Default::default() }]);
    let kernel = QkClip {
        params: QkClipParams {
            first: 0,
            heads: HEADS,
            kv_heads: HEADS,
            head_quads: shape.cols / HEADS * shape.cols / 4,
            threshold: 100.0,
            alpha: 0.5,
        },
        state: bind(&state),
        max_logit: bind(&max_logit),
        weight: bind(&weight),
    };
    let bytes = 2 * 2 * u64::from(shape.cols) * u64::from(shape.cols) * 4;
    family.moves(shape, bytes, &kernel);
}

/// Of attention over as many positions, and of the predictions at them.
fn summaries(family: &mut Family<'_>, shape: Shape) {
    let input = family.gpu.upload("input", &[StepInput::default()]);
    let (rows, time) = (shape.rows, shape.rows / BATCH);
    let row_logits = family.vector(2 * rows * HEADS);
    let statistics = family.vector(2 * rows);
    let targets = family.tokens(rows, 100);
    let [a, b] = [(); 2].map(|()| family.vector(HEADS));
    let kernel = AttentionSummary {
        params: AttentionSummaryParams { batch: BATCH, time, heads: HEADS, accumulate: 0 },
        input: bind(&input),
        row_logits: bind(&row_logits),
        max_logit: bind(&a),
        entropy: bind(&b),
    };
    family.moves_its_buffers(shape, &kernel);
    let counts = family.gpu.upload("counts", &[rows, 1]);
    let kernel = LogitSummary {
        params: LogitSummaryParams { rows, ignore_index: u32::MAX, z_loss: 1e-4, accumulate: 0 },
        input: bind(&input),
        statistics: bind(&statistics),
        targets: bind(&targets),
        counts: bind(&counts),
        max_logit: bind(&a),
        penalty: bind(&b),
    };
    family.moves_its_buffers(shape, &kernel);
}
