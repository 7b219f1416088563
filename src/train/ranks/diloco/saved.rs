//! A rank of a DiLoCo run as a file.

use std::collections::{HashMap, VecDeque};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use super::guard::{Guard, ROUNDS};
use super::{DiLoCo, Outer, fingerprint, seed_of};
use crate::error::{Error, Result};
use crate::train::ranks::agreement::{compare, tell};
use crate::train::{Checkpoint, Model};

const FORMAT: &str = "evenkeel DiLoCo 1";
/// The one entry of a file's metadata: of several, the order would not be the same in each file.
const ABOUT: &str = "about";
const TRAINER: &str = "trainer";
const STATES: &str = "states";
/// In front of the names of tensors.
const ANCHOR: &str = "anchor/";
const MOMENTUM: &str = "momentum/";
const FEEDBACK: &str = "feedback/";

/// A rank of a run with DiLoCo, within a round or between two: its trainer's
/// [`Checkpoint`] (without frozen weights, where some are frozen), and the outer optimizer. Each rank has
/// its own. [`DiLoCo::checkpoint`] takes one and [`DiLoCo::restore`] goes back to it.
#[derive(Clone, Debug, PartialEq)]
pub struct DiLoCoCheckpoint {
    trainer: Checkpoint,
    rank: usize,
    ranks: usize,
    rounds: u64,
    steps_in_round: u64,
    seed: u32,
    guard: Guard,
    /// Names and shapes of the trained tensors, in the order of their elements.
    tensors: Vec<(String, Vec<usize>)>,
    outer: Outer,
}

/// What became of a run as it went on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// Ranks that the run had when it was saved.
    pub ranks: usize,
    /// Those among them that nobody goes on with: what they had learned since the last round, their
    /// moments, and what encoding had kept of their differences, are gone.
    pub dropped: Vec<usize>,
    /// Whether this rank is new: it goes on with moments of another one that goes on, too, from the
    /// weights of the last round.
    pub is_new: bool,
}

impl DiLoCoCheckpoint {
    /// The rank that it is of.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Ranks of the run.
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// Rounds before it was taken.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Steps since the last one.
    pub fn steps_in_round(&self) -> u64 {
        self.steps_in_round
    }

    /// The state of the rank's trainer.
    pub fn trainer(&self) -> &Checkpoint {
        &self.trainer
    }

    /// The contents of a safetensors file, the same bytes for the same checkpoint.
    pub fn to_bytes(&self) -> Vec<u8> {
        let trainer = self.trainer.to_bytes();
        let names: Vec<_> = self.tensors.iter().map(|(name, _)| name).collect();
        let about = json!({
            "format": FORMAT,
            "rank": self.rank,
            "ranks": self.ranks,
            "rounds": self.rounds,
            "steps in round": self.steps_in_round,
            "seed": self.seed,
            "history": self.guard.history.iter().collect::<Vec<_>>(),
            "tensors": names,
        });
        let mut views = vec![
            (TRAINER.to_owned(), view(Dtype::U8, vec![trainer.len()], &trainer)),
            (
                STATES.to_owned(),
                view(
                    Dtype::F32,
                    vec![self.outer.states.len()],
                    bytemuck::cast_slice(&self.outer.states),
                ),
            ),
        ];
        for (kind, values) in self.kinds() {
            let mut rest = values;
            for (name, shape) in self.tensors.iter().filter(|_| !values.is_empty()) {
                let (own, others) = rest.split_at(shape.iter().product());
                let bytes = bytemuck::cast_slice(own);
                views.push((format!("{kind}{name}"), view(Dtype::F32, shape.clone(), bytes)));
                rest = others;
            }
        }
        let about = HashMap::from([(ABOUT.to_owned(), about.to_string())]);
        safetensors::serialize(views, Some(about)).expect("names and sizes that fit")
    }

