//! Causal self-attention, without a matrix of scores in memory.

use super::logits::AttentionSummary;
use super::{AttentionLogits, first};
use crate::graph::{Dense, Graph, Node, Op, Shape, Value};
use crate::kernels;
use crate::record::{Recorder, Slot, to_u32};
use crate::reference::attention as reference;
use crate::step::StepInput;

/// How queries, keys and values lie in the columns of one fused value: all query heads, then the
/// key heads, then the value heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionLayout {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; a divisor of `heads`.
    pub kv_heads: usize,
    /// Columns of a head, a multiple of 4, at most 256.
    pub head_dim: usize,
}

/// How scores come of q·k, and which of them count. By default the factor is 1 / sqrt(head_dim),
/// there is no cap, and a position sees all before it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AttentionSettings {
    /// Factor on q·k; `None` for 1 / sqrt(head_dim).
    pub scale: Option<f32>,
    /// Scores become cap * tanh(score / cap); `None` leaves them.
    pub soft_cap: Option<f32>,
    /// Position t sees the positions from t - window + 1 to t; `None` for all up to t.
    pub window: Option<usize>,
}

/// Causal self-attention of qkv (batch, time, (heads + 2 kv_heads) head_dim), by online softmax
/// (Dao et al. 2022). Outputs (batch, time, heads head_dim), of every row of scores the largest and
/// the log-sum-exp less it, (batch heads time 2), and where `watch` is set the largest score and
/// the entropy of every row, (batch heads time 2).
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Heads and their width.
    pub layout: AttentionLayout,
    /// Factor on the scores, 1 / sqrt(head_dim) by default.
    pub scale: f32,
    /// Scores become cap * tanh(score / cap); 0 leaves them.
    pub soft_cap: f32,
    /// Positions that each sees, itself and those before it; `None` for all before it.
    pub window: Option<usize>,
    /// Whether the rows' largest scores and entropies are written.
    pub watch: bool,
}

impl Attention {
    #[track_caller]
    pub(super) fn new(layout: AttentionLayout, settings: AttentionSettings, watch: bool) -> Self {
        let AttentionSettings { scale, soft_cap, window } = settings;
        assert_ne!(window, Some(0), "attention: a position sees itself at least");
        let scale = scale.unwrap_or(1.0 / (layout.head_dim as f32).sqrt());
        Self { layout, scale, soft_cap: soft_cap.unwrap_or(0.0), window, watch }
    }

    /// Positions that the last of so many sees.
    pub(super) fn window_in(&self, time: usize) -> usize {
        self.window.map_or(time, |window| window.min(time))
    }

    pub(super) fn reference(&self, qkv: &Shape) -> reference::Attention {
        let AttentionLayout { heads, kv_heads, head_dim } = self.layout;
        reference::Attention {
            batch: qkv.dims[0],
            time: qkv.dims[1],
            heads,
            kv_heads,
            head_dim,
            scale: f64::from(self.scale),
            soft_cap: f64::from(self.soft_cap),
            window: self.window_in(qkv.dims[1]),
        }
    }

    fn params(&self, qkv: &Shape) -> kernels::AttentionParams {
        kernels::AttentionParams {
            batch: to_u32(qkv.dims[0]),
            time: to_u32(qkv.dims[1]),
            heads: to_u32(self.layout.heads),
            kv_heads: to_u32(self.layout.kv_heads),
            head_quads: self.head_quads(),
            scale: self.scale,
            soft_cap: self.soft_cap,
            window: to_u32(self.window_in(qkv.dims[1])),
        }
    }

    fn head_quads(&self) -> u32 {
        to_u32(self.layout.head_dim / 4)
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let AttentionLayout { heads, kv_heads, head_dim } = self.layout;
        let (qkv, columns) = (&inputs[0], (heads + 2 * kv_heads) * head_dim);
        assert!(
            heads.is_multiple_of(kv_heads) && head_dim.is_multiple_of(4) && head_dim <= 256,
            "attention: {:?}",
            self.layout
        );
        assert!(
            qkv.dims.len() == 3 && qkv.cols() == columns,
            "attention: qkv is {qkv}, the last dimension should be {columns}"
        );
        let [batch, time] = [qkv.dims[0], qkv.dims[1]];
        let rows = batch * heads * time;
        let mut shapes = vec![Shape::real([batch, time, heads * head_dim]), Shape::f32([2 * rows])];
        if self.watch {
            shapes.push(Shape::f32([2 * rows]));
        }
        shapes
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let inputs = [node.inputs[0], node.output(0), node.output(1), first(upstream)];
        vec![Some(graph.apply(AttentionBackward(*self), &inputs))]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let unused = recorder.unused();
        let row_logits = outputs.get(2).map(Slot::binding);
        let row_logits = row_logits.unwrap_or_else(|| unused.as_entire_buffer_binding());
        let params = self.params(&inputs[0].shape);
        let watch = u32::from(self.watch);
        let [qkv, output, statistics] = [&inputs[0], &outputs[0], &outputs[1]].map(Slot::binding);
        if recorder.gpu().is_software() {
            recorder.set_head_quads(self.head_quads());
            recorder.dispatch(&kernels::Attention {
                params,
                watch,
                qkv,
                output,
                statistics,
                row_logits,
            });
        } else {
            let params = bytemuck::cast(params);
            recorder.dispatch(&kernels::AttentionTiled {
                params,
                watch,
                qkv,
                output,
                statistics,
                row_logits,
            });
        }
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let size = self.reference(inputs[0].shape);
        let (output, _) = reference::attention(inputs[0].data, &size);
        let mut outputs = vec![output, reference::row_statistics(inputs[0].data, &size)];
        if self.watch {
            outputs.push(reference::row_logits(inputs[0].data, &size));
        }
        outputs
    }
}

