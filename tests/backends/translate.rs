//! A kernel as wgpu 30 translates it for each backend: naga's writers with the options, bindings
//! and checks that wgpu-hal gives them for a module that is not trusted.

use evenkeel::kernel::{Access, Declaration};
use naga::back::{PipelineConstants, glsl, hlsl, msl, pipeline_constants, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{Module, ResourceBinding, ShaderStage};

use crate::cases::Case;

const ENTRY_POINT: &str = "main";
const STAGE: ShaderStage = ShaderStage::Compute;

/// A validated module without overrides.
pub struct Shader<'a> {
    pub module: Module,
    pub info: ModuleInfo,
    kernel: &'a Declaration,
    needs_f16: bool,
    needs_matrices: bool,
}

/// What wgpu finds out about a Vulkan driver and lets its translation depend on.
pub struct Vulkan {
    pub spirv: (u8, u8),
    /// Whether the driver clamps accesses to buffers.
    pub robust: bool,
    /// Whether it clears workgroup memory.
    pub clears_workgroup_memory: bool,
}

impl<'a> Shader<'a> {
    /// Parses, validates with the features of the variant alone, and puts the constants in.
    pub fn new(case: &'a Case) -> Result<Self, String> {
        let source = case.kernel.source_of(case.variant);
        let names = case.kernel.overrides.iter().map(|&name| name.to_owned());
        let constants = names.zip(case.overrides.iter().map(|&value| f64::from(value))).collect();
        let (module, info) =
            resolve_with(&source, case.needs_f16(), case.capabilities(), &constants)?;
        let needs_matrices = case.variant.cooperative.is_some();
        Ok(Self { module, info, kernel: case.kernel, needs_f16: case.needs_f16(), needs_matrices })
    }

    pub fn spirv(&self, vulkan: &Vulkan) -> Result<Vec<u8>, String> {
        let mut capabilities = vec![
            spv::Capability::Shader,
            spv::Capability::Matrix,
            spv::Capability::Sampled1D,
            spv::Capability::Image1D,
            spv::Capability::ImageQuery,
            spv::Capability::DerivativeControl,
            spv::Capability::StorageImageExtendedFormats,
        ];
        capabilities.extend(self.needs_f16.then_some(spv::Capability::Float16));
        if self.needs_matrices {
            capabilities.extend([
                spv::Capability::CooperativeMatrixKHR,
                spv::Capability::VulkanMemoryModel,
                spv::Capability::GroupNonUniform,
                spv::Capability::GroupNonUniformArithmetic,
                spv::Capability::GroupNonUniformBallot,
            ]);
        }
        let buffer =
            if vulkan.robust { BoundsCheckPolicy::Unchecked } else { BoundsCheckPolicy::Restrict };
        let bound = |(binding, _)| spv::BindingInfo {
            descriptor_set: 0,
            binding,
            binding_array_size: None,
        };
        let options = spv::Options {
            lang_version: vulkan.spirv,
            flags: spv::WriterFlags::LABEL_VARYINGS | spv::WriterFlags::FORCE_POINT_SIZE,
            capabilities: Some(capabilities.into_iter().collect()),
            bounds_check_policies: BoundsCheckPolicies {
                index: BoundsCheckPolicy::Restrict,
                buffer,
                ..BoundsCheckPolicies::default()
            },
            zero_initialize_workgroup_memory: if vulkan.clears_workgroup_memory {
                spv::ZeroInitializeWorkgroupMemoryMode::Native
            } else {
                spv::ZeroInitializeWorkgroupMemoryMode::Polyfill
            },
            binding_map: self.bindings(bound),
            debug_info: None,
            force_loop_bounding: true,
            emit_int_div_checks: true,
            ..spv::Options::default()
        };
        let pipeline =
            spv::PipelineOptions { shader_stage: STAGE, entry_point: ENTRY_POINT.to_owned() };
        let words = spv::write_vec(&self.module, &self.info, &options, Some(&pipeline))
            .map_err(|error| error.to_string())?;
        Ok(words.into_iter().flat_map(u32::to_le_bytes).collect())
    }

    pub fn hlsl(&self, shader_model: hlsl::ShaderModel) -> Result<String, String> {
        // A register file each for constants, read-only and writable buffers.
        let mut registers = [0; 3];
        let bound = |(_, kind)| {
            let register = &mut registers[kind as usize];
            *register += 1;
            hlsl::BindTarget { register: *register - 1, ..hlsl::BindTarget::default() }
        };
        let binding_map = self.bindings(bound);
        let options = hlsl::Options {
            shader_model,
            binding_map,
            fake_missing_bindings: false,
            // The number of workgroups, in the constants after the uniform.
            special_constants_binding: Some(hlsl::BindTarget {
                register: 1,
                ..hlsl::BindTarget::default()
            }),
            zero_initialize_workgroup_memory: true,
            restrict_indexing: true,
            force_loop_bounding: true,
            ..hlsl::Options::default()
        };
        let pipeline = hlsl::PipelineOptions { entry_point: Some((STAGE, ENTRY_POINT.to_owned())) };
        let mut text = String::new();
        let mut writer = hlsl::Writer::new(&mut text, &options, &pipeline);
        let reflection =
            writer.write(&self.module, &self.info, None).map_err(|error| error.to_string())?;
        match reflection.entry_point_names.as_slice() {
            [Ok(name)] if name == ENTRY_POINT => Ok(text),
            names => Err(format!("entry points {names:?}")),
        }
    }