    fn kinds(&self) -> [(&'static str, &[f32]); 3] {
        let Outer { anchor, momentum, feedback, .. } = &self.outer;
        [(ANCHOR, anchor), (MOMENTUM, momentum), (FEEDBACK, feedback)]
    }

    /// Reads the contents of a file that [`to_bytes`](Self::to_bytes) made.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for anything else, and for NaN or Inf among its numbers.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let unreadable = |error: safetensors::SafeTensorError| invalid(error.to_string());
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(unreadable)?;
        let about = metadata.metadata().as_ref().and_then(|info| info.get(ABOUT));
        let about: Value =
            about.map_or(Value::Null, |text| serde_json::from_str(text).unwrap_or(Value::Null));
        if about["format"] != FORMAT {
            let found = about["format"].as_str().unwrap_or("none");
            return Err(invalid(format!("its format is {found:?}, not {FORMAT:?}")));
        }
        let file = SafeTensors::deserialize(bytes).map_err(unreadable)?;
        let number = |name: &str| {
            let reason = || invalid(format!("its {name:?} is {}", about[name]));
            about[name].as_u64().ok_or_else(reason)
        };
        let floats = |name: &str| floats(&file, name);
        let mut tensors = Vec::new();
        let [mut anchor, mut momentum, mut feedback] = [(); 3].map(|()| Vec::<f32>::new());
        let has_feedback = file.names().into_iter().any(|name| name.starts_with(FEEDBACK));
        for name in about["tensors"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let (shape, values) = floats(&format!("{ANCHOR}{name}"))?;
            anchor.extend(&values);
            for (kind, all, is_there) in
                [(MOMENTUM, &mut momentum, true), (FEEDBACK, &mut feedback, has_feedback)]
            {
                if !is_there {
                    continue;
                }
                let (others, values) = floats(&format!("{kind}{name}"))?;
                if others != shape {
                    return Err(invalid(format!("{kind}{name} has the shape {others:?}")));
                }
                all.extend(&values);
            }
            tensors.push((name.to_owned(), shape));
        }
        let history = about["history"].as_array().into_iter().flatten();
        let history: VecDeque<_> = history.filter_map(Value::as_f64).collect();
        if history.len() > ROUNDS || history.iter().any(|norm| *norm <= 0.0) {
            return Err(invalid(format!("its \"history\" is {}", about["history"])));
        }
        let (_, states) = floats(STATES)?;
        let (rank, ranks) = (number("rank")? as usize, number("ranks")? as usize);
        if rank >= ranks {
            return Err(invalid(format!("it is of rank {rank} of {ranks}")));
        }
        let seed = u32::try_from(number("seed")?);
        let trainer = file.tensor(TRAINER).map_err(unreadable)?;
        Ok(Self {
            trainer: Checkpoint::from_bytes(trainer.data())?,
            rank,
            ranks,
            rounds: number("rounds")?,
            steps_in_round: number("steps in round")?,
            seed: seed.map_err(|_| invalid(format!("its \"seed\" is {}", about["seed"])))?,
            guard: Guard { history },
            tensors,
            outer: Outer { anchor, momentum, feedback, states },
        })
    }
}

fn view(dtype: Dtype, shape: Vec<usize>, bytes: &[u8]) -> TensorView<'_> {
    TensorView::new(dtype, shape, bytes).expect("as many bytes as the shape has")
}

fn invalid(reason: String) -> Error {
    Error::Checkpoint { reason }
}

/// A tensor of finite numbers.
fn floats(file: &SafeTensors<'_>, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
    let view = file.tensor(name).map_err(|_| invalid(format!("it has no {name}")))?;
    if view.dtype() != Dtype::F32 {
        return Err(invalid(format!("{name} is {:?}, not F32", view.dtype())));
    }
    let words = view.data().chunks_exact(4);
    let values: Vec<_> = words.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    match values.iter().position(|x| !x.is_finite()) {
        None => Ok((view.shape().to_vec(), values)),
        Some(index) => Err(invalid(format!("{name} holds {} at index {index}", values[index]))),
    }
}

impl<M: Model> DiLoCo<M> {
    /// Everything that this rank needs to go on from here with the same bits; each rank has to take its
    /// own, after the same step. Waits for the device, and not for other ranks.
    ///
    /// # Errors
    /// As [`Trainer::checkpoint`](crate::train::Trainer::checkpoint), and as [`step`](Self::step) where
    /// the run cannot go on.
    pub async fn checkpoint(&self) -> Result<DiLoCoCheckpoint> {
        self.check()?;
        let trainer = match &self.frozen {
            None => self.trainer.checkpoint().await?,
            Some(frozen) => self.trainer.checkpoint_of_trained(frozen).await?,
        };
        Ok(DiLoCoCheckpoint {
            trainer,
            rank: self.exchange.rank(),
            ranks: self.exchange.size(),
            rounds: self.rounds,
            steps_in_round: self.steps_in_round,
            seed: self.seed,
            guard: self.guard.clone(),
            tensors: self.tensors().collect(),
            outer: self.outer.clone(),
        })
    }

