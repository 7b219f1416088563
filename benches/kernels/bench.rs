//! How one kernel is measured: many dispatches per submit, so that the host's part is small, and
//! right after it the copy kernel over as many bytes, so that both see the same machine.

use std::cell::Cell;
use std::time::{Duration, Instant};
use std::{fmt, slice};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, SamplingMode, Throughput};
use evenkeel::Gpu;
use evenkeel::gpu::Dispatch;
use evenkeel::kernel::{Kernel, Variant};
use evenkeel::kernels::{CopyQuads, CopyQuadsParams, InitializeUniform, InitializeUniformParams};

use crate::table::{Row, Table};

/// Samples per benchmark, of which the table shows the median.
pub const SAMPLES: usize = 10;

/// Repetitions per submit.
const BATCH: u64 = 16;

/// The copy kernel's buffers are at most as large: 10 M elements lie in no cache, and the smallest
/// binding that WebGPU guarantees, 128 MiB, holds them.
const LARGEST_COPY: u64 = 40_000_000;

/// What one repetition does.
#[derive(Clone, Copy)]
pub enum Work {
    /// Bytes that must be moved: each element read once and written once.
    Bytes(u64),
    /// Additions and multiplications.
    Flops(u64),
}

/// Rows and columns of an activation. Columns are a multiple of 4, so there is no padding.
#[derive(Clone, Copy)]
pub struct Shape {
    pub rows: u32,
    pub cols: u32,
}

/// What a step of a small and of a middling transformer has.
pub const SHAPES: [Shape; 2] = [Shape { rows: 512, cols: 128 }, Shape { rows: 4096, cols: 512 }];

impl Shape {
    pub fn quads(self) -> u32 {
        self.rows * self.cols / 4
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.rows, self.cols)
    }
}

pub fn bind(buffer: &wgpu::Buffer) -> wgpu::BufferBinding<'_> {
    buffer.as_entire_buffer_binding()
}

/// The benchmarks of one kernel family.
pub struct Family<'b> {
    pub gpu: &'b Gpu,
    group: BenchmarkGroup<'b, WallTime>,
    table: &'b mut Table,
    streams: Cell<u32>,
}

impl<'b> Family<'b> {
    pub fn new(
        gpu: &'b Gpu,
        mut group: BenchmarkGroup<'b, WallTime>,
        table: &'b mut Table,
    ) -> Self {
        group.sampling_mode(SamplingMode::Flat);
        Self { gpu, group, table, streams: Cell::new(0) }
    }

    /// Rows of elements uniform in [-1, 1].
    pub fn tensor(&self, rows: u32, cols: u32) -> wgpu::Buffer {
        let w = self.gpu.buffer("tensor", u64::from(rows * cols.div_ceil(4)) * 16);
        let stream = self.streams.replace(self.streams.get() + 1);
        let (first_row, seed, low, high) = (0, 1, -1.0, 1.0);
        let params = InitializeUniformParams { first_row, rows, cols, seed, stream, low, high };
        self.gpu.run(&InitializeUniform { params, w: bind(&w) });
        w
    }

    pub fn tensors<const N: usize>(&self, shape: Shape) -> [wgpu::Buffer; N] {
        [(); N].map(|()| self.tensor(shape.rows, shape.cols))
    }

    /// A row of f32, uniform in [-1, 1].
    pub fn vector(&self, count: u32) -> wgpu::Buffer {
        self.tensor(1, count)
    }

    /// Token ids below `bound`, in no order.
    pub fn tokens(&self, count: u32, bound: u32) -> wgpu::Buffer {
        let ids: Vec<_> = (0..count).map(|i| i.wrapping_mul(2_654_435_761) >> 8).collect();
        self.gpu.upload("tokens", &ids.iter().map(|id| id % bound).collect::<Vec<_>>())
    }

    /// A kernel that moves all that it is bound to.
    pub fn moves_its_buffers<K: Kernel>(&mut self, size: impl fmt::Display, kernel: &K) {
        let dispatch = self.gpu.prepare(kernel);
        self.measure(
            dispatch.name,
            size,
            Work::Bytes(dispatch.work.bytes()),
            slice::from_ref(&dispatch),
        );
    }

    /// A kernel that moves `bytes`.
    pub fn moves<K: Kernel>(&mut self, size: impl fmt::Display, bytes: u64, kernel: &K) {
        self.moves_as(Variant::default(), size, bytes, kernel);
    }

