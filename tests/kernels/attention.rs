//! Attention, by row and in tiles. Positions around a block of 64 and a tile of 8; grouped queries,
//! soft cap, huge logits; the backward pass twice; the plain form against the online form.

use evenkeel::kernels::*;
use evenkeel::reference::attention::{self, Attention as Size};
use evenkeel::{Gpu, reference};

use super::attention_run::{self as run, Buffers, Kernels, forward};
use super::support::{Tolerance, assert_close, pad, read, unpad, values, wide};

rows! {
    attention, attention_delta, attention_backward_query, attention_backward_key_value,
    attention_tiled, attention_tiled_backward_query, attention_tiled_backward_key_value,
    causal_softmax,
}

pub const fn size(
    batch: usize,
    time: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
) -> Size {
    Size { batch, time, heads, kv_heads, head_dim, scale: 0.5, soft_cap: 0.0, window: time }
}

const CASES: &[Size] = &[
    size(1, 1, 1, 1, 4),
    size(2, 3, 2, 1, 8),
    size(1, 16, 2, 2, 12),
    size(2, 65, 3, 3, 8),
    size(1, 131, 4, 2, 4),
    size(1, 9, 2, 1, 20),
    size(1, 10, 1, 1, 64),
    Size { soft_cap: 0.8, ..size(2, 17, 6, 2, 16) },
    size(1, 67, 1, 1, 128),
    size(1, 66, 2, 1, 256),
    size(1, 128, 2, 1, 32),
    size(2, 193, 2, 1, 72),
    Size { soft_cap: 0.8, ..size(1, 34, 3, 1, 36) },
];

pub const ROUNDING: Tolerance = Tolerance {
    absolute: 2e-5,
    relative: 2e-5,
    because: "f32 sums over positions and heads, exp at 3 + 2|x| units in the last place",
};

fn data(size: &Size) -> (Vec<f32>, Vec<f32>) {
    (values(1, size.qkv_len()), values(2, size.output_len()))
}

/// Splits rows of qkv into the columns of the queries and the rest.
pub fn split<T: Copy>(size: &Size, qkv: &[T]) -> (Vec<T>, Vec<T>) {
    let (width, queries) =
        ((size.heads + 2 * size.kv_heads) * size.head_dim, size.heads * size.head_dim);
    let rows = || qkv.chunks(width);
    (
        rows().flat_map(|row| &row[..queries]).copied().collect(),
        rows().flat_map(|row| &row[queries..]).copied().collect(),
    )
}

fn statistics(gpu: &Gpu, size: &Size, buffer: &wgpu::Buffer) -> Vec<f32> {
    read(gpu, buffer)[..size.batch * size.heads * size.time].to_vec()
}

/// Of every row, put together of what the kernel keeps of it.
pub fn log_sum_exps(gpu: &Gpu, size: &Size, buffers: &Buffers) -> Vec<f32> {
    let rows = size.batch * size.heads * size.time;
    read(gpu, &buffers.statistics)[..2 * rows].chunks(2).map(|row| row[0] + row[1]).collect()
}

fn attention(gpu: &Gpu) {
    outputs(gpu, Kernels::ByRow);
}

fn attention_tiled(gpu: &Gpu) {
    outputs(gpu, Kernels::Tiled);
}

fn outputs(gpu: &Gpu, kernels: Kernels) {
    for size in CASES {
        let (qkv, output_gradient) = data(size);
        let buffers = forward(gpu, kernels, size, &qkv, &output_gradient);
        let (output, log_sum_exp) = attention::attention(&wide(&qkv), size);
        assert_close(&format!("{size:?}"), &read(gpu, &buffers.output), &output, ROUNDING);
        let actual = log_sum_exps(gpu, size, &buffers);
        assert_close(&format!("lse of {size:?}"), &actual, &log_sum_exp, ROUNDING);
        let row_logits = attention::row_logits(&wide(&qkv), size);
        let actual = &read(gpu, &buffers.row_logits)[..row_logits.len()];
        assert_close(&format!("row logits of {size:?}"), actual, &row_logits, ROUNDING);
    }
    unwatched(gpu, kernels);
    ties_at_the_top(gpu, kernels);
    nan_stays_visible(gpu, kernels);
    // Those of tiles run in a folded grid at every size.
    if kernels == Kernels::ByRow {
        many_blocks(gpu);
    }
    plain_form_agrees(gpu, kernels);
}

