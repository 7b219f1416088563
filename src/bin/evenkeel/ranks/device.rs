//! Which device a rank takes.

use evenkeel::{Gpu, Result};

/// The device that the environment selects, or where this machine has several of its kind, for each
/// rank here one of them in turn. Says which it is in words.
///
/// # Errors
/// As [`Gpu::with`].
pub async fn of_rank(local: usize) -> Result<(Gpu, String)> {
    let usual = crate::device::open().await?;
    let kind = |info: &wgpu::AdapterInfo| {
        (info.name.clone(), info.backend, info.driver.clone(), info.driver_info.clone())
    };
    let descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    let instance = wgpu::Instance::new(descriptor);
    let all = instance.enumerate_adapters(wgpu::Backends::all()).await;
    let own = kind(&usual.info);
    let alike: Vec<_> = all.into_iter().filter(|one| kind(&one.get_info()) == own).collect();
    let name = crate::device::name(&usual);
    if alike.len() < 2 {
        return Ok((usual, name));
    }
    let place = local % alike.len();
    let gpu = Gpu::from_adapter_with(&alike[place], crate::device::options()).await?;
    let bus = match &*gpu.info.device_pci_bus_id {
        "" => String::new(),
        bus => format!(" at PCI {bus}"),
    };
    Ok((gpu, format!("{name}, number {} of {} here{bus}", place + 1, alike.len())))
}
