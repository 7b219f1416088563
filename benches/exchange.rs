//! What steps of several ranks are made of, over MPI: pieces of gradients from the device to the host
//! and back, sums in the order of ranks, small messages, the exchange of pieces, one after the other
//! and several at once, and whole steps.
//!
//! ```text
//! cargo bench --features mpi --bench exchange --no-run
//! mpirun -n 4 target/release/deps/exchange-...
//! cargo xtask hosts --ranks 4 --delay 1ms --rate 1gbit -- target/release/deps/exchange-...
//! ```
//!
//! Each line is a name and a time: the median of 5 to 21, each that of the slowest rank. `cargo xtask
//! scaling --measure` runs it over several networks, and reads the lines. A sum is exchanged by ranges
//! (reduce-scatter and all-gather), which is what a step does, and beside it by rank 0 alone (gather
//! and broadcast); the bits are the same.

use std::ops::Range;
use std::rc::Rc;
use std::time::Instant;

use clap::Parser;
use evenkeel::graph::{Graph, Shape};
use evenkeel::kernels::Activation;
use evenkeel::nn::Linear;
use evenkeel::train::ranks::{Exchange, Mpi, even_parts};
use evenkeel::train::{AdamW, Batch, Model, ModelOutput, Trainer};
use evenkeel::{Gpu, Result, block_on};

/// So often is everything measured, at least and at most.
const ROUNDS: [usize; 2] = [5, 21];
/// Seconds after which the least is enough.
const ENOUGH: f64 = 1.0;
/// What a step has in an exchange at once.
const PIECE: usize = 4 << 20;
/// Pieces of a larger exchange.
const PIECES: usize = 4;
const WIDTH: usize = 1024;

/// What a step is of.
#[derive(Clone, Copy, Debug)]
struct Size {
    rows: usize,
    layers: usize,
}

/// 2.1 million parameters, and hardly anything to compute.
const SHORT: Size = Size { rows: 16, layers: 2 };
/// 4.2 million, and a backward pass that takes as long as gradients take on a network of 100 Mbit/s.
const LONG: Size = Size { rows: 256, layers: 4 };

#[derive(Parser)]
struct Options {
    /// Takes so many steps together and does nothing else, for who counts bytes on the network
    #[arg(long)]
    steps: Option<usize>,
    /// What `cargo bench` says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mpi = Rc::new(Mpi::world()?);
    let bench = Bench { mpi: mpi.clone() };
    bench.tell("ranks", mpi.size() as f64, "");
    let gpu = block_on(Gpu::new())?;
    if let Some(steps) = options.steps {
        let mut step = steps_of(&gpu, SHORT, Some(mpi))?;
        return (0..steps).try_for_each(|_| step());
    }
    // Both at once on all ranks, as in a step.
    let staged = Staged::new(&gpu);
    let staged = bench.median(|| staged.there_and_back())?;
    bench.tell("staging of 4 MiB", staged, " s");
    let host = Copies(mpi.size());
    let mut values = vec![1.0; PIECE / 4];
    let folded = bench.median(|| host.fold_parts(&mut values, &host.parts(PIECE / 4)))?;
    bench.tell("fold of 4 MiB", folded, " s");
    let small = bench.median(|| mpi.gather(&[0; 8]).map(drop))?;
    bench.tell("gather of 8 bytes", small, " s");
    for kib in [64, 1024, 4096] {
        let (seconds, _) = bench.exchange(kib * 256, Way::ByRanges)?;
        bench.tell(&format!("exchange of {kib} KiB"), seconds, " s");
    }
    let (_, by_ranges) = bench.exchange(1024 * 256, Way::ByRanges)?;
    let (seconds, by_one) = bench.exchange(1024 * 256, Way::AtRank0)?;
    assert!(by_ranges.iter().map(|x| x.to_bits()).eq(by_one.iter().map(|x| x.to_bits())));
    bench.tell("exchange of 1024 KiB at rank 0", seconds, " s");
    let (seconds, in_turn) = bench.exchange(PIECES * PIECE / 4, Way::InTurn)?;
    bench.tell("exchange of 4 pieces in turn", seconds, " s");
    let (seconds, at_once) = bench.exchange(PIECES * PIECE / 4, Way::AtOnce)?;
    assert!(in_turn.iter().map(|x| x.to_bits()).eq(at_once.iter().map(|x| x.to_bits())));
    bench.tell("exchange of 4 pieces at once", seconds, " s");
    for (name, size) in [("step", SHORT), ("long step", LONG)] {
        let alone = bench.step(&gpu, size, None)?;
        bench.tell(&format!("{name} by itself"), alone, " s");
        let together = bench.step(&gpu, size, Some(mpi.clone()))?;
        bench.tell(&format!("{name} together"), together, " s");
    }
    Ok(())
}

