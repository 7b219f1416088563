//! What MPI's own collectives take for the sums of `benches/exchange.rs`, in the order of ranks too:
//! `MPI_Alltoallv` and `MPI_Allgatherv`, which have no time limit and do not say who is missing.
//!
//! ```text
//! cargo bench --features mpi --bench collectives --no-run
//! mpirun -n 4 target/release/deps/collectives-...
//! ```
//!
//! Each line is a name and a time, the median of 21, each that of the slowest rank.

use std::time::Instant;

use evenkeel::train::ranks::even_parts;
use mpi::collective::{CommunicatorCollectives, SystemOperation};
use mpi::datatype::{Partition, PartitionMut};
use mpi::topology::{Communicator, SimpleCommunicator};

const ROUNDS: usize = 21;

fn main() {
    let universe = mpi::initialize().expect("MPI starts once");
    let world = universe.world();
    for kib in [64, 1024, 4096] {
        let seconds = median_seconds(&world, kib * 256);
        if world.rank() == 0 {
            println!("collectives over {kib} KiB = {seconds} s");
        }
    }
}

fn median_seconds(world: &SimpleCommunicator, count: usize) -> f64 {
    let values: Vec<f32> = (0..count).map(|i| (i + world.rank() as usize) as f32).collect();
    let mut seconds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let mut sums = values.clone();
        world.barrier();
        let start = Instant::now();
        fold(world, &mut sums);
        let (own, mut slowest) = (start.elapsed().as_secs_f64(), 0.0);
        world.all_reduce_into(&own, &mut slowest, SystemOperation::max());
        seconds.push(slowest);
    }
    seconds.sort_by(f64::total_cmp);
    seconds[ROUNDS / 2]
}

fn fold(world: &SimpleCommunicator, values: &mut [f32]) {
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
