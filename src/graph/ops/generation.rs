//! Going on with a text: attention to a cache, rotation by given positions, tokens drawn.

use super::attention::{Attention, AttentionLayout, AttentionSettings};
use crate::graph::{Dense, Element, Graph, Op, Shape, Value};
use crate::kernels::{
    AttentionCached as AttentionKernel, AttentionCachedParams, CacheAppend, CacheAppendParams,
    Rotary as RotaryKernel, RotaryParams, Sample as SampleKernel, SampleParams, rotary_table,
};
use crate::record::{Recorder, Slot, to_u32};
use crate::reference::generation as reference;
use crate::step::StepInput;

/// Attention of rows to a cache of keys and values; inputs qkv (.., (heads + 2 kv_heads) head_dim)
/// with as many rows of each sequence, positions (u32, one to a row), keys and values (sequences,
/// kv_heads, context, head_dim). Output (.., heads head_dim).
///
/// It **writes** what the rows have into its inputs keys and values, at their positions, before it
/// attends to them: those are inputs of the plan, which keep between its runs what was written.
/// A row whose position the cache does not have is padding: it writes nothing, and is zero.
#[derive(Clone, Copy, Debug)]
pub struct AttentionCached(Attention);

impl AttentionCached {
    fn reference(&self, inputs: &[Dense<'_>]) -> reference::Cache {
        let cache = &inputs[2].shape.dims;
        let time = inputs[0].shape.rows() / cache[0];
        let text = Shape::real([cache[0], cache[2], inputs[0].shape.cols()]);
        let attention = crate::reference::attention::Attention { time, ..self.0.reference(&text) };
        reference::Cache { attention, context: cache[2] }
    }
}

impl Op for AttentionCached {
    fn name(&self) -> &'static str {
        "attention_cached"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let AttentionLayout { heads, kv_heads, head_dim } = self.0.layout;
        let [qkv, positions, keys, values] = inputs else { panic!("attention_cached: 4 inputs") };
        let is_cache = keys.dims.len() == 4
            && keys.dims == values.dims
            && keys.dims[1] == kv_heads
            && keys.dims[3] == head_dim;
        assert!(is_cache, "attention_cached: keys are {keys}, values {values}");
        assert!(
            qkv.cols() == (heads + 2 * kv_heads) * head_dim
                && qkv.rows().is_multiple_of(keys.dims[0])
                && positions.element == Element::U32
                && positions.count() == qkv.rows(),
            "attention_cached: qkv is {qkv}, positions {positions}, keys are {keys}"
        );
        let mut dims = qkv.dims.clone();
        *dims.last_mut().expect("a matrix") = heads * head_dim;
        vec![Shape::real(dims)]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let AttentionLayout { heads, kv_heads, head_dim } = self.0.layout;
        let cache = &inputs[2].shape.dims;
        let [sequences, context] = [cache[0], cache[2]].map(to_u32);
        let rows = to_u32(inputs[0].shape.rows()) / sequences;
        let [heads, kv_heads, quads] = [heads, kv_heads, head_dim / 4].map(to_u32);
        let [qkv, positions, keys, values] = [0, 1, 2, 3].map(|i| inputs[i].binding());
        recorder.dispatch(&CacheAppend {
            params: CacheAppendParams { sequences, rows, heads, kv_heads, quads, context },
            qkv: qkv.clone(),
            positions: positions.clone(),
            keys: keys.clone(),
            values: values.clone(),
        });
        recorder.set_head_quads(quads);
        recorder.dispatch(&AttentionKernel {
            params: AttentionCachedParams {
                batch: sequences,
                time: rows,
                heads,
                kv_heads,
                head_quads: quads,
                scale: self.0.scale,
                soft_cap: self.0.soft_cap,
                window: to_u32(self.0.window_in(cache[2])),
            },
            context,
            qkv,
            positions,
            keys,
            values,
            output: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let cache = self.reference(inputs);
        let (qkv, positions) = (inputs[0].data, ids(inputs[1].data));
        let held = [inputs[2].data, inputs[3].data];
        let [keys, values] = reference::cache_append(&cache, qkv, &positions, held);
        vec![reference::attention_cached(&cache, qkv, &positions, [&keys, &values])]
    }
}

fn ids(data: &[f64]) -> Vec<u32> {
    data.iter().map(|&id| id as u32).collect()
}

/// The rotation of the first heads of each row by cosines and sines of its own; inputs x (.., columns)
/// and as many rows of a table of both, (.., head_dim), as x has.
#[derive(Clone, Copy, Debug)]
pub struct RotaryByRow {
    /// Heads that are rotated; the columns after them are copied.
    pub heads: usize,
}

impl Op for RotaryByRow {
    fn name(&self) -> &'static str {
        "rotary_by_row"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let (x, table) = (&inputs[0], &inputs[1]);
        let head_dim = table.cols();
        assert!(
            self.heads * head_dim <= x.cols()
                && head_dim.is_multiple_of(8)
                && table.rows() == x.rows(),
            "rotary: {} heads of {x} by {table}",
            self.heads
        );
        vec![x.clone()]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let shape = &inputs[0].shape;
        recorder.dispatch(&RotaryKernel {
            params: RotaryParams {
                rows: to_u32(shape.rows()),
                quads: to_u32(shape.row_quads()),
                time: to_u32(shape.rows()),
                rotated_heads: to_u32(self.heads),
                half_quads: to_u32(inputs[1].shape.cols() / 8),
                inverse: 0,
            },
            table: inputs[1].binding(),
            x: inputs[0].binding(),
            y: outputs[0].binding(),
        });
    }

