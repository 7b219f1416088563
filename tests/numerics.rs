//! `Gpu::numerics` on the adapter at hand: what must hold everywhere, and what is known of single
//! drivers, so that a probe that finds something else is wrong.

#[macro_use]
mod support;

use evenkeel::Gpu;
use evenkeel::gpu::{
    Arithmetic, Compensation, Conversions, NonFiniteTests, Numerics, Outcome, Overflow, Reductions,
    Subnormals,
};
use evenkeel::kernels::ProbeOperation;
use support::{block_on, gpu};

tests! {
    what_training_relies_on_holds, errors_are_those_of_f32, known_drivers_are_found_as_they_are,
    a_device_with_default_limits_is_enough, asking_twice_gives_the_same_answers,
    products_of_hardware_adapters_are_exact,
}

fn numerics() -> Option<Numerics> {
    let gpu = gpu()?;
    Some(block_on(gpu.numerics()).expect("an adapter that runs kernels"))
}

/// Every question, in order.
const NAMES: [&str; 28] = [
    "NaN and Inf in bits",
    "NaN and Inf as floats",
    "NaN in arithmetic",
    "overflow",
    "subnormals",
    "special values",
    "x + y",
    "x y",
    "x / y",
    "exp",
    "exp2",
    "log",
    "log2",
    "log(1 + x), own",
    "tanh",
    "tanh, own",
    "sqrt",
    "inverseSqrt",
    "f16 and bf16, own",
    "f16 by pack2x16float",
    "u32 to f32",
    "compensation",
    "reductions",
    "matrix products",
    "races",
    "f16 arithmetic",
    "subgroups",
    "limits",
];

/// What training relies on. The unit tests of the library plant a fault in each answer and see it.
fn what_training_relies_on_holds() {
    let Some(numerics) = numerics() else { return };
    let names: Vec<_> = numerics.checks.iter().map(|check| check.name).collect();
    assert_eq!(names, NAMES);
    for check in &numerics.checks {
        assert!(check.outcome < Outcome::Fail, "{check:?}");
        assert!(!check.found.is_empty() && !check.consequence.is_empty(), "{check:?}");
    }
    // Quiet and signalling NaN, Inf, MAX, subnormals, zeros, of both signs.
    assert!(numerics.non_finite.bits && numerics.non_finite.loaded_bits);
    assert!(numerics.conversions.own_exact);
    let all = Reductions { integers: true, floats: true, atomics: true };
    assert_eq!(numerics.reductions, all);
    assert!(numerics.races.repeats >= 8);
    assert_eq!((numerics.races.differing, numerics.races.wrong), (0, 0));
    assert!(numerics.outcome() < Outcome::Fail);
    assert_eq!(numerics.check("races").map(|check| check.outcome), Some(Outcome::Pass));
    assert!(numerics.check("luck").is_none());
}

/// Errors that are 0 everywhere, or the same for all functions, would be those of a broken probe.
fn errors_are_those_of_f32() {
    let Some(numerics) = numerics() else { return };
    let accuracy = &numerics.arithmetic.accuracy;
    assert_eq!(accuracy.len(), ProbeOperation::ALL.len());
    for (found, operation) in accuracy.iter().zip(ProbeOperation::ALL) {
        assert_eq!(found.operation, operation);
        let [low, high] = match operation {
            ProbeOperation::Copy => [0.0, 0.0],
            ProbeOperation::ProductError => continue,
            // Rounding alone is nearly half a ULP at worst over 2,000 operands.
            ProbeOperation::Add | ProbeOperation::Multiply => [0.49, 1.0],
            ProbeOperation::Divide | ProbeOperation::InverseSqrt => [0.49, 3.0],
            ProbeOperation::LogOnePlus | ProbeOperation::TanhAccurate => [0.49, 8.0],
            _ => [0.49, 1e9],
        };
        assert!((low..=high).contains(&found.worst_ulp), "{found:?}");
    }
}

