//! Norms of queries and keys, and summaries of logits.

use super::reduce::ColumnSum;
use super::{AttentionLayout, CrossEntropy, first};
use crate::graph::{Dense, Graph, Node, Op, OverRanks, Shape, Value};
use crate::kernels::IGNORE;
use crate::kernels::{self, head_norm_blocks};
use crate::record::{Recorder, Slot, to_u32};
use crate::reference::logits as reference;
use crate::step::StepInput;

/// Which norm queries and keys pass before their product. Each head is a row of its own; the weight
/// is shared by all heads of queries, and another by all heads of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// RMSNorm: q / sqrt(mean(q²) + eps) * weight.
    Rms,
    /// LayerNorm without bias (Dehghani et al. 2023, arXiv 2302.05442).
    Layer,
}

/// What an attention saw: f32 (heads) each, over all sequences and positions.
#[derive(Clone, Copy, Debug)]
pub struct AttentionLogits {
    /// The largest scaled score of each head, before the soft cap.
    pub max_logit: Value,
    /// The mean entropy of each head's probabilities, in nats.
    pub entropy: Value,
}

/// What a cross-entropy saw: f32 (1) each, over the targets that count.
#[derive(Clone, Copy, Debug)]
pub struct LossLogits {
    /// The largest logit, after a soft cap where there is one.
    pub max_logit: Value,
    /// z mean(lse²), which is part of the loss: the loss less it is the cross-entropy alone.
    pub z_loss: Value,
}

/// QK-norm of qkv (.., (heads + 2 kv_heads) head_dim); inputs qkv, query weight and key weight
/// (head_dim). The values pass unchanged.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorm {
    /// Heads and their width.
    pub layout: AttentionLayout,
    /// RMSNorm or LayerNorm.
    pub kind: QkNorm,
    /// Added to the mean square.
    pub eps: f32,
    /// Added to the weights: 0, or 1 where they are stored as what they differ from 1 by.
    pub weight_offset: f32,
}

impl HeadNorm {
    fn reference(&self) -> reference::HeadNorm {
        let AttentionLayout { heads, kv_heads, head_dim } = self.layout;
        let (centered, eps) = (self.kind == QkNorm::Layer, f64::from(self.eps));
        let weight_offset = self.weight_offset.into();
        reference::HeadNorm { heads, kv_heads, head_dim, centered, eps, weight_offset }
    }

    fn params(&self, qkv: &Shape) -> kernels::HeadNormParams {
        kernels::HeadNormParams {
            rows: to_u32(qkv.rows()),
            heads: to_u32(self.layout.heads),
            kv_heads: to_u32(self.layout.kv_heads),
            head_quads: to_u32(self.layout.head_dim / 4),
            centered: u32::from(self.kind == QkNorm::Layer),
            eps: self.eps,
            weight_offset: self.weight_offset,
        }
    }
}

impl Op for HeadNorm {
    fn name(&self) -> &'static str {
        "head_norm"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let AttentionLayout { heads, kv_heads, head_dim } = self.layout;
        let (qkv, columns) = (&inputs[0], (heads + 2 * kv_heads) * head_dim);
        assert!(
            head_dim.is_multiple_of(4) && head_dim <= 256 && qkv.cols() == columns,
            "head_norm: qkv is {qkv}, the layout {:?}",
            self.layout
        );
        for weight in &inputs[1..] {
            assert_eq!(weight.dims, [head_dim], "head_norm: a weight is {weight}");
        }
        vec![qkv.clone()]
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let [qkv, query_weight, key_weight] = [0, 1, 2].map(|i| node.inputs[i]);
        let inputs = [qkv, query_weight, key_weight, first(upstream)];
        let dx = graph.apply(HeadNormBackward(*self), &inputs);
        let weights = [1, 2].map(|output| {
            let partials = graph.byproduct(dx, output);
            Some(graph.apply(ColumnSum, &[partials]))
        });
        vec![Some(dx), weights[0], weights[1]]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        recorder.dispatch(&kernels::HeadNorm {
            params: self.params(&inputs[0].shape),
            x: inputs[0].binding(),
            query_weight: inputs[1].binding(),
            key_weight: inputs[2].binding(),
            y: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let weights = [inputs[1].data, inputs[2].data];
        vec![reference::head_norm(inputs[0].data, weights, &self.reference())]
    }
}

/// The gradient of [`HeadNorm`]; inputs qkv, query weight, key weight, and the output's gradient.
/// Outputs the gradient of qkv, and those of the weights as sums over blocks of rows.
#[derive(Clone, Copy, Debug)]
pub struct HeadNormBackward(pub HeadNorm);

impl Op for HeadNormBackward {
    fn name(&self) -> &'static str {
        "head_norm_backward"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let (_, blocks) = head_norm_blocks(to_u32(inputs[0].rows()));
        let partials = Shape::f32([blocks as usize, self.0.layout.head_dim]);
        vec![inputs[0].clone(), partials.clone(), partials]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let params = self.0.params(&inputs[0].shape);
        let kernels::HeadNormParams { rows, heads, kv_heads, head_quads, .. } = params;
        let (rows_per_block, blocks) = head_norm_blocks(rows);
        recorder.dispatch(&kernels::HeadNormBackward {
            params: kernels::HeadNormBackwardParams {
                rows,
                heads,
                kv_heads,
                head_quads,
                centered: params.centered,
                eps: params.eps,
                rows_per_block,
                blocks,
                weight_offset: params.weight_offset,
            },
            x: inputs[0].binding(),
            query_weight: inputs[1].binding(),
            key_weight: inputs[2].binding(),
            dy: inputs[3].binding(),
            x_gradient: outputs[0].binding(),
            query_partials: outputs[1].binding(),
            key_partials: outputs[2].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let [x, query_weight, key_weight, dy] = [0, 1, 2, 3].map(|i| inputs[i].data);
        let (rows_per_block, _) = head_norm_blocks(to_u32(inputs[0].shape.rows()));
        let weights = [query_weight, key_weight];
        let size = self.0.reference();
        let (dx, [query, key]) =
            reference::head_norm_backward(x, weights, dy, &size, rows_per_block as usize);
        vec![dx, query, key]
    }
}

/// The largest logit and the mean entropy of each head, (heads) each, from what a watched
/// [`Attention`](super::Attention) wrote of its rows. Over the microbatches of a step: the largest
/// of all, the mean of all.
#[derive(Clone, Copy, Debug)]
pub struct AttentionSummary {
    /// Sequences.
    pub batch: usize,
    /// Positions in a sequence.
    pub time: usize,
    /// Query heads.
    pub heads: usize,
}

impl Op for AttentionSummary {
    fn name(&self) -> &'static str {
        "attention_summary"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let count = 2 * self.batch * self.heads * self.time;
        assert_eq!(inputs[0].dims, [count], "attention_summary: {self:?}");
        vec![Shape::f32([self.heads]); 2]
    }

