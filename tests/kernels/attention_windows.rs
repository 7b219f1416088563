//! Attention within a window: windows of one position, around tiles of 8 and blocks of 64, as long
//! as the text and longer; what lies outside of a window has no part, and is not read from afar.

use evenkeel::Gpu;
use evenkeel::reference::attention::{self as reference, Attention as Size};

use super::attention::{ROUNDING, log_sum_exps, size, split};
use super::attention_run::{Buffers, Kernels, backward_key_value, backward_query, forward};
use super::support::{self, assert_close, read, values, wide};

tests! {
    windows_match_the_reference, a_window_of_all_changes_no_bit, a_window_of_one_gives_the_values,
    what_is_not_finite_stays_near_its_window,
}

const CASES: &[Size] = &[
    Size { window: 1, ..size(2, 5, 1, 1, 4) },
    Size { window: 3, ..size(2, 17, 2, 1, 8) },
    Size { window: 7, ..size(1, 70, 4, 2, 4) },
    Size { window: 8, ..size(1, 66, 2, 2, 12) },
    Size { window: 9, soft_cap: 0.8, ..size(1, 131, 2, 1, 16) },
    Size { window: 63, ..size(1, 193, 1, 1, 4) },
    Size { window: 64, ..size(1, 193, 3, 1, 4) },
    Size { window: 65, ..size(2, 130, 1, 1, 8) },
    Size { window: 100, soft_cap: 0.8, ..size(1, 200, 2, 1, 4) },
    Size { window: 20, ..size(1, 67, 1, 1, 128) },
    Size { window: 30, soft_cap: 0.8, ..size(1, 67, 2, 1, 256) },
    Size { window: 40, ..size(1, 40, 2, 1, 20) },
    size(1, 11, 1, 1, 132),
    Size { window: 1000, ..size(1, 75, 2, 1, 8) },
];

/// The device, and where that makes a difference the same with the kernels of hardware adapters.
fn devices() -> impl Iterator<Item = Gpu> {
    let gpu = support::gpu();
    let both = gpu.as_ref().is_some_and(Gpu::is_software);
    let hardware = both.then(support::gpu_with_hardware_kernels).flatten();
    [gpu, hardware].into_iter().flatten()
}

fn data(size: &Size) -> [Vec<f32>; 2] {
    [values(61, size.qkv_len()), values(62, size.output_len())]
}

fn both_ways(gpu: &Gpu, kernels: Kernels, size: &Size, [qkv, dy]: [&[f32]; 2]) -> Buffers {
    let buffers = forward(gpu, kernels, size, qkv, dy);
    backward_query(gpu, kernels, size, &buffers);
    backward_key_value(gpu, kernels, size, &buffers);
    buffers
}

fn windows_match_the_reference() {
    for gpu in devices() {
        for size in CASES {
            let [qkv, dy] = data(size);
            let (wide_qkv, wide_dy) = (wide(&qkv), wide(&dy));
            let (output, log_sum_exp) = reference::attention(&wide_qkv, size);
            let row_logits = reference::row_logits(&wide_qkv, size);
            let dq = reference::attention_backward_query(&wide_qkv, &wide_dy, size);
            let dkv = reference::attention_backward_key_value(&wide_qkv, &wide_dy, size);
            for kernels in Kernels::ALL {
                let buffers = both_ways(&gpu, kernels, size, [&qkv, &dy]);
                let close = |name: &str, actual: &[f32], expected: &[f64]| {
                    assert_close(
                        &format!("{name}, {kernels:?} {size:?}"),
                        actual,
                        expected,
                        ROUNDING,
                    );
                };
                close("output", &read(&gpu, &buffers.output), &output);
                close("lse", &log_sum_exps(&gpu, size, &buffers), &log_sum_exp);
                let logits = read(&gpu, &buffers.row_logits);
                close("row logits", &logits[..row_logits.len()], &row_logits);
                let gradient = read(&gpu, &buffers.qkv_gradient);
                let (queries, others) = split(size, &gradient);
                close("dq", &queries, &split(size, &dq).0);
                close("dk, dv", &others, &split(size, &dkv).1);
            }
        }
    }
}

