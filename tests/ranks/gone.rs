//! Ranks that leave, panic, hang or come late: the others are told which one, and none takes a step
//! that others do not take.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use evenkeel::train::ranks::{Begun, Exchange, Local};
use evenkeel::train::{Batch, Clip, Trainer, TrainerBuilder};
use evenkeel::{Error, Gpu, Result};

use crate::support::models::Terms;
use crate::support::{block_on, gpu};
use crate::{State, on_ranks, run_alone, state};

/// Long beside what these ranks do between two calls.
const LIMIT: Duration = Duration::from_millis(600);

#[track_caller]
fn assert_named(error: &Error, expected: usize, told: &str) {
    assert!(matches!(error, Error::Rank { rank, .. } if *rank == expected), "{error}");
    assert!(error.to_string().contains(told), "{told:?} is missing in {error}");
}

#[test]
fn a_rank_that_left_is_named_to_all() {
    for panics in [false, true] {
        let errors = on_ranks(3, |exchange| {
            if exchange.rank() != 1 {
                return Some(exchange.gather(&[1]).expect_err("rank 1 is gone"));
            }
            let leave = || {
                let _dropped = exchange;
                assert!(!panics, "a panic on purpose");
            };
            assert_eq!(catch_unwind(AssertUnwindSafe(leave)).is_err(), panics);
            None
        });
        for error in errors.iter().flatten() {
            assert_named(error, 1, "has left the run");
        }
    }
}

/// Others may need it no more.
#[test]
fn a_rank_that_is_through_may_leave() {
    let found = on_ranks(3, |exchange| {
        let found = exchange.gather(&[exchange.rank() as u8]).expect("all were here");
        // Messages of a rank that has left by now.
        if exchange.rank() == 2 {
            std::thread::sleep(Duration::from_millis(50));
        }
        found
    });
    assert!(found.iter().all(|all| *all == [[0], [1], [2]]));
}

#[test]
fn ranks_that_hang_are_named_to_all_and_told_when_they_come() {
    for hung in [&[1][..], &[1, 3], &[0, 1, 3]] {
        let all_told = Barrier::new(4);
        let errors = on_ranks(4, |exchange| {
            exchange.barrier().expect("all are here");
            let exchange = exchange.time_limit(LIMIT);
            let hangs = hung.contains(&exchange.rank());
            if hangs {
                all_told.wait();
            }
            let first = exchange.gather(&[1]).expect_err("some hang");
            if !hangs {
                all_told.wait();
            }
            // Behind it nothing works any more, whoever is there.
            let again = exchange.barrier().expect_err("the run has ended");
            assert_eq!(first.to_string(), again.to_string());
            first
        });
        for error in &errors {
            assert_named(error, hung[0], "did not send to rank ");
            let others = match hung {
                [_] => " s: it died, hangs ",
                [_, _] => " s, nor did rank 3: ",
                _ => "did not send to rank 2 within 0.6 s, nor did ranks 1 and 3: ",
            };
            assert_named(error, hung[0], others);
        }
    }
}

/// A rank that hangs before one of its calls, until others have ended.
#[derive(Debug)]
struct Hanging {
    local: RefCell<Option<Local>>,
    calls: Cell<usize>,
    at: Cell<Option<usize>>,
    /// Where it waits for them.
    others: Arc<Barrier>,
}

impl Hanging {
    fn call<T>(&self, call: impl FnOnce(&Local) -> T) -> T {
        let number = self.calls.replace(self.calls.get() + 1);
        if self.at.get() == Some(number) {
            self.others.wait();
        }
        call(self.local.borrow().as_ref().expect("a rank"))
    }

    fn set_limit(&self) {
        let local = self.local.take().expect("a rank");
        self.local.replace(Some(local.time_limit(LIMIT)));
    }
}

impl Exchange for Hanging {
    fn rank(&self) -> usize {
        self.local.borrow().as_ref().expect("a rank").rank()
    }

    fn size(&self) -> usize {
        self.local.borrow().as_ref().expect("a rank").size()
    }

    fn scatter(&self, sent: &[u8], parts: &[Range<usize>], received: &mut [u8]) -> Result<()> {
        self.call(|local| local.scatter(sent, parts, received))
    }

    fn share(&self, bytes: &mut [u8], parts: &[Range<usize>]) -> Result<()> {
        self.call(|local| local.share(bytes, parts))
    }

    fn begin_scatter(&self, sent: &[u8], parts: &[Range<usize>]) -> Result<Begun> {
        self.call(|local| local.begin_scatter(sent, parts))
    }

    fn begin_share(&self, bytes: Vec<u8>, parts: &[Range<usize>]) -> Result<Begun> {
        self.call(|local| local.begin_share(bytes, parts))
    }

