//! Embeddings: table rows, positions, rotary.

use evenkeel::kernels::*;
use evenkeel::reference::embedding::Rotation;
use evenkeel::{Gpu, reference};

use super::support::{Tolerance, assert_close, pad, read, tokens, unpad, values, wide};

const EXACT: Tolerance = Tolerance { absolute: 0.0, relative: 0.0, because: "copies" };

rows! { embedding, embedding_backward, position_backward, rotary }

fn embedding(gpu: &Gpu) {
    // The last case has more than 65,535 workgroups.
    for (rows, cols, vocabulary) in
        [(1, 1, 1), (3, 4, 2), (255, 3, 7), (256, 17, 300), (257, 256, 11), (65_537, 253, 5)]
    {
        let mut ids = tokens(1, rows, vocabulary as u32);
        if rows > 2 {
            // Just outside and far outside the table.
            (ids[0], ids[2]) = (vocabulary as u32, u32::MAX);
        }
        let table = values(2, vocabulary * cols);
        let (gi, gt) = (gpu.upload("tokens", &ids), gpu.upload("table", &pad(&table, cols)));
        let y = gpu.upload("y", &vec![7.0f32; rows * cols.next_multiple_of(4)]);
        let params =
            EmbeddingParams::whole(rows as u32, cols.div_ceil(4) as u32, vocabulary as u32);
        gpu.run(&Embedding {
            params,
            tokens: gi.as_entire_buffer_binding(),
            table: gt.as_entire_buffer_binding(),
            y: y.as_entire_buffer_binding(),
        });
        let expected = reference::embedding::embedding(cols, &ids, &wide(&table));
        assert_close("embedding", &unpad(&read(gpu, &y), cols), &expected, EXACT);
        if vocabulary > 2 {
            gpu.write(&y, 0, bytemuck::cast_slice(&vec![7.0f32; y.size() as usize / 4]));
            in_parts(gpu, params, &gi, &pad(&table, cols), &y);
            assert_close("in parts", &unpad(&read(gpu, &y), cols), &expected, EXACT);
        }
    }
}

/// The table in three buffers, the last part first.
fn in_parts(
    gpu: &Gpu,
    whole: EmbeddingParams,
    tokens: &wgpu::Buffer,
    table: &[f32],
    y: &wgpu::Buffer,
) {
    let step = whole.vocabulary.div_ceil(3);
    for first in [2 * step, step, 0].into_iter().filter(|&first| first < whole.vocabulary) {
        let table_rows = step.min(whole.vocabulary - first);
        let [start, count] = [first, table_rows].map(|rows| (rows * whole.quads * 4) as usize);
        let part = gpu.upload("part", &table[start..start + count]);
        gpu.run(&Embedding {
            params: EmbeddingParams { first, table_rows, ..whole },
            tokens: tokens.as_entire_buffer_binding(),
            table: part.as_entire_buffer_binding(),
            y: y.as_entire_buffer_binding(),
        });
    }
}

/// Runs over a gradient that holds `before` and gives it back.
fn run_embedding_backward(
    gpu: &Gpu,
    cols: usize,
    ids: &[u32],
    dy: &[f32],
    before: &[f32],
    accumulate: u32,
) -> Vec<f32> {
    run_part_of_embedding_backward(gpu, cols, 0, ids, dy, before, accumulate)
}

/// The same for rows of the gradient from id `first` on.
fn run_part_of_embedding_backward(
    gpu: &Gpu,
    cols: usize,
    first: usize,
    ids: &[u32],
    dy: &[f32],
    before: &[f32],
    accumulate: u32,
) -> Vec<f32> {
    let (gi, gdy) = (gpu.upload("tokens", ids), gpu.upload("dy", &pad(dy, cols)));
    let gradient = gpu.upload("gradient", &pad(before, cols));
    gpu.run(&EmbeddingBackward {
        params: EmbeddingBackwardParams {
            rows: ids.len() as u32,
            quads: cols.div_ceil(4) as u32,
            first: first as u32,
            gradient_rows: (before.len() / cols) as u32,
            accumulate,
        },
        tokens: gi.as_entire_buffer_binding(),
        dy: gdy.as_entire_buffer_binding(),
        gradient: gradient.as_entire_buffer_binding(),
    });
    unpad(&read(gpu, &gradient), cols)
}