    fn is_f32(&self, input: usize) -> bool {
        input == 1
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let (columns, head_dim) = (inputs[0].shape.cols(), inputs[1].shape.cols());
        let mut y = inputs[0].data.to_vec();
        for (row, turn) in y.chunks_mut(columns).zip(inputs[1].data.chunks(head_dim)) {
            let (cos, sin) = turn.split_at(head_dim / 2);
            for head in row.chunks_mut(head_dim).take(self.heads) {
                let (low, high) = head.split_at_mut(head_dim / 2);
                for (j, (a, b)) in low.iter_mut().zip(high).enumerate() {
                    (*a, *b) = (*a * cos[j] - *b * sin[j], *b * cos[j] + *a * sin[j]);
                }
            }
        }
        vec![y]
    }
}

/// Tokens drawn from rows of logits as the kernel [`Sample`](SampleKernel) says; inputs logits (..,
/// vocabulary), settings (rows, 8) and seen tokens (rows, vocabulary / 32, rounded up), both u32.
/// Output (rows, 4), u32.
#[derive(Clone, Copy, Debug)]
pub struct Sample;

impl Op for Sample {
    fn name(&self) -> &'static str {
        "sample"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let [logits, settings, seen] = inputs else { panic!("sample: 3 inputs") };
        let rows = logits.rows();
        assert!(
            settings.dims == [rows, 8] && seen.dims == [rows, logits.cols().div_ceil(32)],
            "sample: logits are {logits}, settings {settings}, seen tokens {seen}"
        );
        vec![Shape::u32([rows, 4])]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let shape = &inputs[0].shape;
        recorder.dispatch(&SampleKernel {
            params: SampleParams { rows: to_u32(shape.rows()), vocabulary: to_u32(shape.cols()) },
            logits: inputs[0].binding(),
            settings: inputs[1].binding(),
            seen: inputs[2].binding(),
            sampled: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let columns = inputs[0].shape.cols();
        let (settings, seen) = (ids(inputs[1].data), ids(inputs[2].data));
        let rows = inputs[0].data.chunks(columns).zip(settings.chunks(8));
        let rows =
            rows.zip(seen.chunks(columns.div_ceil(32))).flat_map(|((logits, words), seen)| {
                let sampling = reference::Sampling::from_words(words);
                let is_seen = |id: usize| seen[id / 32] >> (id % 32) & 1 == 1;
                reference::sample(&sampling, logits, is_seen).map(f64::from)
            });
        vec![rows.collect()]
    }
}

impl Graph {
    /// Attention of the rows of qkv (.., (heads + 2 kv_heads) head_dim) at `positions` to a cache of
    /// keys and values (sequences, kv_heads, context, head_dim), which gets theirs first: see
    /// [`AttentionCached`]. It has no gradient.
    ///
    /// # Panics
    /// Where the shapes do not fit, and with a window of 0.
    #[track_caller]
    pub fn attention_cached(
        &mut self,
        [qkv, positions]: [Value; 2],
        [keys, values]: [Value; 2],
        layout: AttentionLayout,
        settings: AttentionSettings,
    ) -> Value {
        let op = AttentionCached(Attention::new(layout, settings, false));
        self.apply(op, &[qkv, positions, keys, values])
    }

    /// The rows of the table that [`rotary_by`](Self::rotary_by) rotates by, at positions (..) below
    /// `context`: (.., 2 frequencies), in f32.
    #[track_caller]
    pub fn rotary_rows(&mut self, positions: Value, context: usize, frequencies: &[f64]) -> Value {
        let table = rotary_table(context, frequencies);
        let shape = Shape::f32([context, 2 * frequencies.len()]);
        let table = self.shared_constant("rotary table", shape, &table);
        self.embedding(table, positions)
    }

    /// Rotates the first `heads` heads of each row of x by its row of `rows`, which
    /// [`rotary_rows`](Self::rotary_rows) gives: the same bits as [`rotary_by`](Self::rotary_by) at
    /// the same position. It has no gradient.
    #[track_caller]
    pub fn rotary_by_row(&mut self, x: Value, heads: usize, rows: Value) -> Value {
        self.apply(RotaryByRow { heads }, &[x, rows])
    }

    /// Tokens drawn from logits (.., vocabulary); see [`Sample`].
    #[track_caller]
    pub fn sample(&mut self, logits: Value, settings: Value, seen: Value) -> Value {
        self.apply(Sample, &[logits, settings, seen])
    }
}
