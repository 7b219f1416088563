//! Long lists of dispatches in several submits, each short enough for watchdogs.
//!
//! Drivers and browsers take a submit of a few seconds for a hang, 2 s on Windows, and reset the
//! device. So a list is cut where its next submit is expected to take longer than a budget, which
//! changes nothing in its results. What it takes is not computed but measured, from one completion to
//! the next: how long a kernel runs depends on the adapter more than on anything known beforehand.
//!
//! A list that was never run begins with a submit of one dispatch, waits for it, and goes on with
//! twice as many as long as they are quick: about ten short waits, once. From then on nothing waits,
//! and a list that fits the budget is one submit. Measured times follow the run: up at once, down
//! halfway each time, so that a list that got slower is cut in the next run, and one slow run, such
//! as the first, in which many drivers compile, is soon forgotten.

use std::ops::Range;
use std::time::Duration;

use web_time::Instant;

use super::{Completion, Dispatch, Gpu, Submission};
use crate::error::Result;

/// What a submit may take unless a trainer is told otherwise: a quarter of the shortest watchdog.
pub const SUBMIT_BUDGET: Duration = Duration::from_millis(500);

/// How a step is split into submits, as far as it was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SubmitReport {
    /// What a submit may take.
    pub budget: Duration,
    /// Submits of a step.
    pub submits: usize,
    /// What the longest of them takes.
    pub longest: Duration,
    /// The slowest dispatch that exceeds the budget alone. It cannot be split: lower the batch, the
    /// context or the width if a watchdog ends it.
    pub slow_dispatch: Option<SlowDispatch>,
}

/// A dispatch above the budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowDispatch {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// What it takes.
    pub time: Duration,
}

/// What is known of the dispatches of a list, in seconds, and where that has it cut.
#[derive(Clone, Debug)]
struct Costs {
    budget: f64,
    /// `None` until it was measured. Shares of the submits they were measured in.
    seconds: Vec<Option<f64>>,
    /// How many dispatches that were never measured may go into the next submit.
    reach: usize,
}

impl Costs {
    fn new(budget: Duration, dispatches: usize) -> Self {
        Self { budget: budget.as_secs_f64(), seconds: vec![None; dispatches], reach: 1 }
    }

    fn are_known(&self, list: Range<usize>) -> bool {
        self.seconds[list].iter().all(Option::is_some)
    }

    /// Where the first submit of a list ends: what was measured fills the budget; what was not is
    /// kept apart.
    fn cut(&self, list: Range<usize>) -> usize {
        let costs = &self.seconds[list.clone()];
        let mut left = self.budget;
        let fits = |cost: &&Option<f64>| match cost {
            Some(seconds) => {
                left -= seconds;
                left >= 0.0
            }
            None => false,
        };
        let count = match costs.first() {
            Some(None) => costs.iter().take(self.reach).take_while(|cost| cost.is_none()).count(),
            _ => costs.iter().take_while(fits).count(),
        };
        list.end.min(list.start + count.max(1))
    }

    /// The submits of a list.
    fn cuts(&self, list: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let mut start = list.start;
        std::iter::from_fn(move || {
            let piece = (start < list.end).then(|| start..self.cut(start..list.end))?;
            start = piece.end;
            Some(piece)
        })
    }

    fn sum(&self, piece: Range<usize>) -> f64 {
        self.seconds[piece].iter().flatten().sum()
    }

    /// Takes in that a submit took between `least` and `most` seconds.
    fn learn(&mut self, piece: Range<usize>, least: f64, most: f64) {
        let count = piece.len();
        if !self.are_known(piece.clone()) {
            // Twice as many next time, or fewer: those after may be many times as slow.
            let within = (self.budget / 8.0 / (most / count as f64)) as usize;
            self.reach = within.clamp(1, 2 * count);
            self.seconds[piece].fill(Some(most / count as f64));
            return;
        }
        let before = self.sum(piece.clone());
        let now = if least > before {
            least
        } else if most < before {
            (before + most) / 2.0
        } else {
            return;
        };
        for cost in self.seconds[piece].iter_mut().flatten() {
            *cost = if before > 0.0 { *cost * (now / before) } else { now / count as f64 };
        }
    }
}

/// A list that was submitted: which one, and which dispatches in which submit.
#[derive(Debug)]
pub(crate) struct Submitted {
    list: usize,
    pieces: Vec<(Range<usize>, Submission)>,
}

/// When something happened: between two moments.
type Between = [Instant; 2];

/// The submits of a list of dispatches that is run again and again, or of several in turn.
#[derive(Debug)]
pub(crate) struct Pacing {
    budget: Duration,
    /// By list.
    costs: Vec<Costs>,
    /// The list that is submitted.
    list: usize,
    /// When the last submit that was waited for ended.
    ended: Option<Between>,
}

impl Pacing {
    pub fn new(budget: Duration, dispatches: usize) -> Self {
        Self { budget, costs: vec![Costs::new(budget, dispatches)], list: 0, ended: None }
    }