fn embedding_backward(gpu: &Gpu) {
    // Around the block of 512 tokens and the 1024 columns of one pass; the last case has more than
    // 65,535 workgroups.
    for (rows, cols, vocabulary) in [
        (1, 1, 1),
        (3, 4, 2),
        (255, 5, 3),
        (511, 3, 40),
        (512, 260, 2),
        (1537, 64, 70),
        (20, 1029, 3),
        (600, 2053, 4),
        (5, 4, 65_537),
    ] {
        let mut ids = tokens(1, rows, vocabulary as u32);
        if rows > 2 {
            (ids[0], ids[2]) = (vocabulary as u32, u32::MAX);
        }
        let (dy, before) = (values(2, rows * cols), values(3, vocabulary * cols));
        let sum = reference::embedding::embedding_backward(vocabulary, cols, &ids, &wide(&dy));
        let added: Vec<_> = sum.iter().zip(&before).map(|(s, &b)| s + f64::from(b)).collect();
        let tolerance = Tolerance {
            absolute: 6e-8 * rows as f64,
            relative: 0.0,
            because: "one rounding of 2^-24 per row summed, each of magnitude below rows",
        };
        for (accumulate, expected) in [(0, &sum), (1, &added)] {
            let actual = run_embedding_backward(gpu, cols, &ids, &dy, &before, accumulate);
            let what = format!("embedding_backward {rows} {cols} {vocabulary} {accumulate}");
            assert_close(&what, &actual, expected, tolerance);
            if vocabulary < 100 {
                let parts = before.chunks(cols * vocabulary.div_ceil(3)).enumerate();
                let part = |(index, before)| {
                    let first = index * vocabulary.div_ceil(3);
                    run_part_of_embedding_backward(gpu, cols, first, &ids, &dy, before, accumulate)
                };
                assert!(parts.flat_map(part).eq(actual), "{what}: other bits in parts");
            }
        }
    }
    in_order_of_position(gpu);
    untouched_where_absent(gpu);
}

/// Floats whose sum shows the order: (1 + 2^30) - 2^30 is 0, 1 + (2^30 - 2^30) is 1.
fn in_order_of_position(gpu: &Gpu) {
    let big = 2f32.powi(30);
    let mut dy = vec![0.0; 1200];
    // Within one word of tokens, across words, and across blocks.
    for (positions, terms, expected) in [
        ([3, 4, 5], [1.0, big, -big], 0.0),
        ([3, 4, 5], [big, -big, 1.0], 1.0),
        ([10, 100, 300], [1.0, big, -big], 0.0),
        ([10, 100, 300], [big, -big, 1.0], 1.0),
        ([0, 600, 1199], [1.0, big, -big], 0.0),
        ([0, 600, 1199], [big, -big, 1.0], 1.0),
    ] {
        dy.fill(0.0);
        for (position, term) in positions.into_iter().zip(terms) {
            dy[position] = term;
        }
        let gradient = run_embedding_backward(gpu, 1, &[0; 1200], &dy, &[7.0, 7.0], 0);
        assert_eq!(gradient, [expected, 0.0], "{terms:?} at {positions:?}");
    }
}

/// A row without a token keeps every bit when accumulating, and is zero when overwriting.
fn untouched_where_absent(gpu: &Gpu) {
    let before = [-0.0, 3.0, f32::NAN, 1e-40, 5.0, 6.0, 7.0, 8.0];
    let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let kept = run_embedding_backward(gpu, 4, &[1], &[1.0; 4], &before, 1);
    assert_eq!(bits(&kept[..4]), bits(&before[..4]));
    assert_eq!(kept[4..], [6.0, 7.0, 8.0, 9.0]);
    let written = run_embedding_backward(gpu, 4, &[1], &[1.0; 4], &before, 0);
    assert_eq!(bits(&written[..4]), [0; 4]);
    assert_eq!(written[4..], [1.0; 4]);
}

