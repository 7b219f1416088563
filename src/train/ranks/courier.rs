//! The thread that has MPI to itself: it carries messages, and stays behind with those that nobody takes.
//!
//! MPI reads and writes the memory of a message until it has arrived, and what was sent cannot be taken
//! back. So whoever gives up a wait has to leave that memory where it is. Here a thread owns it: its
//! caller goes on with an error, while the thread does nothing more until the process ends.

use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use mpi::datatype::Equivalence;
use mpi::point_to_point::{Destination, MatchedReceiveVec, Source};
use mpi::request::{Request, Scope, StaticScope};
use mpi::topology::{Communicator, SimpleCommunicator};
use mpi::{Count, Tag};

use super::rounds::{Awaited, Bytes, Failure, LOOK};

/// Messages of a round. A rank may be one round ahead of another, never two: it ends none without a
/// message of all.
const PARTS: [Tag; 2] = [0, 1];
/// What ended the run.
const FAILED: Tag = 2;
/// That a rank takes part no more.
const LEFT: Tag = 3;
/// Something to send where the tag says all.
static NOTICE: [u8; 1] = [0];

/// How often a wait looks for something.
struct Pace {
    /// How long it looks again and again before it sleeps between looks.
    eager: Duration,
    longest_sleep: Duration,
}

/// For ranks that have not come.
const FOR_RANKS: Pace =
    Pace { eager: Duration::from_millis(1), longest_sleep: Duration::from_micros(500) };
/// For messages that are on their way: shared memory brings some 100 KB between two looks.
const FOR_MESSAGES: Pace =
    Pace { eager: Duration::from_millis(20), longest_sleep: Duration::from_micros(50) };

/// How long the news of a failure may take to leave this process.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the thread is told to do.
pub(super) enum Order {
    Round {
        sent: Vec<Bytes>,
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
    rounds: usize,
    /// By rank.
    has_left: Vec<bool>,
}

/// How long something was waited for.
struct Wait {
    limit: Duration,
    waited: Duration,
    /// Of it, since something came.
    idle: Duration,
    looked: Instant,
}

impl Wait {
    fn new(limit: Duration) -> Self {
        Self { limit, waited: Duration::ZERO, idle: Duration::ZERO, looked: Instant::now() }
    }

    fn is_over(&self) -> bool {
        self.waited >= self.limit
    }

    /// Leaves the core to others for a while: short beside the time that was waited already.
    fn pause(&mut self, something_came: bool, pace: &Pace) {
        let passed = self.looked.elapsed().min(LOOK);
        self.looked = Instant::now();
        self.waited += passed;
        self.idle = if something_came { Duration::ZERO } else { self.idle + passed };
        match self.idle {
            Duration::ZERO => {}
            idle if idle < pace.eager => thread::yield_now(),
            idle => thread::sleep((idle / 16).min(pace.longest_sleep)),
        }
    }
}

impl Courier {
    pub fn new(
        world: SimpleCommunicator,
        orders: Receiver<Order>,
        answers: Sender<Answer>,
    ) -> Self {
        let (own, size) = (world.rank() as usize, world.size() as usize);
        Self { world, own, orders, answers, rounds: 0, has_left: vec![false; size] }
    }

    /// Does what it is told until all ranks have left; never returns where MPI cannot be ended.
    pub fn serve(mut self) {
        while let Ok(order) = self.orders.recv() {
            match order {
                Order::Round { sent, limit } => {
                    let came = self.round(sent, limit);
                    self.answer(Ok(came));
                }
                Order::GiveUp(failure) => self.fail(failure),
                Order::Leave { limit } => {
                    self.leave(limit);
                    self.answer(Ok(Vec::new()));
                    return;
                }
                Order::Abort(code) => self.world.abort(code),
            }
        }
    }

    fn answer(&self, answer: Answer) {
        // Whoever asked may be gone.
        self.answers.send(answer).unwrap_or(());
    }

    /// The other ranks, each rank beginning with another one.
    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let (own, size) = (self.own, self.has_left.len());
        (1..size).map(move |i| (own + i) % size)
    }

    /// Gives each rank its message, and gets theirs.
    fn round(&mut self, mut sent: Vec<Bytes>, limit: Duration) -> Vec<Bytes> {
        let tag = PARTS[self.rounds % 2];
        self.rounds += 1;
        let mut received = vec![Vec::new(); sent.len()];
        let mut places: Vec<_> = received.iter_mut().map(Some).collect();
        places[self.own] = None;
        mpi::request::scope(|scope| {
            let send = |rank: usize| {
                let to = self.world.process_at_rank(rank as i32);
                (rank, Some(to.immediate_send_with_tag(scope, &sent[rank][..], tag)))
            };
            let mut sending: Vec<_> = self.others().map(send).collect();
            let mut receiving = Vec::with_capacity(sending.len());
            let mut expected = sending.len();
            let mut wait = Wait::new(limit);
            loop {
                // First, since a rank sends this behind its message.
                self.hear();
                let mut something_came = false;
                let any = self.world.any_process();
                while let Some((message, status)) = any.immediate_matched_probe_with_tag(tag) {
                    let rank = status.source_rank() as usize;
                    let place = places[rank].take().expect("one message of a rank in a round");
                    place.resize(status.count(u8::equivalent_datatype()) as usize, 0);
                    let request = message.immediate_matched_receive_into(scope, &mut place[..]);
                    receiving.push((rank, Some(request)));
                    expected -= 1;
                    something_came = true;
                }
                something_came |= advance(&mut sending) | advance(&mut receiving);
                if expected == 0 && receiving.is_empty() && sending.is_empty() {
                    return;
                }
                let has_gone = |&rank: &usize| self.has_left[rank] && places[rank].is_some();
                if let Some(rank) = self.others().find(has_gone) {
                    self.fail(Failure::left(rank));
                }
                if wait.is_over() {
                    let nowhere = (0..).zip(&places).filter(|(_, place)| place.is_some());
                    let mut missing = ranks(&receiving);
                    missing.extend(nowhere.map(|(rank, _)| rank));
                    self.fail(self.absent(missing, ranks(&sending), limit));
                }
                // Whoever sent is here, too, and takes: unless it was stopped.
                let on_their_way = expected == 0 || !receiving.is_empty();
                let fast = on_their_way && wait.idle < LOOK;
                wait.pause(something_came, if fast { &FOR_MESSAGES } else { &FOR_RANKS });
            }
        });
        for rank in self.others() {
            sent[rank] = Bytes::new(std::mem::take(&mut received[rank]));
        }
        sent
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
        self.answer(Err(failure.clone()));
        while let Ok(order) = self.orders.recv() {
            match order {
                Order::Abort(code) => self.world.abort(code),
                _ => self.answer(Err(failure.clone())),
            }
        }
        loop {
            thread::park();
        }
    }
}

/// A message that is on its way to a rank, or from one.
type Sending<'a, S> = (usize, Option<Request<'a, [u8], S>>);

/// Keeps those that have not arrived; whether one more has.
fn advance<'a, S: Scope<'a>>(messages: &mut Vec<Sending<'a, S>>) -> bool {
    let before = messages.len();
    messages.retain_mut(|(_, message)| {
        *message = message.take().and_then(|request| request.test().err());
        message.is_some()
    });
    messages.len() < before
}

fn ranks<'a, S: Scope<'a>>(messages: &[Sending<'a, S>]) -> Vec<usize> {
    messages.iter().map(|(rank, _)| *rank).collect()
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
