//! Elementwise kernels. Sizes around the workgroup, a prime, and more than 65,535 workgroups.

use evenkeel::kernel::{Fragment, shared};
use evenkeel::kernels::*;
use evenkeel::{Gpu, Precision, kernel, reference};

use super::support::{self, Tolerance, assert_close, block_on, pad, read, unpad, values, wide};

tests! {
    shared_functions,
}

/// Elements: around a quad, around a workgroup of 64 quads, a prime.
const SIZES: &[usize] = &[1, 3, 4, 255, 256, 257, 1009];
/// Elements of more than 65,535 workgroups of 64 quads.
const HUGE: usize = 65_535 * 256 + 5;

const ROUNDING: Tolerance =
    Tolerance { absolute: 0.0, relative: 1.2e-7, because: "one f32 rounding" };

/// The functions are exact but for a handful of f32 roundings and the driver's exp, to which WGSL
/// allows 3 + 2|x| ULP.
const FUNCTION: Tolerance =
    Tolerance { absolute: 3e-7, relative: 6e-7, because: "a few roundings and one exp" };
/// `FUNCTION` times a factor of at most 40.
const PRODUCT: Tolerance = Tolerance { absolute: 1.2e-5, ..FUNCTION };

rows! {
    activate, activate_backward, add, broadcast_add, cast_from_f32, cast_to_f32, copy_quads,
    gated, gated_backward, multiply, scale, scale_columns, soft_cap, soft_cap_backward,
}

type Binding<'a> = wgpu::BufferBinding<'a>;