    /// Adds a list, which nothing is known of.
    pub fn add_list(&mut self, dispatches: usize) {
        self.costs.push(Costs::new(self.budget, dispatches));
    }

    /// The list that all is about by now.
    pub fn list(&self) -> usize {
        self.list
    }

    /// Which of the lists, in the order in which they were added, all that follows is about.
    pub fn turn_to(&mut self, list: usize) {
        self.list = list;
    }

    pub fn budget(&self) -> Duration {
        self.budget
    }

    /// Whether [`submit`](Self::submit) will not wait.
    pub fn is_measured(&self, list: Range<usize>) -> bool {
        self.costs[self.list].are_known(list)
    }

    /// Submits a part of the list; `encode` encodes a part of that. Waits only where something was
    /// never measured.
    pub async fn submit(
        &mut self,
        gpu: &Gpu,
        list: Range<usize>,
        mut encode: impl FnMut(&mut wgpu::CommandEncoder, Range<usize>),
    ) -> Result<Submitted> {
        let (number, mut submitted) = (self.list, Vec::new());
        let mut start = list.start;
        self.costs[number].reach = 1;
        while start < list.end {
            let piece = start..self.costs[number].cut(start..list.end);
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            encode(&mut encoder, piece.clone());
            submitted.push((piece.clone(), gpu.submit(encoder)));
            if !self.costs[number].are_known(piece.clone()) {
                let pieces = std::mem::take(&mut submitted);
                self.finish(gpu, Submitted { list: number, pieces }).await?;
            }
            start = piece.end;
        }
        Ok(Submitted { list: number, pieces: submitted })
    }

    /// Submits the whole list.
    pub async fn submit_all(&mut self, gpu: &Gpu, dispatches: &[Dispatch]) -> Result<Submitted> {
        self.submit(gpu, 0..dispatches.len(), |encoder, piece| {
            gpu.encode(encoder, &dispatches[piece]);
        })
        .await
    }

    /// Waits for what was submitted, and measures it.
    pub async fn finish(&mut self, gpu: &Gpu, submitted: Submitted) -> Result<()> {
        for (piece, submission) in submitted.pieces {
            let at = submission.at;
            let Completion { at: seen, exact } = gpu.completion(submission).await?;
            let begun = self.ended.map_or([at; 2], |ended| ended.map(|ended| ended.max(at)));
            let ended = [if exact { seen } else { at }, seen];
            let seconds = |from: Instant, to: Instant| to.saturating_duration_since(from);
            let least = seconds(begun[1], ended[0]).as_secs_f64();
            let most = seconds(begun[0], ended[1]).as_secs_f64();
            self.costs[submitted.list].learn(piece, least, most);
            self.ended = Some(ended);
        }
        Ok(())
    }

