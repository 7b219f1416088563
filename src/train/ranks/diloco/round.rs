//! A round: what ranks have learned since the last one becomes one.

use std::fmt;

use super::guard::Found;
use super::mean::{Averaging, Way};
use super::outer::{Piece, stored};
use super::{DiLoCo, Why};
use crate::error::Result;
use crate::train::ranks::agreement::{all_have, failed, understood};
use crate::train::ranks::joined::mean;
use crate::train::{Model, Trainer};

/// What a round has come to, told on every rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    /// Its number, from 1 on.
    pub number: u64,
    /// Steps of each rank since the round before.
    pub steps: u64,
    /// How far the weights of each rank have moved since: Euclidean norms over all trained weights,
    /// in the order of ranks. `None` where they are not finite.
    pub norms: Vec<Option<f64>>,
    /// The ranks whose differences the mean is of.
    pub counted: Vec<usize>,
    /// The others.
    pub left_out: Vec<LeftOut>,
    /// Bytes that this rank sent to others, without the messages about the round itself.
    pub bytes_sent: u64,
    /// On a rank that was left out: the tensors whose moments were not finite, and begin anew.
    pub emptied: Vec<String>,
}

/// A rank that a round was made without.
#[derive(Clone, Debug, PartialEq)]
pub struct LeftOut {
    /// Its number.
    pub rank: usize,
    /// Why.
    pub why: Why,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} was left out: {}", self.rank, self.why)
    }
}

impl Round {
    /// Why a rank was left out; `None` where it counted.
    pub fn why(&self, rank: usize) -> Option<&Why> {
        self.left_out.iter().find(|left_out| left_out.rank == rank).map(|left_out| &left_out.why)
    }
}

/// What a rank tells in front of a round.
#[derive(Clone, Debug)]
struct Report {
    /// Why it cannot take part.
    failure: Option<String>,
    rounds: u64,
    steps: u64,
    /// Of what all have alike.
    fingerprint: String,
    found: Found,
}

/// [`Report`], as it is sent: with a norm, or the name of what is not finite.
type Sent = (Option<String>, u64, u64, String, Result<f64, String>);

impl<M: Model> DiLoCo<M> {
    /// Makes a round now, however many steps there were since the last one: at the end of a run, say.
    /// All ranks do so together.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub async fn round(&mut self) -> Result<Round> {
        self.check()?;
        let found = self.find().await;
        let reports = self.report(&found)?;
        // What is wrong here is told as what it is.
        let (_, states) = found?;
        let all: Vec<_> = reports.into_iter().map(|report| report.found).collect();
        let why = self.guard.judge(&all, self.settings.outlier_factor);
        let counts: Vec<_> = why.iter().map(Option::is_none).collect();
        self.is_torn = true;
        let bytes_sent =
            if counts.contains(&true) { self.advance(&counts, &states).await? } else { 0 };
        self.trainer.write_anchor(&self.pieces, &self.outer).await?;
        let own = &why[self.exchange.rank()];
        let forgets_scale = matches!(own, Some(Why::NotFinite { .. }));
        let emptied = match own {
            Some(_) => self.trainer.empty_spoiled_moments().await?,
            None => Vec::new(),
        };
        self.trainer.go_on_after_skips(forgets_scale).await?;
        let norm = |found: &Found| match found {
            Found::Norm(norm) => Some(*norm),
            Found::NotFinite(_) => None,
        };
        let norms: Vec<_> = all.iter().map(norm).collect();
        let counted: Vec<_> = (0..counts.len()).filter(|&rank| counts[rank]).collect();
        let of_counted: Vec<_> = counted.iter().filter_map(|&rank| norms[rank]).collect();
        self.guard.remember(&of_counted);
        self.rounds += 1;
        let steps = std::mem::take(&mut self.steps_in_round);
        self.is_torn = false;
        let left_out = why.into_iter().enumerate();
        let left_out = left_out.filter_map(|(rank, why)| Some(LeftOut { rank, why: why? }));
        Ok(Round {
            number: self.rounds,
            steps,
            norms,
            counted,
            left_out: left_out.collect(),
            bytes_sent,
            emptied,
        })
    }

    /// How far this rank has come, and its running statistics.
    async fn find(&self) -> Result<(Found, Vec<f32>)> {
        self.trainer.gpu.check()?;
        let storage = self.trainer.parameters.storage();
        let mut squares = 0.0;
        for piece in &self.pieces {
            let weights = self.trainer.read_piece(piece).await?;
            let began = stored(storage, &self.outer.anchor[piece.elements.clone()]);
            let moved = began.iter().zip(&weights).map(|(b, w)| f64::from(*b) - f64::from(*w));
            squares += moved.map(|moved| moved * moved).sum::<f64>();
            let message = self.outer.message(piece.elements.clone(), storage, weights);
            let spoiled = message.iter().position(|&x| !self.settings.encoding.holds(x));
            if let Some(at) = spoiled {
                return Ok((Found::NotFinite(self.trainer.name_in(piece, at)), Vec::new()));
            }
        }
        let states = self.trainer.read_states().await?;
        let names = self.trainer.state_names().zip(&states);
        for (name, values) in names {
            if values.iter().any(|x| !x.is_finite()) {
                return Ok((Found::NotFinite(name.to_owned()), Vec::new()));
            }
        }
        Ok((Found::Norm(squares.sqrt()), states.concat()))
    }

    /// Tells all ranks what was found here, and hears of theirs.
    fn report(&self, found: &Result<(Found, Vec<f32>)>) -> Result<Vec<Report>> {
        let norm = match found {
            Ok((Found::Norm(norm), _)) => Ok(*norm),
            Ok((Found::NotFinite(tensor), _)) => Err(tensor.clone()),
            Err(_) => Err(String::new()),
        };
        let failure = found.as_ref().err().map(ToString::to_string);
        let fingerprint = self.fingerprint();
        let own: Sent = (failure, self.rounds, self.steps_in_round, fingerprint, norm);
        let all = self.exchange.gather(&serde_json::to_vec(&own).expect("numbers and texts"))?;
        let read = |(rank, bytes): (usize, &Vec<u8>)| {
            let sent: Sent = understood(rank, serde_json::from_slice(bytes))?;
            let (failure, rounds, steps, fingerprint, norm) = sent;
            let found = norm.map_or_else(Found::NotFinite, Found::Norm);
            Ok(Report { failure, rounds, steps, fingerprint, found })
        };
        let all: Vec<Report> = all.iter().enumerate().map(read).collect::<Result<_>>()?;
        if found.is_ok() {
            check(&all)?;
        }
        Ok(all)
    }

    /// Moves the anchor by the mean over the ranks that count; the bytes that this one sent.
    async fn advance(&mut self, counts: &[bool], states: &[f32]) -> Result<u64> {
        let Self { trainer, settings, outer, .. } = self;
        let (encoding, ranks) = (settings.encoding, counts.len());
        let averaging = Averaging { exchange: &*self.exchange, encoding, counts };
        let way = Way::of(encoding, ranks);
        let storage = trainer.parameters.storage();
        let mut sent = 0;
        for piece in &self.pieces {
            let elements = piece.elements.clone();
            let message = if counts[self.exchange.rank()] {
                outer.message(elements.clone(), storage, trainer.read_piece(piece).await?)
            } else {
                Vec::new()
            };
            let mean = averaging.mean(way, &message, elements.len())?;
            outer.keep(elements.clone(), &message, &mean.decoded);
            let holds = |value| trainer.parameters.can_hold(value);
            outer.advance(elements, storage, &mean.values, settings, holds);
            sent += mean.sent;
        }
        if !outer.states.is_empty() {
            let all = self.exchange.gather(bytemuck::cast_slice(states))?;
            let counting = all.iter().zip(counts).filter(|(_, counts)| **counts);
            let counting: Vec<Vec<f32>> =
                counting.map(|(bytes, _)| bytemuck::pod_collect_to_vec(bytes)).collect();
            outer.states = mean(&counting);
            sent += (4 * states.len() * (ranks - 1)) as u64;
        }
        Ok(sent)
    }
}

