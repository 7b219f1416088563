//! Sampling from a language model, one token at a time.

use std::time::Duration;

use futures::future::join;
use futures::lock::Mutex;

use crate::error::{Error, Result};
use crate::gpu::{Gpu, Pacing, SUBMIT_BUDGET};
use crate::graph::{Graph, Phase};
use crate::nn::Gpt;
use crate::plan::{Parameters, Plan, PlanRequest, parameters};
use crate::record::{Slot, StepBuffers};
use crate::reference::random::{threefry4x32, uniform_unit};

/// Last key word of the random streams of sampling.
const DOMAIN_SAMPLE: u32 = 4;

/// How a token is drawn from logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits: below 1 sharpens, 0 always takes the most likely token.
    pub temperature: f64,
    /// Draws among this many most likely tokens only; `None` for all.
    pub top_k: Option<usize>,
    /// Seed of the draws.
    pub seed: u32,
}

impl Default for Sampling {
    /// Temperature 1, all tokens, seed 0: the model's own distribution.
    fn default() -> Self {
        Self { temperature: 1.0, top_k: None, seed: 0 }
    }
}

impl Sampling {
    fn validate(&self) -> Result<()> {
        if !self.temperature.is_finite() || self.temperature < 0.0 {
            let value = self.temperature.to_string();
            let range = "finite and not negative";
            return Err(Error::Setting { setting: "temperature", value, range });
        }
        if self.top_k == Some(0) {
            let range = "at least 1 token";
            return Err(Error::Setting { setting: "top_k", value: "0".into(), range });
        }
        Ok(())
    }

    /// Draws token `index` of a sequence from its logits. Among equal logits the lower token
    /// counts as the more likely one.
    ///
    /// # Errors
    /// [`Error::Setting`], and [`Error::NonFinite`] for logits that are NaN or Inf.
    ///
    /// # Panics
    /// Without logits.
    pub fn draw(&self, logits: &[f32], index: u32) -> Result<u32> {
        self.validate()?;
        if let Some(index) = logits.iter().position(|logit| !logit.is_finite()) {
            return Err(Error::NonFinite {
                what: "the model's row of logits".into(),
                index,
                value: logits[index],
                advice: "its parameters are too large or not finite; sample from an earlier state"
                    .into(),
            });
        }
        let mut order: Vec<_> = (0..logits.len()).collect();
        order.sort_unstable_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        order.truncate(self.top_k.unwrap_or(usize::MAX));
        let largest = f64::from(logits[order[0]]);
        if self.temperature == 0.0 {
            return Ok(order[0] as u32);
        }
        // The most likely token has weight 1, so the sum cannot vanish.
        let weight =
            |&token: &usize| ((f64::from(logits[token]) - largest) / self.temperature).exp();
        let total: f64 = order.iter().map(weight).sum();
        let [word, ..] = threefry4x32([index, 0, 0, 0], [self.seed, 0, 0, DOMAIN_SAMPLE]);
        let mut left = uniform_unit(word) * total;
        for token in &order {
            left -= weight(token);
            if left < 0.0 {
                return Ok(*token as u32);
            }
        }
        Ok(order[order.len() - 1] as u32)
    }
}

/// Generates text with a [`Gpt`].
///
/// The parameters are shared with the trainer, not copied. Each token costs a forward pass over
/// the last `context` tokens, of a static shape: attention is causal, so what stands behind the
/// prompt does not matter. Only the logits of the last token are computed.
#[derive(Debug)]
pub struct Generator {
    gpu: Gpu,
    plan: Plan,
    /// Held by a run, whose inputs another would overwrite.
    pacing: Mutex<Pacing>,
    /// (1, vocabulary)
    logits: Slot,
    context: usize,
    vocabulary: u32,
}

