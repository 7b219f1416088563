//! Sums over columns and rows. Widths around a quad and around the tile of 16 quads, rows around
//! the workgroup, and more than 65,535 workgroups.

use evenkeel::kernels::*;
use evenkeel::{Gpu, reference};

use crate::support::{Tolerance, assert_close, pad, read, unpad, values, wide};

/// (rows, cols, rows per block)
const SHAPES: &[(usize, usize, usize)] = &[
    (1, 1, 64),
    (3, 3, 2),
    (4, 4, 4),
    (255, 5, 64),
    (256, 64, 256),
    (257, 65, 100),
    (1009, 131, 64),
    (65_600, 1, 1),
];

/// One rounding per term of sums of terms below 1.
fn rounding(terms: usize) -> Tolerance {
    Tolerance { absolute: 6e-8 * terms as f64, relative: 1e-6, because: "rounding of an f32 sum" }
}

rows! { column_partials, column_sum, row_mean }

fn column_partials(gpu: &Gpu) {
    for &(rows, cols, rows_per_block) in SHAPES {
        let x = values(1, rows * cols);
        let (col_quads, blocks) = (cols.div_ceil(4), rows.div_ceil(rows_per_block));
        let gx = gpu.upload("x", &pad(&x, cols));
        let partials = gpu.buffer("partials", (blocks * col_quads * 16) as u64);
        gpu.run(&ColumnPartials {
            params: ColumnPartialsParams {
                rows: rows as u32,
                col_quads: col_quads as u32,
                rows_per_block: rows_per_block as u32,
                blocks: blocks as u32,
            },
            x: gx.as_entire_buffer_binding(),
            partials: partials.as_entire_buffer_binding(),
        });
        let expected = reference::reduce::column_partials(&wide(&x), cols, rows_per_block);
        let actual = unpad(&read(gpu, &partials), cols);
        assert_close("column_partials", &actual, &expected, rounding(rows_per_block));
    }
    assert_eq!([row_blocks(1), row_blocks(64), row_blocks(65)], [(64, 1), (64, 1), (64, 2)]);
    assert_eq!(row_blocks(100_000), (782, 128));
}

fn column_sum(gpu: &Gpu) {
    for &(blocks, cols, _) in SHAPES {
        let (partials, before) = (values(2, blocks * cols), values(3, cols));
        let gpartials = gpu.upload("partials", &pad(&partials, cols));
        let sum = reference::reduce::column_sum(&wide(&partials), cols);
        for accumulate in [0, 1] {
            let y = gpu.upload("y", &pad(&before, cols));
            gpu.run(&ColumnSum {
                params: ColumnSumParams {
                    blocks: blocks as u32,
                    col_quads: cols.div_ceil(4) as u32,
                    accumulate,
                },
                partials: gpartials.as_entire_buffer_binding(),
                y: y.as_entire_buffer_binding(),
            });
            let kept = before.iter().map(|&b| f64::from(b) * f64::from(accumulate));
            let expected: Vec<_> = sum.iter().zip(kept).map(|(s, b)| s + b).collect();
            let actual = unpad(&read(gpu, &y), cols);
            assert_close("column_sum", &actual, &expected, rounding(blocks.min(2000)));
        }
    }
}

fn row_mean(gpu: &Gpu) {
    for rows in [0, 1, 3, 63, 64, 65, 1009] {
        let x = values(4, rows);
        let (gx, mean) = (gpu.upload("values", &x), gpu.buffer("mean", 4));
        gpu.run(&RowMean {
            params: RowMeanParams { rows: rows as u32 },
            values: gx.as_entire_buffer_binding(),
            mean: mean.as_entire_buffer_binding(),
        });
        let expected = reference::reduce::row_mean(&wide(&x));
        assert_close("row_mean", &read(gpu, &mean)[..1], &[expected], rounding(2));
    }
}
