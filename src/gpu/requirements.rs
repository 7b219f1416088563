//! What a device must be asked for when it is made.

use super::Gpu;

/// What a device is asked for so that kernels take their fast paths on it: see
/// [`Gpu::requirements`].
#[derive(Clone, Debug, PartialEq)]
pub struct Requirements {
    /// Of what the adapter has: `SHADER_F16` for products of halves in halves, `SUBGROUP` and
    /// `SHADER_INT64` for the kernels of software drivers with subgroups of 8, `TIMESTAMP_QUERY` for
    /// [`Trainer::profile`](crate::train::Trainer::profile).
    pub features: wgpu::Features,
    /// Those of the adapter: the larger buffers and bindings are, the larger a value may be, and the
    /// fewer parts parameters lie in.
    pub limits: wgpu::Limits,
}

impl Requirements {
    /// Features that kernels or the profiler use where they are there.
    const FEATURES: wgpu::Features = wgpu::Features::SHADER_F16
        .union(wgpu::Features::SHADER_INT64)
        .union(wgpu::Features::SUBGROUP)
        .union(wgpu::Features::TIMESTAMP_QUERY);

    /// The same with [cooperative matrices](crate::kernel::CooperativeMatrix), where the adapter has
    /// them. wgpu calls them experimental: there may be errors in it that make correct shaders do
    /// what they should not, which a device that has not asked for them does not risk. A device that
    /// was made with them uses them after `Gpu::admit_cooperative_matrices`. Browsers have none.
    pub fn with_cooperative_matrices(mut self, adapter: &wgpu::Adapter) -> Self {
        self.features |= adapter.features() & wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        self
    }

    /// A description of a device with these, for [`wgpu::Adapter::request_device`].
    pub fn descriptor(&self) -> wgpu::DeviceDescriptor<'static> {
        let matrices = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        wgpu::DeviceDescriptor {
            label: Some("evenkeel"),
            required_features: self.features,
            required_limits: self.limits.clone(),
            experimental_features: match self.features.contains(matrices) {
                true => experimental_features(),
                false => wgpu::ExperimentalFeatures::disabled(),
            },
            ..Default::default()
        }
    }
}

impl Gpu {
    /// What to ask an adapter for when making a device for [`from_device`](Self::from_device): all
    /// that [`from_adapter`](Self::from_adapter) asks for. None of it is more than the adapter has.
    /// A device made with less works, as long as it has WebGPU's default limits, but without the
    /// fast paths; what another program wants of the same device may be added.
    pub fn requirements(adapter: &wgpu::Adapter) -> Requirements {
        Requirements {
            features: adapter.features() & Requirements::FEATURES,
            limits: adapter.limits(),
        }
    }
}

/// What wgpu wants to be told before it gives a device with experimental features.
#[allow(unsafe_code, reason = "wgpu marks the acknowledgement so; nothing else here is unsafe")]
fn experimental_features() -> wgpu::ExperimentalFeatures {
    // SAFETY: the function does nothing but keep a word for true. Who calls it acknowledges that
    // wgpu's code behind experimental features may have errors: whoever asks for cooperative matrices
    // has read so at `Requirements::with_cooperative_matrices`, and the only shaders here that use
    // them load and store within arrays of workgroup memory whose sizes are constants.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}
