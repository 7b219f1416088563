//! The frame of a step. The norm is compared with f64 over the whole range of f32, and what a
//! non-finite gradient leaves behind is compared bit by bit.

pub mod judge;
mod loss_scale;
mod norm;
mod schedule;
mod verdict;
mod watched;

use evenkeel::Gpu;
use evenkeel::kernels::*;
use evenkeel::reference::step as reference;
use evenkeel::step::{APPLY, SKIP, StepInput, StepState, TelemetryRecord};

use self::judge::{any_finite, fresh};
use self::norm::{gradient_norm, gradient_scan};
use self::verdict::verdict;
use self::watched::{tensor_telemetry, update_scan};
use super::support::{Tolerance, assert_close, block_on, read, values, wide};

const NORM: Tolerance = Tolerance {
    absolute: 1.5e-45,
    relative: 2.5e-6,
    because: "half of a square and 70 additions, a root, two quotients; results may be subnormal",
};
const ROUNDING: Tolerance =
    Tolerance { absolute: 0.0, relative: 1.2e-7, because: "one f32 rounding" };

/// Quiet and signalling NaN with either sign and several payloads, and both infinities.
pub const NONFINITE: [u32; 9] = [
    0x7fc0_0000,
    0xffc0_0000,
    0x7fff_ffff,
    0x7f80_0001,
    0x7fa5_5555,
    0xff81_2345,
    0xffbf_ffff,
    0x7f80_0000,
    0xff80_0000,
];
/// Finite values next to them in bits or in size: the largest, the smallest normal, subnormals.
const FINITE: [u32; 7] =
    [0x7f7f_ffff, 0xff7f_ffff, 0x7f7f_fffe, 0x0080_0000, 0x007f_ffff, 0x0000_0001, 0x8000_0001];

rows! {
    gradient_scan, gradient_norm, verdict, seed_gradient, commit, telemetry, update_scan,
    tensor_telemetry, accumulate,
}

fn seed_gradient(gpu: &Gpu) {
    for (loss_scale, factor) in [(1.0, 1.0), (65_536.0, 0.25), (3.0, 1.0 / 3.0)] {
        let state = gpu.upload("state", &[fresh(loss_scale)]);
        let y = gpu.upload("y", &[7.0f32; 4]);
        gpu.run(&SeedGradient {
            params: SeedGradientParams { factor },
            state: state.as_entire_buffer_binding(),
            y: y.as_entire_buffer_binding(),
        });
        let expected = reference::seed_gradient(loss_scale.into(), factor.into());
        let y = read(gpu, &y);
        assert_close("seed", &y[..1], &[expected], ROUNDING);
        assert_eq!(y[1..], [7.0; 3]);
    }
}

/// Words of any kind: floats, NaN, subnormals, integers.
fn words(seed: u64, count: usize) -> Vec<u32> {
    let special = NONFINITE.into_iter().chain(FINITE).cycle();
    let any = any_finite(seed, count).into_iter().map(f32::to_bits).zip(special);
    any.enumerate().map(|(i, (any, special))| if i % 3 == 0 { special } else { any }).collect()
}

fn commit(gpu: &Gpu) {
    for quads in [1, 3, 63, 64, 65, 1009, 65_535 * 64 + 3] {
        for verdict in [APPLY, SKIP] {
            let (staged, committed) = (words(1, quads * 4), words(2, quads * 4));
            let state = gpu.upload("state", &[StepState { verdict, ..fresh(1.0) }]);
            let source = gpu.upload("staged", &staged);
            let target = gpu.upload("committed", &[&committed[..], &[9; 4]].concat());
            gpu.run(&Commit {
                params: CommitParams { quads: quads as u32 },
                state: state.as_entire_buffer_binding(),
                staged: source.as_entire_buffer_binding(),
                committed: target.as_entire_buffer_binding(),
            });
            let found: Vec<u32> = block_on(gpu.read(&target, 0, quads * 4 + 4)).expect("readable");
            let expected = reference::commit(verdict, &staged, &committed);
            assert!(found[..quads * 4] == expected, "{quads} quads, verdict {verdict}");
            assert_eq!(found[quads * 4..], [9; 4], "{quads} quads, past the end");
        }
    }
}

fn telemetry(gpu: &Gpu) {
    const CAPACITY: u32 = 3;
    let ring = gpu.buffer("ring", u64::from(CAPACITY) * size_of::<TelemetryRecord>() as u64);
    let finite = [1.5f32.to_bits(), 0x8000_0000, 1];
    let mut expected = [TelemetryRecord::default(); CAPACITY as usize];
    for (step, bits) in (0..).zip(finite.into_iter().chain(NONFINITE)) {
        let input = StepInput {
            seed: 3,
            step,
            microbatch: 1,
            learning_rate_factor: 1.0,
            first_microbatch: 0,
        };
        let state = StepState {
            loss_scale: 1024.0,
            applied_total: step + 100,
            skipped_total: step + 200,
            gradient_norm: if step % 2 == 0 { f32::INFINITY } else { 2.5 },
            clip_coefficient: 0.5,
            learning_rate: 0.125,
            verdict: step % 2,
            reason: 1 - step % 2,
            nonfinite_count: 7,
            zero_count: 8,
            max_norm: 9.0,
            step_loss_scale: 2048.0,
            skipped_in_row: 10,
            gave_up: 11,
            events: 12,
            event_value: 13.0,
            event_tensor: 14,
            ..fresh(1024.0)
        };
        let (inputs, states) = (gpu.upload("input", &[input]), gpu.upload("state", &[state]));
        let loss = gpu.upload("loss", &[bits]);
        gpu.run(&Telemetry {
            params: TelemetryParams { capacity: CAPACITY },
            input: inputs.as_entire_buffer_binding(),
            state: states.as_entire_buffer_binding(),
            loss: loss.as_entire_buffer_binding(),
            ring: ring.as_entire_buffer_binding(),
        });
        expected[(step % CAPACITY) as usize] = reference::telemetry(&input, &state, bits);
        let found: Vec<TelemetryRecord> =
            block_on(gpu.read(&ring, 0, CAPACITY as usize)).expect("readable");
        let (found, expected): (&[u32], &[u32]) =
            (bytemuck::cast_slice(&found), bytemuck::cast_slice(&expected));
        assert_eq!(found, expected, "step {step}, loss {bits:#x}");
    }
}

fn accumulate(gpu: &Gpu) {
    let tolerance = Tolerance {
        absolute: 1.3e-7,
        relative: 1.2e-7,
        because: "a product and a sum of values below 1, one f32 rounding each",
    };
    for size in [1, 3, 4, 255, 256, 257, 1009, 65_535 * 256 + 5] {
        let (x, before) = (values(1, size), values(2, size));
        for accumulate in [0, 1] {
            let factor = 1.0 / 3.0;
            let (gx, y) = (gpu.upload("x", &x), gpu.upload("y", &before));
            gpu.run(&Accumulate {
                params: AccumulateParams { quads: size.div_ceil(4) as u32, factor, accumulate },
                x: gx.as_entire_buffer_binding(),
                y: y.as_entire_buffer_binding(),
            });
            let before = (accumulate == 1).then(|| wide(&before));
            let expected = reference::accumulate(factor.into(), &wide(&x), before.as_deref());
            assert_close("accumulate", &read(gpu, &y)[..size], &expected, tolerance);
        }
    }
}