fn position_backward(gpu: &Gpu) {
    for (batch, time, cols) in [(1, 1, 1), (3, 2, 4), (5, 7, 3), (4, 17, 257)] {
        let (dy, before) = (values(1, batch * time * cols), values(2, time * cols));
        let gdy = gpu.upload("dy", &pad(&dy, cols));
        let sum = reference::embedding::position_backward(time * cols, &wide(&dy));
        let added: Vec<_> = sum.iter().zip(&before).map(|(s, &b)| s + f64::from(b)).collect();
        for (accumulate, expected) in [(0, &sum), (1, &added)] {
            let gradient = gpu.upload("gradient", &pad(&before, cols));
            gpu.run(&PositionBackward {
                params: PositionBackwardParams {
                    batch: batch as u32,
                    time_quads: (time * cols.div_ceil(4)) as u32,
                    accumulate,
                },
                dy: gdy.as_entire_buffer_binding(),
                gradient: gradient.as_entire_buffer_binding(),
            });
            let tolerance = Tolerance {
                absolute: 1.2e-7 * (batch * batch) as f64,
                relative: 0.0,
                because: "one rounding per sequence of a sum below batch + 1",
            };
            let actual = unpad(&read(gpu, &gradient), cols);
            assert_close("position_backward", &actual, expected, tolerance);
        }
    }
}

fn run_rotary(gpu: &Gpu, rotation: Rotation<'_>, x: &[f32]) -> Vec<f32> {
    let Rotation { cols, time, rotated_heads, frequencies, inverse } = rotation;
    let table = gpu.upload("table", &rotary_table(time, frequencies));
    let gx = gpu.upload("x", &pad(x, cols));
    let y = gpu.upload("y", &vec![7.0f32; gx.size() as usize / 4]);
    gpu.run(&Rotary {
        params: RotaryParams {
            rows: (x.len() / cols) as u32,
            quads: cols.div_ceil(4) as u32,
            time: time as u32,
            rotated_heads: rotated_heads as u32,
            half_quads: frequencies.len() as u32 / 4,
            inverse: inverse.into(),
        },
        table: table.as_entire_buffer_binding(),
        x: gx.as_entire_buffer_binding(),
        y: y.as_entire_buffer_binding(),
    });
    unpad(&read(gpu, &y), cols)
}

fn rotary(gpu: &Gpu) {
    let tolerance = Tolerance {
        absolute: 3e-7,
        relative: 0.0,
        because: "two products of factors below 1, one sum, a table rounded to f32",
    };
    for (batch, time, cols, rotated_heads, head_dim) in [
        (1, 1, 8, 1, 8),
        (2, 5, 24, 3, 8),
        (2, 3, 96, 2, 32),
        (3, 7, 37, 1, 16),
        (1, 4, 6, 0, 8),
        (1, 300, 192, 2, 64),
    ] {
        let frequencies = rotary_frequencies(head_dim, 10_000.0);
        let frequencies = &frequencies[..];
        let rotation = |inverse| Rotation { cols, time, rotated_heads, frequencies, inverse };
        let x = values(1, batch * time * cols);
        for inverse in [false, true] {
            let expected = reference::embedding::rotary(rotation(inverse), &wide(&x));
            let what = format!("rotary {rotated_heads} x {head_dim} of {cols}, {inverse}");
            assert_close(&what, &run_rotary(gpu, rotation(inverse), &x), &expected, tolerance);
        }
        let back = run_rotary(gpu, rotation(true), &run_rotary(gpu, rotation(false), &x));
        assert_close("rotary and back", &back, &wide(&x), tolerance);
    }
}
