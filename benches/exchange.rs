//! What it costs ranks to add up gradients over MPI, in the order of ranks: each its range
//! (reduce-scatter and all-gather), which is what a step does, or rank 0 all of them (gather and
//! broadcast). The bits are the same.
//!
//! ```text
//! cargo bench --features mpi --bench exchange --no-run
//! mpirun -n 4 target/release/deps/exchange-...
//! ```

use std::time::Instant;

use evenkeel::Result;
use evenkeel::train::ranks::{Exchange, Mpi};

const ROUNDS: usize = 21;

fn main() -> Result<()> {
    let mpi = Mpi::world()?;
    let ranks = mpi.size();
    if mpi.rank() == 0 {
        println!("{ranks} ranks; median of {ROUNDS}, of the slowest rank");
        println!("{:>10} {:>14} {:>14}", "KiB", "ranges, ms", "at rank 0, ms");
    }
    for kib in [4, 64, 1024, 4096, 16384] {
        let values: Vec<f32> = (0..kib * 256).map(|i| (i + mpi.rank()) as f32).collect();
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
    seconds.sort_by(f64::total_cmp);
    Ok((seconds[ROUNDS / 2], sums))
}
