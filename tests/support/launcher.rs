//! What starts ranks: `mpirun` of OpenMPI or of MPICH.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::process::Command;
use std::sync::OnceLock;

/// Whose `mpirun` it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    OpenMpi,
    /// Hydra, which starts Intel MPI and MVAPICH as well.
    Mpich,
}

/// The name of the launcher: that of the MPI that the tests were built with.
fn name() -> String {
    std::env::var("EVENKEEL_MPIRUN").unwrap_or_else(|_| "mpirun".to_owned())
}

impl Launcher {
    pub fn find() -> Self {
        static FOUND: OnceLock<Launcher> = OnceLock::new();
        *FOUND.get_or_init(|| {
            let version = Command::new(name()).arg("--version").output();
            let version = version.expect("mpirun, of the package openmpi-bin or mpich, runs");
            let text = String::from_utf8_lossy(&version.stdout);
            if text.contains("HYDRA") { Self::Mpich } else { Self::OpenMpi }
        })
    }

    /// The launcher with what tests need, to which ranks are to be added. It may be the argument of
    /// another program.
    pub fn command(self, before: &[&str]) -> Command {
        let words: Vec<_> = before.iter().map(|word| (*word).to_owned()).chain([name()]).collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        if self == Self::OpenMpi {
            // More processes than cores are fine here, and root is in containers.
            command.args(["--oversubscribe", "--bind-to", "none"]);
            command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
            // A rank in a container may not look into the memory of another.
            command.env("OMPI_MCA_btl_vader_single_copy_mechanism", "none");
        }
        command
    }

    /// Takes from a program what this launcher alone says in its environment, and others such as Slurm
    /// do not.
    pub fn hiding_itself(self) -> &'static [&'static str] {
        match self {
            Self::OpenMpi => &[
                "env",
                "--unset=OMPI_COMM_WORLD_RANK",
                "--unset=OMPI_COMM_WORLD_SIZE",
                "--unset=OMPI_COMM_WORLD_LOCAL_RANK",
            ],
            Self::Mpich => &["env", "--unset=MPI_LOCALRANKID", "--unset=MPI_LOCALNRANKS"],
        }
    }

    /// What the launcher of another MPI says to the first of two ranks.
    pub fn of_another(self) -> [(&'static str, &'static str); 2] {
        match self {
            Self::OpenMpi => [("PMI_RANK", "0"), ("PMI_SIZE", "2")],
            Self::Mpich => [("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "2")],
        }
    }

    /// What it says of a rank that was killed. MPICH's has no number for it.
    pub fn tells_of_killed(self, rank: usize) -> [String; 2] {
        let who = match self {
            Self::OpenMpi => format!("rank {rank} "),
            Self::Mpich => "EXIT CODE: 9".to_owned(),
        };
        [who, "signal 9".to_owned()]
    }

    /// Leaves the others alone where a rank ends before them: an option of the launcher, and what
    /// starts each rank. MPICH's goes on only as long as it sees all of them, so that a shell stays in
    /// the place of each until the others had their time.
    pub fn leaving_alone(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::OpenMpi => ("--enable-recovery", &[]),
            Self::Mpich => ("-disable-auto-cleanup", &["sh", "-c", "\"$@\"; sleep 8", "sh"]),
        }
    }
}