impl Generator {
    /// Records the model's forward pass over one sequence of its whole context.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub async fn new(gpu: &Gpu, parameters: &Parameters, gpt: &Gpt) -> Result<Self> {
        gpu.check()?;
        let (context, vocabulary) = (gpt.config().context, gpt.config().vocabulary);
        let mut graph = Graph::new(Phase::Evaluate).with_weights(parameters.storage());
        let tokens = graph.tokens("tokens", [1, context], vocabulary);
        let position = graph.tokens("position", [1], context);
        let logits = gpt.logits_at(&mut graph, tokens, position);
        let request = PlanRequest {
            graph: &graph,
            outputs: &[logits],
            parameters,
            sinks: None,
            step: &StepBuffers::new(gpu),
            microbatches: 1,
        };
        let plan = Plan::new(gpu, &request).await?;
        let logits = plan.outputs[0].clone();
        let pacing = Mutex::new(Pacing::new(SUBMIT_BUDGET, plan.first.len()));
        let gpu = gpu.clone();
        Ok(Self { gpu, plan, pacing, logits, context, vocabulary: vocabulary as u32 })
    }

    /// With another budget than [`SUBMIT_BUDGET`] for each of its submits.
    #[must_use]
    pub fn with_submit_budget(self, budget: Duration) -> Self {
        let pacing = Mutex::new(Pacing::new(budget, self.plan.first.len()));
        Self { pacing, ..self }
    }

    /// The logits of the token that follows `tokens`, of which the last `context` count.
    ///
    /// # Errors
    /// [`Error::Data`] without tokens, [`Error::TokenOutOfRange`], [`Error::DeviceLost`].
    pub async fn logits(&self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.gpu.check()?;
        self.check(tokens)?;
        let mut window = tokens[tokens.len().saturating_sub(self.context)..].to_vec();
        let last = [window.len() as u32 - 1];
        window.resize(self.context, 0);
        let mut pacing = self.pacing.lock().await;
        for (input, ids) in self.plan.inputs.iter().zip([&window[..], &last]) {
            self.gpu.write(&input.buffer, 0, bytemuck::cast_slice(ids));
        }
        let submitted = pacing.submit_all(&self.gpu, &self.plan.first).await?;
        let read = parameters::read_slot(&self.gpu, &self.logits);
        let (finished, logits) = join(pacing.finish(&self.gpu, submitted), read).await;
        finished?;
        logits
    }

    /// Appends `count` tokens to `prompt` and returns them. `on_token` sees each as it is drawn.
    ///
    /// # Errors
    /// As [`logits`](Self::logits) and [`Sampling::draw`].
    pub async fn generate(
        &self,
        prompt: &[u32],
        count: usize,
        sampling: &Sampling,
        mut on_token: impl FnMut(u32),
    ) -> Result<Vec<u32>> {
        sampling.validate()?;
        self.check(prompt)?;
        let mut tokens = prompt.to_vec();
        for index in 0..count {
            let logits = self.logits(&tokens).await?;
            let token = sampling.draw(&logits, index as u32)?;
            on_token(token);
            tokens.push(token);
        }
        Ok(tokens.split_off(prompt.len()))
    }

    fn check(&self, tokens: &[u32]) -> Result<()> {
        if tokens.is_empty() {
            let reason = "it has no tokens; give at least one to go on from".into();
            return Err(Error::Data { what: "the prompt".into(), reason });
        }
        match tokens.iter().position(|&token| token >= self.vocabulary) {
            None => Ok(()),
            Some(position) => Err(Error::TokenOutOfRange {
                name: "prompt".into(),
                position,
                token: tokens[position],
                bound: self.vocabulary,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(sampling: Sampling, logits: &[f32]) -> Vec<usize> {
        let mut counts = vec![0; logits.len()];
        for index in 0..10_000 {
            counts[sampling.draw(logits, index).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [0.0f32, 1.0, 3.0, -40.0];
        for temperature in [1.0f64, 0.5, 2.0] {
            let weights: Vec<_> =
                logits.iter().map(|&x| (f64::from(x) / temperature).exp()).collect();
            let total: f64 = weights.iter().sum();
            let counts = counts(Sampling { temperature, seed: 5, ..Default::default() }, &logits);
            for (&count, weight) in counts.iter().zip(&weights) {
                let p = weight / total;
                let deviation = (10_000.0 * p * (1.0 - p)).sqrt();
                let off = (count as f64 - 10_000.0 * p).abs();
                assert!(off <= 5.0 * deviation + 1.0, "{temperature}: {counts:?}, {weights:?}");
            }
        }
    }

    #[test]
    fn top_k_and_temperature_zero() {
        let logits = [2.0f32, 1.0, 2.0, 1.9];
        let top = counts(Sampling { top_k: Some(2), ..Default::default() }, &logits);
        assert!(top[1] == 0 && top[3] == 0 && top[0] > 4_700 && top[2] > 4_700, "{top:?}");
        let greedy = counts(Sampling { temperature: 0.0, ..Default::default() }, &logits);
        assert_eq!(greedy, [10_000, 0, 0, 0]);
        let sharp = Sampling { temperature: 1e-300, ..Default::default() };
        assert_eq!(sharp.draw(&[1.0, f32::MAX, f32::MIN], 0).unwrap(), 1);
    }

    #[test]
    fn the_seed_decides() {
        let logits = [0.0f32; 50];
        let draw = |seed| {
            let sampling = Sampling { seed, ..Default::default() };
            (0..20).map(|index| sampling.draw(&logits, index).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn bad_settings_and_logits_are_refused() {
        let sampling = Sampling::default();
        for temperature in [-1.0, f64::NAN, f64::INFINITY] {
            let error = Sampling { temperature, ..sampling }.draw(&[1.0], 0).unwrap_err();
            assert!(error.to_string().starts_with("temperature is "), "{error}");
        }
        let error = Sampling { top_k: Some(0), ..sampling }.draw(&[1.0], 0).unwrap_err();
        assert!(error.to_string().contains("top_k is 0"), "{error}");
        let error = sampling.draw(&[1.0, f32::NAN], 0).unwrap_err().to_string();
        assert!(error.contains("logits") && error.contains("NaN at index 1"), "{error}");
    }
}
