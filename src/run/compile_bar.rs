//! Kernels that are compiled, counted where somebody looks.

use indicatif::{ProgressBar, ProgressStyle};

use super::monitor::draw_target;
use crate::gpu::{Compiled, Gpu};

/// A bar that counts the kernels of a device as they are compiled, on the error output where that is
/// a terminal; it is gone when this is dropped. Takes the place of what
/// [`Gpu::on_compiled`] was given.
///
/// ```no_run
/// # use evenkeel::{Gpu, Result, nn::LanguageModel, train::{Trainer, TrainerBuilder}};
/// # async fn begin(builder: TrainerBuilder<LanguageModel>, gpu: &Gpu) -> Result<()> {
/// let compiling = evenkeel::run::CompileBar::new(gpu, false);
/// let trainer = builder.build(gpu).await?;
/// drop(compiling);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CompileBar {
    gpu: Gpu,
    bar: ProgressBar,
}

impl CompileBar {
    /// Counts from here on what the device compiles; hidden if `quiet`.
    pub fn new(gpu: &Gpu, quiet: bool) -> Self {
        let style = ProgressStyle::with_template("{bar:24} compiling kernels {pos}/{len}");
        let bar = ProgressBar::with_draw_target(None, draw_target(quiet));
        bar.set_style(style.expect("a valid template"));
        let counted = bar.clone();
        gpu.on_compiled(move |Compiled { done, asked, .. }| {
            counted.set_length(asked as u64);
            counted.set_position(done as u64);
        });
        Self { gpu: gpu.clone(), bar }
    }
}

impl Drop for CompileBar {
    fn drop(&mut self) {
        self.gpu.on_compiled(|_| {});
        self.bar.finish_and_clear();
    }
}
