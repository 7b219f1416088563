//! The GPU tests in WebGPU itself: the same test tables, compiled for a page, in headless Chromium
//! and, where a Vulkan driver is named, in Dawn under Node.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::chromium::Chromium;
use crate::drivers::Driver;
use crate::npm::{self, Folder};
use crate::steps::{self, Step};
use crate::wasm::{self, Compiler, Profile};

/// Names of the test programs that are compiled for pages too.
pub fn test_programs() -> Result<Vec<String>> {
    let modules = steps::root().join("tests/browser/src/lib.rs");
    let modules = fs::read_to_string(&modules)
        .with_context(|| format!("cannot read {}", modules.display()))?;
    let files = modules.lines().filter_map(|line| line.strip_prefix("#[path = \"../../"));
    let names: Vec<_> =
        files.filter_map(|file| file.split(['/', '.']).next()).map(str::to_owned).collect();
    ensure!(!names.is_empty(), "no test programs in tests/browser");
    Ok(names)
}

/// The test tables as a page.
pub struct Tests {
    site: PathBuf,
    npm: Folder,
}

impl Tests {
    /// Builds the page.
    pub fn build() -> Result<Self> {
        let site = steps::target().join("browser-tests");
        Compiler::find_or_install()?.build(wasm::TESTS, Profile::Fast, &site)?;
        copy_files(&steps::root().join("tests/browser/page"), &site)?;
        Ok(Self { site, npm: npm::xtask()? })
    }

    /// The command that runs them in Chromium with the files of a folder.
    pub fn in_chromium(&self, chromium: &Chromium, folder: &Path) -> Step {
        self.npm
            .script("page-tests.mjs")
            .args([self.site.as_path(), folder, &chromium.program])
            .envs(chromium.environment.iter().cloned())
    }

    /// The command that runs them on Dawn and a Vulkan driver, with the files of a folder.
    pub fn in_dawn(&self, driver: &Driver, folder: &Path) -> Step {
        // A Node that can suspend WebAssembly.
        let node = self.npm.program("node");
        node.args([self.npm.path().join("dawn-tests.mjs").as_path(), &self.site, folder])
            .envs(driver.environment())
            // Half the usual width: lavapipe's LLVM takes two thirds of the time for it, or less.
            .envs([("LP_NATIVE_VECTOR_WIDTH", "128")])
    }
}

/// An empty folder for files that native tests and those in a page leave for each other.
pub fn exchange_folder(place: &str) -> Result<PathBuf> {
    let folder = steps::target().join("exchange").join(place);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Copies the files of a folder into another.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("no folder {}", from.display()))? {
        let entry = entry?;
        let copy = to.join(entry.file_name());
        fs::copy(entry.path(), &copy)
            .with_context(|| format!("cannot write {}", copy.display()))?;
    }
    Ok(())
}
