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

    /// A description of a device with these, for [`wgpu::Adapter::request_device`].
    pub fn descriptor(&self) -> wgpu::DeviceDescriptor<'static> {
        wgpu::DeviceDescriptor {
            label: Some("evenkeel"),
            required_features: self.features,
            required_limits: self.limits.clone(),
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