/// The gradient of [`Attention`]; inputs qkv, output, row statistics, and the output's gradient.
/// Outputs the gradient of qkv, and what each row of scores subtracts, (batch heads time).
#[derive(Clone, Copy, Debug)]
pub struct AttentionBackward(pub Attention);

impl Op for AttentionBackward {
    fn name(&self) -> &'static str {
        "attention_backward"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![inputs[0].clone(), Shape::f32([inputs[2].count() / 2])]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let params = self.0.params(&inputs[0].shape);
        let [qkv, output, statistics, output_gradient] = [0, 1, 2, 3].map(|i| inputs[i].binding());
        let [qkv_gradient, delta] = [0, 1].map(|i| outputs[i].binding());
        recorder.dispatch(&kernels::AttentionDelta {
            params: bytemuck::cast(params),
            output,
            output_gradient: output_gradient.clone(),
            delta: delta.clone(),
        });
        if recorder.gpu().is_software() {
            recorder.set_head_quads(self.0.head_quads());
            recorder.dispatch(&kernels::AttentionBackwardQuery {
                params: bytemuck::cast(params),
                qkv: qkv.clone(),
                output_gradient: output_gradient.clone(),
                statistics: statistics.clone(),
                delta: delta.clone(),
                qkv_gradient: qkv_gradient.clone(),
            });
            recorder.dispatch(&kernels::AttentionBackwardKeyValue {
                params: bytemuck::cast(params),
                qkv,
                output_gradient,
                statistics,
                delta,
                qkv_gradient,
            });
        } else {
            recorder.dispatch(&kernels::AttentionTiledBackwardQuery {
                params: bytemuck::cast(params),
                qkv: qkv.clone(),
                output_gradient: output_gradient.clone(),
                statistics: statistics.clone(),
                delta: delta.clone(),
                qkv_gradient: qkv_gradient.clone(),
            });
            recorder.dispatch(&kernels::AttentionTiledBackwardKeyValue {
                params: bytemuck::cast(params),
                qkv,
                output_gradient,
                statistics,
                delta,
                qkv_gradient,
            });
        }
    }

    fn is_f32(&self, input: usize) -> bool {
        input == 2
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let size = self.0.reference(inputs[0].shape);
        let [qkv, output, _, doutput] = [0, 1, 2, 3].map(|i| inputs[i].data);
        let query = reference::attention_backward_query(qkv, doutput, &size);
        let key_value = reference::attention_backward_key_value(qkv, doutput, &size);
        let gradient = crate::reference::elementwise::add(&query, &key_value);
        vec![gradient, reference::attention_delta(output, doutput, &size)]
    }
}

impl Graph {
    /// Causal self-attention of qkv (batch, time, (heads + 2 kv_heads) head_dim), to (batch, time,
    /// heads head_dim).
    ///
    /// # Panics
    /// Where the shapes do not fit, and with a window of 0.
    #[track_caller]
    pub fn attention(
        &mut self,
        qkv: Value,
        layout: AttentionLayout,
        settings: AttentionSettings,
    ) -> Value {
        self.apply(Attention::new(layout, settings, false), &[qkv])
    }

    /// The same, and what it saw.
    #[track_caller]
    pub fn watched_attention(
        &mut self,
        qkv: Value,
        layout: AttentionLayout,
        settings: AttentionSettings,
    ) -> (Value, AttentionLogits) {
        let [batch, time] = [0, 1].map(|dimension| self.shape(qkv).dims[dimension]);
        let y = self.apply(Attention::new(layout, settings, true), &[qkv]);
        let rows = self.byproduct(y, 2);
        let summary = AttentionSummary { batch, time, heads: layout.heads };
        let max_logit = self.apply(summary, &[rows]);
        let entropy = self.byproduct(max_logit, 1);
        (y, AttentionLogits { max_logit, entropy })
    }
}
