//! A device that is lost in the middle of a run, and another one in its place: what `lora` and
//! `train` have in common. The run goes on from its last save, as one that is resumed, with the
//! batches that it had, so that on the same adapter its end is the same bit by bit.

use std::collections::VecDeque;
use std::thread::sleep;
use std::time::{Duration, Instant};

use evenkeel::run::{Ending, Signals, warn};
use evenkeel::{Error, Gpu, Result};

use crate::ranks::ended_by_loss;

/// Losses in a row, without a save between them, that a run goes on after.
const LOSSES: usize = 3;
/// Seconds before each try to get another device: a driver that was reset takes a while.
const PAUSES: [u64; 6] = [0, 1, 2, 4, 8, 16];

/// The device of a run, and what became of those before it.
pub struct Regain {
    gpu: Gpu,
    /// The step that was to be taken last.
    step: u64,
    /// The step that the run went on from last.
    from: u64,
    /// The reasons of losses that the run has not gone on after yet, and their steps.
    lost: Vec<(String, u64)>,
    in_a_row: usize,
    /// What was said of each loss, behind the step that the run went on from.
    said: Vec<(u64, String)>,
    /// Steps before which the device is destroyed, for tests.
    faults: VecDeque<u64>,
}

/// Tries until a try ends otherwise than by the loss of its device. Each but the first is to go on
/// from the last save.
///
/// # Errors
/// That of the try, or [`Error::NotRegained`].
pub async fn trying(
    gpu: Gpu,
    faults: &[u64],
    signals: &Signals,
    mut run: impl AsyncFnMut(&mut Regain) -> Result<Ending>,
) -> Result<Ending> {
    let mut regain = Regain::new(gpu, faults);
    loop {
        match run(&mut regain).await {
            Err(Error::DeviceLost { reason }) => {
                if let Some(stopped) = regain.another(reason, signals).await? {
                    return Ok(stopped);
                }
            }
            ended => return ended,
        }
    }
}

/// Tries once, with others: a device that is lost ends the run on all ranks.
///
/// # Errors
/// That of the try.
pub async fn once(
    gpu: Gpu,
    faults: &[u64],
    mut run: impl AsyncFnMut(&mut Regain) -> Result<Ending>,
) -> Result<Ending> {
    run(&mut Regain::new(gpu, faults)).await.map_err(ended_by_loss)
}

impl Regain {
    fn new(gpu: Gpu, faults: &[u64]) -> Self {
        Self {
            gpu,
            step: 0,
            from: 0,
            lost: Vec::new(),
            in_a_row: 0,
            said: Vec::new(),
            faults: faults.iter().copied().collect(),
        }
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The run has been brought to a step, and goes on from there. Says what was lost before, and
    /// gives the events to be recorded with the next step: records from it on are cut off.
    pub fn goes_on_from(&mut self, step: u64) -> Vec<String> {
        if step > self.from {
            self.in_a_row = self.in_a_row.min(1);
        }
        (self.from, self.step) = (step, step);
        for (reason, at) in self.lost.drain(..) {
            let event =
                format!("the device was lost at step {at} ({reason}); going on from step {step}");
            warn(&event);
            self.said.push((step, event));
        }
        let cut_off = self.said.iter().filter(|(from, _)| *from >= step);
        cut_off.map(|(_, event)| event.clone()).collect()
    }

    /// A step is to be taken.
    pub fn before_step(&mut self, step: u64) {
        self.step = step;
        if self.faults.front() == Some(&step) {
            self.faults.pop_front();
            self.gpu.device.destroy();
            // It ends what it has in hand first.
            while self.gpu.check().is_ok() {
                sleep(Duration::from_millis(1));
            }
        }
    }

    /// Another device in the place of one that is lost, or how the run ends where a signal came.
    async fn another(&mut self, reason: String, signals: &Signals) -> Result<Option<Ending>> {
        self.in_a_row += 1;
        if self.in_a_row > LOSSES {
            let (count, from) = (self.in_a_row, self.from);
            return Err(Error::NotRegained {
                reason: format!(
                    "{count} devices in a row were lost ({reason}) after the save at step {from}, \
                     and none came to the next one; save more often with --save-every, or go on \
                     elsewhere with --resume"
                ),
            });
        }
        let mut refused = None;
        for pause in PAUSES {
            if pause > 0 {
                warn(format!("the device was lost ({reason}); the next try is in {pause} s"));
            }
            if let Some(stopped) = wait(Duration::from_secs(pause), signals) {
                return Ok(Some(stopped));
            }
            match self.gpu.another().await {
                Ok(gpu) => return Ok(self.take(gpu, reason)),
                Err(error) => refused = Some(error),
            }
        }
        match crate::device::open().await {
            Ok(gpu) => Ok(self.take(gpu, reason)),
            Err(error) => Err(Error::NotRegained {
                reason: format!(
                    "{reason}; there is no other one ({}); go on with --resume once there is",
                    refused.unwrap_or(error)
                ),
            }),
        }
    }

    fn take(&mut self, gpu: Gpu, reason: String) -> Option<Ending> {
        self.gpu = gpu;
        self.lost.push((reason, self.step));
        None
    }
}

/// Waits, or until a signal comes.
fn wait(pause: Duration, signals: &Signals) -> Option<Ending> {
    let begun = Instant::now();
    loop {
        if let Some(signal) = signals.received() {
            return Some(Ending::Stopped(signal));
        }
        let left = pause.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return None;
        }
        sleep(left.min(Duration::from_millis(100)));
    }
}
