//! Every kernel's Rust declaration says exactly what its WGSL says. Needs no GPU.
#![cfg(feature = "contract")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use evenkeel::kernel::{Declaration, Field, Fragment, Kernel, Variant, contract, shared};
use evenkeel::kernels::{
    self, Adafactor, AdafactorFactors, AdafactorScan, ClipByZScore, ClipUnit, ClipUnits,
    DecideSnapshot, ExactFold, ExactSum, FactorBlock, FactoredTensor, GuardSpikes, MuonNorm,
    RollbackMemory, Segment, SpikeReaction, TensorFactors, TensorNorm, TensorRange, Tile,
    ZScoreMemory,
};
use evenkeel::step::{
    Chunk, ScanPartial, StepInput, StepState, TelemetryRecord, TensorRecord, TensorState,
    UpdatePartial, ValuePartial,
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The shaders in a directory and those below.
fn wgsl_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { wgsl_files(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|e| e == "wgsl")).collect()
}

#[test]
fn declarations_match_shaders() {
    let failures: Vec<_> = kernels::all().filter_map(|k| contract::check(k).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn every_shader_file_is_owned() {
    let variants = |kernel: &'static Declaration| kernel.variants().into_iter();
    let owned: BTreeSet<_> = kernels::all()
        .flat_map(|kernel| variants(kernel).flat_map(|variant| kernel.fragments_of(variant)))
        .map(|fragment| fragment.text)
        .collect();
    for file in wgsl_files(&root().join("shaders")) {
        let text = fs::read_to_string(&file).expect("readable");
        assert!(owned.contains(text.as_str()), "{} belongs to no kernel", file.display());
    }
}

#[test]
fn names_are_unique() {
    let mut names = BTreeSet::new();
    for kernel in kernels::all() {
        assert!(names.insert(kernel.name), "{} is declared twice", kernel.name);
    }
}

/// The text of a family's references: one file, or those of a folder.
fn references(family: &str) -> String {
    let room = root().join("src/reference").join(family);
    let files = match room.is_dir() {
        true => {
            fs::read_dir(&room).expect("a directory").map(|entry| entry.unwrap().path()).collect()
        }
        false => vec![room.with_extension("rs")],
    };
    files.iter().map(|file| fs::read_to_string(file).expect("readable")).collect()
}

#[test]
fn every_kernel_has_a_reference() {
    for (family, kernels) in kernels::FAMILIES {
        let text = references(family);
        for kernel in *kernels {
            let function = format!("pub fn {}(", kernel.name);
            assert!(text.contains(&function), "src/reference/{family} has no `{function}`");
        }
    }
}

#[test]
fn device_structs_match() {
    let step: &[(&str, &[Field])] = &[
        ("StepInput", StepInput::FIELDS),
        ("StepState", StepState::FIELDS),
        ("TelemetryRecord", TelemetryRecord::FIELDS),
        ("ScanPartial", ScanPartial::FIELDS),
        ("Chunk", Chunk::FIELDS),
        ("ValuePartial", ValuePartial::FIELDS),
        ("UpdatePartial", UpdatePartial::FIELDS),
        ("TensorRecord", TensorRecord::FIELDS),
        ("TensorState", TensorState::FIELDS),
    ];
    let norm: &[(&str, &[Field])] = &[
        ("ExactSum", ExactSum::FIELDS),
        ("Segment", Segment::FIELDS),
        ("TensorNorm", TensorNorm::FIELDS),
    ];
    let Fragment { text, .. } = shared::STEP_STATE;
    let module = naga::front::wgsl::parse_str(text).expect("valid WGSL");
    for (kernel, name, fields) in [
        (GuardSpikes::DECLARATION, "SpikeReaction", SpikeReaction::FIELDS),
        (DecideSnapshot::DECLARATION, "RollbackMemory", RollbackMemory::FIELDS),
        (ClipByZScore::DECLARATION, "ZScoreMemory", ZScoreMemory::FIELDS),
        (ClipUnits::DECLARATION, "ClipUnit", ClipUnit::FIELDS),
    ] {
        let module = contract::parse(&kernel, Variant::default()).expect("valid WGSL");
        check_structs(&module, &[(name, fields)]);
    }
    check_structs(&module, step);
    check_structs(
        &contract::parse(&ExactFold::DECLARATION, Variant::default()).expect("valid WGSL"),
        norm,
    );
}

fn check_structs(module: &naga::Module, structs: &[(&str, &[Field])]) {
    for (name, declared) in structs {
        let (ty, _) = module
            .types
            .iter()
            .find(|(_, ty)| ty.name.as_deref() == Some(name))
            .unwrap_or_else(|| panic!("no struct {name} in WGSL"));
        let found = contract::struct_fields(module, ty).expect("a struct of scalars and arrays");
        let declared: Vec<_> =
            declared.iter().map(|f| (f.name.to_owned(), f.offset, f.ty.to_owned())).collect();
        assert_eq!(found, declared, "{name}");
    }
}

#[test]
fn tables_of_optimizers_match() {
    let structs: &[(&str, &[Field], &Declaration)] = &[
        ("TensorRange", TensorRange::FIELDS, &TensorFactors::DECLARATION),
        ("TensorRange", TensorRange::FIELDS, &MuonNorm::DECLARATION),
        ("Tile", Tile::FIELDS, &AdafactorScan::DECLARATION),
        ("FactorBlock", FactorBlock::FIELDS, &AdafactorFactors::DECLARATION),
        ("FactoredTensor", FactoredTensor::FIELDS, &Adafactor::DECLARATION),
    ];
    for (name, declared, kernel) in structs {
        let module = naga::front::wgsl::parse_str(&kernel.source()).expect("valid WGSL");
        let mut types = module.types.iter().filter(|(_, ty)| ty.name.as_deref() == Some(name));
        let (ty, _) = types.next().unwrap_or_else(|| panic!("no struct {name} in {}", kernel.name));
        let found = contract::struct_fields(&module, ty).expect("a struct of scalars");
        let declared: Vec<_> =
            declared.iter().map(|f| (f.name.to_owned(), f.offset, f.ty.to_owned())).collect();
        assert_eq!(found, declared, "{name}");
    }
}