/// Logits up to about 1e4: a softmax that is all but one-hot, and log-sum-exps of that size.
fn huge_logits(gpu: &Gpu, kernels: Kernels) {
    let size = Size { scale: 2500.0, ..size(1, 70, 2, 1, 8) };
    let (qkv, output_gradient) = data(&size);
    let buffers = forward(gpu, kernels, &size, &qkv, &output_gradient);
    run::backward_query(gpu, kernels, &size, &buffers);
    run::backward_key_value(gpu, kernels, &size, &buffers);
    let (output, log_sum_exp) = attention::attention(&wide(&qkv), &size);
    assert!(log_sum_exp.iter().any(|x| x.abs() > 5e3), "the logits are huge");
    // A score of 1e4 is rounded by up to 2^-11 in each of its eight products and sums.
    let because = "scores of 1e4 rounded to f32";
    let tolerance = Tolerance { absolute: 4e-3, relative: 0.0, because };
    assert_close("output", &read(gpu, &buffers.output), &output, tolerance);
    let actual = log_sum_exps(gpu, &size, &buffers);
    assert_close("log_sum_exp", &actual, &log_sum_exp, tolerance);
    let row_logits = attention::row_logits(&wide(&qkv), &size);
    let actual = &read(gpu, &buffers.row_logits)[..row_logits.len()];
    assert_close("row logits", actual, &row_logits, tolerance);
    let gradient = read(gpu, &buffers.qkv_gradient);
    assert!(gradient.iter().all(|x| x.is_finite()), "gradients are finite");
}

/// A NaN in a key reaches every query that sees the key, and no query before it.
fn nan_stays_visible(gpu: &Gpu, kernels: Kernels) {
    let size = size(1, 40, 1, 1, 4);
    let (mut qkv, output_gradient) = data(&size);
    qkv[20 * 12 + 4] = f32::NAN;
    let buffers = forward(gpu, kernels, &size, &qkv, &output_gradient);
    for (i, x) in read(gpu, &buffers.output).iter().enumerate() {
        assert_eq!(x.is_finite(), i / 4 < 20, "position {}: {x}", i / 4);
    }
    for (i, x) in read(gpu, &buffers.row_logits)[..80].iter().enumerate() {
        assert_eq!(x.is_finite(), i / 2 < 20, "logits of position {}: {x}", i / 2);
    }
}

/// A value or key that is not finite, where its weight or the gradient of its score is zero because
/// of the mask: at most the rows from the start of its eight on show it. A query or an output
/// gradient: at most the keys up to the end of its eight.
fn what_is_not_finite_stays_in_its_tile(gpu: &Gpu, kernels: Kernels) {
    let size = size(1, 90, 1, 1, 4);
    for (bad, column) in [10, 45, 76].into_iter().flat_map(|bad| [0, 4, 8, 12].map(|c| (bad, c))) {
        let (mut qkv, mut output_gradient) = data(&size);
        if column < 12 {
            qkv[bad * 12 + column] = f32::INFINITY;
        } else {
            output_gradient[bad * 4] = f32::INFINITY;
        }
        let buffers = forward(gpu, kernels, &size, &qkv, &output_gradient);
        run::backward_query(gpu, kernels, &size, &buffers);
        run::backward_key_value(gpu, kernels, &size, &buffers);
        let what = format!("column {column} of {bad}");
        let gradient = read(gpu, &buffers.qkv_gradient);
        let (queries, others) = split(&size, &gradient);
        let finite = |values: &[f32]| values.iter().all(|x| x.is_finite());
        let before = bad / 8 * 8;
        assert!(finite(&read(gpu, &buffers.output)[..4 * before]), "{what}: output");
        assert!(finite(&queries[..4 * before]), "{what}: dq");
        let behind = if column == 0 || column == 12 { before + 8 } else { size.time };
        assert!(finite(&others[8 * behind..]), "{what}: dk, dv");
        assert!(!finite(&gradient), "{what}: it shows");
    }
}