/// Where sums are made.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Each rank makes those of its range.
    ByRanges,
    AtRank0,
    /// By ranges, one piece after the other.
    InTurn,
    /// By ranges, with all pieces on their way.
    AtOnce,
}

struct Bench {
    mpi: Rc<Mpi>,
}

impl Bench {
    /// A line, of rank 0 alone.
    fn tell(&self, what: &str, value: f64, unit: &str) {
        if self.mpi.rank() == 0 {
            println!("{what} = {value}{unit}");
        }
    }

    /// Seconds of the slowest rank, where all begin at once.
    fn median(&self, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
        let [least, most] = ROUNDS;
        let mut seconds = Vec::with_capacity(most);
        // All ranks have the same times, and so end after the same one.
        while seconds.len() < least || seconds.len() < most && seconds.iter().sum::<f64>() < ENOUGH
        {
            self.mpi.barrier()?;
            let start = Instant::now();
            run()?;
            let own = start.elapsed().as_secs_f64();
            let all = self.mpi.gather(&own.to_le_bytes())?;
            let all = all.iter().map(|one| f64::from_le_bytes(one[..].try_into().expect("f64")));
            seconds.push(all.fold(0.0, f64::max));
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[seconds.len() / 2])
    }

    /// Seconds in which so many values are added up, and the sums.
    fn exchange(&self, count: usize, way: Way) -> Result<(f64, Vec<f32>)> {
        let mpi = &self.mpi;
        let values: Vec<f32> = (0..count).map(|i| (i + mpi.rank()) as f32).collect();
        let parts: Vec<_> =
            (0..mpi.size()).map(|rank| if rank == 0 { 0..count } else { count..count }).collect();
        let bytes: Vec<_> = parts.iter().map(|part| part.start * 4..part.end * 4).collect();
        let mut sums = Vec::new();
        let seconds = self.median(|| {
            sums.clone_from(&values);
            match way {
                Way::ByRanges => mpi.fold(&mut sums),
                Way::InTurn => sums.chunks_mut(PIECE / 4).try_for_each(|piece| mpi.fold(piece)),
                Way::AtOnce => fold_at_once(mpi, &mut sums),
                Way::AtRank0 => {
                    mpi.fold_parts(&mut sums, &parts)?;
                    mpi.share(bytemuck::cast_slice_mut(&mut sums), &bytes)
                }
            }
        })?;
        Ok((seconds, sums))
    }

    /// Seconds of a step: of every rank by itself, but all at once; or of all together.
    fn step(&self, gpu: &Gpu, size: Size, together: Option<Rc<Mpi>>) -> Result<f64> {
        let mut step = steps_of(gpu, size, together)?;
        // These compile, and find out how to submit.
        for _ in 0..3 {
            step()?;
        }
        self.median(step)
    }
}

