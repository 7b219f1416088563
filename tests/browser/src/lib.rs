//! The GPU tests of this repository as one program for a page: the same files, compiled for wasm.
//!
//! A page has no test harness and nothing in it may block, yet these tests are plain functions that
//! wait for the device. So they run on a stack that the page suspends while it waits (`suspend`),
//! and the page asks for one test after the other (`names`, `run`). A panic ends the program; the
//! page reads its message from the console and starts the program again for the next test.
#![cfg(target_arch = "wasm32")]

mod files;
mod suspend;

use wasm_bindgen::prelude::wasm_bindgen;

#[path = "../../adapters/main.rs"]
mod adapters;
#[path = "../../averages.rs"]
mod averages;
#[path = "../../checkpoint.rs"]
mod checkpoint;
#[path = "../../custom_optimizer.rs"]
mod custom_optimizer;
#[path = "../../device_loss.rs"]
mod device_loss;
#[path = "../../diagnose.rs"]
mod diagnose;
#[path = "../../exchange.rs"]
mod exchange;
#[path = "../../families/main.rs"]
mod families;
#[path = "../../faults.rs"]
mod faults;
#[path = "../../fitting.rs"]
mod fitting;
#[path = "../../freezing.rs"]
mod freezing;
#[path = "../../generate.rs"]
mod generate;
#[path = "../../generation.rs"]
mod generation;
#[path = "../../gguf/main.rs"]
mod gguf;
#[path = "../../hugging_face/main.rs"]
mod hugging_face;
#[path = "../../kernels/main.rs"]
mod kernels;
#[path = "../../lengths.rs"]
mod lengths;
#[path = "../../logits.rs"]
mod logits;
#[path = "../../means.rs"]
mod means;
#[path = "../../memory.rs"]
mod memory;
#[path = "../../moments.rs"]
mod moments;
#[path = "../../numerics.rs"]
mod numerics;
#[path = "../../policies.rs"]
mod policies;
#[path = "../../profile.rs"]
mod profile;
#[path = "../../recompute.rs"]
mod recompute;
#[path = "../../restore.rs"]
mod restore;
#[path = "../../sizes.rs"]
mod sizes;
#[path = "../../skips.rs"]
mod skips;
#[path = "../../stability.rs"]
mod stability;
#[path = "../../step.rs"]
mod step;
#[path = "../../tensor_telemetry.rs"]
mod tensor_telemetry;
#[path = "../../training.rs"]
mod training;
#[path = "../../verdict.rs"]
mod verdict;
#[path = "../../watchdog.rs"]
mod watchdog;
#[path = "../../weights.rs"]
mod weights;

/// Test programs by name, and their tests.
const PROGRAMS: &[(&str, &[kernels::Test])] = &[
    ("kernels", kernels::TESTS),
    ("adapters", adapters::TESTS),
    ("averages", averages::TESTS),
    ("checkpoint", checkpoint::TESTS),
    ("custom_optimizer", custom_optimizer::TESTS),
    ("device_loss", device_loss::TESTS),
    ("diagnose", diagnose::TESTS),
    ("exchange", exchange::TESTS),
    ("families", families::TESTS),
    ("faults", faults::TESTS),
    ("fitting", fitting::TESTS),
    ("freezing", freezing::TESTS),
    ("generate", generate::TESTS),
    ("generation", generation::TESTS),
    ("gguf", gguf::TESTS),
    ("hugging_face", hugging_face::TESTS),
    ("logits", logits::TESTS),
    ("lengths", lengths::TESTS),
    ("means", means::TESTS),
    ("memory", memory::TESTS),
    ("moments", moments::TESTS),
    ("numerics", numerics::TESTS),
    ("policies", policies::TESTS),
    ("profile", profile::TESTS),
    ("skips", skips::TESTS),
    ("recompute", recompute::TESTS),
    ("restore", restore::TESTS),
    ("sizes", sizes::TESTS),
    ("stability", stability::TESTS),
    ("step", step::TESTS),
    ("tensor_telemetry", tensor_telemetry::TESTS),
    ("training", training::TESTS),
    ("verdict", verdict::TESTS),
    ("watchdog", watchdog::TESTS),
    ("weights", weights::TESTS),
];

/// All tests: those of the kernel table by family, then the others.
fn all() -> impl Iterator<Item = (String, fn())> {
    let families = kernels::FAMILIES.iter().chain(kernels::OTHERS);
    let families = families.map(|(family, tests)| (format!("kernels::{family}"), tests));
    let programs = PROGRAMS.iter().map(|(program, tests)| ((*program).to_owned(), tests));
    families.chain(programs).flat_map(|(path, tests)| {
        tests.iter().map(move |(name, run)| (format!("{path}::{name}"), *run))
    })
}

/// Names of all tests.
#[wasm_bindgen]
pub fn names() -> Vec<String> {
    std::panic::set_hook(Box::new(|panic| report(&panic.to_string())));
    all().map(|(name, _)| name).collect()
}

#[wasm_bindgen]
unsafe extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn report(message: &str);
}

/// Runs the test with this index. To be called on a stack that can be suspended.
#[unsafe(no_mangle)]
pub extern "C" fn run(index: usize) {
    let (_, run) = all().nth(index).expect("an index of `names`");
    run();
}
