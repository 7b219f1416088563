//! A check that the library compiles for browsers, with whatever can compile for them here.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::install;
use crate::steps::{self, Step};

const TARGET: &str = "wasm32-unknown-unknown";
/// A target is some 20 MB; a network without rustup's server must not hold everything up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Debian's compiler that can build the standard library itself, and that library's source.
const DEBIAN: &str = "rustc-web rust-web-src";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_SOURCE: &str = "lib/rustlib/src/rust/library/std/Cargo.toml";

/// Checks with rustup's standard library or, where that cannot be had, with one built here.
pub fn check() -> Result<()> {
    if has_target() || add_target()? {
        return cargo_check().run();
    }
    println!("==> rustup has no {TARGET} here; its standard library is built from source");
    if !has_debian_source() {
        let hint = format!("install Rust's standard library for {TARGET}");
        install::debian_packages(DEBIAN, &hint)?;
    }
    if !has_debian_source() {
        bail!("{DEBIAN} are installed, but {DEBIAN_RUSTC} has no {DEBIAN_SOURCE}");
    }
    cargo_check()
        .args(["-Zbuild-std=std,panic_abort"])
        // The released compiler takes -Z only so.
        .envs([("RUSTC", DEBIAN_RUSTC), ("RUSTC_BOOTSTRAP", "1")])
        .run()
}

fn cargo_check() -> Step {
    // A folder of its own: other flags or another compiler would rebuild what the tests use.
    let folder = steps::target().join("wasm");
    Step::cargo("check")
        .args(["--package", "evenkeel", "--lib", "--target", TARGET, "--target-dir"])
        .args([folder])
        // Code for browsers only is seen by no other lint run.
        .envs([("RUSTFLAGS", "-Dwarnings")])
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

fn has_debian_source() -> bool {
    let sysroot = Step::new(DEBIAN_RUSTC).args(["--print", "sysroot"]).output();
    sysroot.is_some_and(|folder| Path::new(folder.trim()).join(DEBIAN_SOURCE).exists())
}
