//! What settings say of a run on several ranks.

use super::settings::Settings;
use crate::plan::{ParameterLayout, Parameters};
use crate::record::to_u32;
use crate::train::optimizers::SegmentTensor;
use crate::train::ranks::{Exchange, Shards};

impl Settings {
    /// Ranks of the run.
    pub(in crate::train) fn ranks(&self) -> usize {
        self.exchange.as_ref().map_or(1, |exchange| exchange.size())
    }

    /// Microbatches of a step on all ranks.
    pub(in crate::train) fn all_microbatches(&self) -> usize {
        self.microbatches * self.ranks()
    }

    /// The first of this rank's microbatches among those of all.
    pub(in crate::train) fn first_microbatch(&self) -> u32 {
        let rank = self.exchange.as_ref().map_or(0, |exchange| exchange.rank());
        to_u32(rank * self.microbatches)
    }

    /// Which rank keeps which moments; this one all of them, unless the optimizer is sharded.
    pub(in crate::train) fn shards(&self, layout: &ParameterLayout) -> Shards {
        let exchange = self.exchange.as_ref().filter(|_| self.shards_optimizer);
        let place = exchange.map_or((0, 1), |exchange| (exchange.rank(), exchange.size()));
        Shards::new(layout, place, |spec| self.optimizer.takes_parts(spec))
    }

    /// Bytes of each of the moments that a rank keeps, by trained segment; of a segment where it keeps
    /// nothing, none.
    pub(in crate::train) fn moment_bytes(
        &self,
        layout: &ParameterLayout,
        shards: &Shards,
        rank: usize,
    ) -> Vec<Vec<u64>> {
        let of_tensors = |tensors: Vec<SegmentTensor<'_>>| {
            let is_nowhere = shards.is_cut() && tensors.is_empty();
            if is_nowhere { Vec::new() } else { self.optimizer.moment_bytes(&tensors) }
        };
        let segments = 0..layout.trained_segments().len();
        segments.map(|segment| of_tensors(shards.tensors(layout, segment, rank))).collect()
    }

    /// What must be the same on all ranks: all but what is about this rank's device and host. By name,
    /// as errors tell it.
    pub(in crate::train) fn facts(&self, parameters: &Parameters) -> Vec<(&'static str, String)> {
        // With what a rule says of each tensor: closures cannot be compared.
        let tensors = self.initial_tensors(parameters).unwrap_or_default();
        let rows = parameters.trained().iter().zip(tensors).map(|(spec, row)| {
            let (decay, rate) = (row.weight_decay, row.learning_rate);
            format!("of {}: weight decay {decay}, learning rate {rate}\n", spec.name)
        });
        vec![
            ("the seed", self.seed.to_string()),
            ("accumulation", self.microbatches.to_string()),
            ("the precision", format!("{:?}", self.precision)),
            ("weights in", parameters.storage().to_string()),
            ("the optimizer", format!("{:?}", self.optimizer)),
            ("the norm", format!("{:?}", self.norm)),
            ("the clip", format!("{:?}", self.clip)),
            ("the loss scale", format!("{:?}", self.chosen_loss_scale(parameters))),
            ("a limit of skipped steps in a row:", self.give_up_after.to_string()),
            ("the policies", format!("{:?}", self.policies)),
            ("the schedule", format!("{:?}", self.schedule)),
            ("an average of weights:", format!("{:?}", self.ema)),
            ("lengths", format!("{:?}", self.lengths)),
            ("a sharded optimizer:", self.shards_optimizer.to_string()),
            ("the settings", rows.collect()),
        ]
    }
}
