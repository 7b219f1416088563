//! The thread that has MPI to itself: it carries messages, and stays behind with those that nobody takes.
//!
//! MPI reads and writes the memory of a message until it has arrived, and what was sent cannot be taken
//! back. So whoever gives up a wait has to leave that memory where it is. Here a thread owns it: its
//! caller goes on with an error, while the thread does nothing more until the process ends.
//!
//! Rounds that overlap share a [`Journey`]: memory for the messages of so many of them, which is free
//! again when all have arrived.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::Duration;

use mpi::point_to_point::{Destination, MatchedReceiveVec, Source};
use mpi::request::StaticScope;
use mpi::topology::{Communicator, SimpleCommunicator};
use mpi::{Count, Tag};

use super::journey::{Journey, Luggage, Sending, advance, ranks};
use super::rounds::{Awaited, Bytes, Failure, LOOK};
use super::wait::{FOR_MESSAGES, FOR_RANKS, Wait};

/// What ended the run.
const FAILED: Tag = 0;
/// That a rank takes part no more.
const LEFT: Tag = 1;
/// Messages of rounds, from here on.
const ROUNDS: Tag = 2;
/// Rounds until tags begin anew: many times as many as are in a [`Journey`], which is how far a rank
/// may be ahead of another.
const TAGS: u64 = 4096;
/// Something to send where the tag says all.
static NOTICE: [u8; 1] = [0];

fn tag(round: u64) -> Tag {
    ROUNDS + (round % TAGS) as Tag
}

/// How long the news of a failure may take to leave this process.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the thread is told to do.
pub(super) enum Order {
    /// To begin a round, which is answered by nothing.
    Begin {
        round: u64,
        sent: Vec<Bytes>,
    },
    /// To tell what came in a round, once, when that is known.
    End {
        round: u64,
        limit: Duration,
    },
    GiveUp(Failure),
    /// To wait for others to be through, so that ending MPI does not wait for one that never will be.
    Leave {
        limit: Duration,
    },
    Abort(Count),
}

/// Messages of a round, by rank.
pub(super) type Answer = Result<Vec<Bytes>, Failure>;

pub(super) struct Courier {
    world: SimpleCommunicator,
    own: usize,
    orders: Receiver<Order>,
    answers: Sender<Answer>,
    /// Rounds that are to begin, in order.
    waiting: VecDeque<(u64, Vec<Bytes>)>,
    /// What came in rounds that nobody asked for yet.
    over: HashMap<u64, Vec<Bytes>>,
    /// The round that somebody waits for, and how long.
    asked: Option<(u64, Wait)>,
    /// What there is to do that is no round.
    other: Option<Order>,
    /// Whether an answer is waited for.
    is_asked: Cell<bool>,
    /// By rank.
    has_left: Vec<bool>,
}

impl Courier {
    pub fn new(
        world: SimpleCommunicator,
        orders: Receiver<Order>,
        answers: Sender<Answer>,
    ) -> Self {
        let (own, has_left) = (world.rank() as usize, vec![false; world.size() as usize]);
        let (waiting, over, asked, other, is_asked) = Default::default();
        Self { world, own, orders, answers, waiting, over, asked, other, is_asked, has_left }
    }

    /// Does what it is told until all ranks have left; never returns where MPI cannot be ended.
    pub fn serve(mut self) {
        loop {
            while !self.waiting.is_empty() {
                self.travel();
            }
            match self.other.take() {
                Some(Order::GiveUp(failure)) => self.fail(failure),
                Some(Order::Leave { limit }) => {
                    self.leave(limit);
                    self.answer(Ok(Vec::new()));
                    return;
                }
                Some(Order::Abort(code)) => self.world.abort(code),
                _ => {}
            }
            let Ok(order) = self.orders.recv() else { return };
            self.take(order);
            self.tell_of_over();
        }
    }

    fn take(&mut self, order: Order) {
        self.is_asked.set(!matches!(order, Order::Begin { .. }));
        match order {
            Order::Begin { round, sent } => self.waiting.push_back((round, sent)),
            Order::End { round, limit } => self.asked = Some((round, Wait::new(limit))),
            other => self.other = Some(other),
        }
    }

    /// Answers who waits for a round of a journey that is over.
    fn tell_of_over(&mut self) {
        if let Some((round, _)) = &self.asked
            && let Some(came) = self.over.remove(round)
        {
            self.asked = None;
            self.answer(Ok(came));
        }
    }

    /// Answers who waits for a round that is over while others are not.
    fn tell_of_ended(&mut self, journey: &mut Journey<'_, '_>) {
        self.tell_of_over();
        if let Some((round, _)) = &self.asked
            && let Some(came) = journey.copied(*round)
        {
            self.asked = None;
            self.answer(Ok(came));
        }
    }

    fn answer(&self, answer: Answer) {
        self.is_asked.set(false);
        // Whoever asked may be gone.
        self.answers.send(answer).unwrap_or(());
    }

