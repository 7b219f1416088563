//! The Vulkan drivers of this machine: manifests (ICD files) whose library is there and, for a
//! hardware driver, whose device is there too.
//!
//! A manifest alone says little: Mesa installs those of cards that the machine does not have.
//! Nothing is loaded here, so a broken driver shows when the program that uses it starts.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::{install, steps};

/// What runs the shaders, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// A graphics card.
    Hardware,
    /// Mesa on the CPU.
    Lavapipe,
    /// Chromium's software driver.
    #[value(name = "swiftshader")]
    SwiftShader,
}

/// One choice of what to run on.
#[derive(Debug)]
pub struct Driver {
    pub kind: Kind,
    /// What the Vulkan loader may load; empty where the system chooses (macOS, Windows).
    manifests: Vec<PathBuf>,
}

/// Folders that the Vulkan loader searches, and those of Chromium's own driver.
const FOLDERS: [&str; 5] = [
    "/etc/vulkan/icd.d",
    "/usr/local/etc/vulkan/icd.d",
    "/usr/share/vulkan/icd.d",
    "/usr/local/share/vulkan/icd.d",
    "/run/opengl-driver/share/vulkan/icd.d",
];
const SWIFTSHADER: [&str; 5] = [
    "/usr/lib/chromium/vk_swiftshader_icd.json",
    "/usr/lib/chromium-browser/vk_swiftshader_icd.json",
    "/usr/lib64/chromium/vk_swiftshader_icd.json",
    "/usr/lib64/chromium-browser/vk_swiftshader_icd.json",
    "/opt/google/chrome/vk_swiftshader_icd.json",
];

/// Kernel drivers of graphics cards, and a part of the library name of their Vulkan driver.
const HARDWARE: [(&str, &str); 15] = [
    ("i915", "intel"),
    ("xe", "intel"),
    ("amdgpu", "radeon"),
    ("amdgpu", "amdvlk"),
    ("radeon", "radeon"),
    ("nouveau", "nouveau"),
    ("nvidia", "nvidia"),
    ("virtio", "virtio"),
    ("msm", "freedreno"),
    ("v3d", "broadcom"),
    ("panfrost", "panfrost"),
    ("panthor", "panfrost"),
    ("powervr", "powervr"),
    ("asahi", "asahi"),
    ("dxgkrnl", "dzn"),
];

/// The drivers here, best first, at most one of each kind.
pub fn find() -> Vec<Driver> {
    if !cfg!(target_os = "linux") {
        return vec![Driver { kind: Kind::Hardware, manifests: Vec::new() }];
    }
    if find_library("libvulkan.so.1").is_none() {
        // Manifests are of no use without the loader.
        return Vec::new();
    }
    let present = kernel_drivers();
    let mut drivers: Vec<Driver> = Vec::new();
    for manifest in chosen_by_environment().unwrap_or_else(discover) {
        let Some(library) = library(&manifest) else { continue };
        let kind = kind_of(&library);
        if kind == Kind::Hardware && !is_for(&library, &present) {
            continue;
        }
        match drivers.iter_mut().find(|driver| driver.kind == kind) {
            // Several cards: wgpu chooses between them. Of a software driver one is enough.
            Some(driver) if kind == Kind::Hardware => driver.manifests.push(manifest),
            Some(_) => (),
            None => drivers.push(Driver { kind, manifests: vec![manifest] }),
        }
    }
    drivers.sort_by_key(|driver| driver.kind);
    drivers
}

/// The wanted drivers in that order, or all there are, best first; never none. What is missing is
/// installed.
pub fn find_or_install(wanted: &[Kind]) -> Result<Vec<Driver>> {
    let mut drivers = find();
    let missing: Vec<_> = if wanted.is_empty() && drivers.is_empty() {
        println!("==> no Vulkan driver found: lavapipe is needed, Mesa's driver for the CPU");
        vec![Kind::Lavapipe]
    } else {
        let is_missing = |kind: &&Kind| !drivers.iter().any(|driver| driver.kind == **kind);
        wanted.iter().filter(is_missing).copied().collect()
    };
    for &kind in &missing {
        if let Some(files) = chosen_by_environment() {
            bail!("VK_DRIVER_FILES or VK_ICD_FILENAMES allows {files:?} only, not {kind}");
        }
        install::driver(kind)?;
        drivers = find();
        let installed = drivers.iter().any(|driver| driver.kind == kind);
        ensure!(installed, "{kind} was installed, but no manifest of it was found in {FOLDERS:?}");
    }
    drivers.retain(|driver| wanted.is_empty() || wanted.contains(&driver.kind));
    if drivers.iter().any(Driver::is_old_lavapipe) {
        match install::newer_mesa() {
            Ok(manifest) => replace_lavapipe(&mut drivers, manifest),
            Err(error) => println!("==> going on with the slower Mesa 22: {error:#}"),
        }
    }
    Ok(drivers)
}