/// What is known of one driver.
struct Known {
    /// A part of the adapter's name, and one of the driver's version.
    name: [&'static str; 2],
    non_finite: NonFiniteTests,
    arithmetic: Arithmetic,
    conversions: Conversions,
    compensation: Compensation,
    features: [bool; 2],
    /// tanh(100), log(0)
    values: [f32; 2],
}

fn known() -> [Known; 3] {
    let folded = NonFiniteTests {
        bits: true,
        loaded_bits: true,
        comparison: false,
        magnitude: true,
        clamp: false,
        difference: false,
    };
    let exact = Conversions {
        own_exact: true,
        pack_nearest: true,
        pack_keeps_subnormals: true,
        pack_overflows_to_infinity: true,
        unpack_exact: true,
        unpack_keeps_subnormals: true,
        integers_nearest: true,
    };
    let kept = Subnormals { copied: true, added: true, multiplied: true, divided: true };
    let flushed = Subnormals { copied: true, added: false, multiplied: false, divided: false };
    let arithmetic = Arithmetic {
        accuracy: Vec::new(),
        hides_nan: Vec::new(),
        overflow: Overflow::Infinity,
        subnormals: kept,
        wrong_values: Vec::new(),
        fma_is_fused: false,
    };
    let lavapipe = |version| Known {
        name: ["llvmpipe", version],
        non_finite: folded,
        arithmetic: arithmetic.clone(),
        conversions: exact,
        compensation: Compensation {
            kahan: false,
            two_sum: false,
            guarded: true,
            fma_is_fused: false,
        },
        features: [true, true],
        values: [1.0, f32::NEG_INFINITY],
    };
    let swiftshader = Known {
        name: ["SwiftShader", ""],
        non_finite: folded,
        arithmetic: Arithmetic {
            hides_nan: vec![ProbeOperation::Log],
            subnormals: flushed,
            ..arithmetic.clone()
        },
        conversions: Conversions {
            pack_keeps_subnormals: false,
            pack_overflows_to_infinity: false,
            integers_nearest: false,
            ..exact
        },
        compensation: Compensation {
            kahan: true,
            two_sum: true,
            guarded: true,
            fma_is_fused: false,
        },
        features: [false, true],
        values: [f32::NAN, -88.029_69],
    };
    [lavapipe("Mesa 22"), lavapipe("Mesa 25"), swiftshader]
}

/// A value that the adapter gets wrong, else the right one.
fn value(numerics: &Numerics, operation: ProbeOperation, x: f32, right: f32) -> f32 {
    let mut wrong = numerics.arithmetic.wrong_values.iter();
    let found = wrong.find(|value| value.operation == operation && value.operands[0] == x);
    found.map_or(right, |value| value.result)
}

fn known_drivers_are_found_as_they_are() {
    let Some(numerics) = numerics() else { return };
    let adapter = &numerics.adapter;
    let is_known = |known: &Known| {
        adapter.backend == wgpu::Backend::Vulkan
            && adapter.name.contains(known.name[0])
            && adapter.driver_info.contains(known.name[1])
    };
    let Some(known) = known().into_iter().find(is_known) else {
        eprintln!("nothing is known of {adapter:?}");
        return;
    };
    assert_eq!(numerics.non_finite, known.non_finite);
    assert_eq!(numerics.conversions, known.conversions);
    assert_eq!(numerics.compensation, known.compensation);
    assert_eq!([numerics.f16, numerics.subgroups], known.features);
    let found = &numerics.arithmetic;
    assert_eq!(found.hides_nan, known.arithmetic.hides_nan);
    assert_eq!(found.overflow, known.arithmetic.overflow);
    assert_eq!(found.subnormals, known.arithmetic.subnormals);
    assert_eq!(found.fma_is_fused, known.arithmetic.fma_is_fused);
    let tanh = value(&numerics, ProbeOperation::Tanh, 100.0, 1.0);
    let log = value(&numerics, ProbeOperation::Log, 0.0, f32::NEG_INFINITY);
    for (found, known) in [tanh, log].into_iter().zip(known.values) {
        assert!(found == known || (found.is_nan() && known.is_nan()), "{found}, {known} is known");
    }
    for accuracy in &found.accuracy {
        let unfused = accuracy.operation == ProbeOperation::ProductError;
        assert!(accuracy.worst_share <= 1.0 || unfused, "{accuracy:?}");
    }
    // Not checked one by one above.
    let others = found
        .wrong_values
        .iter()
        .filter(|value| !matches!(value.operation, ProbeOperation::Tanh | ProbeOperation::Log));
    assert_eq!(others.count(), 0, "{:?}", found.wrong_values);
}

fn a_device_with_default_limits_is_enough() {
    let Some((device, queue, info)) = support::device(wgpu::Limits::default()) else { return };
    let gpu = Gpu::from_device(device, queue, info);
    let numerics = block_on(gpu.numerics()).expect("the defaults are enough");
    assert!(!numerics.f16 && !numerics.subgroups, "features that were not asked for");
    let outcome = |name| numerics.check(name).map(|check| check.outcome);
    assert_eq!(outcome("f16 arithmetic"), Some(Outcome::Degraded));
    assert_eq!(outcome("limits"), Some(Outcome::Pass));
    assert!(numerics.outcome() < Outcome::Fail);
}

/// A page gives no device less than WebGPU's default limits.
#[test]
fn a_device_that_cannot_run_the_kernels_is_refused() {
    let limits = wgpu::Limits { max_storage_buffers_per_shader_stage: 4, ..Default::default() };
    let Some((device, queue, info)) = support::device(limits) else { return };
    let error = block_on(Gpu::from_device(device, queue, info).numerics()).expect_err("too small");
    let evenkeel::Error::Limit { limit, available, .. } = error else { panic!("{error}") };
    assert_eq!((limit, available), ("maxStorageBuffersPerShaderStage", 4));
}

fn asking_twice_gives_the_same_answers() {
    let (Some(first), Some(second)) = (numerics(), numerics()) else { return };
    assert_eq!(first.checks, second.checks);
    assert_eq!(first.arithmetic.accuracy, second.arithmetic.accuracy);
}

/// Executors with several threads move futures. In a page there is one thread.
#[test]
fn the_future_can_be_sent() {
    fn send<T: Send>(future: T) -> T {
        future
    }
    let Some(gpu) = gpu() else { return };
    block_on(send(gpu.numerics())).expect("numbers");
}

#[test]
fn speed_is_plausible() {
    let Some(gpu) = gpu() else { return };
    let speed = block_on(gpu.speed()).expect("measured");
    assert_eq!(speed.software, gpu.is_software());
    // A slow software driver, and more than any GPU has.
    assert!((1e7..1e14).contains(&speed.copy_bytes_per_second), "{speed:?}");
    assert!((1e7..1e16).contains(&speed.product_operations_per_second), "{speed:?}");
    let expected = if speed.software { Outcome::Degraded } else { Outcome::Pass };
    assert!(speed.checks().iter().all(|check| check.outcome == expected));
}

/// One line for each kernel that training takes where shaders do not run on a CPU.
fn products_of_hardware_adapters_are_exact() {
    let Some(gpu) = support::gpu_with_hardware_kernels() else { return };
    let numerics = block_on(gpu.numerics()).expect("an adapter that runs kernels");
    assert_eq!(numerics.products.wrong, Vec::<String>::new());
    assert_eq!(numerics.products.kernels, 9, "three products in tiles of three sizes");
}
