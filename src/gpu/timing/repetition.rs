//! Time by the clock on the wall: a dispatch repeated in one submit, and what it wrote put back.

use web_time::Instant;

use crate::error::Result;
use crate::gpu::{Dispatch, Gpu};

/// What the repetitions of one dispatch may take, in seconds, where one does not take as long.
const ENOUGH: f64 = 4e-3;
/// The most repetitions in a submit.
const MOST: usize = 256;

impl Gpu {
    /// Seconds of one dispatch, from as many repetitions as the clock needs. What it writes is
    /// changed by all of them.
    pub(crate) async fn seconds_repeated(&self, dispatch: &Dispatch) -> Result<f64> {
        let once = self.seconds_of(dispatch, 1).await?;
        match ((ENOUGH / once) as usize).min(MOST) {
            0 | 1 => Ok(once),
            count => Ok(self.seconds_of(dispatch, count).await? / count as f64),
        }
    }

    /// The same, after which everything is as if the dispatch had run once.
    pub(crate) async fn seconds_once(&self, dispatch: &Dispatch) -> Result<f64> {
        let Some(saved) = self.saved(dispatch).await else {
            return self.seconds_of(dispatch, 1).await;
        };
        let seconds = self.seconds_repeated(dispatch).await?;
        let mut encoder = self.device.create_command_encoder(&Default::default());
        for (written, saved) in dispatch.written.iter().zip(&saved) {
            let (buffer, offset, bytes) = written;
            encoder.copy_buffer_to_buffer(saved, 0, buffer, *offset, *bytes);
        }
        self.encode(&mut encoder, [dispatch]);
        let submission = self.submit(encoder);
        self.wait(submission).await?;
        Ok(seconds)
    }

    /// Copies of what a dispatch writes; `None` where they cannot be made or put back.
    async fn saved(&self, dispatch: &Dispatch) -> Option<Vec<wgpu::Buffer>> {
        use wgpu::BufferUsages as Usage;
        let usage = Usage::COPY_SRC | Usage::COPY_DST;
        let mut written = dispatch.written.iter();
        if !written.all(|(buffer, _, bytes)| buffer.usage().contains(usage) && bytes % 4 == 0) {
            return None;
        }
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let written = dispatch.written.iter();
        let copies = written.map(|(_, _, bytes)| self.create("saved", *bytes, usage));
        let copies: Vec<_> = copies.collect();
        if scope.pop().await.is_some() {
            return None;
        }
        let mut encoder = self.device.create_command_encoder(&Default::default());
        for ((buffer, offset, bytes), copy) in dispatch.written.iter().zip(&copies) {
            encoder.copy_buffer_to_buffer(buffer, *offset, copy, 0, *bytes);
        }
        self.submit(encoder);
        Some(copies)
    }

    /// Seconds of a submit of so many repetitions, from an idle device.
    async fn seconds_of(&self, dispatch: &Dispatch, repeats: usize) -> Result<f64> {
        let idle = self.submit(self.device.create_command_encoder(&Default::default()));
        self.wait(idle).await?;
        let mut encoder = self.device.create_command_encoder(&Default::default());
        self.encode(&mut encoder, std::iter::repeat_n(dispatch, repeats));
        let start = Instant::now();
        let submission = self.submit(encoder);
        self.wait(submission).await?;
        Ok(start.elapsed().as_secs_f64().max(1e-9))
    }
}