fn replace_lavapipe(drivers: &mut [Driver], manifest: PathBuf) {
    if let Some(driver) = drivers.iter_mut().find(|driver| driver.kind == Kind::Lavapipe) {
        driver.manifests = vec![manifest];
    }
}

impl Driver {
    /// What makes a program use this driver and no other.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        if self.manifests.is_empty() {
            return Vec::new();
        }
        let files = std::env::join_paths(&self.manifests).expect("found without a colon");
        // Old loaders know only the second name. Without WGPU_BACKEND an OpenGL driver could be
        // taken instead.
        let mut variables = vec![
            ("VK_DRIVER_FILES", files.clone()),
            ("VK_ICD_FILENAMES", files),
            ("WGPU_BACKEND", "vulkan".into()),
        ];
        if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
            // Mesa complains on every start where this is missing.
            variables.push(("XDG_RUNTIME_DIR", std::env::temp_dir().into()));
        }
        variables
    }

    /// The library of the driver, of the first where there are several; none where the system
    /// chooses.
    pub fn library(&self) -> Option<PathBuf> {
        self.manifests.first().and_then(|manifest| library(manifest))
    }

    /// The Mesa 22 of Debian 12, 4 to 8 times slower than the one of its backports.
    fn is_old_lavapipe(&self) -> bool {
        let system = self.manifests.iter().any(|file| file.starts_with("/usr/share"));
        self.kind == Kind::Lavapipe
            && system
            && chosen_by_environment().is_none()
            && install::is_debian_12()
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.manifests.is_empty() {
            return write!(f, "the system's own driver");
        }
        write!(f, "{} ({})", self.kind, join(&self.manifests))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Hardware => "hardware",
            Self::Lavapipe => "lavapipe",
            Self::SwiftShader => "SwiftShader",
        })
    }
}

