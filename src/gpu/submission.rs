//! What was submitted, and waiting for it.

use std::sync::atomic::Ordering::Relaxed;

use futures::channel::oneshot;
use web_time::Instant;

use super::Gpu;
use crate::error::Result;

/// A submit that can be waited for.
#[derive(Debug)]
pub struct Submission {
    pub(super) at: Instant,
    /// When it was seen to be done.
    done: oneshot::Receiver<Instant>,
    #[cfg_attr(target_arch = "wasm32", expect(dead_code, reason = "nothing polls in a browser"))]
    index: wgpu::SubmissionIndex,
}

/// When a submit was seen to be done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub at: Instant,
    /// False where it had been done for a while when somebody looked.
    pub exact: bool,
}

impl Gpu {
    /// Submits what was encoded.
    pub fn submit(&self, encoder: wgpu::CommandEncoder) -> Submission {
        self.shared.submits.fetch_add(1, Relaxed);
        let commands = encoder.finish();
        let at = Instant::now();
        let index = self.queue.submit([commands]);
        Submission { at, done: self.done(), index }
    }

    /// Resolves when everything is done that was submitted so far; in a browser, when what was to be
    /// compiled is done too.
    pub(super) fn done(&self) -> oneshot::Receiver<Instant> {
        let (sender, done) = oneshot::channel();
        self.queue.on_submitted_work_done(move || {
            // The receiver is dropped where nobody waits.
            sender.send(Instant::now()).unwrap_or(());
        });
        done
    }

    /// Waits until a submit has run. Natively the calling thread waits; in a browser the event
    /// loop goes on.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub async fn wait(&self, submission: Submission) -> Result<()> {
        self.completion(submission).await.map(drop)
    }

    /// Waits until a submit has run, and tells when that was.
    pub(crate) async fn completion(&self, submission: Submission) -> Result<Completion> {
        let Submission { mut done, .. } = submission;
        #[cfg(not(target_arch = "wasm32"))]
        let completion = {
            // No wait with a timeout: wgpu 30 panics if another thread polls meanwhile.
            self.poll(wgpu::PollType::Poll)?;
            if let Ok(Some(at)) = done.try_recv() {
                Completion { at, exact: false }
            } else {
                let submission_index = Some(submission.index);
                self.poll(wgpu::PollType::Wait { submission_index, timeout: None })?;
                Completion { at: Instant::now(), exact: true }
            }
        };
        #[cfg(target_arch = "wasm32")]
        let completion = {
            let at = self.unless_lost(&mut done).await?;
            Completion {
                at: at.map_err(|_| self.lost_error("the queue was dropped"))?,
                exact: true,
            }
        };
        // A lost device finishes what it has by forgetting it.
        self.check()?;
        Ok(completion)
    }
}
