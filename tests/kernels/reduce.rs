//! Sums over columns and rows. Widths around a quad and around the tile of 16 quads, rows around
//! the workgroup, and more than 65,535 workgroups.

use evenkeel::kernels::*;
use evenkeel::step::ValuePartial;
use evenkeel::{Gpu, Precision, reference};

use super::support::{Tolerance, assert_close, block_on, pad, read, unpad, values, wide};

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

rows! { column_partials, column_sum, column_sums, divided_column_sum, row_mean, value_scan }

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

/// Of any widths beside each other, with the bits of four dispatches by themselves.
fn column_sums(gpu: &Gpu) {
    let bits = |buffer: &_| read(gpu, buffer).into_iter().map(f32::to_bits).collect::<Vec<_>>();
    for (blocks, cols) in [(1, [1, 64, 3, 65]), (128, [131, 5, 600, 4]), (7, [4, 4, 257, 1])] {
        let quads = cols.map(|cols: usize| cols.div_ceil(4) as u32);
        let partials = [0, 1, 2, 3].map(|i| values(i as u64, blocks * cols[i]));
        let before = cols.map(|cols| values(9, cols));
        let gpartials = [0, 1, 2, 3].map(|i| gpu.upload("partials", &pad(&partials[i], cols[i])));
        let of_f64 = partials.each_ref().map(|partials| wide(partials));
        let of_f64 = [0, 1, 2, 3].map(|i| (&*of_f64[i], cols[i]));
        let expected = reference::reduce::column_sums(&of_f64);
        for accumulate in [0, 1] {
            let begun = || [0, 1, 2, 3].map(|i| gpu.upload("sum", &pad(&before[i], cols[i])));
            let (sums, alone) = (begun(), begun());
            gpu.run(&ColumnSums {
                params: ColumnSumsParams {
                    blocks: blocks as u32,
                    accumulate,
                    a_quads: quads[0],
                    b_quads: quads[1],
                    c_quads: quads[2],
                    d_quads: quads[3],
                },
                a: gpartials[0].as_entire_buffer_binding(),
                b: gpartials[1].as_entire_buffer_binding(),
                c: gpartials[2].as_entire_buffer_binding(),
                d: gpartials[3].as_entire_buffer_binding(),
                a_sum: sums[0].as_entire_buffer_binding(),
                b_sum: sums[1].as_entire_buffer_binding(),
                c_sum: sums[2].as_entire_buffer_binding(),
                d_sum: sums[3].as_entire_buffer_binding(),
            });
            for i in 0..4 {
                gpu.run(&ColumnSum {
                    params: ColumnSumParams {
                        blocks: blocks as u32,
                        col_quads: quads[i],
                        accumulate,
                    },
                    partials: gpartials[i].as_entire_buffer_binding(),
                    y: alone[i].as_entire_buffer_binding(),
                });
                let what = format!("{blocks} blocks of {} columns", cols[i]);
                assert_eq!(bits(&sums[i]), bits(&alone[i]), "{what}");
                let kept = before[i].iter().map(|&b| f64::from(b) * f64::from(accumulate));
                let expected: Vec<_> = expected[i].iter().zip(kept).map(|(s, b)| s + b).collect();
                let actual = unpad(&read(gpu, &sums[i]), cols[i]);
                assert_close(&what, &actual, &expected, rounding(blocks));
            }
        }
    }
}

