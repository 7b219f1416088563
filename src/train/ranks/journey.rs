//! Rounds whose messages are on their way by MPI at the same time, and the memory that MPI reads and
//! writes meanwhile.

use std::slice::IterMut;

use mpi::Tag;
use mpi::datatype::Equivalence;
use mpi::point_to_point::{Destination, Source};
use mpi::request::{LocalScope, Request, Scope};
use mpi::topology::{Communicator, SimpleCommunicator};

use super::rounds::Bytes;

/// Rounds that have memory at once: those of 16 pieces of gradients. It is free when all of them are
/// over, so that at times others have to wait for that.
const ROUNDS: usize = 32;

/// Memory for the messages of some rounds, of which each place is used once.
pub(super) struct Luggage {
    received: Vec<Vec<u8>>,
    sent: Vec<Vec<Bytes>>,
}

impl Luggage {
    pub fn new(ranks: usize) -> Self {
        let received = vec![Vec::new(); ROUNDS * (ranks - 1)];
        Self { received, sent: vec![Vec::new(); ROUNDS] }
    }

    /// Places for what comes, and for what rounds send.
    pub fn places(&mut self) -> (IterMut<'_, Vec<u8>>, IterMut<'_, Vec<Bytes>>) {
        (self.received.iter_mut(), self.sent.iter_mut())
    }

    /// What came in a round, as it lies.
    pub fn unpack(&mut self, here: Here) -> (u64, Vec<Bytes>) {
        let Here { number, own, places } = here;
        let came = places.into_iter().map(|place| match place {
            Some(place) => Bytes::new(std::mem::take(&mut self.received[place])),
            None => own.clone(),
        });
        (number, came.collect())
    }
}

/// A round that is over.
pub(super) struct Here {
    number: u64,
    own: Bytes,
    /// By rank, where its message is; none of this one.
    places: Vec<Option<usize>>,
}

/// A message that is on its way to a rank, or from one.
pub(super) type Sending<'a, S> = (usize, Option<Request<'a, [u8], S>>);

/// Keeps those that have not arrived; whether one more has.
pub(super) fn advance<'a, S: Scope<'a>>(messages: &mut Vec<Sending<'a, S>>) -> bool {
    let before = messages.len();
    messages.retain_mut(|(_, message)| {
        *message = message.take().and_then(|request| request.test().err());
        message.is_some()
    });
    messages.len() < before
}

