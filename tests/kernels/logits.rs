//! Norms of heads, summaries and QK-clip: heads of every width a workgroup deals with, groups of
//! query heads, numbers that are not finite, skipped steps.

use evenkeel::Gpu;
use evenkeel::kernels::*;
use evenkeel::reference::logits::{self, HeadNorm as Size};
use evenkeel::step::{APPLY, SKIP, StepInput, StepState};

use super::support::{Tolerance, assert_close, pad, read, tokens, unpad, values, wide};

rows! { head_norm, head_norm_backward, attention_summary, logit_summary, qk_clip }

const IGNORE: u32 = u32::MAX;

const ROUNDING: Tolerance = Tolerance {
    absolute: 5e-6,
    relative: 5e-6,
    because: "f32 sums over a head of at most 256 elements, and inverseSqrt at 2 units",
};

/// Rows and heads. Heads of 1, 2, 3, 5, 9, 16, 32, 33 and 64 quads, which leave none, some or
/// almost half of the invocations idle.
fn sizes() -> Vec<(usize, Size)> {
    let shapes = [
        (1, [1, 1, 4]),
        (3, [2, 1, 8]),
        (5, [3, 3, 12]),
        (257, [4, 2, 8]),
        (7, [6, 2, 20]),
        (4, [5, 1, 36]),
        (9, [2, 2, 64]),
        (3, [3, 1, 128]),
        (2, [1, 1, 132]),
        (5, [2, 1, 256]),
    ];
    let kinds = [(false, 1e-5), (true, 1e-3)];
    let sizes = shapes.into_iter().flat_map(|(rows, [heads, kv_heads, head_dim])| {
        let size =
            Size { heads, kv_heads, head_dim, centered: false, eps: 1e-5, weight_offset: 0.0 };
        kinds.map(|(centered, eps)| (rows, Size { centered, eps, ..size }))
    });
    let mut sizes: Vec<_> = sizes.collect();
    // Weights that are stored as what they differ from 1 by.
    let mut around_one = sizes[2..8].to_vec();
    around_one.iter_mut().for_each(|(_, size)| size.weight_offset = 1.0);
    sizes.extend(around_one);
    sizes
}

/// x, the two weights, and the gradient of the output.
struct Data {
    x: Vec<f32>,
    weights: [Vec<f32>; 2],
    dy: Vec<f32>,
}

impl Data {
    fn new(rows: usize, size: &Size) -> Self {
        let count = rows * (size.heads + 2 * size.kv_heads) * size.head_dim;
        // Values of 1e3 among them: they are copied, whatever their size.
        let x = values(1, count)
            .into_iter()
            .enumerate()
            .map(|(i, x)| if i % 97 == 0 { 1e3 } else { x });
        let weights = [2, 3].map(|seed| values(seed, size.head_dim));
        Self { x: x.collect(), weights, dy: values(4, count) }
    }

    fn wide_weights(&self) -> [Vec<f64>; 2] {
        [0, 1].map(|i| wide(&self.weights[i]))
    }
}

fn head_norm(gpu: &Gpu) {
    for (rows, size) in sizes() {
        let data = Data::new(rows, &size);
        let x = gpu.upload("x", &data.x);
        let y = gpu.upload("y", &vec![7.0f32; data.x.len()]);
        let [query_weight, key_weight] = data.weights.each_ref().map(|w| gpu.upload("weight", w));
        gpu.run(&HeadNorm {
            params: HeadNormParams {
                rows: rows as u32,
                heads: size.heads as u32,
                kv_heads: size.kv_heads as u32,
                head_quads: size.head_dim as u32 / 4,
                centered: u32::from(size.centered),
                eps: size.eps as f32,
                weight_offset: size.weight_offset as f32,
            },
            x: x.as_entire_buffer_binding(),
            query_weight: query_weight.as_entire_buffer_binding(),
            key_weight: key_weight.as_entire_buffer_binding(),
            y: y.as_entire_buffer_binding(),
        });
        let weights = data.wide_weights();
        let weights = [&weights[0][..], &weights[1][..]];
        let columns = (size.heads + 2 * size.kv_heads) * size.head_dim;
        let copied = (size.heads + size.kv_heads) * size.head_dim;
        let expected = logits::head_norm(&wide(&data.x), weights, &size);
        let actual = read(gpu, &y);
        assert_close(&format!("{rows} rows, {size:?}"), &actual, &expected, ROUNDING);
        for (x, y) in data.x.chunks(columns).zip(actual.chunks(columns)) {
            assert_eq!(x[copied..], y[copied..], "values are copied");
        }
    }
}

