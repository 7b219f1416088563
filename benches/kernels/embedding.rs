use evenkeel::kernels::*;

use crate::bench::{Family, SHAPES, Shape, bind};

const VOCABULARY: u32 = 96;
const HEAD_DIM: u32 = 32;

pub fn run(family: &mut Family<'_>) {
    for (shape, time) in SHAPES.into_iter().zip([64, 256]) {
        tables(family, shape, time);
        rotary(family, shape, time);
    }
}

fn tables(family: &mut Family<'_>, shape: Shape, time: u32) {
    let (rows, quads) = (shape.rows, shape.cols / 4);
    let tokens = family.tokens(rows, VOCABULARY);
    let [table, gradient] = family.tensors(Shape { rows: VOCABULARY, ..shape });
    let [positions] = family.tensors(Shape { rows: time, ..shape });
    let [y, dy] = family.tensors(shape);
    let [tokens, table, gradient, positions, y, dy] =
        [&tokens, &table, &gradient, &positions, &y, &dy].map(bind);
    let params = EmbeddingParams::whole(rows, quads, VOCABULARY);
    family.moves_its_buffers(shape, &Embedding { params, tokens: tokens.clone(), table, y });
    let (first, gradient_rows, accumulate) = (0, VOCABULARY, 0);
    let params = EmbeddingBackwardParams { rows, quads, first, gradient_rows, accumulate };
    let backward = EmbeddingBackward { params, tokens, dy: dy.clone(), gradient };
    family.moves_its_buffers(shape, &backward);
    let (batch, time_quads) = (rows / time, time * quads);
    let params = PositionBackwardParams { batch, time_quads, accumulate: 0 };
    family.moves_its_buffers(shape, &PositionBackward { params, dy, gradient: positions });
}

/// Queries and keys of a fused projection turn, values are copied.
fn rotary(family: &mut Family<'_>, shape: Shape, time: u32) {
    let shape = Shape { cols: 3 * shape.cols, ..shape };
    let table = rotary_table(time as usize, &rotary_frequencies(HEAD_DIM as usize, 10_000.0));
    let table = family.gpu.upload("table", &table);
    let [x, y] = family.tensors(shape);
    let params = RotaryParams {
        rows: shape.rows,
        quads: shape.cols / 4,
        time,
        rotated_heads: shape.cols / 3 * 2 / HEAD_DIM,
        half_quads: HEAD_DIM / 8,
        inverse: 0,
    };
    let [table, x, y] = [&table, &x, &y].map(bind);
    family.moves_its_buffers(shape, &Rotary { params, table, x, y });
}