/// Adds up pieces of which all are on their way before the first is looked at.
fn fold_at_once(mpi: &Mpi, values: &mut [f32]) -> Result<()> {
    let parts = even_parts(PIECE / 4, mpi.size());
    let bytes: Vec<_> = parts.iter().map(|part| part.start * 4..part.end * 4).collect();
    let own = parts[mpi.rank()].clone();
    let begin = |piece: &[f32]| mpi.begin_scatter(bytemuck::cast_slice(piece), &bytes);
    let scattered: Result<Vec<_>> = values.chunks(PIECE / 4).map(begin).collect();
    let mut shared = Vec::new();
    for (piece, begun) in values.chunks_mut(PIECE / 4).zip(scattered?) {
        let received: Vec<f32> = bytemuck::pod_collect_to_vec(&mpi.end(begun)?);
        let (first, others) = received.split_at(own.len());
        piece[own.clone()].copy_from_slice(first);
        for other in others.chunks(own.len()) {
            piece[own.clone()].iter_mut().zip(other).for_each(|(sum, value)| *sum += value);
        }
        shared.push(mpi.begin_share(bytemuck::cast_slice(piece).to_vec(), &bytes)?);
    }
    for (piece, begun) in values.chunks_mut(PIECE / 4).zip(shared) {
        bytemuck::cast_slice_mut(piece).copy_from_slice(&mpi.end(begun)?);
    }
    Ok(())
}

/// Steps, each to its end: of this rank by itself, or of all together.
fn steps_of(
    gpu: &Gpu,
    size: Size,
    together: Option<Rc<Mpi>>,
) -> Result<impl FnMut() -> Result<()>> {
    let builder = Trainer::builder(model(size)).optimizer(AdamW::default());
    let builder = match together {
        Some(exchange) => builder.exchange(exchange),
        None => builder,
    };
    let mut trainer = block_on(builder.build(gpu))?;
    let count = size.rows * WIDTH;
    let values =
        |scale: f32| -> Vec<f32> { (0..count).map(|i| (i as f32 * scale).sin()).collect() };
    let batch = Batch::new().with("x", values(0.3)).with("y", values(0.7));
    Ok(move || {
        block_on(trainer.step(&batch))?;
        finish(gpu);
        Ok(())
    })
}

fn model(Size { rows, layers }: Size) -> impl Model {
    move |graph: &mut Graph| {
        let x = graph.input("x", Shape::real([rows, WIDTH]));
        let y = graph.input("y", Shape::real([rows, WIDTH]));
        let hidden = (1..layers).fold(x, |x, layer| {
            let linear = Linear::new(WIDTH, WIDTH).activation(Activation::Silu);
            linear.forward(graph, &format!("in{layer}"), x)
        });
        let prediction = Linear::new(WIDTH, WIDTH).forward(graph, "out", hidden);
        ModelOutput { loss: graph.mean_squared_error(prediction, y), prediction }
    }
}

/// A piece of gradients on the device, and where it waits for the host.
struct Staged<'a> {
    gpu: &'a Gpu,
    gradient: wgpu::Buffer,
    staging: wgpu::Buffer,
}

impl<'a> Staged<'a> {
    fn new(gpu: &'a Gpu) -> Self {
        let gradient = gpu.upload("gradient", &vec![1f32; PIECE / 4]);
        Self { gpu, gradient, staging: gpu.staging(PIECE as u64) }
    }

    /// To the host, as numbers, and back, as a step has it.
    fn there_and_back(&self) -> Result<()> {
        let gpu = self.gpu;
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&self.gradient, 0, &self.staging, 0, PIECE as u64);
        gpu.submit(encoder);
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&block_on(gpu.map(&self.staging))?);
        gpu.write(&self.gradient, 0, bytemuck::cast_slice(&values));
        // What was written goes with the next submit.
        gpu.submit(gpu.device.create_command_encoder(&Default::default()));
        finish(gpu);
        Ok(())
    }
}

/// Waits until the device has done everything.
fn finish(gpu: &Gpu) {
    gpu.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device");
}

/// So many ranks without a network, of which this is the first: all have what it has.
#[derive(Debug)]
struct Copies(usize);

impl Copies {
    fn parts(&self, count: usize) -> Vec<Range<usize>> {
        even_parts(count, self.0)
    }
}

impl Exchange for Copies {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        self.0
    }

    fn scatter(&self, sent: &[u8], parts: &[Range<usize>], received: &mut [u8]) -> Result<()> {
        let own = &sent[parts[0].clone()];
        received.chunks_mut(own.len().max(1)).for_each(|place| place.copy_from_slice(own));
        Ok(())
    }

    fn share(&self, _: &mut [u8], _: &[Range<usize>]) -> Result<()> {
        Ok(())
    }
}