    /// The other ranks, each rank beginning with another one.
    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let (own, size) = (self.own, self.has_left.len());
        (1..size).map(move |i| (own + i) % size)
    }

    /// Carries the messages of rounds until all that began have arrived.
    fn travel(&mut self) {
        let mut luggage = Luggage::new(self.has_left.len());
        let (received, sent) = luggage.places();
        let ended = mpi::request::scope(|scope| {
            let mut journey = Journey::new(scope, received, sent, self.own);
            let mut pace = Wait::new(Duration::MAX);
            loop {
                // First, since a rank sends this behind its messages.
                self.hear();
                while let Ok(order) = self.orders.try_recv() {
                    self.take(order);
                }
                let mut something_came = false;
                while journey.has_room()
                    && let Some((round, sent)) = self.waiting.pop_front()
                {
                    journey.begin(&self.world, self.others(), round, tag(round), sent);
                    something_came = true;
                }
                something_came |= journey.go_on(&self.world);
                if journey.is_over() && (self.waiting.is_empty() || !journey.has_room()) {
                    return journey.ended();
                }
                self.tell_of_ended(&mut journey);
                self.check_others(&journey);
                pace.look(something_came);
                if let Some((_, wait)) = &mut self.asked {
                    wait.look(something_came);
                }
                // Whoever sent is here, too, and takes: unless it was stopped.
                let fast = journey.is_on_its_way() && pace.idle < LOOK;
                match pace.rest(if fast { &FOR_MESSAGES } else { &FOR_RANKS }) {
                    // Whoever orders something meanwhile wakes it.
                    Some(rest) => {
                        if let Ok(order) = self.orders.recv_timeout(rest) {
                            self.take(order);
                        }
                    }
                    None if something_came => {}
                    None => thread::yield_now(),
                }
            }
        });
        self.over.extend(ended.into_iter().map(|round| luggage.unpack(round)));
        self.tell_of_over();
    }

    /// Ends the run where a journey will never end.
    fn check_others(&mut self, journey: &Journey<'_, '_>) {
        match self.other.take() {
            Some(Order::GiveUp(failure)) => self.fail(failure),
            Some(Order::Abort(code)) => self.world.abort(code),
            // This rank has begun what it does not end.
            Some(Order::Leave { .. }) if !journey.is_over() => self.fail(Failure::left(self.own)),
            other => self.other = other,
        }
        if let Some(rank) = self.others().find(|&r| self.has_left[r] && journey.lacks(r)) {
            self.fail(Failure::left(rank));
        }
        let Some(limit) = self.asked.as_ref().filter(|(_, wait)| wait.is_over()) else { return };
        let limit = limit.1.limit;
        let (missing, late) = journey.absent();
        self.fail(self.absent(missing, late, limit));
    }

    /// Ranks that sent nothing; where all did, those that took nothing.
    fn absent(&self, missing: Vec<usize>, late: Vec<usize>, limit: Duration) -> Failure {
        match missing.is_empty() {
            false => Failure::absent(missing, Awaited::Sends, self.own, limit),
            true => Failure::absent(late, Awaited::Takes, self.own, limit),
        }
    }

    /// Looks for news of ranks that left or failed.
    fn hear(&mut self) {
        let any = self.world.any_process();
        while let Some((message, status)) = any.immediate_matched_probe_with_tag(LEFT) {
            message.matched_receive_into(&mut [0u8][..]);
            self.has_left[status.source_rank() as usize] = true;
        }
        if let Some(found) = any.immediate_matched_probe_with_tag(FAILED) {
            let (told, _) = found.matched_receive_vec::<u8>();
            // Whoever found it told all.
            self.stay(Failure::from_bytes(&told));
        }
    }

    fn tell(&self, bytes: &'static [u8], tag: Tag) -> Vec<Sending<'static, StaticScope>> {
        let send = |rank: usize| {
            let to = self.world.process_at_rank(rank as i32);
            (rank, Some(to.immediate_send_with_tag(StaticScope, bytes, tag)))
        };
        self.others().map(send).collect()
    }

    /// Waits until all have left.
    fn leave(&mut self, limit: Duration) {
        let mut telling = self.tell(&NOTICE, LEFT);
        let mut wait = Wait::new(limit);
        loop {
            self.hear();
            let something_came = advance(&mut telling);
            let stays = |rank: &usize| !self.has_left[*rank];
            let missing: Vec<_> = self.others().filter(stays).collect();
            if missing.is_empty() && telling.is_empty() {
                return;
            }
            if wait.is_over() {
                let missing = if missing.is_empty() { ranks(&telling) } else { missing };
                self.fail(Failure::absent(missing, Awaited::Leaves, self.own, limit));
            }
            wait.pause(something_came, &FOR_RANKS);
        }
    }

    /// Tells all ranks that the run has ended, and stays.
    fn fail(&self, failure: Failure) -> ! {
        // For as long as the process is there.
        let mut telling = self.tell(failure.to_bytes().leak(), FAILED);
        let mut wait = Wait::new(FAREWELL);
        while !telling.is_empty() && !wait.is_over() {
            let something_came = advance(&mut telling);
            wait.pause(something_came, &FOR_RANKS);
        }
        self.stay(failure)
    }

    /// Says the same of every order, and keeps the memory of messages for good.
    fn stay(&self, failure: Failure) -> ! {
        if self.is_asked.get() {
            self.answer(Err(failure.clone()));
        }
        while let Ok(order) = self.orders.recv() {
            match order {
                Order::Abort(code) => self.world.abort(code),
                Order::Begin { .. } => {}
                _ => self.answer(Err(failure.clone())),
            }
        }
        loop {
            thread::park();
        }
    }
}