pub(super) fn ranks<'a, S: Scope<'a>>(messages: &[Sending<'a, S>]) -> Vec<usize> {
    messages.iter().map(|(rank, _)| *rank).collect()
}

/// A round of messages.
struct Round<'a, 's> {
    number: u64,
    tag: Tag,
    /// What this rank has for itself.
    own: Bytes,
    /// By rank, where its message goes, or is.
    places: Vec<Option<usize>>,
    /// By rank, what came as a whole.
    came: Vec<Option<&'a [u8]>>,
    /// By rank, whether nothing of its message is here.
    is_missing: Vec<bool>,
    sending: Vec<Sending<'a, &'s LocalScope<'a>>>,
    receiving: Vec<Sending<'a, &'s LocalScope<'a>>>,
}

impl Round<'_, '_> {
    fn has_all(&self) -> bool {
        !self.is_missing.contains(&true)
    }

    fn is_over(&self) -> bool {
        self.has_all() && self.receiving.is_empty() && self.sending.is_empty()
    }

    /// Keeps what arrived; whether something did.
    fn receive(&mut self) -> bool {
        let (before, came) = (self.receiving.len(), &mut self.came);
        self.receiving.retain_mut(|(rank, message)| {
            let tested = message.take().map(Request::test_with_data);
            match tested {
                Some(Err(request)) => *message = Some(request),
                Some(Ok((_, bytes))) => came[*rank] = Some(bytes),
                None => {}
            }
            message.is_some()
        });
        self.receiving.len() < before
    }
}

/// The rounds, in the order in which they began.
pub(super) struct Journey<'a, 's> {
    scope: &'s LocalScope<'a>,
    received: IterMut<'a, Vec<u8>>,
    sent: IterMut<'a, Vec<Bytes>>,
    /// Places of what comes that are used.
    taken: usize,
    own: usize,
    rounds: Vec<Round<'a, 's>>,
}

impl<'a, 's> Journey<'a, 's> {
    pub fn new(
        scope: &'s LocalScope<'a>,
        received: IterMut<'a, Vec<u8>>,
        sent: IterMut<'a, Vec<Bytes>>,
        own: usize,
    ) -> Self {
        Self { scope, received, sent, taken: 0, own, rounds: Vec::new() }
    }

    /// Whether one more round may begin.
    pub fn has_room(&self) -> bool {
        self.sent.len() > 0
    }

    /// Sends each rank its message, in the order of `others`.
    pub fn begin(
        &mut self,
        world: &SimpleCommunicator,
        others: impl Iterator<Item = usize>,
        number: u64,
        tag: Tag,
        sent: Vec<Bytes>,
    ) {
        let place = self.sent.next().expect("room for a round");
        *place = sent;
        let sent: &'a [Bytes] = place;
        let own = sent[self.own].clone();
        let (places, came) = (vec![None; sent.len()], vec![None; sent.len()]);
        let is_missing = (0..sent.len()).map(|rank| rank != self.own).collect();
        let send = |rank: usize| {
            let to = world.process_at_rank(rank as i32);
            (rank, Some(to.immediate_send_with_tag(self.scope, &sent[rank][..], tag)))
        };
        let sending = others.map(send).collect();
        let receiving = Vec::with_capacity(came.len());
        let round = Round { number, tag, own, places, came, is_missing, sending, receiving };
        self.rounds.push(round);
    }

    /// Takes what came, and looks what was taken; whether there was something.
    pub fn go_on(&mut self, world: &SimpleCommunicator) -> bool {
        let mut something_came = false;
        let any = world.any_process();
        for round in self.rounds.iter_mut().filter(|round| !round.is_over()) {
            while let Some((message, status)) = any.immediate_matched_probe_with_tag(round.tag) {
                let rank = status.source_rank() as usize;
                assert!(round.is_missing[rank], "one message of a rank in a round");
                round.is_missing[rank] = false;
                round.places[rank] = Some(self.taken);
                self.taken += 1;
                let place = self.received.next().expect("room for the messages of a round");
                place.resize(status.count(u8::equivalent_datatype()) as usize, 0);
                let place: &'a mut [u8] = place;
                let request = message.immediate_matched_receive_into(self.scope, place);
                round.receiving.push((rank, Some(request)));
                something_came = true;
            }
            something_came |= advance(&mut round.sending) | round.receive();
        }
        something_came
    }

    /// Whether all rounds are over.
    pub fn is_over(&self) -> bool {
        self.rounds.iter().all(Round::is_over)
    }

    /// What came in a round that is over, where others are not: a copy, since their memory is lent.
    pub fn copied(&mut self, number: u64) -> Option<Vec<Bytes>> {
        let is_it = |round: &Round<'_, '_>| round.number == number && round.is_over();
        let round = self.rounds.remove(self.rounds.iter().position(is_it)?);
        let of_rank = |came: &Option<&[u8]>| match came {
            Some(bytes) => Bytes::new(bytes.to_vec()),
            None => round.own.clone(),
        };
        Some(round.came.iter().map(of_rank).collect())
    }

    /// The rounds, once all are over.
    pub fn ended(self) -> Vec<Here> {
        let here = |Round { number, own, places, .. }| Here { number, own, places };
        self.rounds.into_iter().map(here).collect()
    }

    /// Whether messages of others are here that have not arrived as a whole, or were not taken there.
    pub fn is_on_its_way(&self) -> bool {
        let mut under_way = self.rounds.iter().filter(|round| !round.is_over());
        under_way.any(|round| round.has_all() || !round.receiving.is_empty())
    }

    /// Whether a rank has not sent something that is waited for.
    pub fn lacks(&self, rank: usize) -> bool {
        self.rounds.iter().any(|round| round.is_missing[rank])
    }

    /// In the first round that is not over: the ranks whose messages did not come, and those that did not take theirs.
    pub fn absent(&self) -> (Vec<usize>, Vec<usize>) {
        let first = self.rounds.iter().find(|round| !round.is_over());
        let Some(round) = first else { return Default::default() };
        let nothing = (0..).zip(&round.is_missing).filter(|(_, missing)| **missing);
        let mut missing = ranks(&round.receiving);
        missing.extend(nothing.map(|(rank, _)| rank));
        (missing, ranks(&round.sending))
    }
}
