//! Elementwise kernels. Sizes around the workgroup, a prime, and more than 65,535 workgroups.

use evenkeel::kernels::*;
use evenkeel::{Gpu, reference};

use crate::support::{Tolerance, assert_close, pad, read, values, wide};

/// Elements: around a quad, around a workgroup of 64 quads, a prime.
const SIZES: &[usize] = &[1, 3, 4, 255, 256, 257, 1009];
/// Elements of more than 65,535 workgroups of 64 quads.
const HUGE: usize = 65_535 * 256 + 5;

const ROUNDING: Tolerance =
    Tolerance { absolute: 0.0, relative: 1.2e-7, because: "one f32 rounding" };

rows! { add }

fn add(gpu: &Gpu) {
    for &size in SIZES.iter().chain(&[HUGE]) {
        let (a, b) = (values(1, size), values(2, size));
        let (ga, gb) = (gpu.upload("a", &pad(&a, size)), gpu.upload("b", &pad(&b, size)));
        let y = gpu.buffer("y", ga.size());
        gpu.run(&Add {
            params: AddParams { quads: size.div_ceil(4) as u32 },
            a: ga.as_entire_buffer_binding(),
            b: gb.as_entire_buffer_binding(),
            y: y.as_entire_buffer_binding(),
        });
        let expected = reference::elementwise::add(&wide(&a), &wide(&b));
        assert_close("add", &read(gpu, &y)[..size], &expected, ROUNDING);
    }
}