/// More heads than a dispatch has workgroups in one dimension, of one position: each is its value.
fn many_blocks(gpu: &Gpu) {
    let size = size(32_769, 1, 2, 2, 4);
    let (qkv, output_gradient) = data(&size);
    let buffers = forward(gpu, Kernels::ByRow, &size, &qkv, &output_gradient);
    let values: Vec<_> = qkv.chunks(24).flat_map(|row| &row[16..]).copied().collect();
    assert!(read(gpu, &buffers.output) == values, "{size:?}");
}

/// Without `watch` nothing is written of the rows, and the output has the same bits.
fn unwatched(gpu: &Gpu, kernels: Kernels) {
    for size in [size(2, 65, 3, 3, 12), Size { soft_cap: 0.8, ..size(1, 33, 4, 2, 4) }] {
        let (qkv, output_gradient) = data(&size);
        let buffers = forward(gpu, kernels, &size, &qkv, &output_gradient);
        let all = || [&buffers.output, &buffers.statistics].map(|buffer| bits(&read(gpu, buffer)));
        let watched = all();
        let untouched = vec![7.0f32; read(gpu, &buffers.row_logits).len()];
        for buffer in [&buffers.output, &buffers.row_logits] {
            let sevens = vec![7.0f32; read(gpu, buffer).len()];
            gpu.write(buffer, 0, bytemuck::cast_slice(&sevens));
        }
        run::run_forward(gpu, kernels, &size, &buffers, 0);
        assert!(watched == all(), "{size:?}: the output differs");
        assert_eq!(read(gpu, &buffers.row_logits), untouched, "{size:?}");
    }
}

/// Scores that tie at the top of a row all have weight 1 before the division. Were their sum with
/// values of one sign rounded to 16 bits on the way, the error would be biased (arXiv 2510.04212),
/// and a single such rounding, of 2^-9 or 2^-12, is over a hundred times what is allowed here.
fn ties_at_the_top(gpu: &Gpu, kernels: Kernels) {
    let size = size(1, 257, 1, 1, 4);
    // Half of the keys tie with the largest score, the others lie 12 below it.
    let mut qkv = Vec::new();
    for (t, x) in values(5, size.time).into_iter().enumerate() {
        let key = if t % 2 == 0 { 0.0 } else { -6.0 };
        qkv.extend([1.0, 1.0, 1.0, 1.0, key, key, key, key]);
        // Values between -1.5 and -1 use all 24 bits.
        qkv.extend([0.0, 0.1, 0.2, 0.3].map(|shift| -1.25 + 0.25 * x * (1.0 - shift)));
    }
    let buffers = forward(gpu, kernels, &size, &qkv, &vec![1.0; size.output_len()]);
    let (expected, _) = attention::attention(&wide(&qkv), &size);
    let actual = read(gpu, &buffers.output);
    // 33 tiles, each added with an error of at most 2^-24 of the sum so far, half the sum on average.
    let because = "sums of 129 terms of one sign in f32, tile by tile, and a quotient";
    let tolerance = Tolerance { absolute: 0.0, relative: 1e-6, because };
    assert_close("ties", &actual, &expected, tolerance);
    let logits = &read(gpu, &buffers.row_logits)[..2 * size.time];
    let expected = attention::row_logits(&wide(&qkv), &size);
    assert_close("row logits of ties", logits, &expected, ROUNDING);
    // Even the last row, of 129 tied keys: the entropy is that of a uniform distribution over them.
    let last = f64::from(logits[2 * size.time - 1]);
    assert!((last - 129f64.ln()).abs() < 1e-3, "entropy {last}");
}

