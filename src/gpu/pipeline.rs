//! From a kernel's declaration to its pipeline.

use crate::kernel::{Access, Declaration, Variant};

/// Compiles a kernel with an explicit layout: the uniform at binding 0, then its buffers.
pub(super) fn build(
    device: &wgpu::Device,
    kernel: &Declaration,
    variant: Variant,
    overrides: &[u32],
) -> wgpu::ComputePipeline {
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
    let label = Some(kernel.name);
    let group = device
        .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
    let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label,
        bind_group_layouts: &[Some(&group)],
        immediate_size: 0,
    });
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label,
        source: wgpu::ShaderSource::Wgsl(kernel.source_of(variant).into()),
    });
    let constants: Vec<_> =
        kernel.overrides.iter().zip(overrides).map(|(&name, &v)| (name, f64::from(v))).collect();
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label,
        layout: Some(&layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &constants,
            ..Default::default()
        },
        cache: None,
    })
}
