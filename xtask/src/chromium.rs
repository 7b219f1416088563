//! Chromium as it is installed, which has a software adapter of its own, SwiftShader; and the same
//! with lavapipe in that place, which unlike SwiftShader has `shader-f16`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::drivers::{self, Driver, Kind};
use crate::install;
use crate::npm;
use crate::steps::{self, Step};

const PROGRAMS: [&str; 4] = [
    "/usr/bin/chromium",
    "/usr/bin/chromium-browser",
    "/usr/bin/google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
];

/// A Chromium to run tests in.
pub struct Chromium {
    pub program: PathBuf,
    /// Which Vulkan drivers it sees.
    pub environment: Vec<(&'static str, OsString)>,
}

impl Chromium {
    /// The one of this machine; where it or Node.js, which drives it, is missing, it is installed.
    pub fn find_or_install() -> Result<Self> {
        let find = || PROGRAMS.iter().map(PathBuf::from).find(|path| path.exists());
        if find().is_none() {
            install::driver(Kind::SwiftShader)?;
        }
        npm::need_node()?;
        let program = find();
        let program = program
            .with_context(|| format!("Chromium was installed, but is none of {PROGRAMS:?}"))?;
        Ok(Self { program, environment: Vec::new() })
    }

    /// A copy of Chromium on Linux, of links mostly, that takes lavapipe for SwiftShader: for any
    /// other software driver it has no adapter.
    pub fn on_lavapipe(lavapipe: &Driver) -> Result<Self> {
        let lavapipe = lavapipe.library().context("lavapipe has no library")?;
        let swiftshader = drivers::find_or_install(&[Kind::SwiftShader])?;
        let swiftshader = swiftshader[0].library().context("SwiftShader has no library")?;
        let installed = swiftshader.parent().context("a file lies in a folder")?;
        let program = ["chromium", "chrome"].iter().find(|name| installed.join(name).is_file());
        let program = program
            .with_context(|| format!("no program of Chromium in {}", installed.display()))?;

        let folder = steps::target().join("chromium-lavapipe");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        let link = ["--recursive", "--symbolic-link", "--no-target-directory"];
        Step::new("cp").args(link).args([installed, &folder]).run()?;
        // It finds its files beside itself, links followed.
        let copy = folder.join(program);
        fs::remove_file(&copy)?;
        fs::copy(installed.join(program), &copy)
            .with_context(|| format!("cannot write {}", copy.display()))?;
        // Without it there is no adapter to fall back on.
        fs::remove_file(folder.join(swiftshader.file_name().context("a file has a name")?))?;

        let driver = folder.join("libevenkeel_lavapipe.so");
        compile_driver(&lavapipe, &driver)?;
        let manifest = folder.join("lavapipe_icd.json");
        drivers::write_manifest(&manifest, &driver)?;
        let names = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"];
        let environment = names.map(|name| (name, manifest.clone().into_os_string()));
        Ok(Self { program: copy, environment: environment.into() })
    }
}

/// Compiles the driver that is lavapipe and says it is SwiftShader.
fn compile_driver(lavapipe: &Path, driver: &Path) -> Result<()> {
    Step::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"])
        .args([format!("-DLAVAPIPE=\"{}\"", lavapipe.display())])
        .args(["-o".as_ref(), driver, &steps::root().join("xtask/chromium/lavapipe.c")])
        .args(["-ldl"])
        .run()
}
