//! MPI, for the tests whose ranks are processes.

use std::ffi::OsString;

use anyhow::{Context, Result};

use crate::install;
use crate::steps::{self, Step};

/// OpenMPI, and what makes bindings to it.
const DEBIAN: &str = "libopenmpi-dev openmpi-bin libclang-dev";

/// Whether its compiler and its launcher are here.
pub fn is_here() -> bool {
    let answers = |program| Step::new(program).args(["--version"]).output().is_some();
    answers("mpicc") && answers("mpirun")
}

/// Installs it where it is missing.
pub fn find_or_install() -> Result<()> {
    if is_here() {
        return Ok(());
    }
    let hint = "install OpenMPI or MPICH with its headers (mpicc and mpirun), and libclang";
    install::debian_packages(DEBIAN, hint)
}

/// What builds programs with MPICH, and starts them.
#[derive(Clone, Copy, Debug)]
pub struct Mpich {
    compiler: &'static str,
    launcher: &'static str,
}

/// Debian has it beside OpenMPI under names of its own.
const MPICH: [Mpich; 2] = [
    Mpich { compiler: "mpicc.mpich", launcher: "mpirun.mpich" },
    Mpich { compiler: "mpicc", launcher: "mpirun" },
];

impl Mpich {
    /// Installs it where it is missing.
    pub fn find_or_install() -> Result<Self> {
        if let Some(found) = Self::find() {
            return Ok(found);
        }
        let hint = "install MPICH with its headers (mpicc and mpirun), and libclang";
        install::debian_packages("libmpich-dev mpich libclang-dev", hint)?;
        Self::find().context("MPICH was installed and is not found")
    }

    fn find() -> Option<Self> {
        MPICH.into_iter().find(|mpich| {
            let version = |program| Step::new(program).args(["--version"]).output();
            let is_hydra = version(mpich.launcher).is_some_and(|text| text.contains("HYDRA"));
            is_hydra && version(mpich.compiler).is_some()
        })
    }

    /// What builds and tests take from the environment. The bindings do not notice that it is another
    /// MPI, so that they have a folder of their own.
    pub fn environment(self) -> [(&'static str, OsString); 3] {
        [
            ("MPICC", self.compiler.into()),
            ("EVENKEEL_MPIRUN", self.launcher.into()),
            ("CARGO_TARGET_DIR", steps::target().join("mpich").into()),
        ]
    }
}
