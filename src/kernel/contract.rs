//! Compares a kernel's Rust declaration with its WGSL, in both directions, without a GPU.
//!
//! ```
//! # use evenkeel::{kernel::{contract, Kernel}, kernels};
//! contract::check(&kernels::Add::DECLARATION).unwrap();
//! ```

use naga::{AddressSpace, Module, ScalarKind, StorageAccess, TypeInner};

use super::{Access, Declaration, Variant};

/// WebGPU's default `maxStorageBuffersPerShaderStage`.
pub const MAX_STORAGE_BUFFERS: usize = 8;
/// WebGPU's default `maxComputeInvocationsPerWorkgroup`.
pub const MAX_INVOCATIONS: u32 = 256;
/// WebGPU's default `maxComputeWorkgroupStorageSize` in bytes.
pub const MAX_WORKGROUP_BYTES: u32 = 16_384;

/// The WGSL source of a variant, parsed and validated.
///
/// # Errors
/// The parser's or validator's message, with the lines it points at.
pub fn parse(kernel: &Declaration, variant: Variant) -> Result<Module, String> {
    let source = kernel.source_of(variant);
    let module = naga::front::wgsl::parse_str(&source)
        .map_err(|error| format!("{}: {}", kernel.name, error.emit_to_string(&source)))?;
    let flags = naga::valid::ValidationFlags::all();
    naga::valid::Validator::new(flags, naga::valid::Capabilities::all())
        .validate(&module)
        .map_err(|error| format!("{}: {}", kernel.name, error.emit_to_string(&source)))?;
    Ok(module)
}

/// Checks that the declaration says exactly what the WGSL says in every variant, and that both fit
/// WebGPU's default limits: names, workgroup size and memory, bindings, access, uniform fields, overrides.
///
/// # Errors
/// What differs, naming the kernel.
pub fn check(kernel: &Declaration) -> Result<(), String> {
    kernel.variants().into_iter().try_for_each(|variant| {
        check_variant(kernel, variant).map_err(|error| format!("{variant:?}: {error}"))
    })
}

fn check_variant(kernel: &Declaration, variant: Variant) -> Result<(), String> {
    let module = parse(kernel, variant)?;
    let fail = |what: String| Err(format!("{}: {what}", kernel.name));

    if snake_case(kernel.type_name) != kernel.name {
        return fail(format!("declared by the type {}", kernel.type_name));
    }
    let own_file = kernel.fragments.last().map_or("", |fragment| fragment.text);
    if !own_file.trim_start().starts_with("//") {
        return fail("the first line must be a comment with the formula and who owns what".into());
    }
    let [entry] = module.entry_points.as_slice() else {
        return fail(format!("{} entry points instead of one", module.entry_points.len()));
    };
    let workgroup_size = kernel.workgroup_size_of(variant);
    if entry.name != "main" || entry.workgroup_size != workgroup_size {
        return fail(format!(
            "entry point {:?} with workgroup {:?}, declared `main` with {workgroup_size:?}",
            entry.name, entry.workgroup_size
        ));
    }
    if kernel.workgroup_size.iter().product::<u32>() > MAX_INVOCATIONS {
        return fail(format!("more than {MAX_INVOCATIONS} invocations in a workgroup"));
    }
    if kernel.buffers.len() > MAX_STORAGE_BUFFERS {
        return fail(format!("more than {MAX_STORAGE_BUFFERS} storage buffers"));
    }
    let workgroup_bytes = workgroup_bytes(&module);
    if workgroup_bytes > MAX_WORKGROUP_BYTES {
        return fail(format!("{workgroup_bytes} bytes of workgroup memory"));
    }
    let overrides: Vec<_> =
        module.overrides.iter().filter_map(|(_, value)| value.name.as_deref()).collect();
    if overrides != kernel.overrides {
        return fail(format!("overrides {overrides:?}, declared {:?}", kernel.overrides));
    }
    check_bindings(kernel, &module)
}