    fn tensors(&self) -> impl Iterator<Item = (String, Vec<usize>)> {
        let specs = self.trainer.parameters.trained().iter();
        specs.map(|spec| (spec.name.clone(), spec.shape.dims.clone()))
    }

    /// Goes back to checkpoints that ranks took after the same step, one on each rank, all ranks at once.
    /// With those of the same ranks the run goes on bit by bit. There may be fewer ranks than before, and
    /// more: a rank without a checkpoint of its own takes that of any other, and then its moments, the weights
    /// of the last round, and a seed of its own. The settings are those of this run.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for one of another model or optimizer, [`Error::Rank`] where ranks have
    /// checkpoints of other steps or runs, or one of them cannot use its own. Nothing has changed then,
    /// unless that of a trainer alone does not fit, which leaves the run for another checkpoint.
    pub async fn restore(&mut self, saved: &DiLoCoCheckpoint) -> Result<Resumed> {
        let suits = self.check_saved(saved);
        let told = tell(&*self.exchange, suits.as_ref().err());
        suits.and(told)?;
        compare(&*self.exchange, &saved.facts())?;
        let all = self.exchange.gather(&(saved.rank as u64).to_le_bytes())?;
        let rank_in = |bytes: &Vec<u8>| u64::from_le_bytes(bytes[..].try_into().expect("8 bytes"));
        let all: Vec<_> = all.iter().map(|bytes| rank_in(bytes) as usize).collect();
        let rank = self.exchange.rank();
        let is_new = all[..rank].contains(&saved.rank);
        self.is_torn = true;
        let restored = match &self.frozen {
            None => self.trainer.restore(&saved.trainer).await,
            Some(frozen) => self.trainer.restore_trained(&saved.trainer, frozen).await,
        };
        let told = tell(&*self.exchange, restored.as_ref().err());
        restored.and(told)?;
        self.trainer.seed = seed_of(saved.seed, rank);
        self.outer = saved.outer.clone();
        let count = if self.settings.encoding.has_feedback() { self.outer.anchor.len() } else { 0 };
        if is_new || self.outer.feedback.len() != count {
            self.outer.feedback = vec![0.0; count];
        }
        if is_new {
            self.trainer.write_anchor(&self.pieces, &self.outer).await?;
        }
        self.guard = saved.guard.clone();
        (self.seed, self.rounds) = (saved.seed, saved.rounds);
        (self.steps, self.steps_in_round) = (self.trainer.steps(), saved.steps_in_round);
        self.is_torn = false;
        let dropped = (0..saved.ranks).filter(|rank| !all.contains(rank)).collect();
        Ok(Resumed { ranks: saved.ranks, dropped, is_new })
    }

    /// Fails for a checkpoint of another model.
    fn check_saved(&self, saved: &DiLoCoCheckpoint) -> Result<()> {
        let mut ours = self.tensors();
        let mut theirs = saved.tensors.iter();
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => break,
                (ours, theirs) if ours.as_ref() == theirs => {}
                (ours, theirs) => {
                    let shown = |tensor: Option<&(String, Vec<usize>)>| match tensor {
                        Some((name, shape)) => format!("{name} of the shape {shape:?}"),
                        None => "no more tensors".to_owned(),
                    };
                    let (theirs, ours) = (shown(theirs), shown(ours.as_ref()));
                    let reason = format!("it has {theirs} where {ours} is trained here");
                    return Err(invalid(format!("{reason}; build the model as it was")));
                }
            }
        }
        let (theirs, ours) = (saved.outer.states.len(), self.outer.states.len());
        if theirs != ours {
            let reason =
                format!("it has running statistics of {theirs} elements, and here are {ours}");
            return Err(invalid(reason));
        }
        Ok(())
    }
}

impl DiLoCoCheckpoint {
    /// What must be the same in those of all ranks.
    fn facts(&self) -> Vec<(String, String)> {
        let fact = |what: &str, value: String| (what.to_owned(), value);
        vec![
            fact("a checkpoint of ranks:", self.ranks.to_string()),
            fact("a checkpoint after rounds:", self.rounds.to_string()),
            fact("a checkpoint after steps:", self.trainer.steps().to_string()),
            fact("a checkpoint at the step of its round:", self.steps_in_round.to_string()),
            fact(
                "a checkpoint whose anchor has the fingerprint",
                fingerprint(&self.outer, &self.guard, self.seed),
            ),
        ]
    }
}
