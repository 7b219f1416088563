//! Every kernel in every variant, translated as wgpu translates it and given to the compilers of
//! backends that may not be here. Needs no GPU.
//!
//! Translations stay under target/tmp/backends, to look at.
#![cfg(feature = "contract")]

mod batch;
mod cases;
mod metal;
mod requirements;
mod tools;
mod translate;
mod unsafe_code;

use batch::Batch;
use cases::Case;
use evenkeel::kernel::{Declaration, HalfConversions, HeadQuads, Precision, ProductTile};
use naga::back::glsl;
use naga::back::hlsl::ShaderModel;
use translate::{Kind, Vulkan, kinds};

/// Chrome's compiler, on a device of WebGPU's default limits; it demands uniformity, which naga does
/// not.
#[test]
fn wgsl_is_accepted_by_tint() {
    let mut batch = Batch::new("tint");
    batch.translate(
        |case| {
            let features: &[&str] = if case.needs_f16() { &["shader-f16"] } else { &[] };
            tint_line(features, case.kernel, &case.overrides)
        },
        |case, _| Some(Ok(case.kernel.source_of(case.variant))),
    );
    let broken = "
        @group(0) @binding(0) var<storage, read_write> x: array<u32, 64>;
        @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) i: u32) {
            if x[i] == 0 { return; }
            workgroupBarrier();
            x[i] = 1;
        }";
    let line = r#"{"features":[],"buffers":["storage"],"constants":{}}"#;
    batch.finish(tools::tint(), line, broken.as_bytes());
}

fn tint_line(features: &[&str], kernel: &Declaration, overrides: &[u32]) -> String {
    let buffers = kinds(kernel).map(|kind| match kind {
        Kind::Uniform => "uniform",
        Kind::Read => "read-only-storage",
        Kind::Write => "storage",
    });
    let constants: serde_json::Map<_, _> = std::iter::zip(kernel.overrides, overrides)
        .map(|(&name, &value)| (name.to_owned(), value.into()))
        .collect();
    let buffers: Vec<_> = buffers.collect();
    serde_json::json!({ "features": features, "buffers": buffers, "constants": constants })
        .to_string()
}

#[test]
fn spirv_of_vulkan_1_1_is_valid() {
    let vulkan = Vulkan { spirv: (1, 3), robust: false, clears_workgroup_memory: false };
    check_spirv("vulkan1.1", &vulkan);
}

#[test]
fn spirv_of_vulkan_1_3_is_valid() {
    let vulkan = Vulkan { spirv: (1, 6), robust: true, clears_workgroup_memory: true };
    check_spirv("vulkan1.3", &vulkan);
}

/// Products by cooperative matrices, of drivers that have no less.
#[test]
fn spirv_of_cooperative_matrices_is_valid() {
    let vulkan = Vulkan { spirv: (1, 6), robust: true, clears_workgroup_memory: true };
    let mut batch = Batch::new("cooperative");
    let cases = cases::cooperative();
    batch.translate_all(cases, |_| String::new(), |_, shader| Some(shader.spirv(&vulkan)));
    batch.finish(tools::spirv_val_of_matrices("vulkan1.3"), "", &broken_spirv());
}

fn check_spirv(target: &'static str, vulkan: &Vulkan) {
    let mut batch = Batch::new(target);
    batch.translate(|_| String::new(), |_, shader| Some(shader.spirv(vulkan)));
    batch.finish(tools::spirv_val(target), "", &broken_spirv());
}

/// A module of SPIR-V 1.0 that ends after its header.
fn broken_spirv() -> Vec<u8> {
    [0x0723_0203u32, 0x0001_0000, 0, 1, 0].map(u32::to_le_bytes).concat()
}

/// What wgpu takes where `dxcompiler.dll` lies beside the program.
#[test]
fn hlsl_6_0_is_accepted_by_dxc() {
    let mut batch = Batch::new("dxc_6_0");
    batch.translate(
        |case| format!("{} cs_6_0", if is_wide(case) { "dxc" } else { "dxc_debug" }),
        |case, shader| {
            let is_chosen = !case.needs_f16() && !is_left_out_of_hlsl(case);
            is_chosen.then(|| shader.hlsl(ShaderModel::V6_0))
        },
    );
    batch.finish(tools::hlsl(), "dxc cs_6_0", b"[numthreads(1, 1, 1)] void main() { nothing(); }");
}