    /// A kernel over tensors or weights in another storage, that moves `bytes`.
    pub fn moves_as<K: Kernel>(
        &mut self,
        variant: impl Into<Variant>,
        size: impl fmt::Display,
        bytes: u64,
        kernel: &K,
    ) {
        let name = const { K::DECLARATION.name };
        let dispatch = self.gpu.prepare_as(kernel, variant);
        self.measure(name, size, Work::Bytes(bytes), &[dispatch]);
    }

    /// A kernel that does `flops` additions and multiplications.
    pub fn computes<K: Kernel>(&mut self, size: impl fmt::Display, flops: u64, kernel: &K) {
        self.computes_as(Variant::default(), size, flops, kernel);
    }

    /// A variant of a matrix product.
    pub fn multiplies_as<K: Kernel>(
        &mut self,
        variant: impl Into<Variant>,
        size: impl fmt::Display,
        kernel: &K,
    ) {
        let dispatch = self.gpu.prepare_as(kernel, variant);
        let work = Work::Flops(dispatch.work.operations);
        self.measure(dispatch.name, size, work, slice::from_ref(&dispatch));
    }

    /// A variant of a kernel that does `flops` additions and multiplications.
    pub fn computes_as<K: Kernel>(
        &mut self,
        variant: impl Into<Variant>,
        size: impl fmt::Display,
        flops: u64,
        kernel: &K,
    ) {
        let name = const { K::DECLARATION.name };
        let dispatch = self.gpu.prepare_as(kernel, variant);
        assert_eq!(dispatch.work.operations, flops, "{name}: operations as profiles count them");
        self.measure(name, size, Work::Flops(flops), &[dispatch]);
    }

    /// Measures dispatches that run one after the other; false if the filter excludes them.
    pub fn measure(
        &mut self,
        name: &str,
        size: impl fmt::Display,
        work: Work,
        dispatches: &[Dispatch],
    ) -> bool {
        self.table.cover(dispatches.iter().map(|dispatch| dispatch.name));
        let (throughput, unit) = match work {
            Work::Bytes(bytes) => (Throughput::BytesDecimal(bytes), ""),
            Work::Flops(flops) => (Throughput::Elements(flops), ", GFLOP/s"),
        };
        let mut seconds = Vec::new();
        self.group.throughput(throughput);
        self.group.bench_function(format!("{name} {size}{unit}"), |bencher| {
            bencher.iter_custom(|repeats| {
                let time = time(self.gpu, dispatches, repeats);
                seconds.push(time.as_secs_f64() / repeats as f64);
                time
            });
        });
        // The warm-up comes first; criterion's `--test` runs once, which is no measurement.
        if let Some(warm_up) = seconds.len().checked_sub(SAMPLES) {
            let seconds = median(&mut seconds[warm_up..]);
            let copy = match work {
                Work::Bytes(bytes) => Some(copy_bandwidth(self.gpu, bytes)),
                Work::Flops(_) => None,
            };
            let (name, size) = (name.to_owned(), size.to_string());
            self.table.push(Row { name, size, seconds, work, copy });
        }
        !seconds.is_empty()
    }
}

/// How long the device takes for a number of repetitions.
fn time(gpu: &Gpu, dispatches: &[Dispatch], repeats: u64) -> Duration {
    let finish = || gpu.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device");
    finish();
    let start = Instant::now();
    for first in (0..repeats).step_by(BATCH as usize) {
        let batch = BATCH.min(repeats - first);
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        gpu.encode(&mut encoder, (0..batch).flat_map(|_| dispatches));
        gpu.submit(encoder);
    }
    finish();
    start.elapsed()
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    (samples[(samples.len() - 1) / 2] + samples[samples.len() / 2]) / 2.0
}

/// Bytes per second that the copy kernel moves where source and target together have `bytes`.
pub fn copy_bandwidth(gpu: &Gpu, bytes: u64) -> f64 {
    let quads = (bytes / 2).clamp(16, LARGEST_COPY).div_ceil(16);
    let [x, y] = [(); 2].map(|()| gpu.buffer("copy", quads * 16));
    let params = CopyQuadsParams { quads: quads as u32 };
    let copy = [gpu.prepare(&CopyQuads { params, x: bind(&x), y: bind(&y) })];
    // The first run clears the buffers.
    time(gpu, &copy, 1);
    let once = time(gpu, &copy, 4).as_secs_f64() / 4.0;
    let repeats = (0.01 / once).clamp(1.0, 1000.0) as u64;
    let mut seconds: Vec<_> =
        (0..SAMPLES).map(|_| time(gpu, &copy, repeats).as_secs_f64() / repeats as f64).collect();
    (2 * 16 * quads) as f64 / median(&mut seconds)
}
