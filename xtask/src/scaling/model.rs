//! How long a step of many ranks takes: plain functions of what was measured.
//!
//! Seconds and bytes throughout. A rank is a host with a device; all are alike, and so are the links
//! between them.

use std::ops::{Add, Mul};

/// Bytes of gradients in an exchange at once, as `train::ranks` has it.
pub const PIECE: f64 = 4_194_304.0;

/// Longest message that OpenMPI sends over TCP without asking the receiver first.
const EAGER: f64 = 65_536.0;
/// How often a longer message is on its way: it is announced, called for, and brought.
const TRIPS: f64 = 3.0;
/// Small messages of a step: what ranks tell before it, and losses with states behind the passes.
const SMALL: f64 = 2.0;
/// Pieces that are on their way to be added up, and as many sums on their way back.
const AT_ONCE: f64 = 4.0;
/// The share of a step in which gradients are made: 4 of the 6 operations for each parameter and token.
const BACKWARD: f64 = 2.0 / 3.0;

/// What lies between hosts.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    /// From one host to another.
    pub delay: f64,
    /// Bytes per second of a host, in each direction.
    pub bandwidth: f64,
    /// What a message takes beside both, at its two ends.
    pub overhead: f64,
}

/// What a host does with gradients, beside the network.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Seconds per byte from the device to the host as numbers, and back.
    pub staging: f64,
    /// Seconds per byte of adding up a rank's range of all ranks, which is as many bytes as a rank has.
    pub fold: f64,
}

/// What each rank trains.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    pub parameters: f64,
    /// Of forward and backward pass and update of one step, by itself.
    pub compute: f64,
}

/// What exchanging takes of each rank.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Exchanged {
    /// Of a step, what is not hidden behind the passes.
    pub seconds: f64,
    /// Sent; as many are received.
    pub bytes: f64,
    /// Sent.
    pub messages: f64,
}

impl Add for Exchanged {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            seconds: self.seconds + other.seconds,
            bytes: self.bytes + other.bytes,
            messages: self.messages + other.messages,
        }
    }
}

impl Mul<f64> for Exchanged {
    type Output = Self;

    fn mul(self, times: f64) -> Self {
        let Self { seconds, bytes, messages } = self;
        Self { seconds: seconds * times, bytes: bytes * times, messages: messages * times }
    }
}

/// What a step takes.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub compute: f64,
    pub exchanged: Exchanged,
}

impl Step {
    pub fn seconds(&self) -> f64 {
        self.compute + self.exchanged.seconds
    }

    /// The share of its time in which a rank does what it would do by itself.
    pub fn efficiency(&self) -> f64 {
        self.compute / self.seconds()
    }
}

impl Network {
    /// Until a message is on its other end, without the time of its bytes.
    fn latency(&self, bytes: f64) -> f64 {
        self.overhead + self.delay * if bytes > EAGER { TRIPS } else { 1.0 }
    }

    /// Until the messages of a round are on their other ends, without the time of their bytes.
    fn trip(&self, ranks: f64, part: f64) -> f64 {
        if ranks == 1.0 {
            return 0.0;
        }
        self.latency(part) + (ranks - 2.0) * self.overhead
    }

    /// Each rank gives every other one a part of so many bytes, all at once (`Exchange::scatter`, where
    /// they are different ones, and `Exchange::share`).
    pub fn round(&self, ranks: f64, part: f64) -> Exchanged {
        let others = ranks - 1.0;
        let bytes = others * part;
        let seconds = self.trip(ranks, part) + bytes / self.bandwidth;
        Exchanged { seconds, bytes, messages: others }
    }
}

/// Gradients in pieces.
struct Pieces {
    count: f64,
    /// Bytes of each.
    each: f64,
}

impl Pieces {
    fn new(bytes: f64, piece: f64) -> Self {
        let count = (bytes / piece).ceil();
        Self { count, each: bytes / count }
    }
}

/// One piece of so many bytes, scattered, added up and shared, with nothing beside it. It is on the
/// device before and behind that, where the host has anything to do with one.
fn one(network: &Network, host: &Host, ranks: f64, bytes: f64) -> Exchanged {
    if ranks == 1.0 {
        return Exchanged::default();
    }
    let mut both = network.round(ranks, bytes / ranks) * 2.0;
    both.seconds += bytes * (host.fold + host.staging);
    both
}

