//! What the environment says of a process that `mpirun` or the like started, before MPI is.

use std::env;

/// OpenMPI; MPICH, Intel MPI and others of Hydra; whatever speaks PMIx.
const RANK: [&str; 3] = ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"];
const SIZE: [&str; 2] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"];
const LOCAL: [&str; 3] = ["OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"];

/// A process among those that were started together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launched {
    pub rank: usize,
    /// How many there are, where that is said.
    pub size: Option<usize>,
    /// Its number among those of this machine.
    pub local: usize,
}

impl Launched {
    /// None for a process that was started by itself.
    pub fn find() -> Option<Self> {
        Self::of(|name| env::var(name).ok()?.parse().ok())
    }

    fn of(variable: impl Fn(&str) -> Option<usize>) -> Option<Self> {
        let first = |names: &[&str]| names.iter().find_map(|name| variable(name));
        let (rank, size) = (first(&RANK)?, first(&SIZE));
        Some(Self { rank, size, local: first(&LOCAL).unwrap_or(rank) })
    }

    /// Whether there are others.
    pub fn has_others(self) -> bool {
        self.size.is_none_or(|size| size > 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launchers_are_known() {
        let of = |set: &[(&str, usize)]| {
            Launched::of(|name| set.iter().find(|(other, _)| *other == name).map(|(_, n)| *n))
        };
        assert_eq!(of(&[]), None);
        let open_mpi = [
            ("OMPI_COMM_WORLD_RANK", 5),
            ("OMPI_COMM_WORLD_SIZE", 8),
            ("OMPI_COMM_WORLD_LOCAL_RANK", 1),
            ("PMIX_RANK", 5),
        ];
        assert_eq!(of(&open_mpi), Some(Launched { rank: 5, size: Some(8), local: 1 }));
        let hydra = [("PMI_RANK", 0), ("PMI_SIZE", 1), ("MPI_LOCALRANKID", 0)];
        let alone = of(&hydra).expect("a rank");
        assert_eq!((alone.rank, alone.has_others()), (0, false));
        let slurm = of(&[("PMIX_RANK", 3), ("SLURM_LOCALID", 1)]).expect("a rank");
        assert_eq!((slurm.rank, slurm.local, slurm.has_others()), (3, 1, true));
        let pmi2 = [("PMI_RANK", 2), ("PMI_SIZE", 4), ("SLURM_LOCALID", 0), ("SLURM_PROCID", 2)];
        assert_eq!(of(&pmi2), Some(Launched { rank: 2, size: Some(4), local: 0 }));
        // Of a batch script's own process Slurm says this, and no protocol.
        assert_eq!(of(&[("SLURM_PROCID", 0), ("SLURM_LOCALID", 0)]), None);
    }
}
