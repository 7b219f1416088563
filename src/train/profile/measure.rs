//! A step that is measured as it is taken.

use super::{Profile, ProfiledDispatch};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Span, Stage, Timestamps, Timing};
use crate::train::checkpoint::HostState;
use crate::train::sequence::Placed;
use crate::train::trainer::{copy_inputs, finish};
use crate::train::{Batch, Model, Trainer};

impl<M: Model> Trainer<M> {
    /// Takes one [`step`](Self::step), and measures each of its dispatches: what the device takes
    /// for it, beside what the device could do at best ([`Gpu::device_limits`], in the same run).
    /// The step is an ordinary one, with the same bits in all that it changes.
    ///
    /// Times are those of the device's timestamps, with a pass for each dispatch. Where the device
    /// has none ([`wgpu::Features::TIMESTAMP_QUERY`]) or such that cannot be trusted, each dispatch
    /// is repeated, and what it wrote put back: that takes a second or so, and room for what one
    /// dispatch writes; where there is no room, it runs once. Waits for the device, on which nothing
    /// else should run. Times of the first steps of a run have caches to fill and drivers that
    /// compile in them: take some steps before.
    ///
    /// ```no_run
    /// # use evenkeel::train::{Batch, Model, Trainer};
    /// # async fn look<M: Model>(trainer: &mut Trainer<M>, batch: &Batch) -> evenkeel::Result<()> {
    /// let profile = trainer.profile(batch).await?;
    /// println!("{profile}"); // a table by kernel, and one by module
    /// let update = profile.by_module(1).into_iter().find(|row| row.name == "update").unwrap();
    /// println!("the update: {} s, {} at best", update.seconds, update.least_seconds);
    /// std::fs::write("trace.json", profile.trace()).expect("written"); // for ui.perfetto.dev
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`step`](Self::step), and [`Error::Unsupported`] on several [ranks](crate::train::ranks).
    pub async fn profile(&mut self, batch: &Batch) -> Result<Profile> {
        if self.ranks.is_some() {
            return Err(Error::Unsupported {
                what: "a profile of a step on several ranks".into(),
                instead: "profile a trainer without TrainerBuilder::exchange".into(),
            });
        }
        let plan = self.checked_plan(batch).await?.0;
        finish(&self.gpu, &mut self.pacing, &mut self.in_flight).await?;
        let limits = self.gpu.device_limits().await?;
        let is_watched = self.is_watched();
        let spans = match limits.timing {
            Timing::Timestamps => self.step_stamped(plan, batch).await?,
            Timing::Repetition => self.step_repeated(batch).await?,
        };
        let sequence = self.sequence(plan);
        let list = sequence.of_step(is_watched);
        let dispatches = sequence.dispatches(list).zip(spans).map(profiled).collect();
        let info = &self.gpu.info;
        let adapter = format!("{} ({})", info.name, info.driver_info);
        Ok(Profile { adapter, limits, dispatches })
    }

    async fn step_stamped(&mut self, plan: usize, batch: &Batch) -> Result<Vec<Span>> {
        let list = self.sequence(plan).of_step(self.is_watched());
        let timestamps = Timestamps::new(&self.gpu, list);
        self.step_between(batch, Some(&timestamps)).await?;
        finish(&self.gpu, &mut self.pacing, &mut self.in_flight).await?;
        Ok(timestamps.read(&self.gpu).await?.spans)
    }

    /// The dispatches of a step one by one; each is run again and again, and then once.
    async fn step_repeated(&mut self, batch: &Batch) -> Result<Vec<Span>> {
        let (index, inputs) = self.checked_plan(batch).await?;
        let sequence = self.sequence(index);
        let list = sequence.of_step(self.is_watched());
        self.write_inputs(index, &inputs);
        let (mut spans, mut now) = (Vec::with_capacity(list.len()), 0.0);
        for Placed { dispatch, microbatch, begins } in sequence.dispatches(list) {
            if let (Some(microbatch), true) = (microbatch, begins) {
                submit(&self.gpu, |encoder| {
                    copy_inputs(
                        encoder,
                        self.plans.of(index),
                        &self.step,
                        &self.staging,
                        microbatch,
                    );
                });
            }
            let end = now + self.gpu.seconds_once(dispatch).await?;
            spans.push(Span { begin: now, end });
            now = end;
        }
        let host = HostState { steps: self.attempted + 1, ..self.host_state() };
        if let Some(snapshots) = &mut self.host_snapshots
            && let Some(copy) = snapshots.copy_after(host.steps)
        {
            submit(&self.gpu, |encoder| copy.encode(encoder));
            snapshots.copied(&self.gpu, host);
        }
        self.plans.ran(index);
        self.attempted += 1;
        Ok(spans)
    }
}

fn submit(gpu: &Gpu, encode: impl FnOnce(&mut wgpu::CommandEncoder)) {
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    encode(&mut encoder);
    gpu.submit(encoder);
}

fn profiled((placed, span): (Placed<'_>, Span)) -> ProfiledDispatch {
    let Placed { dispatch, microbatch, .. } = placed;
    let (module, label, stage) = match dispatch.origin.as_deref() {
        Some(origin) => (origin.module.clone(), origin.label.clone(), origin.stage),
        None => (String::new(), dispatch.name.to_owned(), Stage::Update),
    };
    ProfiledDispatch {
        kernel: dispatch.name,
        module,
        label,
        stage,
        microbatch,
        work: dispatch.work,
        workgroups: dispatch.workgroups.iter().map(|&groups| u64::from(groups)).product(),
        begin: span.begin,
        seconds: span.seconds(),
    }
}
