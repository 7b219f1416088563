//! Whether a device is lost, and who wants to know.

use std::sync::{Arc, Mutex, OnceLock};

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{Shared, pending};

use crate::error::Error;

/// What wgpu said of the loss of a device, once it has.
#[derive(Clone, Debug)]
pub(super) struct Loss {
    told: Shared<oneshot::Receiver<String>>,
    /// The same for whoever only looks: a shared future is pending to all others while one polls it.
    reason: Arc<OnceLock<String>>,
}

impl Loss {
    /// Sets the device's callback.
    pub fn of(device: &wgpu::Device) -> Self {
        let (sender, told) = oneshot::channel();
        let sender = Mutex::new(Some(sender));
        let reason = Arc::new(OnceLock::new());
        let said = Arc::clone(&reason);
        device.set_device_lost_callback(move |kind, message| {
            let text = format!("{kind:?} {message}").trim().to_owned();
            let text = said.get_or_init(|| text).clone();
            if let Some(sender) = sender.lock().expect("not poisoned").take() {
                // The receiver is dropped with the last `Gpu` of the device.
                sender.send(text).unwrap_or(());
            }
        });
        Self { told: told.shared(), reason }
    }

    /// What was said so far.
    pub fn reason(&self) -> Option<String> {
        self.reason.get().cloned()
    }

    /// That it is lost: for the reason that was said, or else this one.
    pub fn error(&self, reason: &str) -> Error {
        Error::DeviceLost { reason: self.reason().unwrap_or_else(|| reason.to_owned()) }
    }

    /// Resolves when something is said; never where the callback was replaced.
    pub fn told(&self) -> impl Future<Output = String> + use<> {
        let told = self.told.clone();
        async move {
            match told.await {
                Ok(reason) => reason,
                Err(oneshot::Canceled) => pending().await,
            }
        }
    }
}
