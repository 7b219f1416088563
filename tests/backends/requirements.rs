//! The table of docs/backends.md: what each kernel asks of a device, from the parsed WGSL.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use naga::{AddressSpace, Module, TypeInner};

use crate::cases;
use crate::translate::Shader;

const BEGIN: &str = "<!-- table of kernels: begin -->\n";
const END: &str = "<!-- table of kernels: end -->\n";
/// Set to write the table instead of comparing it.
const WRITE: &str = "EVENKEEL_WRITE_DOCS";

/// What kernels of one row have in common; the order is that of the table.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Needs {
    storage_buffers: usize,
    invocations: u32,
    workgroup_bytes: u32,
    features: &'static str,
}

#[test]
fn the_table_of_requirements_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/backends.md");
    let text = fs::read_to_string(&path).expect("docs/backends.md");
    let (head, rest) = text.split_once(BEGIN).expect("where the table begins");
    let (_, tail) = rest.split_once(END).expect("where the table ends");
    let wanted = format!("{head}{BEGIN}{}{END}{tail}", table());
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, wanted).expect("docs/backends.md can be written");
        return;
    }
    assert!(
        text == wanted,
        "docs/backends.md is out of date; run\n\n    {WRITE}=1 cargo test --features contract \
         --test backends requirements\n"
    );
}

fn table() -> String {
    let mut rows: BTreeMap<Needs, Vec<&str>> = BTreeMap::new();
    let (mut uniform, mut fixed) = ((0, ""), (0, ""));
    for case in cases::all() {
        let shader = Shader::new(&case).expect("valid WGSL");
        let kernel = case.kernel;
        uniform = uniform.max((kernel.uniform_size as u32, kernel.name));
        fixed = fixed.max((fixed_binding(&shader.module), kernel.name));
        let needs = Needs {
            storage_buffers: kernel.buffers.len(),
            invocations: kernel.workgroup_size_of(case.variant).iter().product(),
            workgroup_bytes: workgroup_bytes(&shader.module),
            features: if case.needs_f16() { "`shader-f16`" } else { "" },
        };
        let names = rows.entry(needs).or_default();
        if !names.contains(&kernel.name) {
            names.push(kernel.name);
        }
    }
    let mut text = String::from(
        "| storage buffers | invocations | workgroup memory, bytes | feature | kernels |\n\
         |---|---|---|---|---|\n",
    );
    for (needs, names) in rows {
        let Needs { storage_buffers, invocations, workgroup_bytes, features } = needs;
        let names = names.join(", ");
        writeln!(
            text,
            "| {storage_buffers} | {invocations} | {workgroup_bytes} | {features} | {names} |"
        )
        .expect("text");
    }
    let count = evenkeel::kernels::all().count();
    let pipelines = cases::all().count();
    write!(
        text,
        "\n{count} kernels, {pipelines} pipelines with their variants and constants. The largest \
         uniform has {} bytes (`{}`), the largest storage binding of fixed size {} bytes (`{}`). All \
         others are as large as a tensor, a table, or a segment of the parameters.\n",
        uniform.0, uniform.1, fixed.0, fixed.1
    )
    .expect("text");
    text
}

fn workgroup_bytes(module: &Module) -> u32 {
    let variables = module.global_variables.iter().map(|(_, variable)| variable);
    let shared = variables.filter(|variable| variable.space == AddressSpace::WorkGroup);
    shared.map(|variable| module.types[variable.ty].inner.size(module.to_ctx())).sum()
}

/// Bytes of the largest storage binding without an array of unknown length.
fn fixed_binding(module: &Module) -> u32 {
    let variables = module.global_variables.iter().map(|(_, variable)| variable);
    let storage = variables.filter(|v| matches!(v.space, AddressSpace::Storage { .. }));
    let inner = storage.map(|variable| &module.types[variable.ty].inner);
    inner
        .filter(|inner| !is_dynamic(inner, module))
        .map(|i| i.size(module.to_ctx()))
        .max()
        .unwrap_or(0)
}

fn is_dynamic(inner: &TypeInner, module: &Module) -> bool {
    match inner {
        TypeInner::Array { size, .. } => *size == naga::ArraySize::Dynamic,
        TypeInner::Struct { members, .. } => {
            members.last().is_some_and(|member| is_dynamic(&module.types[member.ty].inner, module))
        }
        _ => false,
    }
}
