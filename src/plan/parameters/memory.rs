//! Memory of the device: whether a tensor can be bound, and allocations that may fail.

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::Shape;

/// Fails if a tensor is too large for a binding of so many bytes.
pub fn check_binding(available: u64, what: &str, shape: &Shape) -> Result<()> {
    let needed = shape.bytes();
    if needed <= available {
        return Ok(());
    }
    let row_bytes = shape.bytes() / shape.rows().max(1) as u64;
    let rows = available / row_bytes.max(1);
    Err(Error::Limit {
        what: format!("{what} of shape {shape}"),
        limit: "maxStorageBufferBindingSize (or maxBufferSize)",
        needed,
        available,
        advice: format!(
            "at this width {rows} rows fit: lower the batch or the context of a microbatch, and \
             accumulate over more of them, or lower the vocabulary"
        ),
    })
}

/// Runs `make` and turns a failed allocation, or a lost device, into an error.
pub async fn allocate<T>(gpu: &Gpu, what: &str, bytes: u64, make: impl FnOnce() -> T) -> Result<T> {
    let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let made = make();
    match scope.pop().await {
        None => gpu.check().map(|()| made),
        Some(_) => Err(Error::OutOfMemory {
            what: what.to_owned(),
            bytes,
            advice: "lower the batch, the context, the width or the number of layers; \
                     TrainerBuilder::memory tells what a run needs before it is built, and \
                     TrainerBuilder::fitting what would make it fit"
                .into(),
        }),
    }
}
