//! Waiting for others: how long, and how often to look whether something came.

use std::thread;
use std::time::{Duration, Instant};

use super::rounds::LOOK;

/// How often a wait looks for something.
pub(super) struct Pace {
    /// How long it looks again and again before it sleeps between looks.
    eager: Duration,
    longest_sleep: Duration,
}

/// For ranks that have not come.
pub(super) const FOR_RANKS: Pace =
    Pace { eager: Duration::from_millis(1), longest_sleep: Duration::from_micros(500) };
/// For messages that are on their way: shared memory brings some 100 KB between two looks.
pub(super) const FOR_MESSAGES: Pace =
    Pace { eager: Duration::from_millis(20), longest_sleep: Duration::from_micros(50) };

/// How long something was waited for.
pub(super) struct Wait {
    pub limit: Duration,
    waited: Duration,
    /// Of it, since something came.
    pub idle: Duration,
    looked: Instant,
}

impl Wait {
    pub fn new(limit: Duration) -> Self {
        Self { limit, waited: Duration::ZERO, idle: Duration::ZERO, looked: Instant::now() }
    }

    pub fn is_over(&self) -> bool {
        self.waited >= self.limit
    }

    /// Takes in the time since the last look.
    pub fn look(&mut self, something_came: bool) {
        let passed = self.looked.elapsed().min(LOOK);
        self.looked = Instant::now();
        self.waited += passed;
        self.idle = if something_came { Duration::ZERO } else { self.idle + passed };
    }

    /// How long to leave the core to others before the next look: short beside the time that was waited
    /// already.
    pub fn rest(&self, pace: &Pace) -> Option<Duration> {
        (self.idle >= pace.eager).then(|| (self.idle / 16).min(pace.longest_sleep))
    }

    /// Takes in the time since the last look, and leaves the core to others for a while.
    pub fn pause(&mut self, something_came: bool, pace: &Pace) {
        self.look(something_came);
        match self.rest(pace) {
            Some(rest) => thread::sleep(rest),
            None if self.idle.is_zero() => {}
            None => thread::yield_now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_was_stopped_has_not_waited() {
        let mut wait = Wait::new(LOOK * 2);
        for is_over in [false, true] {
            wait.looked =
                Instant::now().checked_sub(LOOK * 5).expect("some time since it was started");
            wait.pause(false, &FOR_RANKS);
            assert_eq!(wait.is_over(), is_over);
        }
        assert_eq!((wait.waited, wait.idle), (LOOK * 2, LOOK * 2));
        wait.pause(true, &FOR_RANKS);
        assert_eq!(wait.idle, Duration::ZERO);
        assert!(Wait::new(Duration::ZERO).is_over() && !Wait::new(Duration::MAX).is_over());
    }
}