/// The sum of so many bytes of each rank, on all of them, in pieces one after the other.
pub fn in_turn(network: &Network, host: &Host, ranks: f64, bytes: f64, piece: f64) -> Exchanged {
    let pieces = Pieces::new(bytes, piece);
    one(network, host, ranks, pieces.each) * pieces.count
}

/// The same with several pieces on their way: behind the first, each takes as long as what is slowest,
/// its bytes, the host, or its trips.
pub fn at_once(network: &Network, host: &Host, ranks: f64, bytes: f64, piece: f64) -> Exchanged {
    let pieces = Pieces::new(bytes, piece);
    let first = one(network, host, ranks, pieces.each);
    let carried = first.bytes / network.bandwidth;
    let on_host = if ranks > 1.0 { pieces.each * (host.fold + host.staging) } else { 0.0 };
    let trips = network.trip(ranks, pieces.each / ranks) / AT_ONCE;
    let others = carried.max(on_host).max(trips) * (pieces.count - 1.0);
    Exchanged { seconds: first.seconds + others, ..first * pieces.count }
}

/// A step of synchronous data parallelism: the sum of all gradients in f32, from the device and back,
/// and the small messages. Pieces are ready one by one until the backward pass ends, and are exchanged
/// meanwhile: what is left of them behind it is added to the step, and at least the last one.
pub fn synchronous(job: &Job, network: &Network, host: &Host, ranks: f64, piece: f64) -> Step {
    let bytes = 4.0 * job.parameters;
    let pieces = Pieces::new(bytes, piece);
    let all = at_once(network, host, ranks, bytes, piece);
    let last = one(network, host, ranks, pieces.each);
    let backward = BACKWARD * job.compute;
    let hidden = backward - backward / pieces.count;
    let seconds = (all.seconds - hidden).max(last.seconds);
    let exchanged = Exchanged { seconds, ..all } + network.round(ranks, 0.0) * SMALL;
    Step { compute: job.compute, exchanged }
}

/// The same without any of that: one piece after the other, behind the backward pass.
pub fn synchronous_in_turn(
    job: &Job,
    network: &Network,
    host: &Host,
    ranks: f64,
    piece: f64,
) -> Step {
    let all = in_turn(network, host, ranks, 4.0 * job.parameters, piece);
    Step { compute: job.compute, exchanged: all + network.round(ranks, 0.0) * SMALL }
}

/// A step of ZeRO-1 in which every rank has whole gradients, for one verdict: that of
/// [`synchronous`], and then all get the weights that each rank has advanced, in f32 and a piece of each
/// at once, of which several are on their way.
pub fn zero_one(job: &Job, network: &Network, host: &Host, ranks: f64, piece: f64) -> Step {
    let mut step = synchronous(job, network, host, ranks, piece);
    if ranks == 1.0 {
        return step;
    }
    let weights = Pieces::new(4.0 * job.parameters, piece);
    let first = network.round(ranks, weights.each / ranks);
    let carried = first.bytes / network.bandwidth;
    let staged = weights.each * host.staging;
    let trips = network.trip(ranks, weights.each / ranks) / AT_ONCE;
    let others = carried.max(staged).max(trips) * (weights.count - 1.0);
    let seconds = first.seconds + staged + others;
    step.exchanged = step.exchanged + Exchanged { seconds, ..first * weights.count };
    step
}

