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

rows! { add, activate, activate_backward }

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

/// Arguments from -20 to 20, tiny ones of both signs, and large ones of both signs.
fn sweep() -> Vec<f32> {
    let dense = (-20_000..=20_000).map(|i| i as f32 * 1e-3);
    let special = [0.0, 1e-30, 1e-6, 1e-3, 0.624_999, 0.625, 30.0, 88.0, 100.0, 1e4, 1e30];
    dense.chain(special).chain(special.map(|x| -x)).collect()
}

/// Every function of the family is exact but for a handful of f32 roundings and the driver's exp,
/// which WGSL allows 3 + 2|x| ULP; where the result is the product of x and a tail, exp(-87) at
/// most is lost.
const FUNCTION: Tolerance =
    Tolerance { absolute: 3e-7, relative: 6e-7, because: "a few roundings and one exp" };

fn activate(gpu: &Gpu) {
    let mut x = sweep();
    for kind in Activation::ALL {
        let y = run_activate(gpu, kind, &x);
        let expected = reference::elementwise::activate(kind, &wide(&x));
        assert_close(&format!("{kind:?}"), &y, &expected, FUNCTION);
        let tiny = run_activate(gpu, kind, &[1e-30, -1e-30]);
        let expected = reference::elementwise::activate(kind, &[1e-30, -1e-30]);
        let relative = Tolerance { absolute: 0.0, ..FUNCTION };
        assert_close(&format!("{kind:?} of tiny x"), &tiny, &expected, relative);
    }
    x = vec![f32::NAN; 5];
    for kind in Activation::ALL {
        let y = run_activate(gpu, kind, &x);
        assert!(y.iter().all(|y| y.is_nan()), "{kind:?} must not hide NaN: {y:?}");
    }
}

fn run_activate(gpu: &Gpu, kind: Activation, x: &[f32]) -> Vec<f32> {
    let input = gpu.upload("x", &pad(x, x.len()));
    let y = gpu.buffer("y", input.size());
    gpu.run(&Activate {
        params: ActivateParams { quads: x.len().div_ceil(4) as u32, kind: kind as u32 },
        x: input.as_entire_buffer_binding(),
        y: y.as_entire_buffer_binding(),
    });
    read(gpu, &y)[..x.len()].to_vec()
}

fn activate_backward(gpu: &Gpu) {
    let x = sweep();
    let dy = values(3, x.len());
    for kind in Activation::ALL {
        let (gx, gdy) = (gpu.upload("x", &pad(&x, x.len())), gpu.upload("dy", &pad(&dy, x.len())));
        let dx = gpu.buffer("dx", gx.size());
        gpu.run(&ActivateBackward {
            params: ActivateBackwardParams { quads: x.len().div_ceil(4) as u32, kind: kind as u32 },
            x: gx.as_entire_buffer_binding(),
            dy: gdy.as_entire_buffer_binding(),
            dx: dx.as_entire_buffer_binding(),
        });
        let expected = reference::elementwise::activate_backward(kind, &wide(&x), &wide(&dy));
        let what = format!("derivative of {kind:?}");
        assert_close(&what, &read(gpu, &dx)[..x.len()], &expected, FUNCTION);
    }
}
