//! A device with everything the rest needs beside it: its queue, its limits, its compiled
//! pipelines, and counters that show what was asked of it.
//!
//! A [`Gpu`] is cheap to clone and there is no global one. Make it from the environment
//! ([`Gpu::new`]) or from a device of your own ([`Gpu::from_device`]).

mod adapter;
mod compilation;
#[cfg(not(target_arch = "wasm32"))]
mod compilers;
mod cooperative;
mod dispatch;
mod fitting;
mod halves;
mod loss;
mod memory;
mod numerics;
mod options;
mod origin;
mod pacing;
mod pipeline;
mod product_tiles;
#[cfg(not(target_arch = "wasm32"))]
mod rehearsal;
mod requirements;
mod submission;
mod timing;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use compilation::Compilation;
pub use compilation::Compiled;
#[cfg(not(target_arch = "wasm32"))]
use compilers::Compilers;
pub use cooperative::CooperativeMatrices;
pub use dispatch::Dispatch;
use futures::future::{Either, select};
pub use halves::AdmittedConversions;
use loss::Loss;
pub use memory::MemoryLimits;
pub(crate) use memory::buffer_bytes;

#[cfg(not(target_arch = "wasm32"))]
pub use numerics::Speed;
pub use numerics::{
    Accuracy, Arithmetic, Check, Compensation, Conversions, NonFiniteTests, Numerics, Outcome,
    Overflow, Products, Races, Reductions, SpecialValue, Subnormals,
};

pub use options::GpuOptions;
pub use origin::{Origin, Stage};
pub(crate) use pacing::{Pacing, Submitted};
pub use pacing::{SUBMIT_BUDGET, SlowDispatch, SubmitReport};
use pipeline::Pipeline;
pub use product_tiles::{MeasuredProduct, ProductTiles, ProductTuning};
#[cfg(not(target_arch = "wasm32"))]
use rehearsal::Rehearsal;
pub use requirements::Requirements;
pub(crate) use submission::Completion;
pub use submission::Submission;
pub use timing::{DeviceLimits, Timing};
pub(crate) use timing::{Span, Timestamps};

use crate::error::{Error, Result};
use crate::kernel::Variant;

/// Bytes between two uniform blocks or two bindings of one buffer: WebGPU's largest alignment.
pub const ALIGNMENT: u64 = 256;

/// A device, its queue, and the kernels compiled for it: a handle, as `wgpu::Device` is, and its
/// clones are the same device.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// The device.
    pub device: wgpu::Device,
    /// Its queue.
    pub queue: wgpu::Queue,
    /// What the adapter says of itself. In a browser that is little: `name` is its description,
    /// which may be empty, and `device_type` is a CPU for a fallback adapter and `Other` for the rest.
    pub info: wgpu::AdapterInfo,
    shared: Arc<Shared>,
}

/// A kernel, its storage, its constants.
type PipelineKey = (&'static str, Variant, Vec<u32>);

#[derive(Debug)]
struct Shared {
    /// In front of the rest: its threads end before anything else goes.
    #[cfg(not(target_arch = "wasm32"))]
    compilers: Compilers,
    #[cfg(not(target_arch = "wasm32"))]
    device: wgpu::Device,
    compilation: Arc<Compilation>,
    pipelines: Mutex<HashMap<PipelineKey, Arc<Pipeline>>>,
    product_tiles: Mutex<ProductTiles>,
    dispatches: AtomicU64,
    submits: AtomicU64,
    maps: AtomicU64,
    allocated: AtomicU64,
    loss: Loss,
    options: GpuOptions,
    matrices: OnceLock<CooperativeMatrices>,
    conversions: OnceLock<AdmittedConversions>,
}

/// What was asked of a [`Gpu`] since it was made. Differences of two readings tell what a step
/// costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Dispatches encoded.
    pub dispatches: u64,
    /// Command buffers submitted.
    pub submits: u64,
    /// Buffers mapped for reading: the waits on the device, and host snapshots, which do not wait.
    pub maps: u64,
    /// Bytes of all buffers created, those freed since included.
    pub allocated_bytes: u64,
}

impl Gpu {
    /// The adapter that the environment selects, with all of its limits.
    ///
    /// `WGPU_BACKEND`, `WGPU_POWER_PREF` and `WGPU_ADAPTER_NAME` (a part of the name) choose;
    /// without them the most powerful adapter is taken.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if nothing answers, [`Error::NoDevice`] if the driver refuses.
    pub async fn new() -> Result<Self> {
        Self::with(GpuOptions::default()).await
    }

