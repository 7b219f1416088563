//! Kernels are compiled on threads before the first step: what is told of it, and what becomes of
//! kernels and devices that fail meanwhile.

#[macro_use]
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use evenkeel::gpu::Compiled;
use evenkeel::graph::{Graph, Phase};
use evenkeel::kernel::{Fragment, grid};
use evenkeel::kernels::{CopyQuads, CopyQuadsParams};
use evenkeel::plan::Parameters;
use evenkeel::record::{Recorder, StepBuffers};
use evenkeel::train::{Model, Predictor, Trainer};
use evenkeel::{Error, Gpu, kernel};
use support::block_on;
use support::models::{small_gpt, small_gpt_batch};

tests! {
    what_is_told_counts_to_its_end,
}

/// A device of its own, for which nothing is compiled yet.
fn own_gpu() -> Option<Gpu> {
    support::gpu()?;
    Some(block_on(Gpu::new()).expect("another device of the adapter"))
}

fn what_is_told_counts_to_its_end() {
    let Some(gpu) = own_gpu() else { return };
    let told: Arc<Mutex<Vec<Compiled>>> = Arc::default();
    let hears = Arc::clone(&told);
    gpu.on_compiled(move |kernel| hears.lock().unwrap().push(kernel));
    let builder = Trainer::builder(small_gpt(0.1, 2)).seed(3);
    let mut trainer = block_on(builder.build(&gpu)).expect("a trainer");
    let kernels = told.lock().unwrap().clone();
    let counts: Vec<_> = kernels.iter().map(|kernel| kernel.done).collect();
    assert_eq!(counts, (1..=kernels.len()).collect::<Vec<_>>());
    assert!(kernels.windows(2).all(|pair| pair[0].asked <= pair[1].asked), "{kernels:?}");
    let last = kernels.last().expect("kernels");
    assert_eq!(last.done, last.asked, "{kernels:?}");
    for dispatch in trainer.dispatches() {
        let is_told = kernels.iter().any(|compiled| compiled.kernel == dispatch.name);
        assert!(is_told, "{} was not told", dispatch.name);
    }
    block_on(trainer.step(&small_gpt_batch(1, 2))).expect("a step");
    assert_eq!(told.lock().unwrap().len(), kernels.len(), "a step compiled something");
}

const FAULTY: Fragment = Fragment {
    path: "faulty.wgsl",
    text: "
        struct FaultyParams { count: u32 }
        @group(0) @binding(0) var<uniform> params: FaultyParams;
        @group(0) @binding(1) var<storage, read_write> y: array<f32>;
        @compute @workgroup_size(64)
        fn main(@builtin(global_invocation_id) id: vec3<u32>) { y[id.x] = params.missing; }",
};

kernel! {
    /// Reads a parameter that there is none of.
    pub Faulty = [FAULTY];
    workgroup [64, 1, 1];
    grid |params| grid(params.count.div_ceil(64));
    uniform FaultyParams {
        /// Elements.
        count: u32,
    }
    buffers {
        /// (count)
        Write y,
    }
}

/// In a page the error goes to the console.
#[test]
fn an_error_in_a_text_names_the_kernel_where_it_is_needed() {
    let Some(gpu) = own_gpu() else { return };
    let (step, y) = (StepBuffers::new(&gpu), gpu.buffer("y", 256));
    let mut recorder = Recorder::new(&gpu, &step);
    recorder
        .dispatch(&Faulty { params: FaultyParams { count: 64 }, y: y.as_entire_buffer_binding() });
    let dispatches = recorder.take();
    let encode = || {
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        gpu.encode(&mut encoder, &dispatches);
    };
    let panic = catch_unwind(AssertUnwindSafe(encode)).expect_err("a kernel that is refused");
    let text = panic.downcast_ref::<String>().expect("a text");
    assert!(text.contains("'faulty'") && text.contains("missing"), "{text}");
}

/// From the thread that compiles, of which a page has one.
#[test]
fn a_device_that_is_lost_meanwhile_is_told_as_that() {
    let Some(gpu) = own_gpu() else { return };
    let device = gpu.device.clone();
    gpu.on_compiled(move |kernel| {
        if kernel.done == 7 {
            device.destroy();
        }
    });
    let built = block_on(Trainer::builder(small_gpt(0.1, 2)).build(&gpu));
    let error = built.expect_err("no trainer of a lost device");
    assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
}

/// wgpu 30 clears what nobody has written where a submit binds it, and loses what another thread writes
/// meanwhile: what compiles a kernel must not bind the buffers that it is for.
#[test]
fn what_is_written_meanwhile_is_kept() {
    const MOST: u32 = 1 << 18; // some seconds
    for _ in 0..8 {
        let Some(gpu) = own_gpu() else { return };
        let is_compiled = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_compiled);
        gpu.on_compiled(move |_| told.store(true, Relaxed));
        let (step, y) = (StepBuffers::new(&gpu), gpu.buffer("y", 4 * u64::from(MOST)));
        let x = gpu.buffer("x", 4 * u64::from(MOST));
        let mut recorder = Recorder::new(&gpu, &step);
        recorder.dispatch(&CopyQuads {
            params: CopyQuadsParams { quads: MOST / 4 },
            x: x.as_entire_buffer_binding(),
            y: y.as_entire_buffer_binding(),
        });
        // It is told of before it runs.
        let (mut count, mut behind) = (0, 0);
        while behind < 4096 && count < MOST {
            gpu.write(&x, 4 * u64::from(count), bytemuck::bytes_of(&(count + 1)));
            count += 1;
            behind += u32::from(is_compiled.load(Relaxed));
        }
        assert!(is_compiled.load(Relaxed), "not compiled within {MOST} writes");
        let found: Vec<u32> = block_on(gpu.read(&x, 0, count as usize)).expect("readable");
        let expected: Vec<u32> = (1..=count).collect();
        let lost =
            found.iter().zip(&expected).filter(|(found, expected)| found != expected).count();
        assert_eq!(lost, 0, "of {count} writes");
    }
}

/// Threads are in the driver when the last handle goes.
#[test]
fn a_device_may_go_while_kernels_are_compiled() {
    for _ in 0..3 {
        let Some(gpu) = own_gpu() else { return };
        let model = small_gpt(0.0, 2);
        let mut graph = Graph::new(Phase::Evaluate);
        model.build(&mut graph);
        let parameters = block_on(Parameters::new(&gpu, &graph, 1)).expect("parameters");
        let loss = |graph: &mut Graph| vec![model.build(graph).loss];
        block_on(Predictor::new(&gpu, &parameters, loss)).expect("a predictor");
    }
}
