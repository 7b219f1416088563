//! Batches that are made ahead.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use evenkeel::Error;
use evenkeel::data::{BatchSource, PaddedBatches, Prefetch, Sequence};
use evenkeel::train::Lengths;

fn padded() -> Arc<PaddedBatches> {
    let sequence = |index: u32| {
        let tokens: Vec<_> = (100 * index..).take(1 + (index as usize * 7) % 16).collect();
        Sequence { targets: tokens.clone(), tokens }
    };
    let lengths = Lengths::new([4, 8, 16]).expect("lengths");
    Arc::new(PaddedBatches::new((0..47).map(sequence), lengths, 3).expect("batches"))
}

#[test]
fn batches_are_those_of_the_source_in_its_order() {
    let batches = padded();
    let all: Vec<_> = batches.batches(5, 0).take(60).collect();
    for ahead in [1, 2, 7] {
        for position in [0, 1, 16, 31] {
            let mut loader = Prefetch::new(batches.seeded(5), position, ahead).expect("a loader");
            for expected in &all[position as usize..] {
                let batch = loader.next().expect("without end").expect("a batch");
                assert_eq!(batch, *expected);
            }
            assert_eq!(loader.position(), 60);
            assert_eq!(loader.statistics().batches, 60 - position);
        }
    }
}

#[test]
fn a_run_goes_on_with_what_it_has_not_used() {
    let batches = padded();
    let mut all = batches.batches(5, 0);
    let mut position = 0;
    // Each loader is left with batches that were made for nothing.
    for taken in [3, 1, 9, 20] {
        let mut loader = Prefetch::new(batches.seeded(5), position, 4).expect("a loader");
        for _ in 0..taken {
            assert_eq!(loader.next().expect("one").expect("a batch"), all.next().expect("one"));
        }
        position = loader.position();
    }
    assert_eq!(position, 33);
}

#[test]
fn so_many_are_made_ahead_and_no_more() {
    for ahead in [1, 3] {
        let made = Arc::new(AtomicU64::new(0));
        let counter = made.clone();
        let source = move |position| {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(position)
        };
        let mut loader = Prefetch::new(source, 10, ahead).expect("a loader");
        for taken in 0..20 {
            while made.load(Ordering::SeqCst) < taken + ahead as u64 {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(1));
            assert_eq!(made.load(Ordering::SeqCst), taken + ahead as u64);
            assert_eq!(loader.next().expect("one").expect("a number"), 10 + taken);
        }
    }
}

#[test]
fn an_error_comes_in_its_turn_and_ends_it() {
    let source = |position: u64| match position {
        7 => Err(Error::Data { what: "batch 7".into(), reason: "is none".into() }),
        position => Ok(position),
    };
    let mut loader = Prefetch::new(source, 5, 4).expect("a loader");
    let before: Vec<_> = loader.by_ref().take(2).map(|one| one.expect("a number")).collect();
    assert_eq!(before, [5, 6]);
    let error = loader.next().expect("an error").expect_err("batch 7");
    assert_eq!(error.to_string(), "batch 7: is none");
    assert!(loader.next().is_none());
    assert_eq!(loader.position(), 7);
}

#[test]
fn a_panic_reaches_who_takes_batches() {
    let source =
        |position: u64| if position == 2 { panic!("number {position}") } else { Ok(position) };
    let mut loader = Prefetch::new(source, 0, 4).expect("a loader");
    assert_eq!(loader.next().expect("one").expect("a number"), 0);
    assert_eq!(loader.next().expect("one").expect("a number"), 1);
    let panic = catch_unwind(AssertUnwindSafe(|| loader.next())).expect_err("a panic");
    assert_eq!(panic.downcast_ref::<String>().map(String::as_str), Some("number 2"));
    assert!(loader.next().is_none());
}

/// Ends by itself.
struct Few {
    _held: Arc<()>,
}

impl BatchSource for Few {
    type Item = u64;

    fn batches_from(&self, position: u64) -> impl Iterator<Item = evenkeel::Result<u64>> + '_ {
        (position..9).map(Ok)
    }
}

#[test]
fn its_thread_ends_with_it() {
    let held = Arc::new(());
    // Before the first batch, in the middle, and behind the last.
    for taken in [0, 3, 9, 20] {
        let mut loader = Prefetch::new(Few { _held: held.clone() }, 0, 2).expect("a loader");
        assert_eq!(loader.by_ref().take(taken).count(), taken.min(9));
        drop(loader);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}

#[test]
fn waiting_is_measured() {
    let pause = Duration::from_millis(2);
    let source = move |position: u64| {
        std::thread::sleep(pause);
        Ok(position)
    };
    let mut loader = Prefetch::new(source, 0, 1).expect("a loader");
    let mut taken = 0;
    while loader.statistics().late == 0 {
        loader.next().expect("one").expect("a number");
        taken += 1;
    }
    let found = loader.statistics();
    assert_eq!(found.batches, taken);
    assert!(found.waited > Duration::ZERO && found.waited <= found.elapsed, "{found:?}");
    assert!(found.making >= pause * taken as u32, "{found:?}");
    assert!(found.batches_per_second() <= 1.0 / pause.as_secs_f64(), "{found:?}");
    assert!(found.waiting_share() > 0.0 && found.waiting_share() <= 1.0, "{found:?}");
}