fn a_window_of_all_changes_no_bit() {
    for gpu in devices() {
        for kernels in Kernels::ALL {
            let all = |window| {
                let size = Size { window, ..size(1, 131, 2, 1, 12) };
                let [qkv, dy] = data(&size);
                let buffers = both_ways(&gpu, kernels, &size, [&qkv, &dy]);
                [buffers.output, buffers.statistics, buffers.row_logits, buffers.qkv_gradient].map(
                    |buffer| read(&gpu, &buffer).into_iter().map(f32::to_bits).collect::<Vec<_>>(),
                )
            };
            let expected = all(131);
            for window in [132, 1 << 31] {
                assert!(all(window) == expected, "{kernels:?}, window {window}");
            }
        }
    }
}

/// The softmax of a single score is 1, whatever the score.
fn a_window_of_one_gives_the_values() {
    let Some(gpu) = support::gpu() else { return };
    let size = Size { window: 1, ..size(1, 90, 1, 1, 4) };
    for kernels in Kernels::ALL {
        let [qkv, dy] = data(&size);
        let buffers = both_ways(&gpu, kernels, &size, [&qkv, &dy]);
        let expected: Vec<_> = qkv.chunks(12).flat_map(|row| &row[8..]).copied().collect();
        assert_eq!(read(&gpu, &buffers.output)[..expected.len()], expected, "{kernels:?}");
        let gradient = read(&gpu, &buffers.qkv_gradient);
        let dv: Vec<_> = gradient.chunks(12).take(90).flat_map(|row| &row[8..]).copied().collect();
        assert_close(&format!("dv, {kernels:?}"), &dv, &wide(&dy), ROUNDING);
    }
}

/// A key or value that is not finite shows in every row that sees it; and it, a query or an output
/// gradient shows in none beyond the tile of 8 around it and the window from there.
fn what_is_not_finite_stays_near_its_window() {
    for gpu in devices() {
        for (kernels, window) in Kernels::ALL.into_iter().flat_map(|k| [(k, 5), (k, 30)]) {
            let size = Size { window, ..size(1, 200, 1, 1, 4) };
            for (bad, column) in
                [10, 77, 130].into_iter().flat_map(|b| [0, 4, 8, 12].map(|c| (b, c)))
            {
                let [mut qkv, mut dy] = data(&size);
                if column < 12 {
                    qkv[bad * 12 + column] = f32::INFINITY;
                } else {
                    dy[bad * 4] = f32::INFINITY;
                }
                let buffers = both_ways(&gpu, kernels, &size, [&qkv, &dy]);
                contained(&gpu, &size, &buffers, bad, column, &format!("{kernels:?} {window}"));
            }
        }
    }
}

fn contained(gpu: &Gpu, size: &Size, buffers: &Buffers, bad: usize, column: usize, what: &str) {
    let output = read(gpu, &buffers.output);
    let gradient = read(gpu, &buffers.qkv_gradient);
    let (queries, others) = split(size, &gradient[..size.qkv_len()]);
    let tile = bad / 8 * 8;
    let end = (tile + 6 + size.window) / 8 * 8 + 8;
    let begin = tile.saturating_sub(size.window + 6) / 8 * 8;
    let finite = |row: &[f32]| row.iter().all(|x| x.is_finite());
    for t in 0..size.time {
        let what = format!("{what}: column {column} of {bad}, row {t}");
        let sees = bad <= t && t < bad + size.window;
        let shows = !finite(&output[4 * t..][..4]);
        if column == 4 || column == 8 {
            assert!(shows || !sees, "{what}: the output hides it");
        }
        assert!(!shows || (tile <= t && t < end), "{what}: output");
        assert!(finite(&queries[4 * t..][..4]) || (tile <= t && t < end), "{what}: dq");
        assert!(finite(&others[8 * t..][..8]) || (begin <= t && t < end), "{what}: dk, dv");
    }
    assert!(!finite(&gradient[..size.qkv_len()]), "{what}: {bad} shows");
}
