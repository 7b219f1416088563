//! What the page calls.

use evenkeel::Gpu;
use wasm_bindgen::prelude::*;

/// A run in a page.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Run(crate::Run);

#[wasm_bindgen]
impl Run {
    /// Builds `mlp`, `gpt` or `gpt-0.8m` on the page's adapter.
    pub async fn create(model: String, clip: bool) -> Result<Run, JsError> {
        let gpu = Gpu::new().await?;
        Ok(Self(crate::Run::new(&gpu, &model, clip).await?))
    }

    /// Submits one step.
    pub async fn step(&mut self) -> Result<(), JsError> {
        Ok(self.0.step().await?)
    }

    /// The losses of the steps since the last call. Waits for them.
    pub async fn losses(&mut self) -> Result<Vec<f32>, JsError> {
        Ok(self.0.losses().await?)
    }
}
