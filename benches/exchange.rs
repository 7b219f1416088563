//! What it costs ranks to add up gradients over MPI, in the order of ranks: each its range
//! (reduce-scatter and all-gather), which is what a step does, or rank 0 all of them (gather and
//! broadcast). The bits are the same.
//!
//! ```text
//! cargo bench --features mpi --bench exchange --no-run
//! mpirun -n 4 target/release/deps/exchange-...
//! mpirun -n 4 target/release/deps/exchange-... --collectives
//! ```
//!
//! The second run does the first of it with MPI's collectives, which have no time limit and do not say
//! who is missing (`MPI_Alltoallv`, `MPI_Allgatherv`).

use std::time::Instant;

use evenkeel::Result;
use evenkeel::train::ranks::{Exchange, Mpi, even_parts};
use mpi::collective::{CommunicatorCollectives, SystemOperation};
use mpi::datatype::{Partition, PartitionMut};
use mpi::topology::{Communicator, SimpleCommunicator};

const ROUNDS: usize = 21;
const KIB: [usize; 5] = [4, 64, 1024, 4096, 16384];

fn main() -> Result<()> {
    if std::env::args().any(|argument| argument == "--collectives") {
        let universe = mpi::initialize().expect("MPI starts once");
        collectives(&universe.world());
        return Ok(());
    }
    let mpi = Mpi::world()?;
    let ranks = mpi.size();
    if mpi.rank() == 0 {
        println!("{ranks} ranks; median of {ROUNDS}, of the slowest rank");
        println!("{:>10} {:>14} {:>14}", "KiB", "ranges, ms", "at rank 0, ms");
    }
    for kib in KIB {
        let values = values(kib, mpi.rank());
        let at_first: Vec<_> = (0..ranks)
            .map(|rank| if rank == 0 { 0..values.len() } else { values.len()..values.len() })
            .collect();
        let by_ranges = measure(&mpi, &values, |values| mpi.fold(values))?;
        let by_one = measure(&mpi, &values, |values| {
            mpi.fold_parts(values, &at_first)?;
            let parts: Vec<_> = at_first.iter().map(|p| p.start * 4..p.end * 4).collect();
            mpi.share(bytemuck::cast_slice_mut(values), &parts)
        })?;
        assert_eq!(by_ranges.1, by_one.1, "the same bits");
        if mpi.rank() == 0 {
            println!("{kib:>10} {:>14.3} {:>14.3}", 1e3 * by_ranges.0, 1e3 * by_one.0);
        }
    }
    Ok(())
}

fn values(kib: usize, rank: usize) -> Vec<f32> {
    (0..kib * 256).map(|i| (i + rank) as f32).collect()
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[ROUNDS / 2]
}

/// Seconds of the slowest rank, and the sums.
fn measure(
    mpi: &Mpi,
    values: &[f32],
    fold: impl Fn(&mut [f32]) -> Result<()>,
) -> Result<(f64, Vec<f32>)> {
    let (mut seconds, mut sums) = (Vec::with_capacity(ROUNDS), Vec::new());
    for _ in 0..ROUNDS {
        sums = values.to_vec();
        mpi.barrier()?;
        let start = Instant::now();
        fold(&mut sums)?;
        let own = start.elapsed().as_secs_f64();
        let all = mpi.gather(&own.to_le_bytes())?;
        let all =
            all.iter().map(|bytes| f64::from_le_bytes(bytes[..].try_into().expect("8 bytes")));
        seconds.push(all.fold(0.0, f64::max));
    }
    Ok((median(seconds), sums))
}

/// The same sums by MPI's collectives.
fn collectives(world: &SimpleCommunicator) {
    let (rank, ranks) = (world.rank() as usize, world.size() as usize);
    if rank == 0 {
        println!("{ranks} ranks; median of {ROUNDS}, of the slowest rank");
        println!("{:>10} {:>14}", "KiB", "ranges, ms");
    }
    for kib in KIB {
        let values = values(kib, rank);
        let mut seconds = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let mut sums = values.clone();
            world.barrier();
            let start = Instant::now();
            fold_by_collectives(world, &mut sums);
            let (own, mut slowest) = (start.elapsed().as_secs_f64(), 0.0);
            world.all_reduce_into(&own, &mut slowest, SystemOperation::max());
            seconds.push(slowest);
        }
        if rank == 0 {
            println!("{kib:>10} {:>14.3}", 1e3 * median(seconds));
        }
    }
}

fn fold_by_collectives(world: &SimpleCommunicator, values: &mut [f32]) {
    let (rank, ranks) = (world.rank() as usize, world.size() as usize);
    let parts = even_parts(values.len(), ranks);
    let own = parts[rank].len();
    let lengths: Vec<_> = parts.iter().map(|part| part.len() as i32).collect();
    let starts: Vec<_> = parts.iter().map(|part| part.start as i32).collect();
    let places: Vec<_> = (0..ranks).map(|rank| (rank * own) as i32).collect();
    let mut received = vec![0f32; own * ranks];
    let sent = Partition::new(&*values, &lengths[..], &starts[..]);
    let mut to = PartitionMut::new(&mut received[..], vec![own as i32; ranks], &places[..]);
    world.all_to_all_varcount_into(&sent, &mut to);
    let (sums, others) = received.split_at_mut(own);
    for other in others.chunks(own) {
        sums.iter_mut().zip(other).for_each(|(sum, value)| *sum += value);
    }
    let mut all = PartitionMut::new(values, &lengths[..], &starts[..]);
    world.all_gather_varcount_into(&*sums, &mut all);
}
