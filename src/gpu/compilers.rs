//! Threads that compile kernels while plans are recorded, natively.
//!
//! Some drivers compile when a kernel first runs, all in the thread of the device's queue: lavapipe
//! does. There a kernel first runs without workgroups, on devices of the threads' own; the driver
//! then has it in its cache for the device that it is meant for, where it is rehearsed without
//! workgroups too, so that the first step compiles nothing.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::pipeline::Pipeline;
use super::rehearsal::{Rehearsal, Rehearsals};

/// More threads than this wait for the slowest kernel, which takes about a tenth of the time of all.
const MOST_THREADS: usize = 8;

/// The kernels that wait, and the threads that compile them. Threads end when none waits.
#[derive(Debug, Default)]
pub(super) struct Compilers(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    rehearsals: Mutex<Rehearsals>,
    /// On the device that kernels are meant for, where the driver compiles when they run.
    own: Option<Rehearsal>,
}

#[derive(Debug, Default)]
struct State {
    /// The kernels to compile.
    waiting: VecDeque<Arc<Pipeline>>,
    threads: Vec<JoinHandle<()>>,
    /// Those of them that will look for another kernel.
    working: usize,
}

impl Compilers {
    /// For a device whose driver may compile when kernels run. With the adapter there may be others
    /// of it.
    pub fn rehearsing(own: Rehearsal, adapter: Option<&wgpu::Adapter>) -> Self {
        let rehearsals = adapter.cloned().map_or(Rehearsals::None, Rehearsals::Unknown);
        Self(Arc::new(Shared {
            rehearsals: Mutex::new(rehearsals),
            own: Some(own),
            ..Shared::default()
        }))
    }

    /// Has a kernel compiled, in the order in which they are added.
    pub fn add(&self, pipeline: Arc<Pipeline>) {
        let mut state = lock(&self.0.state);
        state.waiting.push_back(pipeline);
        let most = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        if state.working < most {
            let shared = Arc::clone(&self.0);
            let thread = thread::Builder::new().name("evenkeel compiles".into());
            // Without a thread, whoever needs the kernel compiles it.
            if let Ok(thread) = thread.spawn(move || shared.work()) {
                state.threads.push(thread);
                state.working += 1;
            }
        }
    }

    /// Compiles with the threads until nothing is left.
    pub fn finish(&self) {
        while let Some(pipeline) = { lock(&self.0.state).waiting.pop_front() } {
            self.0.compile(&pipeline);
        }
        let threads = std::mem::take(&mut lock(&self.0.state).threads);
        threads.into_iter().for_each(|thread| thread.join().unwrap_or(()));
    }
}

impl Drop for Compilers {
    /// No thread is in the driver when the device goes.
    fn drop(&mut self) {
        lock(&self.0.state).waiting.clear();
        self.finish();
    }
}

impl Shared {
    fn work(&self) {
        while let Some(pipeline) = self.next() {
            // Whoever needs the kernel compiles it again, and hears why that failed.
            catch_unwind(AssertUnwindSafe(|| self.compile(&pipeline))).unwrap_or(());
        }
    }

    fn next(&self) -> Option<Arc<Pipeline>> {
        let mut state = lock(&self.state);
        let pipeline = state.waiting.pop_front();
        if pipeline.is_none() {
            state.working -= 1;
        }
        pipeline
    }

    fn compile(&self, pipeline: &Pipeline) {
        let begun = Instant::now();
        let Some(own) = &self.own else { return pipeline.make(begun) };
        if !pipeline.is_made() {
            self.rehearse(pipeline);
        }
        pipeline.make(begun);
        if pipeline.is_made() {
            own.run(pipeline);
        }
    }

    /// Runs a kernel on another device, where that is of use.
    fn rehearse(&self, pipeline: &Pipeline) {
        let Some(rehearsal) = lock(&self.rehearsals).take(pipeline) else { return };
        rehearsal.run_anew(pipeline);
        lock(&self.rehearsals).give_back(rehearsal);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
