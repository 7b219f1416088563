//! Threads that compile kernels while plans are recorded, natively.
//!
//! Some drivers compile when a kernel first runs, all in the thread of the device's queue: lavapipe
//! does. There a kernel first runs without workgroups, on devices of the threads' own; the driver
//! then has it in its cache for the device that it is meant for, where it runs without workgroups
//! too, so that the first step compiles nothing.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::pipeline::{Pipeline, unless_refused};
use super::rehearsal::{Rehearsals, submit_without_workgroups};

/// More threads than this wait for the slowest kernel, which takes about a tenth of the time of all.
const MOST_THREADS: usize = 8;

/// A kernel to compile.
#[derive(Debug)]
pub(super) struct Job {
    pub pipeline: Arc<Pipeline>,
    /// Where the driver compiles when it runs.
    pub first_run: Option<FirstRun>,
}

/// What else it takes to run a kernel for the first time.
#[derive(Debug)]
pub(super) struct FirstRun {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub bind_group: wgpu::BindGroup,
}

/// The kernels that wait, and the threads that compile them. Threads end when none waits.
#[derive(Debug, Default)]
pub(super) struct Compilers(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    rehearsals: Mutex<Rehearsals>,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: Vec<JoinHandle<()>>,
    /// Those of them that will look for another kernel.
    working: usize,
}

impl Compilers {
    /// For the device of an adapter that compiles when kernels run, if it does so.
    pub fn new(adapter: Option<&wgpu::Adapter>) -> Self {
        let rehearsals = adapter.cloned().map_or(Rehearsals::None, Rehearsals::Unknown);
        Self(Arc::new(Shared { state: Mutex::default(), rehearsals: Mutex::new(rehearsals) }))
    }

    /// Has a kernel compiled, in the order in which they are added.
    pub fn add(&self, job: Job) {
        let mut state = lock(&self.0.state);
        state.jobs.push_back(job);
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
        while let Some(job) = { lock(&self.0.state).jobs.pop_front() } {
            self.0.compile(&job);
        }
        let threads = std::mem::take(&mut lock(&self.0.state).threads);
        threads.into_iter().for_each(|thread| thread.join().unwrap_or(()));
    }
}

impl Drop for Compilers {
    /// No thread is in the driver when the device goes.
    fn drop(&mut self) {
        lock(&self.0.state).jobs.clear();
        self.finish();
    }
}

impl Shared {
    fn work(&self) {
        while let Some(job) = self.next() {
            // Whoever needs the kernel compiles it again, and hears why that failed.
            catch_unwind(AssertUnwindSafe(|| self.compile(&job))).unwrap_or(());
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = lock(&self.state);
        let job = state.jobs.pop_front();
        if job.is_none() {
            state.working -= 1;
        }
        job
    }

    fn compile(&self, job: &Job) {
        let begun = Instant::now();
        let Job { pipeline, first_run } = job;
        if first_run.is_some() && !pipeline.is_made() {
            self.rehearse(pipeline);
        }
        pipeline.make(begun);
        if let (Some(FirstRun { device, queue, bind_group }), true) =
            (first_run, pipeline.is_made())
        {
            unless_refused(device, || {
                submit_without_workgroups(device, queue, pipeline.get(), bind_group);
            });
        }
    }

    /// Runs a kernel on another device, where that is of use.
    fn rehearse(&self, pipeline: &Pipeline) {
        let Some(rehearsal) = lock(&self.rehearsals).take(pipeline) else { return };
        rehearsal.run(pipeline);
        lock(&self.rehearsals).give_back(rehearsal);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
