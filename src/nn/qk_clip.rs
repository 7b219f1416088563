//! QK-clip: attention logits kept in bounds by the weights that make them.

use crate::error::{Error, Result};
use crate::graph::ops::AttentionLayout;
use crate::graph::{AfterUpdate, Value};
use crate::kernels::{QkClip as QkClipKernel, QkClipParams};
use crate::record::{Recorder, Slot, to_u32};

/// Shrinks the projection of queries and keys of each head whose largest logit S exceeded the
/// threshold in a step (Kimi K2, arXiv 2507.20534):
///
/// ```text
/// gamma = min(1, threshold / S)    W_q *= gamma^alpha    W_k *= gamma^(1 - alpha)
/// ```
/// after the optimizer, and only where the step is applied. The same batch would then have logits
/// of at most the threshold, were the weights still those that it saw; nothing else changes, and no
/// gradient passes. Query heads that share a key head: see [`kernels::QkClip`].
///
/// S is the largest scaled q·k over the step's microbatches, before a soft cap. Biases
/// shrink with their weights. Behind a norm of queries and keys the clip would have no effect.
/// Projections of which the weight or the bias is frozen are left alone: what is frozen would keep
/// the logits where they are, and the other shrink step by step.
///
/// [`kernels::QkClip`]: crate::kernels::QkClip
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QkClip {
    /// The largest logit that is left alone; positive.
    pub threshold: f32,
    /// The share of the queries, in [0, 1]; the keys take the rest.
    pub alpha: f32,
}

impl Default for QkClip {
    fn default() -> Self {
        Self { threshold: 100.0, alpha: 0.5 }
    }
}

impl QkClip {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn validate(&self) -> Result<()> {
        let Self { threshold, alpha } = *self;
        let fail = |setting, value: f32, range| {
            Err(Error::Setting { setting, value: value.to_string(), range })
        };
        // Logits of 1e-6 are noise; a threshold that small would need factors outside f32.
        if !(1e-6..=1e30).contains(&threshold) {
            return fail("QK-clip threshold", threshold, "in [1e-6, 1e30]");
        }
        if !(0.0..=1.0).contains(&alpha) {
            return fail("QK-clip alpha", alpha, "in [0, 1]");
        }
        Ok(())
    }

    /// Records the clip of one packed f32 tensor, the weight ((heads + 2 kv_heads) head_dim, width)
    /// or the bias of a projection, behind the optimizer that updates it.
    ///
    /// # Panics
    /// Where the tensor does not fit the layout.
    #[track_caller]
    pub fn record(
        &self,
        recorder: &mut Recorder<'_>,
        layout: AttentionLayout,
        max_logit: &Slot,
        tensor: &Slot,
    ) {
        let AttentionLayout { heads, kv_heads, head_dim } = layout;
        let columns = (heads + 2 * kv_heads) * head_dim;
        let shape = &tensor.shape;
        assert_eq!(max_logit.shape.dims, [heads], "largest logits for {layout:?}");
        assert_eq!(shape.dims[0], columns, "QK-clip of {shape} with {layout:?}");
        let state = recorder.step_state();
        recorder.dispatch(&QkClipKernel {
            params: QkClipParams {
                first: to_u32((tensor.offset / shape.precision.quad_bytes()) as usize),
                heads: to_u32(heads),
                kv_heads: to_u32(kv_heads),
                head_quads: to_u32(shape.quads() / (heads + 2 * kv_heads)),
                threshold: self.threshold,
                alpha: self.alpha,
            },
            state,
            max_logit: max_logit.binding(),
            weight: tensor.buffer.as_entire_buffer_binding(),
        });
    }
}

/// One attention layer of a graph with its [`QkClip`].
#[derive(Clone, Debug, PartialEq)]
pub struct ClippedAttention {
    /// The clip.
    pub clip: QkClip,
    /// Heads and their width.
    pub layout: AttentionLayout,
    /// The largest logit of each head: an observation of the graph, which a plan must have among
    /// its outputs.
    pub max_logit: Value,
    /// Indices of the projection's weight and, where there is one, bias.
    pub parameters: Vec<usize>,
}

impl AfterUpdate for ClippedAttention {
    fn reads(&self) -> Vec<Value> {
        vec![self.max_logit]
    }

    fn record(
        &self,
        recorder: &mut Recorder<'_>,
        value: &dyn Fn(Value) -> Slot,
        parameter: &dyn Fn(usize) -> Option<Slot>,
    ) {
        let tensors: Option<Vec<_>> = self.parameters.iter().map(|&p| parameter(p)).collect();
        for tensor in tensors.iter().flatten() {
            self.clip.record(recorder, self.layout, &value(self.max_logit), tensor);
        }
    }
}
