use evenkeel::kernels::*;

use crate::bench::{Family, SHAPES, Shape, bind};

pub fn run(family: &mut Family<'_>) {
    for shape in SHAPES {
        let Shape { rows, cols } = shape;
        let col_quads = cols / 4;
        let (rows_per_block, blocks) = row_blocks(rows);
        let [x] = family.tensors(shape);
        let [partials] = family.tensors(Shape { rows: blocks, cols });
        let (sum, mean, values) = (family.vector(cols), family.vector(1), family.vector(rows));
        let [x, partials, sum, mean, values] = [&x, &partials, &sum, &mean, &values].map(bind);
        let params = ColumnPartialsParams { rows, col_quads, rows_per_block, blocks };
        family.moves_its_buffers(shape, &ColumnPartials { params, x, partials: partials.clone() });
        let params = ColumnSumParams { blocks, col_quads, accumulate: 0 };
        let folded = Shape { rows: blocks, cols };
        family.moves_its_buffers(folded, &ColumnSum { params, partials, y: sum });
        let params = RowMeanParams { rows };
        family.moves_its_buffers(format_args!("{rows}"), &RowMean { params, values, mean });
    }
}
