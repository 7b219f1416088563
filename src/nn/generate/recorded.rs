//! A model's forward pass over some rows of each text, recorded.

use crate::error::Result;
use crate::gpu::{Gpu, Pacing, Submitted};
use crate::graph::{Graph, Phase};
use crate::nn::Gpt;
use crate::plan::{Parameters, Plan, PlanRequest, SharedBuffers};
use crate::record::{Slot, StepBuffers};

use super::GeneratorSettings;
use super::cache::CachedRows;

/// The position of rows that belong to no text.
const NOWHERE: u32 = u32::MAX;

/// Some tokens of a text, and the position of the first.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    pub tokens: &'a [u32],
    pub position: usize,
}

impl Piece<'_> {
    /// Block `index` of `blocks` blocks of so many rows. All pieces end in the last.
    pub fn block(&self, index: usize, blocks: usize, rows: usize) -> Self {
        let Some(index) = index.checked_sub(blocks - self.tokens.len().div_ceil(rows)) else {
            return Self { tokens: &[], ..*self };
        };
        let (start, position) = (index * rows, self.position + index * rows);
        let end = self.tokens.len().min(start + rows);
        Self { tokens: &self.tokens[start..end], position }
    }
}

/// A plan for `rows` rows of each sequence.
#[derive(Debug)]
pub struct Recorded {
    pub plan: Plan,
    pub rows: usize,
    /// Where in the list of dispatches what only the last rows need begins.
    head: usize,
    /// (sequences, vocabulary)
    pub logits: Slot,
    /// (sequences, 4)
    pub sampled: Slot,
}

impl Recorded {
    /// Records it beside those before it with these buffers: inputs that are the same, among them the
    /// cache, lie in one place.
    pub async fn new(
        gpu: &Gpu,
        parameters: &Parameters,
        gpt: &Gpt,
        settings: &GeneratorSettings,
        rows: usize,
        shared: &mut SharedBuffers,
    ) -> Result<Self> {
        let GeneratorSettings { sequences, precision, .. } = *settings;
        let vocabulary = gpt.config().vocabulary;
        let context = settings.context_of(gpt.config());
        let mut graph =
            Graph::in_precision(Phase::Evaluate, precision).with_weights(parameters.storage());
        graph.set_largest_binding(gpu.largest_binding());
        let all = sequences * rows;
        let tokens = graph.tokens("tokens", [1, all], vocabulary);
        let positions = graph.tokens("positions", [1, all], context);
        let last = graph.tokens("last", [sequences], all);
        let cache = settings.cache.unwrap_or(precision);
        let mut cached = CachedRows::new(positions, sequences, context, cache);
        let [read, logits] = gpt.cached_logits(&mut graph, tokens, last, &mut cached);
        let words = graph.tokens("settings", [sequences, 8], usize::MAX);
        let seen = graph.tokens("seen", [sequences, vocabulary.div_ceil(32)], usize::MAX);
        let sampled = graph.sample(logits, words, seen);
        let request = PlanRequest {
            graph: &graph,
            outputs: &[logits, sampled],
            parameters,
            sinks: None,
            step: &StepBuffers::new(gpu),
            microbatches: 1,
        };
        let plan = Plan::sharing(gpu, &request, shared).await?;
        shared.share_inputs(&plan.inputs);
        let is_read = |node: &&crate::plan::RecordedNode| node.outputs.iter().any(|o| o.0 == read);
        let head = plan.nodes.iter().find(is_read).map_or(plan.first.len(), |n| n.first.start);
        let [logits, sampled] = [0, 1].map(|output| plan.outputs[output].clone());
        Ok(Self { plan, rows, head, logits, sampled })
    }

    pub fn input(&self, name: &str) -> &wgpu::Buffer {
        let found = self.plan.inputs.iter().find(|input| input.spec.name == name);
        &found.expect("an input of the graph").buffer
    }

    /// Rounds the weights again, where the plan computes with copies of them.
    pub async fn copy_weights(&self, gpu: &Gpu, pacing: &mut Pacing) -> Result<()> {
        let encode = |encoder: &mut wgpu::CommandEncoder, piece: std::ops::Range<usize>| {
            gpu.encode(encoder, &self.plan.first[piece]);
        };
        let submitted = pacing.submit(gpu, 0..self.plan.copies, encode).await?;
        pacing.finish(gpu, submitted).await
    }

    /// Computes a piece of each text, of `rows` tokens at most; of those without tokens nothing. With
    /// `is_last`, logits and tokens behind the last of them too.
    pub async fn submit(
        &self,
        gpu: &Gpu,
        pacing: &mut Pacing,
        pieces: &[Piece<'_>],
        is_last: bool,
    ) -> Result<Submitted> {
        let all = pieces.len() * self.rows;
        let (mut tokens, mut positions) = (vec![0; all], vec![NOWHERE; all]);
        let mut last = vec![0u32; pieces.len()];
        for (sequence, piece) in pieces.iter().enumerate() {
            let first = sequence * self.rows;
            for (row, &token) in piece.tokens.iter().enumerate() {
                tokens[first + row] = token;
                positions[first + row] = (piece.position + row) as u32;
            }
            last[sequence] = (first + piece.tokens.len().saturating_sub(1)) as u32;
        }
        for (name, ids) in [("tokens", &tokens), ("positions", &positions), ("last", &last)] {
            gpu.write(self.input(name), 0, bytemuck::cast_slice(ids));
        }
        let end = if is_last { self.plan.first.len() } else { self.head };
        let encode = |encoder: &mut wgpu::CommandEncoder, piece: std::ops::Range<usize>| {
            gpu.encode(encoder, &self.plan.first[piece]);
        };
        pacing.submit(gpu, self.plan.copies..end, encode).await
    }
}
