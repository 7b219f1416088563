//! What ranks tell each other before a step begins.

use super::Exchange;
use super::agreement::{all_have, failed, same_call, understood};
use crate::error::Result;

/// What one rank tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Opening {
    /// What was called: what it begins is not what others begin with another call.
    pub call: String,
    /// Why it cannot take the step.
    pub failure: Option<String>,
    /// Steps that it has taken.
    pub steps: u64,
    /// What its host multiplies the learning rate with.
    pub learning_rate_factor: f32,
    /// Whether it wants to compare what all have.
    pub compares: bool,
    /// What its share of the step's targets and the like counts to, in the order of the plan.
    pub counts: Vec<Vec<u8>>,
    /// The fingerprint of the order in which gradients will be exchanged.
    pub order: String,
}

/// [`Opening`], as it is sent.
type Sent = (String, Option<String>, u64, f32, bool, Vec<Vec<u8>>, String);

impl Opening {
    /// What all ranks tell, in their order.
    pub fn exchanged(self, exchange: &dyn Exchange) -> Result<Vec<Self>> {
        let Self { call, failure, steps, learning_rate_factor, compares, counts, order } = self;
        let own: Sent = (call, failure, steps, learning_rate_factor, compares, counts, order);
        let all = exchange.gather(&serde_json::to_vec(&own).expect("numbers and a text"))?;
        let all = all.iter().enumerate().map(|(rank, bytes)| {
            let sent: Sent = understood(rank, serde_json::from_slice(bytes))?;
            let (call, failure, steps, learning_rate_factor, compares, counts, order) = sent;
            Ok(Self { call, failure, steps, learning_rate_factor, compares, counts, order })
        });
        all.collect()
    }
}

/// Fails unless all called the same and can do it.
pub(super) fn check(all: &[Opening]) -> Result<()> {
    same_call(&all.iter().map(|one| one.call.as_str()).collect::<Vec<_>>())?;
    let failure = |(rank, one): (usize, &Opening)| Some(failed(rank, one.failure.as_ref()?));
    if let Some(error) = all.iter().enumerate().find_map(failure) {
        return Err(error);
    }
    let of = |fact: fn(&Opening) -> String| all.iter().map(fact).collect::<Vec<_>>();
    all_have("steps behind it:", &of(|one| one.steps.to_string()))?;
    all_have("a learning-rate factor of", &of(|one| one.learning_rate_factor.to_string()))?;
    all_have("counts of targets by loss:", &of(|one| one.counts.len().to_string()))?;
    all_have("gradients in the order with the fingerprint", &of(|one| one.order.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_order_of_gradients_is_told() {
        let of = |order: &str| Opening { order: order.into(), ..Opening::default() };
        check(&[of("0a"), of("0a")]).expect("the same");
        let told = check(&[of("0a"), of("0a"), of("7f")]).expect_err("another").to_string();
        let expected = "rank 2 has gradients in the order with the fingerprint 7f, rank 0 has 0a; ";
        assert!(told.starts_with(expected), "{told}");
        // What a rank found wrong comes first.
        let failure = Some("no device".to_owned());
        let failed = Opening { failure, ..Opening::default() };
        let told = check(&[of("0a"), failed]).expect_err("a failure").to_string();
        assert_eq!(told, "rank 1 cannot go on: no device");
    }
}