fn attention_delta(gpu: &Gpu) {
    for size in CASES {
        let (qkv, output_gradient) = data(size);
        let buffers = forward(gpu, Kernels::ByRow, size, &qkv, &output_gradient);
        let output = wide(&read(gpu, &buffers.output));
        let expected = attention::attention_delta(&output, &wide(&output_gradient), size);
        let actual = statistics(gpu, size, &buffers.delta);
        assert_close(&format!("{size:?}"), &actual, &expected, ROUNDING);
    }
}

fn attention_backward_query(gpu: &Gpu) {
    query_gradients(gpu, Kernels::ByRow);
}

fn attention_tiled_backward_query(gpu: &Gpu) {
    query_gradients(gpu, Kernels::Tiled);
}

fn query_gradients(gpu: &Gpu, kernels: Kernels) {
    for size in CASES {
        let (qkv, output_gradient) = data(size);
        let buffers = forward(gpu, kernels, size, &qkv, &output_gradient);
        let expected =
            attention::attention_backward_query(&wide(&qkv), &wide(&output_gradient), size);
        let mut first = Vec::new();
        for _ in 0..2 {
            run::backward_query(gpu, kernels, size, &buffers);
            let gradient = read(gpu, &buffers.qkv_gradient);
            let (queries, others) = split(size, &gradient);
            assert_close(&format!("{size:?}"), &queries, &split(size, &expected).0, ROUNDING);
            assert!(others.iter().all(|x| *x == 7.0), "{size:?}: only the queries' columns");
            assert!(first.is_empty() || bits(&first) == bits(&gradient), "{size:?}: same bits");
            first = gradient;
        }
    }
}

fn attention_backward_key_value(gpu: &Gpu) {
    key_value_gradients(gpu, Kernels::ByRow);
}

fn attention_tiled_backward_key_value(gpu: &Gpu) {
    key_value_gradients(gpu, Kernels::Tiled);
}

