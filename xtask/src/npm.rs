//! Packages of npm, each folder's as its lock file names them.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::install;
use crate::steps::{self, Step};

/// A folder with a package.json whose packages are installed.
pub struct Folder(PathBuf);

/// The tools of this program.
pub fn xtask() -> Result<Folder> {
    Folder::install("xtask/npm")
}

impl Folder {
    /// Installs what the lock file of a folder of the repository names, where that is not done yet.
    pub fn install(folder: &str) -> Result<Self> {
        need_node()?;
        let folder = steps::root().join(folder);
        let lock = folder.join("package-lock.json");
        // npm writes this file when it has installed everything.
        let installed = folder.join("node_modules/.package-lock.json");
        if !is_newer(&installed, &lock) {
            Step::new(npm()).args(["ci", "--no-audit", "--no-fund"]).current_dir(&folder).run()?;
        }
        Ok(Self(folder))
    }

    /// A program that a package brings.
    pub fn program(&self, name: &str) -> Step {
        Step::new(self.0.join("node_modules/.bin").join(name))
    }

    /// A script of the folder, run by the machine's Node.
    pub fn script(&self, name: &str) -> Step {
        Step::new("node").args([self.0.join(name)])
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

fn npm() -> &'static str {
    if cfg!(windows) { "npm.cmd" } else { "npm" }
}

fn is_newer(file: &Path, than: &Path) -> bool {
    let time = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    matches!((time(file), time(than)), (Some(file), Some(than)) if file >= than)
}

/// Whether Node.js and npm are here.
pub fn has_node() -> bool {
    let answers = |program| Step::new(program).args(["--version"]).output().is_some();
    answers("node") && answers(npm())
}

/// Installs Node.js and npm where they are missing.
pub fn need_node() -> Result<()> {
    if !has_node() {
        install::debian_packages("nodejs npm", "install Node.js and npm")?;
    }
    ensure!(has_node(), "Node.js was installed, but `node --version` or `npm --version` fails");
    Ok(())
}