/// Fails unless all can make the same round.
fn check(all: &[Report]) -> Result<()> {
    let failure = |(rank, one): (usize, &Report)| Some(failed(rank, one.failure.as_ref()?));
    if let Some(error) = all.iter().enumerate().find_map(failure) {
        return Err(error);
    }
    let of = |fact: fn(&Report) -> String| all.iter().map(fact).collect::<Vec<_>>();
    all_have("rounds behind it:", &of(|one| one.rounds.to_string()))?;
    all_have("steps in this round:", &of(|one| one.steps.to_string()))?;
    all_have("an anchor with the fingerprint", &of(|one| one.fingerprint.clone()))
}

impl<M: Model> Trainer<M> {
    /// The weights of a piece, dense.
    pub(super) async fn read_piece(&self, piece: &Piece) -> Result<Vec<f32>> {
        let mut weights = Vec::with_capacity(piece.elements.len());
        for (index, rows) in &piece.rows {
            weights.extend(self.parameters.read_rows(*index, rows.clone()).await?);
        }
        Ok(weights)
    }

    /// The tensor that an element of a piece belongs to.
    fn name_in(&self, piece: &Piece, element: usize) -> String {
        let mut end = 0;
        let mut specs = piece.rows.iter().map(|(index, rows)| {
            let spec = &self.parameters.trained()[*index];
            end += rows.len() * (spec.shape.count() / spec.shape.dims[0]);
            (end, spec)
        });
        let found = specs.find(|(end, _)| element < *end);
        found.map_or_else(String::new, |(_, spec)| spec.name.clone())
    }

    /// Names of the running statistics and the like.
    pub(super) fn state_names(&self) -> impl Iterator<Item = &str> {
        self.parameters.states().iter().flat_map(|spec| &spec.names).map(String::as_str)
    }

    /// Their values, in the order of names.
    pub(super) async fn read_states(&self) -> Result<Vec<Vec<f32>>> {
        let mut states = Vec::new();
        for name in self.state_names() {
            states.push(self.parameters.read(name).await?);
        }
        Ok(states)
    }

    /// Sets trained weights and states to what all ranks have come to.
    pub(super) async fn write_anchor(&self, pieces: &[Piece], outer: &super::Outer) -> Result<()> {
        for piece in pieces {
            let mut rest = &outer.anchor[piece.elements.clone()];
            for (index, rows) in &piece.rows {
                let shape = &self.parameters.trained()[*index].shape;
                let (values, others) = rest.split_at(rows.len() * (shape.count() / shape.dims[0]));
                self.parameters.write_rows(*index, rows.clone(), values);
                rest = others;
            }
            self.parameters.finish_writes().await?;
        }
        let mut rest = &outer.states[..];
        for name in self.state_names() {
            let (values, others) = rest.split_at(self.parameters.find(name)?.shape.count());
            self.parameters.write(name, values)?;
            rest = others;
        }
        Ok(())
    }
}
