//! Compiling for browsers, with whatever can compile for them here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use wasm_bindgen_cli_support::Bindgen;

use crate::steps::{self, Step};
use crate::{install, npm};

const TARGET: &str = "wasm32-unknown-unknown";
/// What Rust's compiler takes for given in WebAssembly, as every browser with WebGPU has it; a
/// stripped program does not say.
const FEATURES: [&str; 7] = [
    "bulk-memory",
    "bulk-memory-opt",
    "multivalue",
    "mutable-globals",
    "nontrapping-float-to-int",
    "reference-types",
    "sign-ext",
];
/// A target is some 20 MB; a network without rustup's server must not hold everything up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Debian's compiler that can build the standard library itself, that library's source, and the
/// linker for it.
const DEBIAN: &str = "rustc-web rust-web-src lld-22";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_LINKER: &str = "/usr/bin/wasm-ld-22";
/// The standard library is built small, as pages want it.
const BUILD_STD: [&str; 2] =
    ["-Zbuild-std=std,panic_abort", "-Zbuild-std-features=optimize_for_size"];
const DEBIAN_SOURCE: &str = "lib/rustlib/src/rust/library/std/Cargo.toml";

/// Code for browsers only is seen by no other lint run.
const DENY_WARNINGS: (&str, &str) = ("RUSTFLAGS", "-Dwarnings");

/// The programs of the page.
const PROGRAMS: [&str; 2] = ["evenkeel-browser", "evenkeel-browser-finetune"];
/// The tests that run in a page.
pub const TESTS: &str = "evenkeel-browser-tests";

/// How programs for pages are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// To be loaded by visitors: as small as can be.
    Small,
    /// To be run once: built fast, and without a warning.
    Fast,
}

impl Profile {
    /// The cargo profile.
    const fn name(self) -> &'static str {
        match self {
            Self::Small => "web",
            Self::Fast => "web-tests",
        }
    }
}

/// What compiles for browsers.
#[derive(Clone, Copy, Debug)]
pub enum Compiler {
    /// Cargo's own, with the standard library that rustup brings.
    Rustup,
    /// Debian's, which builds the standard library from source.
    Debian,
}

impl Compiler {
    /// Cargo's own where it has the target or rustup can fetch it; else Debian's is installed.
    pub fn find_or_install() -> Result<Self> {
        if has_target() || add_target()? {
            return Ok(Self::Rustup);
        }
        println!("==> rustup has no {TARGET} here; its standard library is built from source");
        if !has_debian() {
            let hint = format!("install Rust's standard library for {TARGET}");
            install::debian_packages(DEBIAN, &hint)?;
        }
        if !has_debian() {
            bail!("{DEBIAN} are installed, but {DEBIAN_RUSTC} has no {DEBIAN_SOURCE}");
        }
        Ok(Self::Debian)
    }

    /// Checks that the library, the programs of the page and the tests that run in one compile,
    /// without a warning.
    pub fn check(self) -> Result<()> {
        let library = self.cargo("check").args(["--package", "evenkeel", "--lib"]);
        library.envs([DENY_WARNINGS]).run()?;
        let programs = PROGRAMS.iter().chain([&TESTS]).flat_map(|name| ["--package", name]);
        self.cargo("check").args(programs).args(["--lib"]).envs([DENY_WARNINGS]).run()
    }

    /// Builds a member of the workspace into a folder: `NAME.js` and `NAME_bg.wasm`, to be imported
    /// by an ES module.
    pub fn build(self, package: &str, profile: Profile, folder: &Path) -> Result<()> {
        let build = self.cargo("build").args(["--package", package, "--profile", profile.name()]);
        build.envs((profile == Profile::Fast).then_some(DENY_WARNINGS)).run()?;
        let name = package.replace('-', "_");
        let built = folder_of_builds().join(TARGET);
        let built = built.join(profile.name()).join(format!("{name}.wasm"));
        Bindgen::new()
            .input_path(&built)
            .web(true)?
            .omit_default_module_path(false)
            .typescript(false)
            .generate(folder)
            .with_context(|| format!("no JavaScript could be made for {}", built.display()))?;
        if profile == Profile::Fast {
            return Ok(());
        }
        let program = folder.join(format!("{name}_bg.wasm"));
        npm::xtask()?
            .program("wasm-opt")
            .args(FEATURES.map(|feature| format!("--enable-{feature}")))
            .args(["-Oz", "--converge", "--strip-debug", "--strip-producers", "--output"])
            .args([&program, &program])
            .run()
    }

    fn cargo(self, subcommand: &str) -> Step {
        // A folder of its own: other flags or another compiler would rebuild what the tests use.
        let step = Step::cargo(subcommand)
            .args(["--target", TARGET, "--target-dir"])
            .args([folder_of_builds()]);
        match self {
            Self::Rustup => step,
            Self::Debian => step.args(BUILD_STD).envs([
                ("RUSTC", DEBIAN_RUSTC),
                // The released compiler takes -Z only so.
                ("RUSTC_BOOTSTRAP", "1"),
                ("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", DEBIAN_LINKER),
            ]),
        }
    }
}

fn folder_of_builds() -> PathBuf {
    steps::target().join("wasm")
}

/// True if cargo's compiler has the standard library of the target.
fn has_target() -> bool {
    let libraries =
        Step::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    libraries.is_some_and(|folder| Path::new(folder.trim()).exists())
}

fn add_target() -> Result<bool> {
    let has_rustup = Step::new("rustup").args(["--version"]).output().is_some();
    Ok(has_rustup && Step::new("rustup").args(["target", "add", TARGET]).try_for(PATIENCE)?)
}

fn has_debian() -> bool {
    let sysroot = Step::new(DEBIAN_RUSTC).args(["--print", "sysroot"]).output();
    let has_source =
        sysroot.is_some_and(|folder| Path::new(folder.trim()).join(DEBIAN_SOURCE).exists());
    has_source && Path::new(DEBIAN_LINKER).exists()
}