    /// The first adapter whose name holds `name`, in whatever case, as `WGPU_ADAPTER_NAME` would
    /// choose it.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] with the names that there are, [`Error::NoDevice`] if the driver refuses.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn named(name: &str) -> Result<Self> {
        let descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
        let instance = wgpu::Instance::new(descriptor);
        let adapter =
            adapter::named(&instance, name, "an adapter is asked for with the name").await?;
        Self::from_adapter(&adapter).await
    }

    /// Another device of the adapter that this one is of, for when it is lost: of the same name,
    /// backend and driver, opened with the same options. Browsers do not say which adapter one is, so
    /// that there it is the one that [`new`](Self::new) finds.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] where it is gone, [`Error::NoDevice`] if the driver refuses.
    pub async fn another(&self) -> Result<Self> {
        #[cfg(target_arch = "wasm32")]
        {
            Self::with(self.shared.options).await
        }
        #[cfg(not(target_arch = "wasm32"))]
        {
            let descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
            let instance = wgpu::Instance::new(descriptor);
            let known = |info: &wgpu::AdapterInfo| {
                (info.name.clone(), info.backend, info.driver.clone(), info.driver_info.clone())
            };
            let own = known(&self.info);
            let asked = || format!("{:?} is not there", self.info.name);
            let adapter = adapter::first(&instance, |info| known(info) == own, asked).await?;
            let gpu = Self::from_adapter_with(&adapter, self.shared.options).await?;
            gpu.set_product_tiles(self.product_tiles());
            Ok(gpu)
        }
    }

    /// A device of the given adapter, with all of its limits and the features kernels can use:
    /// its [`requirements`](Self::requirements).
    ///
    /// # Errors
    /// [`Error::NoDevice`] if the driver refuses.
    pub async fn from_adapter(adapter: &wgpu::Adapter) -> Result<Self> {
        Self::from_adapter_with(adapter, GpuOptions::default()).await
    }

    async fn requested(
        adapter: &wgpu::Adapter,
        requirements: &Requirements,
        options: GpuOptions,
    ) -> Result<Self> {
        let info = adapter.get_info();
        let requested = adapter.request_device(&requirements.descriptor()).await;
        let (device, queue) = requested.map_err(|error| Error::NoDevice {
            adapter: info.name.clone(),
            reason: error.to_string(),
        })?;
        let gpu = Self::made(device, queue, info, options, Some(adapter));
        // What was made of a device that is lost is not valid; that is no news, and no reason to
        // panic as wgpu does by default. Browsers report such errors to the console.
        #[cfg(not(target_arch = "wasm32"))]
        {
            let (shared, loss) = (Arc::downgrade(&gpu.shared), gpu.shared.loss.clone());
            gpu.device.on_uncaptured_error(Arc::new(move |error| {
                let is_lost = match shared.upgrade() {
                    Some(shared) => shared.is_lost(),
                    None => loss.reason().is_some(),
                };
                assert!(is_lost, "wgpu error: {error}\n");
            }));
        }
        Ok(gpu)
    }

    /// A device that the caller made, with WebGPU's default limits or more, best with what
    /// [`requirements`](Self::requirements) says:
    ///
    /// ```no_run
    /// # async fn share(adapter: wgpu::Adapter) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut wanted = evenkeel::Gpu::requirements(&adapter);
    /// // What the rest of the program needs.
    /// wanted.features |= wgpu::Features::INDIRECT_FIRST_INSTANCE;
    /// let (device, queue) = adapter.request_device(&wanted.descriptor()).await?;
    /// let gpu = evenkeel::Gpu::from_device(device.clone(), queue.clone(), adapter.get_info());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Its device-lost callback is set, which only the last one set hears: make one `Gpu` of a
    /// device and clone that.
    pub fn from_device(device: wgpu::Device, queue: wgpu::Queue, info: wgpu::AdapterInfo) -> Self {
        Self::made(device, queue, info, GpuOptions::default(), None)
    }

    /// With the adapter, where there may be other devices of it.
    #[cfg_attr(target_arch = "wasm32", expect(unused_variables, reason = "browsers compile"))]
    fn made(
        device: wgpu::Device,
        queue: wgpu::Queue,
        info: wgpu::AdapterInfo,
        options: GpuOptions,
        adapter: Option<&wgpu::Adapter>,
    ) -> Self {
        let shared = Shared {
            #[cfg(not(target_arch = "wasm32"))]
            device: device.clone(),
            #[cfg(not(target_arch = "wasm32"))]
            compilers: if is_software(&info) {
                let own = Rehearsal::on(device.clone(), queue.clone());
                Compilers::rehearsing(own, adapter)
            } else {
                Compilers::default()
            },
            compilation: Arc::default(),
            pipelines: Mutex::default(),
            product_tiles: Mutex::default(),
            dispatches: AtomicU64::new(0),
            submits: AtomicU64::new(0),
            maps: AtomicU64::new(0),
            allocated: AtomicU64::new(0),
            loss: Loss::of(&device),
            options,
            matrices: OnceLock::new(),
            conversions: OnceLock::new(),
        };
        Self { device, queue, info, shared: Arc::new(shared) }
    }

    /// True where shaders run on the CPU: lavapipe, SwiftShader, WARP, and a browser's fallback
    /// adapter.
    pub fn is_software(&self) -> bool {
        is_software(&self.info)
    }

    /// What was asked of this device so far.
    pub fn counters(&self) -> Counters {
        Counters {
            dispatches: self.shared.dispatches.load(Relaxed),
            submits: self.shared.submits.load(Relaxed),
            maps: self.shared.maps.load(Relaxed),
            allocated_bytes: self.shared.allocated.load(Relaxed),
        }
    }

    /// Fails once the device is lost: natively, where it was destroyed, once it is done with what it
    /// has at work.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] with what the driver reported.
    pub fn check(&self) -> Result<()> {
        // Natively wgpu calls back only when it is asked.
        #[cfg(not(target_arch = "wasm32"))]
        self.poll(wgpu::PollType::Poll)?;
        match self.shared.loss.reason() {
            Some(reason) => Err(Error::DeviceLost { reason }),
            None => Ok(()),
        }
    }

    /// Resolves once the device is lost, with what the driver reported: after a driver reset, when
    /// a watchdog ended a submit, when the adapter was removed, or after
    /// [`destroy`](wgpu::Device::destroy).
    ///
    /// In a browser it resolves by itself. Natively the loss shows when the device is next used:
    /// by a step, a read, [`check`](Self::check) or [`wgpu::Device::poll`]. From then on whatever
    /// needs the device fails with [`Error::DeviceLost`]; nothing hangs.
    pub fn lost(&self) -> impl Future<Output = String> + use<> {
        self.shared.loss.told()
    }

    /// The largest buffer that can also be bound as a whole, in bytes.
    pub fn largest_binding(&self) -> u64 {
        self.memory_limits().largest_binding
    }

    /// Awaits what a browser may never resolve once the device is lost.
    async fn unless_lost<T>(&self, future: impl Future<Output = T> + Unpin) -> Result<T> {
        match select(future, std::pin::pin!(self.lost())).await {
            Either::Left((output, _)) => Ok(output),
            Either::Right((reason, _)) => Err(Error::DeviceLost { reason }),
        }
    }

    fn lost_error(&self, reason: &str) -> Error {
        self.shared.loss.error(reason)
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn poll(&self, poll: wgpu::PollType) -> Result<()> {
        self.shared.poll(poll)
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Shared {
    /// Lets wgpu call back.
    fn poll(&self, poll: wgpu::PollType) -> Result<()> {
        use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
        // A device that is lost while wgpu 30 waits for it makes it panic, after it has called back.
        match catch_unwind(AssertUnwindSafe(|| self.device.poll(poll))) {
            Ok(Ok(_)) => Ok(()),
            // The submit was refused: the device is destroyed, and may have work left to finish.
            Ok(Err(error)) => Err(self.loss.error(&error.to_string())),
            Err(_) if self.loss.reason().is_some() => Err(self.loss.error("")),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Whether the device is lost. One that was destroyed says so when its work is done, which is
    /// waited for.
    fn is_lost(&self) -> bool {
        self.loss.reason().is_some()
            || self.poll(wgpu::PollType::wait_indefinitely()).is_err()
            || self.loss.reason().is_some()
    }
}

fn is_software(info: &wgpu::AdapterInfo) -> bool {
    info.device_type == wgpu::DeviceType::Cpu
}