fn head_norm_backward(gpu: &Gpu) {
    for (rows, size) in sizes() {
        let data = Data::new(rows, &size);
        let (rows_per_block, blocks) = head_norm_blocks(rows as u32);
        let [x, dy] = [&data.x, &data.dy].map(|values| gpu.upload("values", values));
        let dx = gpu.upload("dx", &vec![7.0f32; data.x.len()]);
        let [query_weight, key_weight] = data.weights.each_ref().map(|w| gpu.upload("weight", w));
        let partials = vec![7.0f32; blocks as usize * size.head_dim];
        let [query_partials, key_partials] = [(); 2].map(|()| gpu.upload("partials", &partials));
        let run = || {
            gpu.run(&HeadNormBackward {
                params: HeadNormBackwardParams {
                    rows: rows as u32,
                    heads: size.heads as u32,
                    kv_heads: size.kv_heads as u32,
                    head_quads: size.head_dim as u32 / 4,
                    centered: u32::from(size.centered),
                    eps: size.eps as f32,
                    rows_per_block,
                    blocks,
                    weight_offset: size.weight_offset as f32,
                },
                x: x.as_entire_buffer_binding(),
                query_weight: query_weight.as_entire_buffer_binding(),
                key_weight: key_weight.as_entire_buffer_binding(),
                dy: dy.as_entire_buffer_binding(),
                x_gradient: dx.as_entire_buffer_binding(),
                query_partials: query_partials.as_entire_buffer_binding(),
                key_partials: key_partials.as_entire_buffer_binding(),
            });
            [&dx, &query_partials, &key_partials].map(|buffer| read(gpu, buffer))
        };
        let [actual, query, key] = run();
        let weights = data.wide_weights();
        let (expected, partials) = logits::head_norm_backward(
            &wide(&data.x),
            [&weights[0], &weights[1]],
            &wide(&data.dy),
            &size,
            rows_per_block as usize,
        );
        let what = format!("{rows} rows, {size:?}");
        assert_close(&what, &actual, &expected, ROUNDING);
        let because = "f32 sums over the heads of a block of rows, which cancel";
        let tolerance = Tolerance { absolute: 5e-5, relative: 1e-5, because };
        assert_close(&format!("queries: {what}"), &query, &partials[0], tolerance);
        assert_close(&format!("keys: {what}"), &key, &partials[1], tolerance);
        assert!(run() == [actual, query, key], "{what}: the same bits again");
    }
}

/// Steering blocks for a microbatch after `microbatch` others.
fn step_input(gpu: &Gpu, microbatch: u32) -> wgpu::Buffer {
    gpu.upload("input", &[StepInput { microbatch, ..StepInput::default() }])
}

const SUMMARY: Tolerance = Tolerance {
    absolute: 1e-6,
    relative: 2e-6,
    because: "f32 sums of at most some hundred positive terms per invocation",
};

