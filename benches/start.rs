//! The first step from nothing: a process that starts, finds an adapter, builds a trainer and makes
//! one step, with the driver's cache of compiled kernels empty and then full.
//!
//! `cargo bench --bench start`, or `cargo bench --bench start -- kernels` for a table of what each
//! kernel takes to compile from an empty cache. Every process is a new one; the cache is a folder of
//! its own, which Mesa and NVIDIA's driver are told by environment variables. Other drivers keep
//! theirs where they like, so that there both rows are those of a cache that is full.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use evenkeel::Gpu;
use evenkeel::gpu::{Compiled, Dispatch};
use evenkeel::kernel::Variant;
use evenkeel::kernels;
use evenkeel::nn::{Gpt, GptConfig, LanguageModel};
use evenkeel::train::{AdamW, Batch, Clip, Trainer};
use pollster::block_on;

const VOCABULARY: usize = 96;
const CONTEXT: usize = 64;
const BATCH: usize = 8;
/// Processes with an empty and with a full cache.
const ROUNDS: usize = 3;
const PARTS: [&str; 5] = ["device", "build", "first step", "all", "later step"];
/// Steps that the time of one is the median of, once all is compiled.
const LATER: usize = 9;

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let is = |name| arguments.iter().any(|argument| argument == name);
    if is("--child") {
        if is("kernels") { table() } else { start() }
    } else if is("kernels") {
        let folder = tempfile::tempdir().expect("a folder");
        print!("{}", child(folder.path(), "kernels"));
    } else {
        rounds();
    }
}

/// Medians over new processes.
fn rounds() {
    let mut states = [("empty", Vec::new()), ("full", Vec::new())];
    for _ in 0..ROUNDS {
        let folder = tempfile::tempdir().expect("a folder");
        for (_, times) in &mut states {
            let printed = child(folder.path(), "start");
            let seconds = printed.split_whitespace().map(|word| word.parse().expect("seconds"));
            times.push(seconds.collect::<Vec<f64>>());
        }
    }
    println!("cache   {}", PARTS.map(|part| format!("{part:>11}")).concat());
    for (state, times) in states {
        let median = |part: usize| {
            let mut seconds: Vec<_> = times.iter().map(|row| row[part]).collect();
            seconds.sort_by(f64::total_cmp);
            seconds[seconds.len() / 2]
        };
        let medians = (0..PARTS.len()).map(|part| format!("{:>9.2} s", median(part)));
        println!("{state:<8}{}", medians.collect::<String>());
    }
}

/// What a process of this program prints whose driver has its cache in `folder`.
fn child(folder: &Path, what: &str) -> String {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--child", what])
        .env("MESA_SHADER_CACHE_DIR", folder)
        .env("__GL_SHADER_DISK_CACHE_PATH", folder)
        .output()
        .expect("a process");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn trainer(gpu: &Gpu) -> Trainer<LanguageModel> {
    let gpt = Gpt::new(GptConfig::gpt2(VOCABULARY, CONTEXT, 4, 4, 128)).expect("valid");
    let model = LanguageModel { gpt, batch: BATCH, time: CONTEXT };
    let builder = Trainer::builder(model).optimizer(AdamW::default()).clip(Clip::Norm(1.0));
    block_on(builder.seed(1).build(gpu)).expect("a trainer")
}

fn batch() -> Batch {
    let count = BATCH * CONTEXT;
    let token = |i: usize| (i * 7919 % VOCABULARY) as u32;
    Batch::new()
        .with("tokens", (0..count).map(token).collect::<Vec<_>>())
        .with("targets", (1..=count).map(token).collect::<Vec<_>>())
}

/// Waits until the device has done everything.
fn finish(gpu: &Gpu) {
    gpu.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device");
}

/// One start; prints the seconds of its parts.
fn start() {
    let begun = Instant::now();
    let gpu = block_on(Gpu::new()).expect("an adapter");
    let device = begun.elapsed();
    let mut trainer = trainer(&gpu);
    let build = begun.elapsed();
    block_on(trainer.step(&batch())).expect("a step");
    finish(&gpu);
    let all = begun.elapsed();
    let mut later = [(); LATER].map(|()| {
        let begun = Instant::now();
        block_on(trainer.step(&batch())).expect("a step");
        finish(&gpu);
        begun.elapsed()
    });
    later.sort();
    for part in [device, build - device, all - build, all, later[LATER / 2]] {
        println!("{}", part.as_secs_f64());
    }
}

/// Milliseconds of naga for the text of a kernel: parsed and checked.
fn naga_time(name: &str, variant: Variant) -> f64 {
    let declaration = kernels::all().find(|kernel| kernel.name == name).expect("one of this crate");
    let source = declaration.source_of(declaration.variant(variant));
    let begun = Instant::now();
    let module = naga::front::wgsl::parse_str(&source).expect("valid");
    let (flags, capabilities) =
        (naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all());
    naga::valid::Validator::new(flags, capabilities).validate(&module).expect("valid");
    milliseconds(begun.elapsed())
}

fn milliseconds(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}

/// What each kernel takes that a run has until its first step: naga, and the thread that compiles
/// it, naga included.
fn table() {
    let gpu = block_on(Gpu::new()).expect("an adapter");
    println!("{}, {}", gpu.info.name, gpu.info.driver_info);
    let told: Arc<Mutex<Vec<Compiled>>> = Arc::default();
    let hears = Arc::clone(&told);
    gpu.on_compiled(move |kernel| hears.lock().expect("no panic").push(kernel));
    let trainer = trainer(&gpu);
    finish(&gpu);
    let mut kernels = told.lock().expect("no panic").clone();
    kernels.sort_by_key(|kernel| std::cmp::Reverse(kernel.time));
    println!("{:<32}{:>10}{:>12}{:>12}", "kernel", "naga, ms", "thread, ms", "in a step, ms");
    let mut sums = [0.0; 2];
    for Compiled { kernel, variant, time, .. } in kernels {
        let (naga, thread) = (naga_time(kernel, variant), milliseconds(time));
        let own = trainer.dispatches().filter(|dispatch| dispatch.name == kernel);
        let run = run_time(&gpu, &own.collect::<Vec<_>>());
        println!("{kernel:<32}{naga:>10.1}{thread:>12.0}{run:>12.2}");
        sums = [sums[0] + naga, sums[1] + thread];
    }
    println!("{:<32}{:>10.0}{:>12.0}", "sum", sums[0], sums[1]);
}

/// The quickest of some runs of dispatches, in milliseconds.
fn run_time(gpu: &Gpu, dispatches: &[&Dispatch]) -> f64 {
    let run = || {
        let begun = Instant::now();
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        gpu.encode(&mut encoder, dispatches.iter().copied());
        gpu.submit(encoder);
        finish(gpu);
        milliseconds(begun.elapsed())
    };
    (0..9).map(|_| run()).fold(f64::INFINITY, f64::min)
}