fn check_bindings(kernel: &Declaration, module: &Module) -> Result<(), String> {
    let fail = |what: String| Err(format!("{}: {what}", kernel.name));
    let mut variables: Vec<_> =
        module.global_variables.iter().filter_map(|(_, v)| Some((v.binding?, v))).collect();
    variables.sort_by_key(|(binding, _)| (binding.group, binding.binding));
    if variables.len() != kernel.buffers.len() + 1 {
        return fail(format!(
            "{} bindings, declared {}",
            variables.len(),
            kernel.buffers.len() + 1
        ));
    }
    for (i, (binding, variable)) in variables.iter().enumerate() {
        let name = variable.name.as_deref().unwrap_or("");
        if (binding.group, binding.binding) != (0, i as u32) {
            return fail(format!("{name}: bindings must be 0, 1, 2, ... in group 0"));
        }
        match variable.space {
            AddressSpace::Uniform if i == 0 && name == "params" => {
                check_uniform(kernel, module, variable.ty)?;
            }
            AddressSpace::Storage { access } if i > 0 => {
                let writes = access.contains(StorageAccess::STORE);
                let access = if writes { Access::Write } else { Access::Read };
                if kernel.buffers[i - 1] != (name, access) {
                    let declared = kernel.buffers[i - 1];
                    return fail(format!(
                        "binding {i} is {access:?} {name}, declared {:?} {}",
                        declared.1, declared.0
                    ));
                }
            }
            space => return fail(format!("binding {i} is {name} in {space:?}")),
        }
    }
    Ok(())
}

fn check_uniform(
    kernel: &Declaration,
    module: &Module,
    ty: naga::Handle<naga::Type>,
) -> Result<(), String> {
    let found = struct_fields(module, ty)
        .ok_or_else(|| format!("{}: the uniform must be a struct of scalars", kernel.name))?;
    let declared: Vec<_> =
        kernel.uniform.iter().map(|f| (f.name.to_owned(), f.offset, f.ty.to_owned())).collect();
    if found != declared {
        return Err(format!(
            "{}: uniform fields are {found:?}, declared {declared:?}",
            kernel.name
        ));
    }
    Ok(())
}

/// Name, offset and type of each field of a WGSL struct, in Rust's words; `None` if it holds
/// anything but scalars and arrays of them.
pub fn struct_fields(
    module: &Module,
    ty: naga::Handle<naga::Type>,
) -> Option<Vec<(String, usize, String)>> {
    let TypeInner::Struct { members, .. } = &module.types[ty].inner else { return None };
    let field = |member: &naga::StructMember| {
        let ty = match module.types[member.ty].inner {
            TypeInner::Scalar(scalar) => scalar_name(scalar)?,
            TypeInner::Array { base, size: naga::ArraySize::Constant(length), .. } => {
                let TypeInner::Scalar(scalar) = module.types[base].inner else { return None };
                format!("[{}; {length}]", scalar_name(scalar)?)
            }
            _ => return None,
        };
        Some((member.name.clone()?, member.offset as usize, ty))
    };
    members.iter().map(field).collect()
}

fn scalar_name(scalar: naga::Scalar) -> Option<String> {
    let kind = match scalar.kind {
        ScalarKind::Float => 'f',
        ScalarKind::Uint => 'u',
        ScalarKind::Sint => 'i',
        _ => return None,
    };
    Some(format!("{kind}{}", u32::from(scalar.width) * 8))
}

fn workgroup_bytes(module: &Module) -> u32 {
    module
        .global_variables
        .iter()
        .filter(|(_, variable)| variable.space == AddressSpace::WorkGroup)
        .map(|(_, variable)| module.types[variable.ty].inner.size(module.to_ctx()))
        .sum()
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for (i, c) in name.chars().enumerate() {
        if c.is_uppercase() && i > 0 {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    snake
}
