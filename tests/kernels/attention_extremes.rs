//! Attention of scores at the ends of f32: masks are positions, and no finite score passes below
//! them; what overflows shows.

use evenkeel::Gpu;
use evenkeel::kernels::*;
use evenkeel::reference::attention::{self as reference, Attention as Size};

use super::attention::{ROUNDING, log_sum_exps, size, split};
use super::attention_run::{Kernels, backward_key_value, backward_query, forward};
use super::support::{self, Tolerance, assert_close, pad, read, unpad, values, wide};

tests! {
    a_huge_negative_score_does_not_show_the_future, finite_scores_at_the_ends_of_f32,
    scores_that_overflow_show, causal_softmax_at_the_ends_of_f32,
}

const TIME: usize = 20;

/// The scores that every query has with each key: tiles of 8 that differ, ties, all of f32.
fn patterns() -> Vec<[f32; TIME]> {
    let noise = values(31, TIME);
    let of = |f: &dyn Fn(usize) -> f32| std::array::from_fn(f);
    vec![
        of(&|_| -2e31),
        of(&|_| f32::MIN),
        of(&|_| -1e30),
        of(&|_| f32::MAX),
        of(&|j| if j < 8 { f32::MIN } else { noise[j] }),
        of(&|j| if j < 8 { noise[j] } else { -3e38 }),
        of(&|j| if j < 16 { -3e38 } else { -2e31 }),
        of(&|j| [3e38, -3e38, 1.0][j % 3]),
        of(&|j| [-3e38, 3e38][j / 8 % 2]),
        of(&|j| -2e31 * (1 + j % 2) as f32),
        of(&|j| noise[j]),
    ]
}

/// Queries of 1 and keys of the scores in one column of four, and the values: every score is exact.
fn qkv_of(scores: &[[f32; TIME]]) -> Vec<f32> {
    let v = values(32, scores.len() * TIME * 4);
    let rows = scores.iter().flatten().zip(v.chunks(4));
    rows.flat_map(|(&score, v)| [1.0, 0.0, 0.0, 0.0, score, 0.0, 0.0, 0.0, v[0], v[1], v[2], v[3]])
        .collect()
}

fn a_huge_negative_score_does_not_show_the_future() {
    let Some(gpu) = support::gpu() else { return };
    // q0·k0 = -2e31; position 1 sees scores of -2e31 and 0.
    let qkv = [
        [-2e31f32, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0],
        [-2e31, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 100.0, 100.0, 100.0, 100.0],
    ];
    let size = Size { scale: 1.0, ..size(1, 2, 1, 1, 4) };
    for kernels in Kernels::ALL {
        let buffers = forward(&gpu, kernels, &size, qkv.as_flattened(), &[1.0; 8]);
        assert_eq!(read(&gpu, &buffers.output)[..8], [[1.0; 4], [100.0; 4]].concat());
        assert_eq!(read(&gpu, &buffers.row_logits)[..4], [-2e31, 0.0, 0.0, 0.0]);
        backward_key_value(&gpu, kernels, &size, &buffers);
        let gradient = read(&gpu, &buffers.qkv_gradient);
        assert_eq!([&gradient[8..12], &gradient[20..24]], [[1.0; 4]; 2], "{kernels:?}");
    }
}

fn finite_scores_at_the_ends_of_f32() {
    let Some(gpu) = support::gpu() else { return };
    for (time, soft_cap) in [(TIME, 0.0), (1, 0.0), (TIME, 30.0), (TIME, 0.5)] {
        let scores = patterns();
        let mut qkv = qkv_of(&scores);
        if time == 1 {
            qkv = qkv.chunks(TIME * 12).flat_map(|sequence| &sequence[..12]).copied().collect();
        }
        let size = Size { scale: 1.0, soft_cap, ..size(scores.len(), time, 1, 1, 4) };
        for kernels in Kernels::ALL {
            check(&gpu, kernels, &size, &qkv);
        }
    }
}

fn check(gpu: &Gpu, kernels: Kernels, size: &Size, qkv: &[f32]) {
    let output_gradient = values(33, size.output_len());
    let buffers = forward(gpu, kernels, size, qkv, &output_gradient);
    backward_query(gpu, kernels, size, &buffers);
    backward_key_value(gpu, kernels, size, &buffers);
    let what = format!("{kernels:?}, time {}, soft cap {}", size.time, size.soft_cap);
    let (wide_qkv, wide_gradient) = (wide(qkv), wide(&output_gradient));
    let (output, log_sum_exp) = reference::attention(&wide_qkv, size);
    assert_close(&what, &read(gpu, &buffers.output), &output, ROUNDING);
    assert_close(&what, &log_sum_exps(gpu, size, &buffers), &log_sum_exp, ROUNDING);
    let expected = reference::row_logits(&wide_qkv, size);
    let actual = &read(gpu, &buffers.row_logits)[..expected.len()];
    assert_close(&format!("row logits, {what}"), actual, &expected, ROUNDING);

    let actual = read(gpu, &buffers.qkv_gradient);
    let query = reference::attention_backward_query(&wide_qkv, &wide_gradient, size);
    let key_value = reference::attention_backward_key_value(&wide_qkv, &wide_gradient, size);
    let keys = split(size, &actual).1;
    assert_close(&format!("dk, dv, {what}"), &keys, &split(size, &key_value).1, ROUNDING);
    // What is left of a sum over keys as large as these.
    for ((actual, expected), own) in actual.chunks(12).zip(query.chunks(12)).zip(
        wide_qkv.chunks(12 * size.time).flat_map(|sequence| {
            let largest = sequence.chunks(12).map(|row| row[4].abs()).fold(1.0, f64::max);
            vec![largest; size.time]
        }),
    ) {
        let tolerance = Tolerance { absolute: 2e-6 * own, ..ROUNDING };
        assert_close(&format!("dq, {what}"), &actual[..4], &expected[..4], tolerance);
    }
}