/// Types of 16 bits are on in every kernel where the device has f16, and need this shader model. One
/// that has none is the text that the test of 6.0 compiles.
#[test]
fn hlsl_6_2_is_accepted_by_dxc() {
    let mut batch = Batch::new("dxc_6_2");
    batch.translate(
        |_| "dxc16 cs_6_2".to_owned(),
        |case, shader| {
            let text = shader.hlsl(ShaderModel::V6_2);
            let is_known = is_left_out_of_hlsl(case) || text == shader.hlsl(ShaderModel::V6_0);
            let is_new = case.needs_f16() || !is_known;
            (is_new || text.is_err()).then_some(text)
        },
    );
    batch.finish(
        tools::hlsl(),
        "dxc cs_6_2",
        b"[numthreads(1, 1, 1)] void main() { float16_t x; }",
    );
}

/// Weights in blocks beside values in half precision: both fragments are compiled in kernels that
/// have one of them.
fn is_left_out_of_hlsl(case: &Case) -> bool {
    case.variant.blocks.is_some() && case.variant.precision != Precision::F32
}

/// What wgpu takes where there is no `dxcompiler.dll`.
#[test]
fn hlsl_5_1_is_accepted_by_fxc() {
    check_fxc("fxc_5_1", |case| !is_long(case));
}

/// The rest, as tests of their own since they take as long and may run at once.
#[test]
fn hlsl_5_1_of_attention_is_accepted_by_fxc() {
    check_fxc("fxc_5_1_attention", is_attention);
}

#[test]
fn hlsl_5_1_of_products_is_accepted_by_fxc() {
    check_fxc("fxc_5_1_products", is_product);
}

fn check_fxc(name: &'static str, is_chosen: impl Fn(&Case) -> bool) {
    let mut batch = Batch::new(name);
    batch.translate(
        |case| format!("{} cs_5_1", if is_left_as_it_is(case) { "fxc_debug" } else { "fxc" }),
        |case, shader| {
            (is_chosen(case) && !case.needs_f16() && !is_left_out_of_fxc(case))
                .then(|| shader.hlsl(ShaderModel::V5_1))
        },
    );
    let broken = b"[numthreads(1, 1, 1)] void main() { float16_t x; }";
    batch.finish(tools::hlsl(), "fxc cs_5_1", broken);
}

fn is_long(case: &Case) -> bool {
    is_product(case) || is_attention(case)
}

/// What FXC does not optimize, as in programs built for debugging, by the same rules: products and
/// attention, which would take half a minute each, and what is not [wide](is_wide).
fn is_left_as_it_is(case: &Case) -> bool {
    !is_wide(case) || is_long(case)
}

/// What computes on f32 and no blocks. What does not differs from it by its storage alone, and neither
/// FXC nor DXC optimizes it in HLSL without types of 16 bits.
fn is_wide(case: &Case) -> bool {
    case.variant.precision == Precision::F32 && case.variant.blocks.is_none()
}

/// Products and attention that convert f16 by the device, whose other text is that of those that do
/// not. The larger tiles of all products but one, and of that one in anything but f32. Of attention,
/// all but the narrowest heads in every storage and the widest in f32, with all code on. FXC takes up
/// to half a minute for each; DXC is given all of them.
fn is_left_out_of_fxc(case: &Case) -> bool {
    if is_left_out_of_hlsl(case) {
        return true;
    }
    let is_f32 = case.variant.precision == Precision::F32;
    if is_long(case) && case.variant.half_conversions != HalfConversions::NONE {
        return true;
    }
    if is_product(case) {
        let is_smallest = case.variant.product_tile == ProductTile::Of32;
        let is_checked = is_smallest || (is_wide(case) && case.kernel.name == "matmul");
        return is_tiled_product(case) && !is_checked;
    }
    let is_checked = match case.variant.head_quads {
        HeadQuads::UpTo4 => true,
        HeadQuads::UpTo64 => is_f32,
        _ => false,
    };
    is_attention(case) && (!is_checked || case.overrides == [0])
}