fn key_value_gradients(gpu: &Gpu, kernels: Kernels) {
    for size in CASES {
        let (qkv, output_gradient) = data(size);
        let buffers = forward(gpu, kernels, size, &qkv, &output_gradient);
        let expected =
            attention::attention_backward_key_value(&wide(&qkv), &wide(&output_gradient), size);
        let mut first = Vec::new();
        for _ in 0..2 {
            run::backward_key_value(gpu, kernels, size, &buffers);
            let gradient = read(gpu, &buffers.qkv_gradient);
            let (queries, others) = split(size, &gradient);
            assert_close(&format!("{size:?}"), &others, &split(size, &expected).1, ROUNDING);
            assert!(queries.iter().all(|x| *x == 7.0), "{size:?}: not the queries' columns");
            assert!(first.is_empty() || bits(&first) == bits(&gradient), "{size:?}: same bits");
            first = gradient;
        }
    }
    // All three kernels.
    huge_logits(gpu, kernels);
    what_is_not_finite_stays_in_its_tile(gpu, kernels);
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn causal_softmax(gpu: &Gpu) {
    for (time, scale, soft_cap) in
        [(1, 1.0, 0.0), (3, 1.0, 0.0), (5, 3.0, 2.0), (257, 40.0, 0.0), (64, 1e4, 0.0)]
    {
        let rows = 2 * time;
        let scores = values(1, rows * time);
        let g_scores = gpu.upload("scores", &pad(&scores, time));
        let probabilities = gpu.buffer("probabilities", g_scores.size());
        gpu.run(&CausalSoftmax {
            params: CausalSoftmaxParams {
                rows: rows as u32,
                time: time as u32,
                scale: scale as f32,
                soft_cap: soft_cap as f32,
            },
            scores: g_scores.as_entire_buffer_binding(),
            probabilities: probabilities.as_entire_buffer_binding(),
        });
        let expected = attention::causal_softmax(&wide(&scores), time, scale, soft_cap);
        let because = "a score of `scale` rounded to f32, then exp";
        let absolute = 1e-6 + 6e-8 * scale;
        let tolerance = Tolerance { absolute, relative: 1e-5, because };
        let what = format!("time {time}, scale {scale}, soft cap {soft_cap}");
        let actual = read(gpu, &probabilities);
        let actual = &actual[..rows * time.next_multiple_of(4)];
        assert_close(&what, &unpad(actual, time), &expected, tolerance);
    }
    many_rows(gpu);
}

/// More rows than a dispatch has workgroups in one dimension.
fn many_rows(gpu: &Gpu) {
    let rows = 65_538;
    let scores = values(3, rows * 2);
    let g_scores = gpu.upload("scores", &pad(&scores, 2));
    let probabilities = gpu.buffer("probabilities", g_scores.size());
    gpu.run(&CausalSoftmax {
        params: CausalSoftmaxParams { rows: rows as u32, time: 2, scale: 1.0, soft_cap: 0.0 },
        scores: g_scores.as_entire_buffer_binding(),
        probabilities: probabilities.as_entire_buffer_binding(),
    });
    let expected = attention::causal_softmax(&wide(&scores), 2, 1.0, 0.0);
    let tolerance = Tolerance { absolute: 1e-6, relative: 1e-5, because: "exp and a quotient" };
    assert_close("many rows", &unpad(&read(gpu, &probabilities), 2), &expected, tolerance);
}

/// Scores by a strided product over heads, a softmax, and a product with the values: the same
/// output as the online form.
fn plain_form_agrees(gpu: &Gpu, kernels: Kernels) {
    let size = Size { soft_cap: 1.5, ..size(2, 37, 4, 2, 8) };
    let (qkv, output_gradient) = data(&size);
    let online = forward(gpu, kernels, &size, &qkv, &output_gradient);
    let (time, heads, head) = (37, 4, 2);
    let (row, matrix) = (8 * head, 37 * 10);
    let scores = gpu.buffer("scores", 2 * 4 * matrix * 16);
    let probabilities = gpu.buffer("probabilities", scores.size());
    let output = gpu.buffer("output", (size.output_len() * 4) as u64);
    let spare = gpu.buffer("spare", 16);
    gpu.run(&MatmulTransposedB {
        params: MatmulTransposedBParams {
            batch: 8,
            inner_count: heads,
            a_row_stride: row,
            a_outer_stride: time * row,
            a_inner_stride: head,
            b_offset: 4 * head,
            b_row_stride: row,
            b_outer_stride: time * row,
            b_inner_stride: head,
            b_inner_group: 2,
            c_outer_stride: heads * matrix as u32,
            c_inner_stride: matrix as u32,
            ..MatmulTransposedBParams::dense(time, time, 8)
        },
        activation: 0,
        a: online.qkv.as_entire_buffer_binding(),
        b: online.qkv.as_entire_buffer_binding(),
        bias: online.qkv.as_entire_buffer_binding(),
        c: scores.as_entire_buffer_binding(),
        pre_activation: spare.as_entire_buffer_binding(),
    });
    gpu.run(&CausalSoftmax {
        params: CausalSoftmaxParams { rows: 8 * time, time, scale: 0.5, soft_cap: 1.5 },
        scores: scores.as_entire_buffer_binding(),
        probabilities: probabilities.as_entire_buffer_binding(),
    });
    gpu.run(&Matmul {
        params: MatmulParams {
            batch: 8,
            inner_count: heads,
            a_outer_stride: heads * matrix as u32,
            a_inner_stride: matrix as u32,
            b_offset: 6 * head,
            b_row_stride: row,
            b_outer_stride: time * row,
            b_inner_stride: head,
            b_inner_group: 2,
            c_row_stride: heads * head,
            c_outer_stride: time * heads * head,
            c_inner_stride: head,
            ..MatmulParams::dense(time, 8, time)
        },
        activation: 0,
        gated: 0,
        a: probabilities.as_entire_buffer_binding(),
        b: online.qkv.as_entire_buffer_binding(),
        pre_activation: probabilities.as_entire_buffer_binding(),
        c: output.as_entire_buffer_binding(),
    });
    let online = read(gpu, &online.output);
    assert_close("plain", &read(gpu, &output), &wide(&online), ROUNDING);
    let (expected, _) = reference::attention::attention(&wide(&qkv), &size);
    assert_close("plain", &read(gpu, &output), &expected, ROUNDING);
}