    fn gradient(&self, _: &mut Graph, node: &Node, _: &[Option<Value>]) -> Vec<Option<Value>> {
        vec![None; node.inputs.len()]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let input = recorder.step_input();
        recorder.dispatch(&kernels::AttentionSummary {
            params: kernels::AttentionSummaryParams {
                batch: to_u32(self.batch),
                time: to_u32(self.time),
                heads: to_u32(self.heads),
                accumulate: u32::from(outputs.iter().any(|output| output.accumulate)),
            },
            input,
            row_logits: inputs[0].binding(),
            max_logit: outputs[0].binding(),
            entropy: outputs[1].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        reference::attention_summary(inputs[0].data, self.heads, self.time).into()
    }

    fn over_ranks(&self, output: usize) -> Option<OverRanks> {
        Some(if output == 0 { OverRanks::Largest } else { OverRanks::Mean })
    }
}

/// The largest logit that a [`CrossEntropy`](super::CrossEntropy) saw, and the share of its loss
/// that is z-loss, (1) each; inputs its statistics, targets and their
/// [`CountTargets`](super::CountTargets). Over the microbatches of a step: the largest of all, the
/// mean over all targets.
#[derive(Clone, Copy, Debug)]
pub struct LogitSummary {
    /// Weight of the squared log-sum-exp.
    pub z_loss: f32,
}

impl Op for LogitSummary {
    fn name(&self) -> &'static str {
        "logit_summary"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let (statistics, targets) = (&inputs[0], &inputs[1]);
        let rows = targets.count();
        assert_eq!(statistics.dims, [2 * rows], "logit_summary: targets are {targets}");
        vec![Shape::f32([1]); 2]
    }

    fn gradient(&self, _: &mut Graph, node: &Node, _: &[Option<Value>]) -> Vec<Option<Value>> {
        vec![None; node.inputs.len()]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let input = recorder.step_input();
        recorder.dispatch(&kernels::LogitSummary {
            params: kernels::LogitSummaryParams {
                rows: to_u32(inputs[1].shape.count()),
                ignore_index: IGNORE,
                z_loss: self.z_loss,
                accumulate: u32::from(outputs.iter().any(|output| output.accumulate)),
            },
            input,
            statistics: inputs[0].binding(),
            targets: inputs[1].binding(),
            counts: inputs[2].binding(),
            max_logit: outputs[0].binding(),
            penalty: outputs[1].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let targets: Vec<_> = inputs[1].data.iter().map(|&target| target as u32).collect();
        let z_loss = f64::from(self.z_loss);
        let counts = super::loss::counts(inputs[2].data);
        let found = reference::logit_summary(inputs[0].data, &targets, IGNORE, z_loss, counts);
        found.map(|x| vec![x]).into()
    }

    fn over_ranks(&self, output: usize) -> Option<OverRanks> {
        Some(if output == 0 { OverRanks::Largest } else { OverRanks::Mean })
    }
}

impl Graph {
    /// QK-norm of qkv (.., (heads + 2 kv_heads) head_dim), with weights (head_dim).
    #[track_caller]
    pub fn head_norm(&mut self, qkv: Value, weights: [Value; 2], norm: HeadNorm) -> Value {
        self.apply(norm, &[qkv, weights[0], weights[1]])
    }

    /// [`cross_entropy`](Self::cross_entropy), and what it saw.
    #[track_caller]
    pub fn watched_cross_entropy(
        &mut self,
        logits: Value,
        targets: Value,
        settings: CrossEntropy,
    ) -> (Value, LossLogits) {
        let loss = self.cross_entropy(logits, targets, settings);
        (loss, self.loss_logits(loss, settings.z_loss))
    }

    /// What a [`cross_entropy`](Self::cross_entropy) or
    /// [`linear_cross_entropy`](Self::linear_cross_entropy) with this z-loss saw.
    #[track_caller]
    pub fn loss_logits(&mut self, loss: Value, z_loss: f32) -> LossLogits {
        // Both have their targets and the counts of them in the same places.
        let [targets, counts] = [1, 2].map(|input| self.nodes()[loss.node].inputs[input]);
        let statistics = self.byproduct(loss, 2);
        let max_logit = self.apply(LogitSummary { z_loss }, &[statistics, targets, counts]);
        LossLogits { max_logit, z_loss: self.byproduct(max_logit, 1) }
    }
}