/// In tiles or in registers.
fn is_product(case: &Case) -> bool {
    is_tiled_product(case) || case.kernel.name.ends_with("_direct")
}

fn is_tiled_product(case: &Case) -> bool {
    let tiled = ["matmul", "matmul_resumed", "matmul_transposed_a", "matmul_transposed_b"];
    tiled.contains(&case.kernel.name)
}

/// One of the kernels that multiply queries, keys and values.
fn is_attention(case: &Case) -> bool {
    let multiplies =
        |name| ["", "_backward_query", "_backward_key_value", "_cached"].contains(&name);
    let name = case.kernel.name.strip_prefix("attention");
    name.is_some_and(|name| multiplies(name.strip_prefix("_tiled").unwrap_or(name)))
}

#[test]
fn glsl_450_is_accepted_by_glslang() {
    check_glsl("glsl_450", glsl::Version::Desktop(450));
}

#[test]
fn glsl_es_310_is_accepted_by_glslang() {
    check_glsl("glsl_es_310", glsl::Version::new_gles(310));
}

/// Why a kernel has no GLSL; the test holds this exact. wgpu has no f16 on OpenGL either.
fn not_in_glsl(case: &Case) -> Option<&'static str> {
    case.needs_f16().then_some("f16")
}

fn check_glsl(name: &'static str, version: glsl::Version) {
    let mut batch = Batch::new(name);
    batch.translate(
        |_| String::new(),
        |case, shader| match (not_in_glsl(case), shader.glsl(version)) {
            (None, translated) => Some(translated),
            (Some(_), Err(_)) => None,
            (Some(reason), Ok(_)) => Some(Err(format!("translates, in spite of {reason}"))),
        },
    );
    batch.finish(tools::glslang(), "", b"#version 310 es\nvoid main() { nothing(); }");
}

/// No compiler for Metal runs here, so the translation is read.
#[test]
fn metal_is_written_and_has_no_hazards() {
    let mut batch = Batch::new("metal");
    batch.translate(
        |_| String::new(),
        |case, shader| {
            // What macOS 10.14, 12 and 15 compile.
            let texts = [(2, 1), (2, 4), (3, 2)].map(|version| shader.msl(version));
            let [Ok(old), Ok(_), Ok(new)] = &texts else {
                return texts.into_iter().find(Result::is_err);
            };
            let found: Vec<_> = [
                metal::read_module(&shader.module, &shader.info),
                metal::read_text(old),
                metal::read_text(new),
            ]
            .concat()
            .into_iter()
            .filter(|hazard| !metal::is_meant(case.kernel.name, hazard))
            .collect();
            Some(if found.is_empty() { Ok(new.clone()) } else { Err(found.join("; ")) })
        },
    );
    batch.finish(None, "", b"");
}

/// Apple's matrices are of 8 x 8, and of single elements in threadgroup memory: what stores four at a
/// time is for others.
#[test]
fn cooperative_matrices_of_8_are_written_for_metal() {
    let mut batch = Batch::new("metal_cooperative");
    let of_8 = |case: &Case| case.variant.cooperative.is_some_and(|matrix| matrix.size() == 8);
    batch.translate_all(
        cases::cooperative().filter(of_8),
        |_| String::new(),
        |case, shader| {
            // What macOS 12 and 15 compile; before there are none.
            let texts = [(2, 4), (3, 2)].map(|version| shader.msl(version));
            let [Ok(old), Ok(new)] = &texts else { return texts.into_iter().find(Result::is_err) };
            let mut found = metal::read_module(&shader.module, &shader.info);
            found.extend([old, new].into_iter().flat_map(|text| metal::read_text(text)));
            found.retain(|hazard| !metal::is_meant(case.kernel.name, hazard));
            Some(if found.is_empty() { Ok(new.clone()) } else { Err(found.join("; ")) })
        },
    );
    batch.finish(None, "", b"");
}
