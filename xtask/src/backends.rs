//! Compilers of backends that need not be here: Tint, DXC and FXC from npm's `webgpu`, SPIRV-Tools and
//! glslang from the system. `tests/backends` uses them.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::install;
use crate::steps::{self, Step};

/// Makes the test fail where a compiler is missing, instead of skipping it.
pub const REQUIRE: (&str, &str) = ("EVENKEEL_REQUIRE_BACKENDS", "1");

/// What Debian's packages bring. Wine runs DXC and FXC, which a small program in C drives.
const PACKAGES: [(&str, &str); 6] = [
    ("node", "nodejs"),
    ("npm", "npm"),
    ("spirv-val", "spirv-tools"),
    ("glslangValidator", "glslang-tools"),
    (WINE, "wine64"),
    (MINGW, "gcc-mingw-w64-x86-64"),
];
const WINE: &str = "/usr/lib/wine/wine64";
const MINGW: &str = "x86_64-w64-mingw32-gcc";

/// What the test finds in target/backends; the rest comes from npm.
const FILES: [&str; 5] = ["package.json", "package-lock.json", ".npmrc", "tint.mjs", "hlslc.c"];
const LIBRARIES: [&str; 2] = ["dxcompiler.dll", "d3dcompiler_47.dll"];

/// Brings all compilers.
pub fn prepare() -> Result<()> {
    let missing: Vec<_> = PACKAGES.iter().filter(|(program, _)| !exists(program)).collect();
    if !missing.is_empty() {
        let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
        let hint = "checking all backends needs Debian or Ubuntu";
        install::debian_packages(&packages.join(" "), hint)?;
        for (program, package) in missing {
            ensure!(exists(program), "{package} was installed, but {program} is not here");
        }
    }
    let folder = folder();
    fs::create_dir_all(&folder)?;
    let is_new = |file: &str| {
        let read = |folder: PathBuf| fs::read(folder.join(file)).ok();
        read(folder.clone()) != read(source())
    };
    let npm_is_stale = FILES[..3].iter().any(|file| is_new(file));
    for file in FILES {
        let to = folder.join(file);
        fs::copy(source().join(file), to).with_context(|| format!("cannot copy {file}"))?;
    }
    if npm_is_stale || !folder.join("node_modules/.package-lock.json").exists() {
        Step::new("npm").args(["ci"]).current_dir(&folder).run()?;
    }
    for library in LIBRARIES {
        let from = folder.join("node_modules/webgpu/dist/win32-x64").join(library);
        fs::copy(from, folder.join(library)).with_context(|| format!("no {library} in webgpu"))?;
    }
    let warnings = ["-Wall", "-Wextra", "-Werror", "-O1"];
    let output = ["-o", "hlslc.exe", "hlslc.c"];
    Step::new(MINGW).args(warnings).args(output).current_dir(&folder).run()?;
    // Wine makes its folder on the first start; tests must not race for it.
    fs::write(folder.join("empty.txt"), "")?;
    Step::new(WINE)
        .args(["hlslc.exe", "empty.txt"])
        .envs([("WINEPREFIX", folder.join("wine").into_os_string())])
        .envs([("WINEDEBUG", "-all"), ("WINEDLLOVERRIDES", "mscoree=;mshtml=")])
        .current_dir(&folder)
        .run()
}

fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // An absolute path replaces the folder in join.
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn source() -> PathBuf {
    steps::root().join("xtask/backends")
}

fn folder() -> PathBuf {
    steps::target().join("backends")
}
