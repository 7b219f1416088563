//! Which adapter the environment selects.

use crate::error::{Error, Result};

/// The adapter that `WGPU_ADAPTER_NAME` names, else the most powerful one of the backends that
/// `WGPU_BACKEND` allows.
pub(super) async fn find(instance: &wgpu::Instance) -> Result<wgpu::Adapter> {
    #[cfg(not(target_arch = "wasm32"))]
    if let Ok(wanted) = std::env::var("WGPU_ADAPTER_NAME") {
        let all = instance.enumerate_adapters(wgpu::Backends::all()).await;
        let names: Vec<_> = all.iter().map(|adapter| adapter.get_info().name).collect();
        let lower = wanted.to_lowercase();
        let found = all.into_iter().find(|a| a.get_info().name.to_lowercase().contains(&lower));
        return found.ok_or_else(|| Error::NoAdapter {
            reason: format!("WGPU_ADAPTER_NAME is {wanted:?}, adapters here are {names:?}"),
        });
    }
    let power_preference =
        wgpu::PowerPreference::from_env().unwrap_or(wgpu::PowerPreference::HighPerformance);
    let options = wgpu::RequestAdapterOptions { power_preference, ..Default::default() };
    instance
        .request_adapter(&options)
        .await
        .map_err(|error| Error::NoAdapter { reason: error.to_string() })
}