    fn end(&self, begun: Begun) -> Result<Vec<u8>> {
        self.call(|local| local.end(begun))
    }
}

/// Gradients of three pieces.
fn large() -> Terms {
    Terms { tensors: vec![(vec![1100, 1000], 1.0), (vec![1300, 1000], 1.0)] }
}

fn builder(terms: &Terms) -> TrainerBuilder<Terms> {
    Trainer::builder(terms.clone()).clip(Clip::Norm(0.01)).seed(2)
}

fn batches(terms: &Terms) -> Vec<Batch> {
    (0..4).map(|seed| terms.data(seed, 3).batch()).collect()
}

/// What became of a rank in a run where rank 2 hangs before a call of the third step.
struct Ended {
    error: Option<Error>,
    /// Before that step and behind it.
    states: [State; 2],
    /// Calls of the step.
    calls: usize,
    saved: Vec<u8>,
}

fn with_hanging(gpu: &Gpu, terms: &Terms, at: Option<usize>) -> Vec<Ended> {
    let others = Arc::new(Barrier::new(3));
    on_ranks(3, |local| {
        let rank = local.rank();
        let exchange = Rc::new(Hanging {
            local: RefCell::new(Some(local)),
            calls: Cell::new(0),
            at: Cell::new(None),
            others: others.clone(),
        });
        let mut trainer =
            block_on(builder(terms).exchange(exchange.clone()).build(gpu)).expect("a trainer");
        let shares = batches(terms);
        let shares = shares.iter().map(|batch| batch.of_rank(rank, 3).expect("even"));
        let shares: Vec<_> = shares.collect();
        for share in &shares[..2] {
            block_on(trainer.step(share)).expect("a step");
        }
        let before = state(&trainer);
        exchange.set_limit();
        let first = exchange.calls.get();
        exchange.at.set(at.filter(|_| rank == 2).map(|at| first + at));
        let error = block_on(trainer.step(&shares[2])).err();
        let calls = exchange.calls.get() - first;
        let states = [before, state(&trainer)];
        if error.is_some() {
            if rank != 2 {
                others.wait();
            }
            let again = block_on(trainer.step(&shares[2])).expect_err("the run has ended");
            assert_eq!(Some(again.to_string()), error.as_ref().map(ToString::to_string));
        }
        let saved = block_on(trainer.checkpoint()).expect("a checkpoint").to_bytes();
        Ended { error, states, calls, saved }
    })
}

/// Rank 2 hangs before a call: all are told, none takes the step, and what is saved goes on in one
/// process, which adds microbatches in the order of ranks.
#[track_caller]
fn check_hanging(gpu: &Gpu, terms: &Terms, at: usize, never_stopped: &State) {
    let ranks = with_hanging(gpu, terms, Some(at));
    for (rank, ended) in ranks.iter().enumerate() {
        let error = ended.error.as_ref().expect("rank 2 hangs");
        assert_named(error, 2, "did not send to rank ");
        assert!(ended.states[0] == ended.states[1], "rank {rank} took a step, call {at}");
        assert!(ended.saved == ranks[0].saved, "rank {rank}, call {at}");
    }
    let checkpoint = evenkeel::train::Checkpoint::from_bytes(&ranks[0].saved).expect("whole");
    let mut alone = block_on(builder(terms).accumulation(3).build(gpu)).expect("a trainer");
    block_on(alone.restore(&checkpoint)).expect("restored");
    for batch in &batches(terms)[2..] {
        block_on(alone.step(batch)).expect("a step");
    }
    assert!(state(&alone) == *never_stopped, "not the run that never stopped, call {at}");
}

#[test]
fn a_rank_that_hangs_anywhere_in_a_step_is_named_and_nobody_takes_the_step() {
    let Some(gpu) = gpu() else { return };
    let terms = Terms::three();
    let calls = with_hanging(&gpu, &terms, None)[0].calls;
    assert!(calls >= 6, "verdicts and gradients: {calls}");
    let (never_stopped, _) = run_alone(&gpu, builder(&terms).accumulation(3), &batches(&terms));
    for at in 0..calls {
        check_hanging(&gpu, &terms, at, &never_stopped);
    }
}

#[test]
fn a_rank_that_hangs_between_pieces_is_named_and_nobody_takes_the_step() {
    let Some(gpu) = gpu() else { return };
    let terms = large();
    let calls = with_hanging(&gpu, &terms, None)[0].calls;
    // What opens the step, three pieces there and back, each begun and ended, and what closes it.
    assert_eq!(calls, 2 + 12 + 2);
    let (never_stopped, _) = run_alone(&gpu, builder(&terms).accumulation(3), &batches(&terms));
    // With a piece under way, with another one and the sums of the first, with sums alone.
    for at in [3, 6, 10] {
        check_hanging(&gpu, &terms, at, &never_stopped);
    }
}
