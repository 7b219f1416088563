//! From a kernel's declaration to its pipeline.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use web_time::Instant;

use super::compilation::Compilation;
use crate::kernel::{Access, Declaration, Variant};

/// A kernel for a device. What binds its buffers is there at once; its pipeline, which takes
/// drivers long, is made by whoever asks for it first, or ahead, in a thread.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub kernel: Declaration,
    pub variant: Variant,
    pub overrides: Vec<u32>,
    /// The uniform at binding 0, then its buffers.
    pub bindings: wgpu::BindGroupLayout,
    device: wgpu::Device,
    layout: wgpu::PipelineLayout,
    compilation: Arc<Compilation>,
    made: OnceLock<wgpu::ComputePipeline>,
    /// Held by the thread that makes it.
    making: Mutex<()>,
}

impl Pipeline {
    pub fn new(
        device: &wgpu::Device,
        compilation: &Arc<Compilation>,
        kernel: &Declaration,
        variant: Variant,
        overrides: &[u32],
    ) -> Self {
        compilation.ask();
        let label = Some(kernel.name);
        let bindings = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label,
            entries: &entries(kernel),
        });
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&bindings)],
            immediate_size: 0,
        });
        Self {
            kernel: *kernel,
            variant,
            overrides: overrides.to_vec(),
            bindings,
            device: device.clone(),
            layout,
            compilation: Arc::clone(compilation),
            made: OnceLock::new(),
            making: Mutex::default(),
        }
    }

    /// The compiled pipeline: made here, unless a thread has, or is at it, which is waited for.
    pub fn get(&self) -> &wgpu::ComputePipeline {
        self.made.get().unwrap_or_else(|| {
            let begun = Instant::now();
            let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            self.made.get_or_init(|| {
                let pipeline = self.build();
                self.compilation.tell(self, begun.elapsed());
                pipeline
            })
        })
    }

    /// Makes it ahead, in what began then. What the device refuses is left undone, and nobody is
    /// told: errors go to the scopes of the thread that they come up in, so whoever asks for the
    /// pipeline makes it again, and hears of them.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn make(&self, begun: Instant) {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_made() {
            return;
        }
        if let Some(pipeline) = unless_refused(&self.device, || self.build()) {
            self.made.set(pipeline).unwrap_or(());
            self.compilation.tell(self, begun.elapsed());
        }
    }

    /// Whether it is made.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn is_made(&self) -> bool {
        self.made.get().is_some()
    }

    /// The same for another device, of the same adapter.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn on(&self, device: &wgpu::Device) -> Self {
        Self::new(device, &Arc::default(), &self.kernel, self.variant, &self.overrides)
    }

    /// Hands it to the browser, which makes it behind what it was handed before. Nobody is told.
    #[cfg(target_arch = "wasm32")]
    pub fn hand_over(&self) {
        self.made.get_or_init(|| self.build());
    }

    /// Tells that it is made, which took so long.
    #[cfg(target_arch = "wasm32")]
    pub fn tell(&self, time: std::time::Duration) {
        self.compilation.tell(self, time);
    }

    fn build(&self) -> wgpu::ComputePipeline {
        let label = Some(self.kernel.name);
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label,
            source: wgpu::ShaderSource::Wgsl(self.kernel.source_of(self.variant).into()),
        });
        let constants = self.kernel.overrides.iter().zip(&self.overrides);
        let constants: Vec<_> = constants.map(|(&name, &v)| (name, f64::from(v))).collect();
        self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&self.layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                ..Default::default()
            },
            cache: None,
        })
    }
}

fn entries(kernel: &Declaration) -> Vec<wgpu::BindGroupLayoutEntry> {
    let entry = |binding, ty, size| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        count: None,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: size },
    };
    let uniform_size = std::num::NonZeroU64::new(kernel.uniform_size as u64);
    let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform, uniform_size)];
    for (binding, &(_, access)) in (1..).zip(kernel.buffers) {
        let ty = wgpu::BufferBindingType::Storage { read_only: access == Access::Read };
        entries.push(entry(binding, ty, None));
    }
    entries
}

/// What `make` makes, if the device has nothing against it. Natively a scope tells at once, and has
/// the errors of its own thread only.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn unless_refused<T>(device: &wgpu::Device, make: impl FnOnce() -> T) -> Option<T> {
    use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
    let scopes = [Validation, OutOfMemory, Internal].map(|filter| device.push_error_scope(filter));
    let made = make();
    let errors = scopes.into_iter().rev().map(|scope| pollster::block_on(scope.pop()));
    (errors.flatten().count() == 0).then_some(made)
}
