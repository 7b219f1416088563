//! The device that a command works on: the environment selects the adapter, an option of the program
//! what is asked of it.

use std::sync::OnceLock;

use evenkeel::gpu::GpuOptions;
use evenkeel::{Gpu, Precision, Result, run};

static OPTIONS: OnceLock<GpuOptions> = OnceLock::new();

/// Options that hold wherever a command takes any.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Multiply by the matrix units of the GPU where its driver has cooperative matrices that pass a
    /// self-test: tensors in f16 (--precision f16), on Apple's GPUs also f32. Experimental. A run goes
    /// on, and is looked into, with what it began with
    #[arg(long, global = true, help_heading = "Device")]
    cooperative_matrices: bool,
    /// Convert f16 by integer operations alone, where the GPU's own conversions pass a self-test and
    /// would be used: the same bits, slower
    #[arg(long, global = true, help_heading = "Device")]
    integer_halves: bool,
}

impl Options {
    /// Has every device of this process opened so.
    pub fn set(&self) {
        let Self { cooperative_matrices, integer_halves } = *self;
        OPTIONS.get_or_init(|| GpuOptions { cooperative_matrices, integer_halves });
    }
}

pub fn options() -> GpuOptions {
    OPTIONS.get().copied().unwrap_or_default()
}

/// The device of the adapter that the environment selects. Says what it was asked for and does not
/// give.
///
/// # Errors
/// As [`Gpu::with`].
pub async fn open() -> Result<Gpu> {
    let gpu = Gpu::with(options()).await?;
    if gpu.cooperative_matrices().admitted.is_empty() {
        for refused in &gpu.cooperative_matrices().refused {
            run::warn(format!("--cooperative-matrices has no effect: {refused}"));
        }
    } else if gpu.is_software() {
        run::warn(
            "--cooperative-matrices has no effect: on a software adapter products keep to registers",
        );
    }
    Ok(gpu)
}

/// Says that a run in this precision multiplies by none of the matrices that were asked for.
pub fn warn_unless_used(gpu: &Gpu, precision: Precision) {
    let found = gpu.cooperative_matrices();
    if gpu.is_software() || found.admitted.is_empty() || found.of(precision).is_some() {
        return;
    }
    let with: Vec<_> = found.admitted.iter().map(|one| one.precision().to_string()).collect();
    run::warn(format!(
        "--cooperative-matrices has no effect in {precision}: on this adapter it takes --precision {}",
        with.join(" or ")
    ));
}

/// The adapter and its driver, as saves name them, and what else decides about the bits of a product.
pub fn name(gpu: &Gpu) -> String {
    let name = format!("{} ({})", gpu.info.name, gpu.info.driver_info);
    let admitted = &gpu.cooperative_matrices().admitted;
    if admitted.is_empty() || gpu.is_software() {
        return name;
    }
    let admitted: Vec<_> = admitted.iter().map(ToString::to_string).collect();
    format!("{name} with cooperative matrices in {}", admitted.join(" and "))
}
