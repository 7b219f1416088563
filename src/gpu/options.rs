//! What a device is asked for beyond what every kernel may use.

/// How a [`Gpu`](crate::Gpu) is opened. All is off by default.
///
/// ```no_run
/// # async fn open() -> evenkeel::Result<()> {
/// use evenkeel::gpu::{Gpu, GpuOptions};
///
/// let gpu = Gpu::with(GpuOptions { cooperative_matrices: true }).await?;
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
}