fn attention_summary(gpu: &Gpu) {
    for (batch, heads, time) in [(1, 1, 1), (2, 3, 5), (3, 4, 64), (1, 5, 257), (2, 2, 8191)] {
        let (count, rows) = (batch * heads * time, batch * time);
        let microbatches = [0, 1, 2].map(|m| -> Vec<f32> {
            let pairs = values(10 + m, 2 * count);
            let scale = [30.0, -2.0, 5.0][m as usize];
            pairs.chunks(2).flat_map(|pair| [scale * pair[0] - 40.0, 1.0 + pair[1]]).collect()
        });
        let outputs = [(); 2].map(|()| gpu.upload("summary", &vec![7.0f32; heads]));
        let mut so_far = [vec![f64::NEG_INFINITY; heads], vec![0.0; heads]];
        for (m, rows) in microbatches.iter().enumerate() {
            run_attention_summary(gpu, rows, [batch, heads, time], m as u32, &outputs);
            let [largest, entropy] = logits::attention_summary(&wide(rows), heads, time);
            for head in 0..heads {
                so_far[0][head] = so_far[0][head].max(largest[head]);
                so_far[1][head] += entropy[head];
            }
            let mean: Vec<_> = so_far[1].iter().map(|sum| sum / (m + 1) as f64).collect();
            let what = format!("{heads} heads of {batch} x {time}, microbatch {m}");
            assert_close(&what, &read(gpu, &outputs[0])[..heads], &so_far[0], SUMMARY);
            assert_close(&what, &read(gpu, &outputs[1])[..heads], &mean, SUMMARY);
        }
        broken_rows(gpu, [batch, heads, time], &microbatches[0], rows);
        let low: Vec<_> = (0..count).flat_map(|_| [-3e38f32, 0.5]).collect();
        let outputs = [(); 2].map(|()| gpu.upload("summary", &vec![7.0f32; heads]));
        run_attention_summary(gpu, &low, [batch, heads, time], 0, &outputs);
        assert_eq!(read(gpu, &outputs[0])[..heads], vec![-3e38; heads], "however low all are");
    }
}

fn run_attention_summary(
    gpu: &Gpu,
    rows: &[f32],
    [batch, heads, time]: [usize; 3],
    microbatch: u32,
    outputs: &[wgpu::Buffer; 2],
) {
    gpu.run(&AttentionSummary {
        params: AttentionSummaryParams {
            batch: batch as u32,
            time: time as u32,
            heads: heads as u32,
            accumulate: u32::from(microbatch > 0),
        },
        input: step_input(gpu, microbatch).as_entire_buffer_binding(),
        row_logits: gpu.upload("rows", rows).as_entire_buffer_binding(),
        max_logit: outputs[0].as_entire_buffer_binding(),
        entropy: outputs[1].as_entire_buffer_binding(),
    });
}

/// One row that is not finite shows in its head alone, and stays over later microbatches.
fn broken_rows(gpu: &Gpu, size: [usize; 3], rows: &[f32], rows_per_head: usize) {
    let [_, heads, time] = size;
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let outputs = [(); 2].map(|()| gpu.upload("summary", &vec![7.0f32; heads]));
        let mut broken = rows.to_vec();
        let row = (rows_per_head / 2) / time * heads * time + (heads - 1) * time;
        broken[2 * row] = bad;
        broken[2 * row + 1] = f32::NAN;
        for (m, rows) in [(0, &broken[..]), (1, rows)] {
            run_attention_summary(gpu, rows, size, m, &outputs);
            for output in &outputs {
                let finite: Vec<_> =
                    read(gpu, output)[..heads].iter().map(|x| x.is_finite()).collect();
                let expected: Vec<_> = (0..heads).map(|head| head + 1 < heads).collect();
                assert_eq!(finite, expected, "{size:?}, {bad}, microbatch {m}");
                assert!(read(gpu, output)[heads - 1].is_nan());
            }
        }
    }
}

/// In microbatch `microbatch` of a step with these counts of targets and microbatches.
fn run_logit_summary(
    gpu: &Gpu,
    statistics: &[f32],
    targets: &[u32],
    (microbatch, counts): (u32, [u32; 2]),
    outputs: &[wgpu::Buffer; 2],
) {
    gpu.run(&LogitSummary {
        params: LogitSummaryParams {
            rows: targets.len() as u32,
            ignore_index: IGNORE,
            z_loss: 1e-2,
            accumulate: u32::from(microbatch > 0),
        },
        input: step_input(gpu, microbatch).as_entire_buffer_binding(),
        statistics: gpu.upload("statistics", statistics).as_entire_buffer_binding(),
        targets: gpu.upload("targets", targets).as_entire_buffer_binding(),
        counts: gpu.upload("counts", &counts).as_entire_buffer_binding(),
        max_logit: outputs[0].as_entire_buffer_binding(),
        penalty: outputs[1].as_entire_buffer_binding(),
    });
}

