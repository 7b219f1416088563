//! Kernels that are compiled before a step needs them, on threads, and who is told of it.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::pipeline::Pipeline;
use super::{Dispatch, Gpu};
use crate::error::Result;
use crate::kernel::Variant;

/// A kernel that was just compiled, as [`Gpu::on_compiled`] tells it.
#[derive(Clone, Copy, Debug)]
pub struct Compiled {
    /// Its name.
    pub kernel: &'static str,
    /// What it was compiled for.
    pub variant: Variant,
    /// What that took the thread that did it; in a browser, since it was handed over.
    pub time: Duration,
    /// Kernels that are compiled, this one included.
    pub done: usize,
    /// Kernels that were asked for so far, compiled or not. The same one with other constants, or of
    /// another variant, is another one.
    pub asked: usize,
}

#[cfg(not(target_arch = "wasm32"))]
type Hook = Arc<dyn Fn(Compiled) + Send + Sync>;
#[cfg(target_arch = "wasm32")]
type Hook = Arc<dyn Fn(Compiled)>;

/// How far all kernels of a device are.
#[derive(Default)]
pub(super) struct Compilation {
    asked: AtomicUsize,
    done: AtomicUsize,
    hook: Mutex<Option<Hook>>,
}

impl fmt::Debug for Compilation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} kernels compiled", self.done.load(Relaxed), self.asked.load(Relaxed))
    }
}

impl Compilation {
    /// Another kernel will be compiled.
    pub fn ask(&self) {
        self.asked.fetch_add(1, Relaxed);
    }

    /// One more is, and took so long.
    pub fn tell(&self, pipeline: &Pipeline, time: Duration) {
        // One after the other, so that what is told only grows.
        let hook = self.hook.lock().expect("not poisoned");
        let done = 1 + self.done.fetch_add(1, Relaxed);
        if let Some(hook) = &*hook {
            let (kernel, variant) = (pipeline.kernel.name, pipeline.variant);
            hook(Compiled { kernel, variant, time, done, asked: self.asked.load(Relaxed) });
        }
    }
}

impl Gpu {
    /// Calls `told` whenever a kernel was compiled, natively from the thread that did it; only the
    /// last one set hears. What a plan or a trainer needs is compiled on as many threads as there
    /// are processors, from when it is known what that is, and
    /// [`TrainerBuilder::build`](crate::train::TrainerBuilder::build) returns when all of it is
    /// done. Browsers compile by themselves, one kernel after the other, while the page goes on.
    ///
    /// ```no_run
    /// # fn show(gpu: &evenkeel::Gpu) {
    /// gpu.on_compiled(|kernel| eprint!("\rcompiling kernels {}/{}", kernel.done, kernel.asked));
    /// # }
    /// ```
    #[cfg(not(target_arch = "wasm32"))]
    pub fn on_compiled(&self, told: impl Fn(Compiled) + Send + Sync + 'static) {
        self.set_hook(Arc::new(told));
    }

    /// Calls `told` whenever the browser has compiled a kernel, which it does by itself, one after the
    /// other; only the last one set hears.
    /// [`TrainerBuilder::build`](crate::train::TrainerBuilder::build) returns when all are done that a
    /// step needs.
    #[cfg(target_arch = "wasm32")]
    pub fn on_compiled(&self, told: impl Fn(Compiled) + 'static) {
        self.set_hook(Arc::new(told));
    }

    fn set_hook(&self, hook: Hook) {
        *self.shared.compilation.hook.lock().expect("not poisoned") = Some(hook);
    }

    /// Has the pipelines of all these dispatches compiled, and waits for that.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost), in a browser; natively whoever uses the device
    /// next hears of it.
    pub(crate) async fn compile<'d>(
        &self,
        dispatches: impl IntoIterator<Item = &'d Dispatch>,
    ) -> Result<()> {
        #[cfg(not(target_arch = "wasm32"))]
        self.shared.compilers.finish();
        // What a thread could not do fails here.
        for dispatch in dispatches {
            dispatch.pipeline.get();
        }
        #[cfg(target_arch = "wasm32")]
        self.unless_lost(self.done()).await.map(drop)?;
        Ok(())
    }
}