    /// How a part of the list is split by now; `name` gives the kernel of a dispatch.
    pub fn report(&self, list: Range<usize>, name: impl Fn(usize) -> &'static str) -> SubmitReport {
        let costs = &self.costs[self.list];
        let pieces: Vec<_> =
            costs.cuts(list).map(|piece| (costs.sum(piece.clone()), piece)).collect();
        let longest = pieces.iter().map(|&(seconds, _)| seconds).fold(0.0, f64::max);
        let single = pieces.iter().filter(|(s, piece)| piece.len() == 1 && *s > costs.budget);
        let slow_dispatch = single.max_by(|(a, _), (b, _)| a.total_cmp(b));
        SubmitReport {
            budget: self.budget,
            submits: pieces.len(),
            longest: Duration::from_secs_f64(longest),
            slow_dispatch: slow_dispatch.map(|(seconds, piece)| SlowDispatch {
                kernel: name(piece.start),
                time: Duration::from_secs_f64(*seconds),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a list whose dispatches take `times`, all of them waited for; returns the submits.
    fn run(costs: &mut Costs, times: &[f64]) -> Vec<Range<usize>> {
        let (mut start, mut pieces) = (0, Vec::new());
        costs.reach = 1;
        while start < times.len() {
            let piece = start..costs.cut(start..times.len());
            let took = times[piece.clone()].iter().sum();
            costs.learn(piece.clone(), took, took);
            start = piece.end;
            pieces.push(piece);
        }
        pieces
    }

    fn longest(pieces: &[Range<usize>], times: &[f64]) -> f64 {
        let sums = pieces.iter().map(|piece| times[piece.clone()].iter().sum());
        sums.fold(0.0, f64::max)
    }

    fn costs(count: usize) -> Costs {
        Costs::new(SUBMIT_BUDGET, count)
    }

    #[test]
    fn a_quick_list_doubles_once_and_is_one_submit_then() {
        // The seventh is as many as an eighth of the budget takes.
        let times = [1e-3; 164];
        let mut costs = costs(times.len());
        let sizes: Vec<_> = run(&mut costs, &times).iter().map(Range::len).collect();
        assert_eq!(sizes, [1, 2, 4, 8, 16, 32, 62, 39]);
        assert!(costs.are_known(0..times.len()));
        for _ in 0..3 {
            assert_eq!(run(&mut costs, &times), vec![0..times.len()]);
        }
    }

    #[test]
    fn a_long_list_fills_the_budget_and_never_exceeds_it() {
        // 30 dispatches of 10 ms, then 30 of 100 ms: 3.3 s.
        let times: Vec<_> = (0..60).map(|i| if i < 30 { 0.01 } else { 0.1 }).collect();
        let mut costs = costs(times.len());
        // In the first run, too, although the slow ones come without notice.
        assert!(longest(&run(&mut costs, &times), &times) <= 0.5);
        for _ in 0..10 {
            let pieces = run(&mut costs, &times);
            assert_eq!(pieces.iter().map(Range::len).sum::<usize>(), times.len());
            assert!(pieces.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(longest(&pieces, &times) <= 0.5 * 1.2, "{pieces:?}");
        }
        let pieces = run(&mut costs, &times);
        assert!(longest(&pieces, &times) <= 0.5 + 1e-9, "{pieces:?}");
        assert!((7..=9).contains(&pieces.len()), "{pieces:?}");
    }

    #[test]
    fn a_list_that_gets_slower_is_cut_in_the_next_run_and_joined_again_after() {
        let quick = [2e-3; 50];
        let mut costs = costs(quick.len());
        run(&mut costs, &quick);
        assert_eq!(run(&mut costs, &quick).len(), 1);
        let slow = quick.map(|time| 20.0 * time);
        assert_eq!(run(&mut costs, &slow).len(), 1, "nobody knew");
        let pieces = run(&mut costs, &slow);
        assert_eq!(pieces.len(), 5);
        assert!(longest(&pieces, &slow) <= 0.5);
        // 2 s, 1.05 s, 0.575 s, 0.34 s.
        let counts: Vec<_> = (0..4).map(|_| run(&mut costs, &quick).len()).collect();
        assert_eq!(counts, [5, 3, 2, 1]);
    }

    #[test]
    fn a_first_run_that_compiles_is_forgotten() {
        let mut first = [1e-3; 100];
        first[..20].fill(0.1);
        let mut costs = costs(first.len());
        run(&mut costs, &first);
        let counts: Vec<_> = (0..5).map(|_| run(&mut costs, &[1e-3; 100]).len()).collect();
        assert!(counts[0] > 1 && counts[4] == 1, "{counts:?}");
    }

    #[test]
    fn a_dispatch_above_the_budget_is_alone_and_reported() {
        let mut times = [1e-3; 20];
        times[7] = 0.9;
        let mut pacing = Pacing::new(SUBMIT_BUDGET, times.len());
        let names = |index| if index == 7 { "slow" } else { "quick" };
        for _ in 0..12 {
            run(&mut pacing.costs[0], &times);
        }
        assert_eq!(run(&mut pacing.costs[0], &times), [0..7, 7..8, 8..20]);
        let report = pacing.report(0..times.len(), names);
        assert_eq!(report.submits, 3);
        assert_eq!(report.slow_dispatch.map(|slow| slow.kernel), Some("slow"));
        assert!((report.longest.as_secs_f64() - 0.9).abs() < 1e-6);
        run(&mut pacing.costs[0], &[1e-3; 20]);
        let report = pacing.report(0..times.len(), names);
        assert_eq!((report.slow_dispatch, report.submits), (None, 1));
    }

    #[test]
    fn bounds_alone_move_a_cost_no_further_than_they_tell() {
        let mut costs = costs(2);
        run(&mut costs, &[0.1, 0.1]);
        let sum = |costs: &Costs| costs.sum(0..2);
        costs.learn(0..2, 0.0, 5.0);
        assert!((sum(&costs) - 0.2).abs() < 1e-9, "seen late: nothing is learnt");
        costs.learn(0..2, 0.3, 5.0);
        assert!((sum(&costs) - 0.3).abs() < 1e-9, "it took at least that");
        costs.learn(0..2, 0.0, 0.1);
        assert!((sum(&costs) - 0.2).abs() < 1e-9, "halfway down");
    }

    #[test]
    fn what_was_never_run_is_kept_apart() {
        let mut costs = costs(12);
        let known = 2..10;
        for piece in [2..3, 3..5, 5..9, 9..10] {
            costs.learn(piece, 1e-3, 1e-3);
        }
        assert_eq!(costs.cuts(known).collect::<Vec<_>>(), vec![2..10]);
        costs.reach = 1;
        assert_eq!(costs.cuts(0..12).collect::<Vec<_>>(), [0..1, 1..2, 2..10, 10..11, 11..12]);
    }

    #[test]
    fn extreme_budgets() {
        let mut none = Costs::new(Duration::ZERO, 5);
        run(&mut none, &[1e-3; 5]);
        assert_eq!(run(&mut none, &[1e-3; 5]).len(), 5);
        let mut all = Costs::new(Duration::MAX, 5);
        assert_eq!(run(&mut all, &[100.0; 5]), [0..1, 1..3, 3..5]);
        assert_eq!(run(&mut all, &[100.0; 5]).len(), 1);
        // An empty list has no submits.
        assert_eq!(all.cuts(3..3).count(), 0);
    }
}
