//! What every GPU test needs: an adapter, data, and comparison with a named tolerance.
//!
//! Tests are listed with [`tests!`], so that `tests/browser` can run the same functions in a page:
//! there is no test harness for browsers, and nothing may block, so they wait with [`block_on`].
#![allow(dead_code, unused_imports, unused_macros, reason = "each test binary uses its share")]

/// Makes each function a test, and the list of them.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        #[cfg(test)]
        mod test {
            $(#[test]
            fn $name() {
                super::$name();
            })*
        }

        /// Names and functions of all tests, for programs without a test harness.
        #[allow(dead_code, reason = "this program has a harness")]
        pub const TESTS: &[(&str, fn())] = &[$((stringify!($name), $name)),*];
    };
}

pub mod adapter_cases;
pub mod cases;
pub mod edited;
pub mod files;
pub mod models;
pub mod parted;
pub mod recorded;
pub mod uneven;

use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(target_arch = "wasm32")]
pub use crate::suspend::block_on;
use evenkeel::Gpu;
#[cfg(not(target_arch = "wasm32"))]
pub use pollster::block_on;

/// A [`Gpu`] that is made once: for all threads of a program, or for the one of a page, where it
/// cannot be sent to others.
macro_rules! once {
    ($make:expr) => {{
        #[cfg(not(target_arch = "wasm32"))]
        {
            static GPU: std::sync::OnceLock<Option<Gpu>> = std::sync::OnceLock::new();
            GPU.get_or_init($make).clone()
        }
        #[cfg(target_arch = "wasm32")]
        {
            thread_local! {
                static GPU: std::cell::OnceCell<Option<Gpu>> = const { std::cell::OnceCell::new() };
            }
            GPU.with(|gpu| gpu.get_or_init($make).clone())
        }
    }};
}

/// The adapter of the environment, or `None` where there is none and none is required. A page
/// requires one.
pub fn gpu() -> Option<Gpu> {
    once!(make_gpu)
}

fn make_gpu() -> Option<Gpu> {
    let is_required =
        cfg!(target_arch = "wasm32") || std::env::var_os("EVENKEEL_REQUIRE_GPU").is_some();
    match block_on(Gpu::new()) {
        Ok(gpu) => Some(gpu),
        Err(error) if is_required => panic!("{error}"),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// The same device with the kernels that hardware adapters get: matrix products and attention through
/// workgroup memory, 64 invocations to a row.
pub fn gpu_with_hardware_kernels() -> Option<Gpu> {
    once!(|| {
        let Gpu { device, queue, info, .. } = gpu()?;
        let info = wgpu::AdapterInfo { device_type: wgpu::DeviceType::DiscreteGpu, ..info };
        let gpu = Gpu::from_device(device, queue, info);
        assert!(!gpu.is_software());
        Some(gpu)
    })
}

/// A device of its own, with the kernels that hardware adapters get.
pub fn own_gpu_with_hardware_kernels() -> Option<Gpu> {
    gpu()?;
    let mut own = block_on(Gpu::new()).expect("another device of the adapter");
    own.info.device_type = wgpu::DeviceType::DiscreteGpu;
    Some(own)
}

/// A device that no other test uses meanwhile, so that its counters count for one test alone.
pub struct Exclusive {
    gpu: Gpu,
    _guard: MutexGuard<'static, ()>,
}

impl Exclusive {
    /// Makes `gpu` exclusive among the tests that go through here.
    pub fn new(gpu: Gpu) -> Self {
        static LOCK: Mutex<()> = Mutex::new(());
        // A test that failed holding it has broken nothing that the next one relies on.
        Self { gpu, _guard: LOCK.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

impl Deref for Exclusive {
    type Target = Gpu;

    fn deref(&self) -> &Gpu {
        &self.gpu
    }
}

/// A device of the adapter of the environment beside that of [`gpu`], which other tests use at the
/// same time; in a page, where tests follow each other, the same.
pub fn exclusive_gpu() -> Option<Exclusive> {
    let gpu = if cfg!(target_arch = "wasm32") { gpu() } else { once!(make_gpu) };
    gpu.map(Exclusive::new)
}

/// The adapter of the environment, asked for with wgpu alone.
pub fn adapter() -> Option<wgpu::Adapter> {
    // Skips or fails as the others do where there is no adapter.
    let wanted = gpu()?.info;
    let instance =
        wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapters = block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let adapter = adapters.into_iter().find(|adapter| adapter.get_info() == wanted);
    Some(adapter.expect("the adapter of the environment"))
}

/// A device of the same adapter with the given limits, made with wgpu alone.
pub fn device(limits: wgpu::Limits) -> Option<(wgpu::Device, wgpu::Queue, wgpu::AdapterInfo)> {
    let adapter = adapter()?;
    let descriptor = wgpu::DeviceDescriptor { required_limits: limits, ..Default::default() };
    let (device, queue) = block_on(adapter.request_device(&descriptor)).expect("a device");
    Some((device, queue, adapter.get_info()))
}

/// A device of the same adapter whose bindings hold so many bytes. Not in pages, which give no device
/// less than WebGPU's default limits: tests that need one are `#[test]` and not among [`tests!`].
#[cfg(not(target_arch = "wasm32"))]
pub fn gpu_with_bindings(largest: u64) -> Option<Gpu> {
    let limits =
        wgpu::Limits { max_storage_buffer_binding_size: largest, ..wgpu::Limits::default() };
    let (device, queue, info) = device(limits)?;
    let gpu = Gpu::from_device(device, queue, info);
    assert_eq!(gpu.largest_binding(), largest);
    Some(gpu)
}

/// `count` values in [-1, 1), the same for the same seed (a 64-bit linear congruence).
pub fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1u64 << 23) as f32) - 1.0
        })
        .collect()
}