fn divided_column_sum(gpu: &Gpu) {
    for (blocks, cols, first, count) in
        [(1, 1, 0, 1), (128, 7, 0, 7), (5, 12, 8, 4), (9, 600, 4, 512)]
    {
        let (partials, before) = (values(2, blocks * cols), values(3, count));
        let mut divisor: Vec<_> = values(4, count).iter().map(|d| 2.0 + d).collect();
        divisor[count / 2] = 0.0;
        let gpartials = gpu.upload("partials", &pad(&partials, cols));
        let gdivisor = gpu.upload("divisor", &pad(&divisor, count));
        let sum =
            reference::reduce::divided_column_sum(&wide(&partials), cols, first, &wide(&divisor));
        for accumulate in [0, 1] {
            let y = gpu.upload("y", &pad(&before, count));
            gpu.run(&DividedColumnSum {
                params: DividedColumnSumParams {
                    blocks: blocks as u32,
                    row_quads: cols.div_ceil(4) as u32,
                    first_quad: first as u32 / 4,
                    quads: count.div_ceil(4) as u32,
                    accumulate,
                },
                partials: gpartials.as_entire_buffer_binding(),
                divisor: gdivisor.as_entire_buffer_binding(),
                y: y.as_entire_buffer_binding(),
            });
            let kept = before.iter().map(|&b| f64::from(b) * f64::from(accumulate));
            let expected: Vec<_> = sum.iter().zip(kept).map(|(s, b)| s + b).collect();
            let actual = unpad(&read(gpu, &y), count);
            assert_close("divided_column_sum", &actual, &expected, rounding(blocks));
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

/// Partials of a scan over (rows, cols) in the given storage.
fn scan_values(
    gpu: &Gpu,
    precision: Precision,
    x: &[f32],
    cols: usize,
    groups: u32,
) -> Vec<ValuePartial> {
    let gx = gpu.upload("x", &precision.encode(&pad(x, cols)));
    let partials = gpu.upload("partials", &vec![7u32; 7 * (groups as usize + 2)]);
    let row_quads = cols.div_ceil(4) as u32;
    let kernel = ValueScan {
        params: ValueScanParams {
            quads: row_quads * (x.len() / cols) as u32,
            row_quads,
            cols: cols as u32,
            groups,
            first_partial: 1,
            smallest_normal_bits: precision.smallest_normal().to_bits(),
        },
        x: gx.as_entire_buffer_binding(),
        partials: partials.as_entire_buffer_binding(),
    };
    gpu.run_as(&kernel, precision);
    let all: Vec<ValuePartial> =
        block_on(gpu.read(&partials, 0, groups as usize + 2)).expect("readable");
    for outside in [all[0], all[groups as usize + 1]] {
        assert_eq!(bytemuck::cast::<_, [u32; 7]>(outside), [7; 7], "not its own");
    }
    all[1..=groups as usize].to_vec()
}

fn value_scan(gpu: &Gpu) {
    let sum = Tolerance {
        absolute: 0.0,
        relative: 3e-6,
        because: "a square and some tens of additions of terms of one sign",
    };
    for (precision, scale) in [
        (Precision::F32, 1.0),
        (Precision::F32, 1e30),
        (Precision::F32, 1e-30),
        (Precision::F16, 6e4),
        (Precision::F16, 1e-5),
        (Precision::Bf16, 1e30),
    ] {
        for (rows, cols, groups) in [(1, 1, 1), (3, 5, 1), (1, 255, 3), (7, 257, 64), (100, 131, 5)]
        {
            let mut x: Vec<_> = values(1, rows * cols).iter().map(|x| x * scale).collect();
            x.iter_mut().step_by(5).for_each(|x| *x = 0.0);
            for bad in [None, Some(0), Some(rows * cols / 2), Some(rows * cols - 1)] {
                let mut x = x.clone();
                if let Some(bad) = bad {
                    x[bad..].iter_mut().step_by(7).for_each(|x| *x = f32::NAN);
                    x[bad] = f32::NEG_INFINITY;
                }
                let stored = precision.decode(&precision.encode(&pad(&x, cols)));
                let smallest = precision.smallest_normal();
                let expected =
                    reference::reduce::value_scan(&wide(&unpad(&stored, cols)), smallest.into());
                let found = scan_values(gpu, precision, &x, cols, groups);
                let what = format!("{precision} {scale:e} ({rows}, {cols}), {bad:?}");
                let largest = found.iter().map(|p| p.max_bits).max().unwrap();
                assert_eq!(f64::from(f32::from_bits(largest)), expected.largest, "{what}");
                let count =
                    |field: fn(&ValuePartial) -> u32| found.iter().map(field).sum::<u32>() as usize;
                assert_eq!(count(|p| p.nonfinite_count), expected.nonfinite_count, "{what}");
                assert_eq!(count(|p| p.zero_count), expected.zero_count, "{what}");
                assert_eq!(count(|p| p.subnormal_count), expected.subnormal_count, "{what}");
                let first = found.iter().map(|p| p.first_nonfinite).min().unwrap();
                assert_eq!(
                    first,
                    expected.first_nonfinite.map_or(u32::MAX, |i| i as u32),
                    "{what}"
                );
                // Bits of NaN are up to the driver.
                if bad.is_none() {
                    let sum = found.iter().fold(0_u32, |sum, p| sum.wrapping_add(p.checksum));
                    let expected = reference::reduce::checksum(&unpad(&stored, cols));
                    assert_eq!(sum, expected, "{what}");
                }
                let squares: f64 = found
                    .iter()
                    .map(|p| {
                        let exponent = ((p.max_bits >> 23).max(1) as i32 - 127).min(126);
                        f64::from(p.scaled_sum) * 4f64.powi(exponent)
                    })
                    .sum();
                assert_close(
                    &what,
                    &[(squares / expected.sum_of_squares.max(1e-300)) as f32],
                    &[f64::from(u8::from(expected.sum_of_squares > 0.0))],
                    sum,
                );
            }
        }
    }
}
