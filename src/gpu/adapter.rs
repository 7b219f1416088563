//! Which adapter the environment selects.

use crate::error::{Error, Result};

/// The adapter that `WGPU_ADAPTER_NAME` names, else the most powerful one of the backends that
/// `WGPU_BACKEND` allows.
pub(super) async fn find(instance: &wgpu::Instance) -> Result<wgpu::Adapter> {
    #[cfg(not(target_arch = "wasm32"))]
    if let Ok(wanted) = std::env::var("WGPU_ADAPTER_NAME") {
        return named(instance, &wanted, "WGPU_ADAPTER_NAME is").await;
    }
    let power_preference =
        wgpu::PowerPreference::from_env().unwrap_or(wgpu::PowerPreference::HighPerformance);
    let options = wgpu::RequestAdapterOptions { power_preference, ..Default::default() };
    instance
        .request_adapter(&options)
        .await
        .map_err(|error| Error::NoAdapter { reason: error.to_string() })
}

/// The first adapter with this in its name; `asked` is how that was asked for.
#[cfg(not(target_arch = "wasm32"))]
pub(super) async fn named(
    instance: &wgpu::Instance,
    wanted: &str,
    asked: &str,
) -> Result<wgpu::Adapter> {
    let lower = wanted.to_lowercase();
    let is_meant = |info: &wgpu::AdapterInfo| info.name.to_lowercase().contains(&lower);
    first(instance, is_meant, || format!("{asked} {wanted:?}")).await
}

/// The first adapter that is meant; `asked` says how it was asked for.
#[cfg(not(target_arch = "wasm32"))]
pub(super) async fn first(
    instance: &wgpu::Instance,
    is_meant: impl Fn(&wgpu::AdapterInfo) -> bool,
    asked: impl FnOnce() -> String,
) -> Result<wgpu::Adapter> {
    let all = instance.enumerate_adapters(wgpu::Backends::all()).await;
    let names: Vec<_> = all.iter().map(|adapter| adapter.get_info().name).collect();
    let found = all.into_iter().find(|adapter| is_meant(&adapter.get_info()));
    found.ok_or_else(|| Error::NoAdapter {
        reason: format!("{}, adapters here are {names:?}", asked()),
    })
}
