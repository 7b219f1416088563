//! What a device is asked for beyond what every kernel may use.

use super::Gpu;
use crate::error::Result;

/// How a [`Gpu`] is opened. All is off by default.
///
/// ```no_run
/// # async fn open() -> evenkeel::Result<()> {
/// use evenkeel::gpu::{Gpu, GpuOptions};
///
/// let options = GpuOptions { cooperative_matrices: true, ..GpuOptions::default() };
/// let gpu = Gpu::with(options).await?;
/// for refused in &gpu.cooperative_matrices().refused {
///     eprintln!("{refused}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GpuOptions {
    /// Multiplies by a GPU's matrix units where it has [those](crate::kernel::CooperativeMatrix)
    /// that products can use and they pass a self-test: in f16 where tensors are stored in f16, in
    /// f32 where they are stored in f32. Sums are f32. A feature of wgpu that is experimental: see
    /// [`Requirements::with_cooperative_matrices`](super::Requirements::with_cooperative_matrices).
    pub cooperative_matrices: bool,
    /// Converts f16 by integer operations alone. Without it kernels use the device's own conversions
    /// where [those](crate::kernel::HalfConversions) pass a
    /// [self-test](Gpu::admit_half_conversions), with the same bits: this is a way around a driver
    /// that passes it and then converts differently in some kernel.
    pub integer_halves: bool,
}

impl Gpu {
    /// [`new`](Self::new) with options.
    ///
    /// # Errors
    /// As [`new`](Self::new) and [`from_adapter_with`](Self::from_adapter_with).
    pub async fn with(options: GpuOptions) -> Result<Self> {
        let descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
        let instance = wgpu::Instance::new(descriptor);
        let adapter = super::adapter::find(&instance).await?;
        Self::from_adapter_with(&adapter, options).await
    }

    /// [`from_adapter`](Self::from_adapter) with options. Cooperative matrices that the adapter does
    /// not have, or that fail the self-test, are no error: products go without them, and
    /// [`cooperative_matrices`](Self::cooperative_matrices) says why.
    ///
    /// # Errors
    /// [`Error::NoDevice`](crate::Error::NoDevice) if the driver refuses,
    /// [`Error::DeviceLost`](crate::Error::DeviceLost) if the device dies of the self-test.
    pub async fn from_adapter_with(adapter: &wgpu::Adapter, options: GpuOptions) -> Result<Self> {
        let mut requirements = Self::requirements(adapter);
        if options.cooperative_matrices {
            requirements = requirements.with_cooperative_matrices(adapter);
        }
        let gpu = Self::requested(adapter, &requirements, options).await?;
        #[cfg(not(target_arch = "wasm32"))]
        if options.cooperative_matrices {
            gpu.admit_cooperative_matrices(adapter).await?;
        }
        Ok(gpu)
    }
}