/// A step of DiLoCo, of `every` to an outer round, with so many bytes for a parameter's difference. All
/// ranks get the differences of all, where that is less than each its range of them and then the ranges
/// of what they became, in f32; which `train::ranks` decides in the same way.
pub fn diloco(
    job: &Job,
    network: &Network,
    host: &Host,
    ranks: f64,
    every: f64,
    bytes_each: f64,
) -> Step {
    let (whole, encoded) = (4.0 * job.parameters, bytes_each * job.parameters);
    let pieces = (whole / PIECE).ceil();
    let is_gathered = ranks * bytes_each < bytes_each + 4.0;
    let of_a_piece = if is_gathered {
        network.round(ranks, encoded / pieces)
    } else {
        network.round(ranks, encoded / pieces / ranks)
            + network.round(ranks, whole / pieces / ranks)
    };
    let mut round = of_a_piece * pieces;
    if ranks > 1.0 {
        let folded = if is_gathered { ranks } else { 1.0 };
        round.seconds += whole * (host.staging + folded * host.fold);
        round = round + network.round(ranks, 0.0);
    }
    Step { compute: job.compute, exchanged: round * (1.0 / every) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: Job = Job { parameters: 1e8, compute: 0.5 };
    /// Nothing to hide behind.
    const BACKWARD_ALONE: Job = Job { parameters: 1e8, compute: 0.0 };
    const HOST: Host = Host { staging: 1e-9, fold: 0.5e-9 };
    const NETWORK: Network = Network { delay: 1e-3, bandwidth: 1e8, overhead: 1e-5 };
    /// Steps to an outer round, and bytes for a difference.
    const ROUNDS: [(f64, f64); 2] = [(500.0, 1.0), (9.0, 4.0)];

    /// All kinds of steps.
    fn all(network: &Network, host: &Host, ranks: f64) -> Vec<Step> {
        all_of(&JOB, network, host, ranks)
    }

    fn all_of(job: &Job, network: &Network, host: &Host, ranks: f64) -> Vec<Step> {
        let mut steps = vec![
            synchronous(job, network, host, ranks, PIECE),
            synchronous_in_turn(job, network, host, ranks, PIECE),
            zero_one(job, network, host, ranks, PIECE),
        ];
        steps.extend(ROUNDS.map(|(every, each)| diloco(job, network, host, ranks, every, each)));
        steps
    }

    fn is_near(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * b.abs()
    }

    #[test]
    fn one_rank_exchanges_nothing() {
        for step in all(&NETWORK, &HOST, 1.0) {
            assert_eq!(step.exchanged, Exchanged::default());
            assert_eq!(step.efficiency(), 1.0);
        }
    }

    #[test]
    fn without_a_network_only_the_host_is_left() {
        let nothing = Network { delay: 0.0, bandwidth: f64::INFINITY, overhead: 0.0 };
        let steps = all_of(&BACKWARD_ALONE, &nothing, &HOST, 16.0);
        let [sync, in_turn, zero, eight_bit, f32] = steps[..] else { panic!() };
        let host = |staged: f64, folded: f64| 4e8 * (staged * HOST.staging + folded * HOST.fold);
        assert!(is_near(sync.exchanged.seconds, host(1.0, 1.0)));
        assert!(is_near(in_turn.exchanged.seconds, host(1.0, 1.0)));
        assert!(is_near(zero.exchanged.seconds, host(2.0, 1.0)));
        assert!(is_near(eight_bit.exchanged.seconds, host(1.0, 1.0) / 500.0));
        assert!(is_near(f32.exchanged.seconds, host(1.0, 1.0) / 9.0));
        let gathered = &all(&nothing, &HOST, 4.0)[3];
        assert!(is_near(gathered.exchanged.seconds, host(1.0, 4.0) / 500.0));
        let free = Host { staging: 0.0, fold: 0.0 };
        assert!(all(&nothing, &free, 1024.0).iter().all(|step| step.efficiency() == 1.0));
    }

    #[test]
    fn bytes_are_those_of_the_exchange() {
        // Each rank sends all but its own part twice, as in any reduce-scatter and all-gather.
        let step = synchronous(&JOB, &NETWORK, &HOST, 4.0, PIECE);
        assert!(is_near(step.exchanged.bytes, 2.0 * 0.75 * 4e8));
        let step = zero_one(&JOB, &NETWORK, &HOST, 4.0, PIECE);
        assert!(is_near(step.exchanged.bytes, 3.0 * 0.75 * 4e8));
        // Of four ranks the differences in 8 bit go whole, those in 16 bit by ranges.
        let step = diloco(&JOB, &NETWORK, &HOST, 4.0, 500.0, 1.0);
        assert!(is_near(step.exchanged.bytes, 3.0 * 1e8 / 500.0));
        let step = diloco(&JOB, &NETWORK, &HOST, 4.0, 500.0, 2.0);
        assert!(is_near(step.exchanged.bytes, 0.75 * (2e8 + 4e8) / 500.0));
        // 96 pieces, each to three others twice; 2 small messages.
        let step = synchronous(&JOB, &NETWORK, &HOST, 4.0, PIECE);
        assert!(is_near(step.exchanged.messages, 96.0 * 6.0 + 6.0));
    }

    #[test]
    fn doubling_does_what_it_should() {
        let slow = Network { delay: 0.0, overhead: 0.0, ..NETWORK };
        let free = Host { staging: 0.0, fold: 0.0 };
        let half = Network { bandwidth: slow.bandwidth / 2.0, ..slow };
        let all = |network| all_of(&BACKWARD_ALONE, network, &free, 8.0);
        for (one, two) in all(&slow).iter().zip(all(&half)) {
            assert!(is_near(two.exchanged.seconds, 2.0 * one.exchanged.seconds));
        }
        // Where bandwidth is all, more ranks cost at most twice what two cost.
        let of = |ranks| synchronous(&BACKWARD_ALONE, &slow, &free, ranks, PIECE).exchanged.seconds;
        assert!(of(2.0) < of(4.0) && of(1024.0) < 2.0 * of(2.0));
        // Where delay is all, a round costs one, whatever the ranks, and four times as many pieces are
        // on their way as in turn; each way of a piece takes three.
        let far = Network { bandwidth: f64::INFINITY, overhead: 0.0, ..NETWORK };
        assert!(is_near(far.round(65.0, 1024.0).seconds, far.delay));
        let [turns, once] = [in_turn, at_once].map(|sum| sum(&far, &free, 2.0, 4e8, PIECE).seconds);
        assert!(is_near(turns, 96.0 * 6.0 * far.delay));
        assert!(is_near(once, (6.0 + 95.0 * 3.0 / AT_ONCE) * far.delay), "{once}");
        // Twice the steps to a round cost half as much each.
        let of = |every| diloco(&JOB, &NETWORK, &HOST, 8.0, every, 4.0);
        assert!(is_near(of(100.0).exchanged.seconds, 2.0 * of(200.0).exchanged.seconds));
    }

    #[test]
    fn what_fits_behind_the_backward_pass_costs_its_last_piece() {
        let fast = Network { bandwidth: 1e10, ..NETWORK };
        let job = Job { compute: 10.0, ..JOB };
        let small = fast.round(4.0, 0.0).seconds * SMALL;
        let step = synchronous(&job, &fast, &HOST, 4.0, PIECE);
        let last = one(&fast, &HOST, 4.0, 4e8 / 96.0).seconds;
        assert!(is_near(step.exchanged.seconds, last + small));
        let in_turn = synchronous_in_turn(&job, &fast, &HOST, 4.0, PIECE);
        assert!(is_near(in_turn.exchanged.seconds, 96.0 * last + small));
        // What does not fit is what is left.
        let step = synchronous(&JOB, &NETWORK, &HOST, 4.0, PIECE);
        let all = at_once(&NETWORK, &HOST, 4.0, 4e8, PIECE).seconds;
        let small = NETWORK.round(4.0, 0.0).seconds * SMALL;
        let hidden = BACKWARD * JOB.compute * 95.0 / 96.0;
        assert!(is_near(step.exchanged.seconds, all - hidden + small), "{step:?}");
    }

    #[test]
    fn everything_that_gets_worse_costs_time() {
        let worse = [
            Network { delay: 2e-3, ..NETWORK },
            Network { bandwidth: 5e7, ..NETWORK },
            Network { overhead: 2e-5, ..NETWORK },
        ];
        for (index, step) in all(&NETWORK, &HOST, 4.0).iter().enumerate() {
            for network in worse {
                assert!(all(&network, &HOST, 4.0)[index].seconds() > step.seconds());
            }
            for host in [Host { staging: 2e-9, ..HOST }, Host { fold: 1e-9, ..HOST }] {
                assert!(all(&NETWORK, &host, 4.0)[index].seconds() > step.seconds());
            }
            assert!(all(&NETWORK, &HOST, 8.0)[index].seconds() > step.seconds());
        }
    }
}
