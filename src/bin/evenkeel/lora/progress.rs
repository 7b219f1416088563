//! Lines about how a run goes, as mlx_lm.lora prints them.

use std::time::{Duration, Instant};

use evenkeel::data::LoaderStatistics;
use evenkeel::run::say;
use evenkeel::train::Telemetry;

/// What was trained since the last line, and what there is to train.
pub struct Progress {
    quiet: bool,
    /// Iterations in a step of the optimizer.
    per_step: u64,
    iters: u64,
    losses: Vec<f64>,
    tokens: u64,
    steps: u64,
    /// Time spent in steps: since the last line, and in all.
    window: Duration,
    total: Duration,
    total_steps: u64,
    since: Instant,
}

impl Progress {
    pub fn new(quiet: bool, per_step: u64, iters: u64) -> Self {
        Self {
            quiet,
            per_step,
            iters,
            losses: Vec::new(),
            tokens: 0,
            steps: 0,
            window: Duration::ZERO,
            total: Duration::ZERO,
            total_steps: 0,
            since: Instant::now(),
        }
    }

    /// Begins to measure the time of steps.
    pub fn start(&mut self) {
        self.since = Instant::now();
    }

    /// Takes steps that were read together, and the tokens that counted in them. Returns how many
    /// of those there were in a second.
    pub fn take(&mut self, steps: &[Telemetry], tokens: u64) -> f64 {
        let elapsed = self.since.elapsed();
        self.window += elapsed;
        self.total += elapsed;
        self.tokens += tokens;
        self.steps += steps.len() as u64;
        self.total_steps += steps.len() as u64;
        let applied = steps.iter().filter(|step| step.applied);
        self.losses.extend(applied.map(|step| f64::from(step.loss)));
        tokens as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// What happened in a step.
    pub fn say_event(&self, step: u64, event: &str) {
        if !self.quiet {
            say!("Iter {}: {event}", (step + 1) * self.per_step);
        }
    }

    /// A line about the steps since the last one.
    pub fn say_training(&mut self, last: &Telemetry, trained_tokens: u64, bytes: u64) {
        let iteration = (last.step + 1) * self.per_step;
        let count = self.losses.len().max(1) as f64;
        let loss = self.losses.iter().sum::<f64>() / count;
        let loss =
            if self.losses.is_empty() { "none applied".into() } else { format!("{loss:.3}") };
        let seconds = self.window.as_secs_f64().max(f64::MIN_POSITIVE);
        if !self.quiet {
            say!(
                "Iter {iteration}: Train loss {loss}, Learning Rate {:.3e}, It/sec {:.3}, \
                 Tokens/sec {:.3}, Trained Tokens {trained_tokens}, Peak mem {:.3} GB, {} left",
                last.learning_rate,
                (self.steps * self.per_step) as f64 / seconds,
                self.tokens as f64 / seconds,
                bytes as f64 / 1e9,
                clock(self.left(last.step + 1))
            );
        }
        self.losses.clear();
        (self.tokens, self.steps, self.window) = (0, 0, Duration::ZERO);
    }

    pub fn say_validation(&self, iteration: u64, loss: f64, took: Duration) {
        if !self.quiet {
            let seconds = took.as_secs_f64();
            say!("Iter {iteration}: Val loss {loss:.3}, Val took {seconds:.3}s");
        }
    }

    /// How fast batches were made, and how long the run waited for them.
    pub fn say_data(&self, data: &LoaderStatistics) {
        if !self.quiet && data.batches > 0 {
            say!(
                "Data: {:.0} batches/sec could be made, {:.3} were taken; the run waited for them \
                 {:.1} % of the time.",
                data.batches_per_second(),
                data.taken_per_second(),
                100.0 * data.waiting_share()
            );
        }
    }

    pub fn say(&self, text: &str) {
        if !self.quiet {
            say!("{text}");
        }
    }

    fn left(&self, done: u64) -> Duration {
        let steps = (self.iters / self.per_step).saturating_sub(done);
        let each = self.total.as_secs_f64() / self.total_steps.max(1) as f64;
        Duration::try_from_secs_f64(each * steps as f64).unwrap_or(Duration::MAX)
    }
}

/// Hours, minutes and seconds.
fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_on_a_clock() {
        let at = |seconds| clock(Duration::from_secs(seconds));
        assert_eq!([0, 59, 61, 3599, 3661].map(at), ["0:00", "0:59", "1:01", "59:59", "1:01:01"]);
    }
}
