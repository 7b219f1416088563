//! Compilers of backends that need not be here: Tint, DXC and FXC from npm's `webgpu`, SPIRV-Tools and
//! glslang from the system. `tests/backends` uses them.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::steps::{self, Step};
use crate::{install, npm};

/// Makes the test fail where a compiler is missing, instead of skipping it.
pub const REQUIRE: (&str, &str) = ("EVENKEEL_REQUIRE_BACKENDS", "1");

/// What Debian's packages bring. Wine runs DXC and FXC, which a small program in C drives.
const PACKAGES: [(&str, &str); 4] = [
    ("spirv-val", "spirv-tools"),
    ("glslangValidator", "glslang-tools"),
    (WINE, "wine64"),
    (MINGW, "gcc-mingw-w64-x86-64"),
];
const WINE: &str = "/usr/lib/wine/wine64";
const MINGW: &str = "x86_64-w64-mingw32-gcc";

/// DXC and FXC, as npm's `webgpu` brings them.
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
    let folder = steps::target().join("backends");
    fs::create_dir_all(&folder)?;
    let libraries = npm::xtask()?.path().join("node_modules/webgpu/dist/win32-x64");
    for library in LIBRARIES {
        fs::copy(libraries.join(library), folder.join(library))
            .with_context(|| format!("no {library} in webgpu"))?;
    }
    let source = steps::root().join("xtask/backends/hlslc.c");
    let warnings = ["-Wall", "-Wextra", "-Werror", "-O1"];
    let compile = Step::new(MINGW).args(warnings).args(["-o", "hlslc.exe"]).args([source]);
    compile.current_dir(&folder).run()?;
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