/// Uploads padded inputs of one size, runs with (quads, inputs, output), and gives the output of
/// the same size, which held garbage before.
fn apply(gpu: &Gpu, inputs: &[&[f32]], run: impl Fn(u32, &[Binding<'_>], Binding<'_>)) -> Vec<f32> {
    let size = inputs[0].len();
    let uploaded: Vec<_> = inputs.iter().map(|x| gpu.upload("input", &pad(x, size))).collect();
    let bindings: Vec<_> = uploaded.iter().map(|x| x.as_entire_buffer_binding()).collect();
    let output = gpu.upload("output", &vec![7.0f32; size.next_multiple_of(4)]);
    run(size.div_ceil(4) as u32, &bindings, output.as_entire_buffer_binding());
    unpad(&read(gpu, &output), size)
}

fn copy_quads(gpu: &Gpu) {
    for &size in SIZES {
        let x = values(1, size);
        let y = apply(gpu, &[&x], |quads, inputs, y| {
            gpu.run(&CopyQuads { params: CopyQuadsParams { quads }, x: inputs[0].clone(), y });
        });
        let expected = reference::elementwise::copy_quads(&wide(&x));
        assert_close("copy_quads", &y, &expected, Tolerance { relative: 0.0, ..ROUNDING });
    }
}

/// Every half with its neighbours and midpoints in f32, and what lies around the ends of f32.
fn conversion_inputs(precision: Precision) -> Vec<f32> {
    let halves = precision.decode(&(0..=u16::MAX).flat_map(u16::to_le_bytes).collect::<Vec<_>>());
    let digits = if precision == Precision::F16 { 12 } else { 15 };
    let around = |half: &f32| {
        let bits = half.to_bits();
        let midpoint = bits ^ (1 << digits);
        [bits, bits.wrapping_add(1), bits.wrapping_sub(1), midpoint, midpoint + 1, midpoint - 1]
    };
    let bits = halves.iter().filter(|half| half.is_finite()).flat_map(around);
    let special = [0x7f80_0000, 0x7fc0_0000, 0x7f80_0001, 0x7fa1_2345, 0x7f7f_ffff, 1, 0x007f_ffff];
    let special = special.into_iter().flat_map(|bits: u32| [bits, bits | 1 << 31]);
    let mut inputs: Vec<_> = bits.chain(special).map(f32::from_bits).collect();
    inputs.resize(inputs.len().next_multiple_of(4), 0.0);
    inputs
}

const HALVES: [Precision; 2] = [Precision::F16, Precision::Bf16];

fn u16s(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// The bits of the `half` crate, on every adapter.
fn cast_from_f32(gpu: &Gpu) {
    for precision in HALVES {
        let inputs = conversion_inputs(precision);
        let x = gpu.upload("x", &inputs);
        let y = gpu.buffer("y", inputs.len() as u64 * 2);
        let kernel = CastFromF32 {
            params: CastFromF32Params { quads: inputs.len() as u32 / 4 },
            x: x.as_entire_buffer_binding(),
            y: y.as_entire_buffer_binding(),
        };
        gpu.run_as(&kernel, precision);
        let bytes = block_on(gpu.read::<u8>(&y, 0, inputs.len() * 2)).unwrap();
        let exact = reference::elementwise::cast_from_f32(precision, &wide(&inputs));
        let expected = u16s(&precision.encode(&inputs));
        let values = precision.decode(&bytes);
        for (i, (&actual, &expected)) in u16s(&bytes).iter().zip(&expected).enumerate() {
            let x = inputs[i];
            assert_eq!(actual, expected, "{precision} of {x:e} ({:#x})", x.to_bits());
            let value = f64::from(values[i]);
            assert!(value == exact[i] || value.is_nan() && x.is_nan(), "{precision} of {x:e}");
        }
    }
}

fn cast_to_f32(gpu: &Gpu) {
    for precision in HALVES {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let x = gpu.upload("x", &bytes);
        let y = gpu.buffer("y", 4 * 65_536);
        let kernel = CastToF32 {
            params: CastToF32Params { quads: 65_536 / 4 },
            x: x.as_entire_buffer_binding(),
            y: y.as_entire_buffer_binding(),
        };
        gpu.run_as(&kernel, precision);
        let expected = precision.decode(&bytes);
        let exact = reference::elementwise::cast_to_f32(&wide(&expected));
        for (half, (actual, expected)) in read(gpu, &y).into_iter().zip(&expected).enumerate() {
            // What `pack` writes is never a signalling NaN.
            let quiet = !expected.is_nan() || half & 0x40 != 0 || precision == Precision::F16;
            let same = actual.to_bits() == expected.to_bits();
            assert!(same || (actual.is_nan() && expected.is_nan() && !quiet), "{half:#x}");
            assert!(f64::from(actual) == exact[half] || actual.is_nan(), "{half:#x}");
        }
    }
}

fn scale(gpu: &Gpu) {
    for &size in SIZES {
        for factor in [-3.7, 0.0, 1e-20] {
            let x = values(1, size);
            let y = apply(gpu, &[&x], |quads, inputs, y| {
                let params = ScaleParams { quads, factor };
                gpu.run(&Scale { params, x: inputs[0].clone(), y });
            });
            let expected = reference::elementwise::scale(f64::from(factor), &wide(&x));
            assert_close("scale", &y, &expected, ROUNDING);
        }
    }
}

fn multiply(gpu: &Gpu) {
    for &size in SIZES {
        let (a, b) = (values(1, size), values(2, size));
        let y = apply(gpu, &[&a, &b], |quads, inputs, y| {
            let params = MultiplyParams { quads };
            gpu.run(&Multiply { params, a: inputs[0].clone(), b: inputs[1].clone(), y });
        });
        let expected = reference::elementwise::multiply(&wide(&a), &wide(&b));
        assert_close("multiply", &y, &expected, ROUNDING);
    }
}

fn broadcast_add(gpu: &Gpu) {
    for (rows, period, cols) in [(1, 1, 1), (5, 1, 3), (12, 4, 5), (7, 3, 64), (66, 33, 257)] {
        let (x, b) = (values(1, rows * cols), values(2, period * cols));
        let (gx, gb) = (gpu.upload("x", &pad(&x, cols)), gpu.upload("b", &pad(&b, cols)));
        let y = gpu.upload("y", &vec![7.0f32; rows * cols.next_multiple_of(4)]);
        let quads = cols.div_ceil(4);
        gpu.run(&BroadcastAdd {
            params: BroadcastAddParams {
                quads: (rows * quads) as u32,
                period_quads: (period * quads) as u32,
            },
            x: gx.as_entire_buffer_binding(),
            b: gb.as_entire_buffer_binding(),
            y: y.as_entire_buffer_binding(),
        });
        let expected = reference::elementwise::broadcast_add(&wide(&x), &wide(&b));
        assert_close("broadcast_add", &unpad(&read(gpu, &y), cols), &expected, ROUNDING);
    }
}

/// (rows, columns, the first that are scaled, how many)
const COLUMN_RANGES: [(usize, usize, usize, usize); 6] =
    [(1, 1, 0, 1), (5, 7, 0, 7), (3, 12, 8, 4), (7, 300, 4, 256), (66, 257, 256, 1), (1, 8, 4, 4)];

fn scale_columns(gpu: &Gpu) {
    for (rows, cols, first, count) in COLUMN_RANGES {
        for (has_factor, has_bias) in [(1, 0), (1, 1), (0, 1), (0, 0)] {
            let x = values(1, rows * cols);
            let numerator = values(2, count);
            let mut divisor: Vec<_> = values(3, count).iter().map(|d| 1.5 + d).collect();
            // Where both are the same, the factor is 1, whatever they are.
            divisor[count / 2] = numerator[count / 2];
            let bias = values(4, cols);
            let [gx, gn, gd, gb] =
                [(&x, cols), (&numerator, count), (&divisor, count), (&bias, cols)]
                    .map(|(data, cols)| gpu.upload("input", &pad(data, cols)));
            let y = gpu.upload("y", &pad(&vec![7.0; rows * cols], cols));
            gpu.run(&ScaleColumns {
                params: ScaleColumnsParams {
                    rows: rows as u32,
                    row_quads: cols.div_ceil(4) as u32,
                    first_quad: first as u32 / 4,
                    quads: count.div_ceil(4) as u32,
                    has_factor,
                    has_bias,
                },
                x: gx.as_entire_buffer_binding(),
                numerator: gn.as_entire_buffer_binding(),
                divisor: gd.as_entire_buffer_binding(),
                bias: gb.as_entire_buffer_binding(),
                y: y.as_entire_buffer_binding(),
            });
            let factors = if has_factor == 1 { &numerator } else { &divisor };
            let mut expected = reference::elementwise::scale_columns(
                &wide(&x),
                cols,
                first,
                &wide(factors),
                &wide(&divisor),
            );
            if has_bias == 1 {
                expected = reference::elementwise::broadcast_add(&expected, &wide(&bias));
            }
            let is_scaled = |column: usize| (first..first + count).contains(&column);
            let all = expected.iter_mut().enumerate();
            all.filter(|(i, _)| !is_scaled(i % cols)).for_each(|(_, y)| *y = 7.0);
            let because = "a division to 2.5 ULP, a product and a sum";
            let allowed = Tolerance { absolute: 2e-7, relative: 6e-7, because };
            let actual = unpad(&read(gpu, &y), cols);
            assert_close("scale_columns", &actual, &expected, allowed);
            if has_bias == 0 {
                let same = (0..rows).map(|row| row * cols + first + count / 2);
                same.for_each(|i| assert_eq!(actual[i].to_bits(), x[i].to_bits()));
            }
        }
    }
    // A row of zeros with a magnitude of zero.
    let zeros = gpu.upload("zeros", &[0.0f32; 4]);
    let (x, y) = (gpu.upload("x", &[1.0f32, 2.0, 3.0, 4.0]), gpu.buffer("y", 16));
    gpu.run(&ScaleColumns {
        params: ScaleColumnsParams {
            rows: 1,
            row_quads: 1,
            first_quad: 0,
            quads: 1,
            has_factor: 1,
            has_bias: 0,
        },
        x: x.as_entire_buffer_binding(),
        numerator: zeros.as_entire_buffer_binding(),
        divisor: zeros.as_entire_buffer_binding(),
        bias: x.as_entire_buffer_binding(),
        y: y.as_entire_buffer_binding(),
    });
    assert_eq!(read(gpu, &y), [1.0, 2.0, 3.0, 4.0]);
}

fn soft_cap(gpu: &Gpu) {
    for cap in [0.5, 30.0] {
        let x = sweep();
        let y = apply(gpu, &[&x], |quads, inputs, y| {
            gpu.run(&SoftCap { params: SoftCapParams { quads, cap }, x: inputs[0].clone(), y });
        });
        let expected = reference::elementwise::soft_cap(f64::from(cap), &wide(&x));
        assert_close("soft_cap", &y, &expected, FUNCTION);
        assert!(y.iter().all(|y| y.abs() <= cap), "beyond the cap");
        // The cap hides no overflow.
        let y =
            apply(gpu, &[&[f32::INFINITY, 1e38, f32::NEG_INFINITY, f32::NAN]], |quads, x, y| {
                gpu.run(&SoftCap { params: SoftCapParams { quads, cap }, x: x[0].clone(), y });
            });
        assert_eq!([0, 1, 2, 3].map(|i| y[i].is_nan()), [true, false, true, true]);
    }
}

fn soft_cap_backward(gpu: &Gpu) {
    for cap in [0.5, 30.0] {
        let x = sweep();
        let dy = values(4, x.len());
        let dx = apply(gpu, &[&x, &dy], |quads, inputs, dx| {
            let params = SoftCapBackwardParams { quads, cap };
            let (x, dy) = (inputs[0].clone(), inputs[1].clone());
            gpu.run(&SoftCapBackward { params, x, dy, x_gradient: dx });
        });
        let (x, dy) = (wide(&x), wide(&dy));
        let expected = reference::elementwise::soft_cap_backward(f64::from(cap), &x, &dy);
        assert_close("soft_cap_backward", &dx, &expected, FUNCTION);
    }
}

/// Rows and hidden sizes of gated rows, with gates far into both tails.
const GATED: &[(usize, usize)] = &[(1, 4), (3, 8), (2, 256), (17, 12), (5, 1024)];

fn gate_and_up(rows: usize, hidden: usize) -> Vec<f32> {
    values(5, rows * 2 * hidden).iter().map(|x| 40.0 * x * x * x).collect()
}

/// All of SwiGLU, of the others some.
fn gated_cases() -> impl Iterator<Item = (Activation, usize, usize)> {
    Activation::ALL.into_iter().flat_map(|kind| {
        let sizes = if kind == Activation::Silu { GATED } else { &GATED[1..4] };
        sizes.iter().map(move |&(rows, hidden)| (kind, rows, hidden))
    })
}

fn gated(gpu: &Gpu) {
    for (kind, rows, hidden) in gated_cases() {
        let x = gate_and_up(rows, hidden);
        let gx = gpu.upload("x", &x);
        let y = gpu.upload("y", &vec![7.0f32; rows * hidden]);
        let hidden_quads = hidden as u32 / 4;
        let quads = rows as u32 * hidden_quads;
        gpu.run(&Gated {
            params: GatedParams { quads, hidden_quads, kind: kind as u32 },
            x: gx.as_entire_buffer_binding(),
            y: y.as_entire_buffer_binding(),
        });
        let expected = reference::elementwise::gated(kind, hidden, &wide(&x));
        assert_close(&format!("gated by {kind:?}"), &read(gpu, &y), &expected, PRODUCT);
    }
}

fn gated_backward(gpu: &Gpu) {
    for (kind, rows, hidden) in gated_cases() {
        let (x, dy) = (gate_and_up(rows, hidden), values(6, rows * hidden));
        let (gx, gdy) = (gpu.upload("x", &x), gpu.upload("dy", &dy));
        let dx = gpu.upload("dx", &vec![7.0f32; rows * 2 * hidden]);
        let hidden_quads = hidden as u32 / 4;
        let quads = rows as u32 * hidden_quads;
        gpu.run(&GatedBackward {
            params: GatedBackwardParams { quads, hidden_quads, kind: kind as u32 },
            x: gx.as_entire_buffer_binding(),
            dy: gdy.as_entire_buffer_binding(),
            x_gradient: dx.as_entire_buffer_binding(),
        });
        let expected = reference::elementwise::gated_backward(kind, hidden, &wide(&x), &wide(&dy));
        let what = format!("gated_backward by {kind:?}");
        assert_close(&what, &read(gpu, &dx), &expected, PRODUCT);
    }
}

fn add(gpu: &Gpu) {
    for &size in SIZES.iter().chain(&[HUGE]) {
        let (a, b) = (values(1, size), values(2, size));
        let y = apply(gpu, &[&a, &b], |quads, inputs, y| {
            let params = AddParams { quads };
            gpu.run(&Add { params, a: inputs[0].clone(), b: inputs[1].clone(), y });
        });
        let expected = reference::elementwise::add(&wide(&a), &wide(&b));
        assert_close("add", &y, &expected, ROUNDING);
    }
}

/// Arguments from -20 to 20, tiny ones of both signs, and large ones of both signs.
fn sweep() -> Vec<f32> {
    let dense = (-20_000..=20_000).map(|i| i as f32 * 1e-3);
    let special = [0.0, 1e-30, 1e-6, 1e-3, 0.624_999, 0.625, 30.0, 88.0, 100.0, 1e4, 1e30];
    dense.chain(special).chain(special.map(|x| -x)).collect()
}

fn activate(gpu: &Gpu) {
    let x = sweep();
    for kind in Activation::ALL {
        let y = run_activate(gpu, kind, &x);
        let expected = reference::elementwise::activate(kind, &wide(&x));
        assert_close(&format!("{kind:?}"), &y, &expected, FUNCTION);
        let tiny = run_activate(gpu, kind, &[1e-30, -1e-30]);
        let expected = reference::elementwise::activate(kind, &[1e-30, -1e-30]);
        let relative = Tolerance { absolute: 0.0, ..FUNCTION };
        assert_close(&format!("{kind:?} of tiny x"), &tiny, &expected, relative);
    }
    for kind in Activation::ALL {
        let y = run_activate(gpu, kind, &[f32::NAN; 5]);
        assert!(y.iter().all(|y| y.is_nan()), "{kind:?} must not hide NaN: {y:?}");
    }
}

fn run_activate(gpu: &Gpu, kind: Activation, x: &[f32]) -> Vec<f32> {
    apply(gpu, &[x], |quads, inputs, y| {
        let params = ActivateParams { quads, kind: kind as u32 };
        gpu.run(&Activate { params, x: inputs[0].clone(), y });
    })
}

fn activate_backward(gpu: &Gpu) {
    let x = sweep();
    let dy = values(3, x.len());
    for kind in Activation::ALL {
        let dx = apply(gpu, &[&x, &dy], |quads, inputs, dx| {
            let params = ActivateBackwardParams { quads, kind: kind as u32 };
            let (x, dy) = (inputs[0].clone(), inputs[1].clone());
            gpu.run(&ActivateBackward { params, x, dy, x_gradient: dx });
        });
        let expected = reference::elementwise::activate_backward(kind, &wide(&x), &wide(&dy));
        assert_close(&format!("derivative of {kind:?}"), &dx, &expected, FUNCTION);
    }
}

kernel! {
    /// Functions of the shared fragment that no kernel exposes by themselves.
    pub SharedFunction = [
        shared::ACTIVATION,
        Fragment {
            path: "shared_function.wgsl",
            text: "
                // y[i] = f(x[i]): 0 erf, 1 tanh, 2 sigmoid. One invocation per quad.
                struct SharedFunctionParams { quads: u32, function: u32 }
                @group(0) @binding(0) var<uniform> params: SharedFunctionParams;
                @group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
                @group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;
                @compute @workgroup_size(64)
                fn main(@builtin(global_invocation_id) id: vec3<u32>) {
                    if id.x < params.quads {
                        switch params.function {
                            case 0u: { y[id.x] = erf_accurate(x[id.x]); }
                            case 1u: { y[id.x] = tanh_accurate(x[id.x]); }
                            default: { y[id.x] = sigmoid(x[id.x]); }
                        }
                    }
                }",
        },
    ];
    workgroup [64, 1, 1];
    grid |params| evenkeel::kernel::grid(params.quads.div_ceil(64));
    uniform SharedFunctionParams {
        /// Quads.
        quads: u32,
        /// Which function.
        function: u32,
    }
    buffers {
        /// (quads)
        Read x,
        /// (quads), overwritten.
        Write y,
    }
}

type Function = fn(f64) -> f64;

/// Accurate relative to the result, so in the smallest arguments as well; sigmoid's lower tail has
/// the driver's exp in full, 3 + 2|x| ULP, and may be 0 below the smallest normal number.
fn shared_functions() {
    let Some(gpu) = support::gpu() else { return };
    // The functions map padding to other values than 0, so there is none.
    let mut x = sweep();
    x.resize(x.len().next_multiple_of(4), 1.0);
    let sigmoid = reference::elementwise::sigmoid;
    let functions: [(&str, Function, f64); 3] = [
        ("erf", reference::elementwise::erf, 3e-7),
        ("tanh", f64::tanh, 3e-7),
        ("sigmoid", sigmoid, 5e-6),
    ];
    for (function, (name, f, relative)) in (0..).zip(functions) {
        let y = apply(&gpu, &[&x], |quads, inputs, y| {
            let params = SharedFunctionParams { quads, function };
            gpu.run(&SharedFunction { params, x: inputs[0].clone(), y });
        });
        let expected: Vec<_> = x.iter().map(|&x| f(x.into())).collect();
        let because = "a few roundings, and one exp where sigmoid is small";
        let tolerance = Tolerance { absolute: 2e-38, relative, because };
        assert_close(name, &y, &expected, tolerance);
        assert!(y.iter().all(|y| y.abs() <= 1.0), "{name} beyond 1");
    }
}