fn logit_summary(gpu: &Gpu) {
    let z_loss = f64::from(1e-2f32);
    let both = |outputs: &[wgpu::Buffer; 2]| [0, 1].map(|i| read(gpu, &outputs[i])[0]);
    let fresh = || [(); 2].map(|()| gpu.upload("summary", &[7.0f32]));
    for rows in [1, 3, 4, 255, 256, 257, 4099] {
        let outputs = fresh();
        let mut so_far = [f64::NEG_INFINITY, 0.0];
        let counts = [2 * rows as u32 + 5, 3];
        for m in 0..3 {
            // Logits below zero throughout, so that a stray zero would be the largest.
            let pairs = values(20 + m, 2 * rows);
            let statistics: Vec<_> =
                pairs.chunks(2).flat_map(|p| [p[0] - 3.0, 2.0 + p[1]]).collect();
            let mut targets = tokens(30, rows, 5);
            // More of them in every microbatch.
            let ignored = targets.iter_mut().skip(1).step_by(4 - m as usize);
            ignored.for_each(|target| *target = IGNORE);
            run_logit_summary(gpu, &statistics, &targets, (m as u32, counts), &outputs);
            let [largest, penalty] =
                logits::logit_summary(&wide(&statistics), &targets, IGNORE, z_loss, counts);
            so_far = [so_far[0].max(largest), so_far[1] + penalty];
            let expected = [so_far[0], so_far[1] / (m + 1) as f64];
            assert_close(&format!("{rows} rows, {m}"), &both(&outputs), &expected, SUMMARY);
        }
    }
    // The largest is one of them, however low all are.
    let low = fresh();
    run_logit_summary(gpu, &[-3.1e38, 0.5, -3e38, 1.0], &[1, 2], (0, [2, 1]), &low);
    assert_eq!(both(&low)[0], -3e38);
    let ignored = fresh();
    run_logit_summary(gpu, &[f32::NAN, f32::NAN, 0.0, 0.0], &[IGNORE; 2], (0, [1, 2]), &ignored);
    assert_eq!(both(&ignored), [f32::MIN, 0.0], "no row counts");
    run_logit_summary(gpu, &[-3.0, 1.0], &[0], (1, [1, 2]), &ignored);
    assert_eq!(both(&ignored)[0], -3.0, "the one that counts");
    for broken in [[f32::NAN, 1.0], [1.0, f32::NAN], [f32::INFINITY, 0.0]] {
        let outputs = fresh();
        let statistics = [&[0.5, 1.0][..], &broken, &[0.25, 2.0]].concat();
        run_logit_summary(gpu, &statistics, &[1, 2, 3], (0, [4, 2]), &outputs);
        assert!(both(&outputs).iter().all(|x| x.is_nan()), "{broken:?}: {:?}", both(&outputs));
        run_logit_summary(gpu, &[1.0, 1.0], &[1], (1, [4, 2]), &outputs);
        assert!(both(&outputs).iter().all(|x| x.is_nan()), "{broken:?} stays");
    }
}

/// A projection of `columns` inputs, and what the clip is told.
struct Clipped {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    columns: usize,
    max_logit: Vec<f32>,
    alpha: f32,
    verdict: u32,
}

const THRESHOLD: f32 = 10.0;

impl Clipped {
    fn weight(&self) -> Vec<f32> {
        values(7, (self.heads + 2 * self.kv_heads) * self.head_dim * self.columns)
    }

    /// Clips within a larger buffer, and checks that the rest of it stays.
    fn run(&self, gpu: &Gpu) -> Vec<f32> {
        let padded = pad(&self.weight(), self.columns);
        let around = [vec![5.0f32; 64], padded.clone(), vec![5.0f32; 64]].concat();
        let buffer = gpu.upload("weights", &around);
        let state = StepState { verdict: self.verdict, ..StepState::default() };
        let heads = self.heads + 2 * self.kv_heads;
        gpu.run(&QkClip {
            params: QkClipParams {
                first: 16,
                heads: self.heads as u32,
                kv_heads: self.kv_heads as u32,
                head_quads: (padded.len() / 4 / heads) as u32,
                threshold: THRESHOLD,
                alpha: self.alpha,
            },
            state: gpu.upload("state", &[state]).as_entire_buffer_binding(),
            max_logit: gpu.upload("max_logit", &self.max_logit).as_entire_buffer_binding(),
            weight: buffer.as_entire_buffer_binding(),
        });
        let all = read(gpu, &buffer);
        let (before, rest) = all.split_at(64);
        let (weight, after) = rest.split_at(padded.len());
        assert!(before.iter().chain(after).all(|&x| x == 5.0), "only the tensor is written");
        unpad(weight, self.columns)
    }
}

