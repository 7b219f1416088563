//! What is computed for many ranks: models, networks, kinds of training.

use super::model::{
    Host, Job, Network, PIECE, Step, diloco, synchronous, synchronous_in_turn, zero_one,
};

/// Floating-point operations per second of a step on an H100, of the step of 124 M parameters and 2,048
/// tokens in 58.9 ms (docs/performance.md), counted as 6 for each parameter and token.
const OPERATIONS: f64 = 6.0 * 124e6 * 2_048.0 / 58.9e-3;
/// Tokens of a rank in a step: what a rank computes between two exchanges.
pub const TOKENS: f64 = 16_384.0;

/// Models by their parameters.
pub const MODELS: [(&str, f64); 4] =
    [("10 M", 1e7), ("124 M", 1.24e8), ("1.5 B", 1.5e9), ("7 B", 7e9)];

/// Delays, from one host to another.
pub const DELAYS: [(&str, f64); 3] = [("rack", 50e-6), ("site", 1e-3), ("Internet", 50e-3)];
/// Bits per second.
pub const RATES: [(&str, f64); 3] = [("1", 1e9), ("10", 1e10), ("100", 1e11)];

/// Numbers of ranks in tables.
pub const RANKS: [f64; 5] = [2.0, 8.0, 64.0, 256.0, 1024.0];

/// A step by itself, which is extrapolated but for 124 M.
pub fn job(parameters: f64) -> Job {
    Job { parameters, compute: 6.0 * parameters * TOKENS / OPERATIONS }
}

pub fn network(delay: f64, bits: f64, overhead: f64) -> Network {
    Network { delay, bandwidth: bits / 8.0, overhead }
}

/// A kind of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Synchronous,
    /// The same behind the backward pass and one piece after the other, which is not what
    /// `train::ranks` does.
    InTurn,
    ZeroOne,
    /// With so many bytes for the difference of a parameter.
    DiLoCo(f64),
}

/// Steps of DiLoCo to an outer round, as in arXiv 2311.08105.
const EVERY: f64 = 500.0;

/// What is compared.
pub const KINDS: [(&str, Kind); 6] = [
    ("synchronous", Kind::Synchronous),
    ("synchronous, in turn", Kind::InTurn),
    ("ZeRO-1", Kind::ZeroOne),
    ("DiLoCo, f32", Kind::DiLoCo(4.0)),
    ("DiLoCo, f16", Kind::DiLoCo(2.0)),
    ("DiLoCo, 8 bit", Kind::DiLoCo(1.0 + 4.0 / 256.0)),
];

impl Kind {
    pub fn step(self, job: &Job, network: &Network, host: &Host, ranks: f64) -> Step {
        match self {
            Self::Synchronous => synchronous(job, network, host, ranks, PIECE),
            Self::InTurn => synchronous_in_turn(job, network, host, ranks, PIECE),
            Self::ZeroOne => zero_one(job, network, host, ranks, PIECE),
            Self::DiLoCo(bytes) => diloco(job, network, host, ranks, EVERY, bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_that_was_measured_is_the_one_that_is_computed() {
        let computed = job(1.24e8).compute * 2_048.0 / TOKENS;
        assert!((computed - 58.9e-3).abs() < 1e-9, "{computed}");
    }

    #[test]
    fn pieces_at_once_are_the_same_messages_in_less_time() {
        let host = Host { staging: 1e-9, fold: 1e-9 };
        let site = network(1e-3, 1e10, 1e-5);
        for (_, parameters) in MODELS {
            let of = |kind: Kind| kind.step(&job(parameters), &site, &host, 64.0).exchanged;
            let (at_once, in_turn) = (of(Kind::Synchronous), of(Kind::InTurn));
            assert_eq!(at_once.bytes, in_turn.bytes);
            assert_eq!(at_once.messages, in_turn.messages);
            assert!(at_once.seconds < in_turn.seconds);
        }
    }
}
