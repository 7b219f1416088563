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
        family.moves_its_buffers(
            shape,
            &ColumnPartials { params, x: x.clone(), partials: partials.clone() },
        );
        let params = ColumnSumParams { blocks, col_quads, accumulate: 0 };
        let folded = Shape { rows: blocks, cols };
        family.moves_its_buffers(folded, &ColumnSum { params, partials, y: sum });
        divided_column_sum(family, folded);
        let groups = shape.quads().div_ceil(64).min(VALUE_SCAN_GROUPS);
        let found = family.gpu.buffer("found", u64::from(groups) * 24);
        let scan = ValueScan {
            params: ValueScanParams {
                quads: shape.quads(),
                row_quads: col_quads,
                cols,
                groups,
                first_partial: 0,
                smallest_normal_bits: f32::MIN_POSITIVE.to_bits(),
            },
            x: x.clone(),
            partials: bind(&found),
        };
        family.moves_its_buffers(shape, &scan);
        let params = RowMeanParams { rows };
        family.moves_its_buffers(format_args!("{rows}"), &RowMean { params, values, mean });
    }
}

fn divided_column_sum(family: &mut Family<'_>, folded: Shape) {
    let Shape { rows: blocks, cols } = folded;
    let [partials] = family.tensors(folded);
    let (divisor, y) = (family.vector(cols), family.vector(cols));
    let quads = cols / 4;
    let params =
        DividedColumnSumParams { blocks, row_quads: quads, first_quad: 0, quads, accumulate: 0 };
    let [partials, divisor, y] = [&partials, &divisor, &y].map(bind);
    family.moves_its_buffers(folded, &DividedColumnSum { params, partials, divisor, y });
}