/// `count` token ids below `bound`.
pub fn tokens(seed: u64, count: usize, bound: u32) -> Vec<u32> {
    let unit = values(seed, count).into_iter().map(|x| (x + 1.0) / 2.0);
    unit.map(|x| ((x * bound as f32) as u32).min(bound - 1)).collect()
}

/// Dense (rows, cols) to rows of quads, padded with zeros.
pub fn pad(dense: &[f32], cols: usize) -> Vec<f32> {
    let mut padded = Vec::new();
    for row in dense.chunks(cols) {
        padded.extend_from_slice(row);
        padded.resize(padded.len().next_multiple_of(4), 0.0);
    }
    padded
}

/// Rows of quads to dense (rows, cols); panics where the padding is not zero.
pub fn unpad(padded: &[f32], cols: usize) -> Vec<f32> {
    let mut dense = Vec::new();
    for (r, row) in padded.chunks(cols.next_multiple_of(4)).enumerate() {
        dense.extend_from_slice(&row[..cols]);
        assert!(row[cols..].iter().all(|x| x.to_bits() == 0), "padding of row {r}: {row:?}");
    }
    dense
}

/// f32 to f64, for the reference.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// Reads a whole buffer of f32.
pub fn read(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<f32> {
    block_on(gpu.read(buffer, 0, buffer.size() as usize / 4)).expect("readable")
}

/// Allowed error |actual - expected| <= absolute + relative * |expected|, and where it comes from.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub absolute: f64,
    pub relative: f64,
    pub because: &'static str,
}

/// Compares with a tolerance; a NaN or Inf that the reference does not have fails.
#[track_caller]
pub fn assert_close(what: &str, actual: &[f32], expected: &[f64], tolerance: Tolerance) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    let Tolerance { absolute, relative, because } = tolerance;
    for (i, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(a) - e).abs();
        assert!(
            error <= absolute + relative * e.abs(),
            "{what}[{i}]: {a} instead of {e}, error {error:.3e}, allowed {absolute:e} + \
             {relative:e} relative ({because})"
        );
    }
}