    pub fn msl(&self, lang_version: (u8, u8)) -> Result<String, String> {
        let bound = |(binding, kind): (u32, Kind)| msl::BindTarget {
            buffer: Some(binding as msl::Slot),
            mutable: kind == Kind::Write,
            ..msl::BindTarget::default()
        };
        let resources = msl::EntryPointResources {
            resources: self.bindings(bound),
            immediates_buffer: None,
            // The buffer of lengths, behind the kernel's own.
            sizes_buffer: Some((self.kernel.buffers.len() + 1) as msl::Slot),
        };
        let options = msl::Options {
            lang_version,
            per_entry_point_map: [(ENTRY_POINT.to_owned(), resources)].into(),
            fake_missing_bindings: false,
            bounds_check_policies: BoundsCheckPolicies {
                index: BoundsCheckPolicy::Restrict,
                buffer: BoundsCheckPolicy::Restrict,
                image_load: BoundsCheckPolicy::Restrict,
                binding_array: BoundsCheckPolicy::Unchecked,
            },
            zero_initialize_workgroup_memory: true,
            force_loop_bounding: true,
            emit_int_div_checks: true,
            ..msl::Options::default()
        };
        let pipeline = msl::PipelineOptions {
            entry_point: Some((STAGE, ENTRY_POINT.to_owned())),
            vertex_pulling_transform: true,
            ..msl::PipelineOptions::default()
        };
        let (text, info) = msl::write_string(&self.module, &self.info, &options, &pipeline)
            .map_err(|error| error.to_string())?;
        match info.entry_point_names.as_slice() {
            [Ok(_)] => Ok(text),
            names => Err(format!("entry points {names:?}")),
        }
    }

    pub fn glsl(&self, version: glsl::Version) -> Result<String, String> {
        let mut slots = [0; 2];
        let bound = |(_, kind)| {
            let slot = &mut slots[usize::from(kind != Kind::Uniform)];
            *slot += 1;
            *slot - 1
        };
        let binding_map = self.bindings(bound);
        let options = glsl::Options {
            version,
            writer_flags: glsl::WriterFlags::ADJUST_COORDINATE_SPACE
                | glsl::WriterFlags::FORCE_POINT_SIZE,
            binding_map,
            zero_initialize_workgroup_memory: true,
        };
        let pipeline = glsl::PipelineOptions {
            shader_stage: STAGE,
            entry_point: ENTRY_POINT.to_owned(),
            multiview: None,
        };
        let mut text = String::new();
        glsl::Writer::new(
            &mut text,
            &self.module,
            &self.info,
            &options,
            &pipeline,
            BoundsCheckPolicies::default(),
        )
        .and_then(|mut writer| writer.write())
        .map_err(|error| error.to_string())?;
        Ok(text)
    }

    /// The bindings of the kernel's pipeline layout in order, each with what `bound` says.
    fn bindings<T, M: FromIterator<(ResourceBinding, T)>>(
        &self,
        bound: impl FnMut((u32, Kind)) -> T,
    ) -> M {
        let kinds = kinds(self.kernel);
        let bindings = (0..).map(|binding| ResourceBinding { group: 0, binding });
        bindings.zip((0..).zip(kinds).map(bound)).collect()
    }
}

/// Parses and validates WGSL and puts constants in the place of overrides.
pub fn resolve(
    source: &str,
    with_f16: bool,
    constants: &PipelineConstants,
) -> Result<(Module, ModuleInfo), String> {
    resolve_with(source, with_f16, Capabilities::empty(), constants)
}

fn resolve_with(
    source: &str,
    with_f16: bool,
    more: Capabilities,
    constants: &PipelineConstants,
) -> Result<(Module, ModuleInfo), String> {
    let module =
        naga::front::wgsl::parse_str(source).map_err(|error| error.emit_to_string(source))?;
    let f16 = if with_f16 { Capabilities::SHADER_FLOAT16 } else { Capabilities::empty() };
    // Conversions between f16 and f32 need no feature; only OpenGL may lack them.
    let capabilities = f16 | more | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .map_err(|error| error.emit_to_string(source))?;
    let entry_point = Some((STAGE, ENTRY_POINT));
    let (module, info) =
        pipeline_constants::process_overrides(&module, &info, entry_point, constants)
            .map_err(|error| error.to_string())?;
    Ok((module.into_owned(), info.into_owned()))
}

/// What is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Uniform,
    Read,
    Write,
}

/// What is bound at 0, 1, 2, ... of a kernel.
pub fn kinds(kernel: &Declaration) -> impl Iterator<Item = Kind> {
    let buffers = kernel.buffers.iter().map(|(_, access)| match access {
        Access::Read => Kind::Read,
        Access::Write => Kind::Write,
    });
    std::iter::once(Kind::Uniform).chain(buffers)
}
