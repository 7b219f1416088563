//! Whether a device is lost, and who wants to know.

use std::sync::Mutex;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{Shared, pending};

/// What wgpu said of the loss of a device, once it has.
#[derive(Clone, Debug)]
pub(super) struct Loss(Shared<oneshot::Receiver<String>>);

impl Loss {
    /// Sets the device's callback.
    pub fn of(device: &wgpu::Device) -> Self {
        let (sender, told) = oneshot::channel();
        let sender = Mutex::new(Some(sender));
        device.set_device_lost_callback(move |reason, message| {
            let text = format!("{reason:?} {message}");
            if let Some(sender) = sender.lock().expect("not poisoned").take() {
                // The receiver is dropped with the last `Gpu` of the device.
                sender.send(text.trim().to_owned()).unwrap_or(());
            }
        });
        Self(told.shared())
    }

    /// What was said so far.
    pub fn reason(&self) -> Option<String> {
        self.0.clone().now_or_never()?.ok()
    }

    /// Resolves when something is said; never where the callback was replaced.
    pub fn told(&self) -> impl Future<Output = String> + use<> {
        let told = self.0.clone();
        async move {
            match told.await {
                Ok(reason) => reason,
                Err(oneshot::Canceled) => pending().await,
            }
        }
    }
}