/// Scores whose products leave f32, or that come of a NaN or Inf: NaN for every query that sees the
/// key, as for its gradients, and nothing for those before it. A soft cap hides none.
fn scores_that_overflow_show() {
    let Some(gpu) = support::gpu() else { return };
    let nonfinite = |x: &f32| x.to_bits() & 0x7f80_0000 == 0x7f80_0000;
    let keys = [
        [3e38f32, 0.0, 0.0, 0.0],
        [-3e38, 0.0, 0.0, 0.0],
        [3e38, -3e38, 0.0, 0.0],
        [f32::INFINITY, 0.0, 0.0, 0.0],
        [f32::NEG_INFINITY, 0.0, 0.0, 0.0],
        [f32::NAN, 0.0, 0.0, 0.0],
    ];
    for (key, soft_cap) in keys.into_iter().flat_map(|key| [(key, 0.0), (key, 2.0)]) {
        for (bad, kernels) in [0, 10].into_iter().flat_map(|bad| Kernels::ALL.map(|k| (bad, k))) {
            let size = Size { scale: 1.0, soft_cap, ..size(1, TIME, 1, 1, 4) };
            let mut qkv = values(34, size.qkv_len());
            // Products of 6e38, or two whose sum is neither.
            qkv.chunks_mut(12).for_each(|row| row[..2].fill(2.0));
            qkv[bad * 12 + 4..][..4].copy_from_slice(&key);
            let buffers = forward(&gpu, kernels, &size, &qkv, &values(35, size.output_len()));
            backward_query(&gpu, kernels, &size, &buffers);
            backward_key_value(&gpu, kernels, &size, &buffers);
            let what = format!("{kernels:?}, key {bad} of {key:?}, soft cap {soft_cap}");
            let all = |values: &[f32], width: usize, name: &str| {
                for (t, row) in values.chunks(width).take(TIME).enumerate() {
                    let count = row.iter().filter(|x| nonfinite(x)).count();
                    assert_eq!(
                        count,
                        if t < bad { 0 } else { width },
                        "{what}: {name} of {t}: {row:?}"
                    );
                }
            };
            all(&read(&gpu, &buffers.output), 4, "output");
            all(&read(&gpu, &buffers.row_logits), 2, "logits");
            let gradient = read(&gpu, &buffers.qkv_gradient);
            let (queries, others) = split(&size, &gradient);
            if key.iter().all(|x| x.is_finite()) {
                all(&queries, 4, "dq");
            } else {
                // Times a gradient of zero, a key that is not finite is NaN for its whole tile.
                all(&queries[..bad / 8 * 32], 4, "dq");
                assert!(queries[bad * 4..].iter().any(nonfinite), "{what}: dq");
            }
            // Every key is seen by a query that sees the bad one.
            assert!(others.iter().all(nonfinite), "{what}: dk, dv");
        }
    }
}

fn causal_softmax_at_the_ends_of_f32() {
    for gpu in [support::gpu(), support::gpu_with_hardware_kernels()].into_iter().flatten() {
        for (pattern, soft_cap) in patterns().into_iter().flat_map(|p| [(p, 0.0), (p, 30.0)]) {
            let scores = pattern.repeat(TIME);
            let actual = causal_softmax(&gpu, &scores, soft_cap);
            let expected = reference::causal_softmax(&wide(&scores), TIME, 1.0, soft_cap.into());
            let because = "exp at 3 + 2|x| units in the last place";
            let tolerance = Tolerance { absolute: 2e-38, relative: 2e-5, because };
            assert_close(&format!("{pattern:?}"), &actual, &expected, tolerance);
        }
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            for soft_cap in [0.0, 30.0] {
                let mut row = [0.5; TIME];
                row[9] = bad;
                let actual = causal_softmax(&gpu, &row.repeat(TIME), soft_cap);
                for (t, row) in actual.chunks(TIME).enumerate() {
                    let seen = row[..=t].iter().all(|p| p.is_finite() == (t < 9));
                    let masked = row[t + 1..].iter().all(|&p| p == 0.0);
                    assert!(seen && masked, "{bad} in row {t}: {row:?}");
                }
            }
        }
    }
}

fn causal_softmax(gpu: &Gpu, scores: &[f32], soft_cap: f32) -> Vec<f32> {
    let scores = gpu.upload("scores", &pad(scores, TIME));
    let probabilities = gpu.upload("probabilities", &[9.0f32; TIME * TIME]);
    gpu.run(&CausalSoftmax {
        params: CausalSoftmaxParams { rows: TIME as u32, time: TIME as u32, scale: 1.0, soft_cap },
        scores: scores.as_entire_buffer_binding(),
        probabilities: probabilities.as_entire_buffer_binding(),
    });
    unpad(&read(gpu, &probabilities), TIME)
}