fn join(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The manifests that the user allows, where that is set.
fn chosen_by_environment() -> Option<Vec<PathBuf>> {
    let names = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"];
    let files = names.iter().find_map(std::env::var_os).filter(|files| !files.is_empty())?;
    Some(std::env::split_paths(&files).collect())
}

fn discover() -> Vec<PathBuf> {
    let mut manifests = vec![install::newer_mesa_manifest()];
    for folder in FOLDERS {
        // A folder that is not there holds no driver.
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
        files.retain(|file| file.extension().is_some_and(|e| e == "json"));
        files.sort();
        manifests.extend(files);
    }
    manifests.extend(SWIFTSHADER.map(PathBuf::from));
    manifests
}

/// The library that a manifest names, where both are there and of this machine's kind.
fn library(manifest: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(manifest).ok()?;
    let json: serde_json::Value = serde_json::from_str(&text).ok()?;
    let name = json["ICD"]["library_path"].as_str()?;
    let found = if name.contains('/') {
        // A relative path is relative to the manifest; an absolute one replaces it in join.
        Some(manifest.parent()?.join(name)).filter(|path| path.exists())
    } else {
        find_library(name)
    };
    found.filter(|path| has_our_word_size(path))
}

/// A library by name alone, where the dynamic linker usually finds it.
fn find_library(name: &str) -> Option<PathBuf> {
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let named = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let usual = [&multiarch, "/usr/lib64", "/usr/lib", "/usr/local/lib", "/lib64", "/lib"];
    std::env::split_paths(&named)
        .chain(usual.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| path.exists())
}

/// Distributions put the manifests of 32-bit drivers beside the others.
fn has_our_word_size(library: &Path) -> bool {
    use std::io::Read;
    let mut header = [0; 5];
    let read = fs::File::open(library).and_then(|mut file| file.read_exact(&mut header));
    let class = if cfg!(target_pointer_width = "64") { 2 } else { 1 };
    read.is_ok() && header == [0x7f, b'E', b'L', b'F', class]
}

fn kind_of(library: &Path) -> Kind {
    let name = file_name(library);
    if name.contains("vulkan_lvp") {
        Kind::Lavapipe
    } else if name.contains("swiftshader") {
        Kind::SwiftShader
    } else {
        Kind::Hardware
    }
}

/// True if a hardware driver serves a card that is here. Unknown ones are believed where any card
/// is.
fn is_for(library: &Path, present: &BTreeSet<String>) -> bool {
    let name = file_name(library);
    let mut serves = HARDWARE.iter().filter(|(_, part)| name.contains(part)).peekable();
    if serves.peek().is_none() {
        return !present.is_empty();
    }
    serves.any(|(kernel, _)| present.iter().any(|driver| driver.starts_with(kernel)))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().to_lowercase()
}

/// Names of the kernel drivers that can render here.
fn kernel_drivers() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let nodes = fs::read_dir("/dev/dri").into_iter().flatten().flatten();
    for node in nodes.map(|node| node.file_name().to_string_lossy().into_owned()) {
        let link = format!("/sys/class/drm/{node}/device/driver");
        if let (true, Ok(driver)) = (node.starts_with("renderD"), fs::read_link(link)) {
            names.insert(file_name(&driver));
        }
    }
    // NVIDIA's own driver in a container, and Windows' in WSL, have no such node.
    for (device, name) in [("/dev/nvidiactl", "nvidia"), ("/dev/dxg", "dxgkrnl")] {
        if Path::new(device).exists() {
            names.insert(name.to_owned());
        }
    }
    names
}

/// Writes the manifest of a library, as the Vulkan loader reads it.
pub fn write_manifest(file: &Path, library: &Path) -> Result<()> {
    let json = serde_json::json!({
        "file_format_version": "1.0.1",
        "ICD": { "api_version": "1.4.305", "library_path": library },
    });
    fs::write(file, format!("{json}\n")).with_context(|| format!("cannot write {}", file.display()))
}

/// Where drivers are unpacked.
pub fn folder() -> PathBuf {
    steps::target().join("drivers")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(folder: &Path, library: &str) -> PathBuf {
        let file = folder.join("icd.json");
        write_manifest(&file, Path::new(library)).unwrap();
        file
    }

    #[test]
    fn a_manifest_counts_only_with_its_library() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(library(&manifest(folder.path(), "./libvulkan_lvp.so")), None);
        let file = folder.path().join("libvulkan_lvp.so");
        let class = if cfg!(target_pointer_width = "64") { 2 } else { 1 };
        fs::write(&file, [0x7f, b'E', b'L', b'F', class, 0]).unwrap();
        let found = library(&manifest(folder.path(), "./libvulkan_lvp.so")).unwrap();
        assert_eq!(kind_of(&found), Kind::Lavapipe);
        let absolute = manifest(folder.path(), file.to_str().unwrap());
        assert_eq!(library(&absolute), Some(file.clone()));
        fs::write(&file, [0x7f, b'E', b'L', b'F', 3 - class, 0]).unwrap();
        assert_eq!(library(&absolute), None, "the other word size");
        fs::write(folder.path().join("icd.json"), "{").unwrap();
        assert_eq!(library(&absolute), None, "not JSON");
    }

    #[test]
    fn a_hardware_driver_needs_its_card() {
        let present = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
        let radeon = Path::new("/usr/lib/libvulkan_radeon.so");
        assert!(!is_for(radeon, &present(&[])));
        assert!(!is_for(radeon, &present(&["i915"])));
        assert!(is_for(radeon, &present(&["i915", "amdgpu"])));
        assert!(is_for(Path::new("libGLX_nvidia.so.0"), &present(&["nvidia"])));
        assert!(is_for(Path::new("libnew.so"), &present(&["new"])));
        assert!(!is_for(Path::new("libnew.so"), &present(&[])));
    }
}
