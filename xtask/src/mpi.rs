//! MPI, for the tests whose ranks are processes.

use anyhow::Result;

use crate::install;
use crate::steps::Step;

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