fn qk_clip(gpu: &Gpu) {
    let cases = [
        // (heads, kv heads, head, columns), largest logits
        ([1, 1, 4, 1], vec![40.0]),
        ([3, 3, 4, 5], vec![40.0, 10.0, 1e30]),
        ([4, 2, 8, 16], vec![15.0, 9.0, -3.0, 10.0]),
        ([4, 1, 12, 7], vec![11.0, 640.0, 5.0, 10.001]),
        ([2, 2, 128, 1030], vec![10.5, 10.0]),
        // One row for each head, as a bias lies.
        ([4, 2, 1, 24], vec![90.0, 2.0, 1.0, 10.0]),
    ];
    for ([heads, kv_heads, head_dim, columns], max_logit) in cases {
        for alpha in [0.5, 0.0, 1.0, 0.3] {
            let max_logit = max_logit.clone();
            let case =
                Clipped { heads, kv_heads, head_dim, columns, max_logit, alpha, verdict: APPLY };
            check_clipped(gpu, &case);
        }
    }
    nothing_to_clip(gpu);
}

fn check_clipped(gpu: &Gpu, case: &Clipped) {
    let Clipped { heads, kv_heads, head_dim, columns, max_logit, alpha, .. } = case;
    let (before, after) = (case.weight(), case.run(gpu));
    let expected = logits::qk_clip(
        &wide(&before),
        &wide(max_logit),
        *kv_heads,
        f64::from(THRESHOLD),
        f64::from(*alpha),
    );
    let what = format!("{heads} heads, {kv_heads} key heads, {max_logit:?}, alpha {alpha}");
    let because = "log2 and exp2: 2^-21 of the exponent, which is at most 100";
    let relative = 6e-6 + if max_logit.iter().any(|&s| s > 1e6) { 2e-4 } else { 0.0 };
    assert_close(&what, &after, &expected, Tolerance { absolute: 0.0, relative, because });

    let per_head = head_dim * columns;
    let group = heads / kv_heads;
    for head in 0..heads + 2 * kv_heads {
        let own = head * per_head..(head + 1) * per_head;
        let kv_head = if head < *heads { head / group } else { (head - heads) % kv_heads };
        let seen = &max_logit[kv_head * group..][..group];
        let clipped = head < heads + kv_heads && seen.iter().any(|&s| s > THRESHOLD);
        if !clipped {
            assert_eq!(before[own.clone()], after[own], "{what}: head {head} keeps its bits");
        }
    }
    // Products of a query and its key shrink by the head's own gamma, whatever the powers' rounding.
    for (head, &logit) in max_logit.iter().enumerate() {
        let gamma = f64::from(THRESHOLD) / f64::from(logit.max(THRESHOLD));
        let (q, k) = (head * per_head, (heads + head / group) * per_head);
        let product = |w: &[f32]| f64::from(w[q]) * f64::from(w[k]);
        let ratio = product(&after) / product(&before);
        assert!((ratio / gamma - 1.0).abs() < 5e-7, "{what}: head {head} by {ratio}, not {gamma}");
    }
}

/// A skipped step, logits that are not finite, and logits at or below the threshold.
fn nothing_to_clip(gpu: &Gpu) {
    let clipped = |verdict, max_logit: [f32; 2]| {
        let (heads, kv_heads, head_dim, columns) = (2, 2, 4, 6);
        let max_logit = max_logit.to_vec();
        Clipped { heads, kv_heads, head_dim, columns, max_logit, alpha: 0.5, verdict }
    };
    for case in [
        clipped(SKIP, [40.0, 90.0]),
        clipped(APPLY, [f32::NAN, 9.0]),
        clipped(APPLY, [f32::INFINITY, f32::NEG_INFINITY]),
        clipped(APPLY, [-40.0, 10.0]),
        clipped(APPLY, [0.0, -0.0]),
    ] {
        let bits = |values: Vec<f32>| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(case.run(gpu)), bits(case.weight()), "{:?}", case.max_logit);
    }
}
