//! Tokens and positions on their way into a model.

use super::first;
use crate::graph::{Dense, Element, Graph, Node, Op, Shape, Value};
use crate::kernels::{
    BroadcastAdd, BroadcastAddParams, Embedding as EmbeddingKernel,
    EmbeddingBackward as EmbeddingBackwardKernel, EmbeddingBackwardParams, EmbeddingParams, Fill,
    FillParams, PositionBackward as PositionBackwardKernel, PositionBackwardParams,
    Rotary as RotaryKernel, RotaryParams, rotary_frequencies, rotary_table,
};
use crate::record::{Recorder, Slot, quads, to_u32};
use crate::reference::elementwise;
use crate::reference::embedding as reference;
use crate::step::StepInput;

fn token_ids(data: &[f64]) -> Vec<u32> {
    data.iter().map(|&token| token as u32).collect()
}

/// y = table rows; inputs table (vocabulary, width), perhaps with dimensions of 1 in front, and
/// tokens (..).
#[derive(Clone, Copy, Debug)]
pub struct Embedding;

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let (table, tokens) = (&inputs[0], &inputs[1]);
        let is_matrix = table.dims.len() > 1 && table.rows() == table.dims[table.dims.len() - 2];
        assert!(is_matrix, "embedding: the table is {table}");
        assert_eq!(tokens.element, Element::U32, "embedding: the tokens are {tokens}");
        vec![Shape::real([&tokens.dims[..], &[table.cols()]].concat())]
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let table = graph.shape(node.inputs[0]);
        let op = EmbeddingBackward { vocabulary: table.rows(), leading: table.dims.len() - 2 };
        vec![Some(graph.apply(op, &[node.inputs[1], first(upstream)])), None]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        recorder.set_blocks(inputs[0].shape.block_format());
        for (first, table) in inputs[0].parts() {
            recorder.dispatch(&EmbeddingKernel {
                params: EmbeddingParams {
                    rows: to_u32(outputs[0].shape.rows()),
                    quads: to_u32(outputs[0].shape.row_quads()),
                    first: to_u32(first),
                    table_rows: to_u32(table.shape.rows()),
                    vocabulary: to_u32(inputs[0].shape.rows()),
                },
                tokens: inputs[1].binding(),
                table: table.binding(),
                y: outputs[0].binding(),
            });
        }
    }

    fn takes_parts(&self, inputs: &[Slot], _: &[Slot]) -> bool {
        !inputs[1].is_in_parts()
    }

    /// The table.
    fn takes_blocks(&self, input: usize) -> bool {
        input == 0
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let cols = inputs[0].shape.cols();
        vec![reference::embedding(cols, &token_ids(inputs[1].data), inputs[0].data)]
    }
}

/// The gradient of the table; inputs tokens, dy.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingBackward {
    /// Rows of the table.
    pub vocabulary: usize,
    /// Dimensions of 1 in front of them.
    pub leading: usize,
}

impl Op for EmbeddingBackward {
    fn name(&self) -> &'static str {
        "embedding_backward"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let mut dims = vec![1; self.leading];
        dims.extend([self.vocabulary, inputs[1].cols()]);
        vec![Shape::f32(dims)]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        for (first, gradient) in outputs[0].parts() {
            recorder.dispatch(&EmbeddingBackwardKernel {
                params: EmbeddingBackwardParams {
                    rows: to_u32(inputs[1].shape.rows()),
                    quads: to_u32(inputs[1].shape.row_quads()),
                    first: to_u32(first),
                    gradient_rows: to_u32(gradient.shape.rows()),
                    accumulate: u32::from(gradient.accumulate),
                },
                tokens: inputs[0].binding(),
                dy: inputs[1].binding(),
                gradient: gradient.binding(),
            });
        }
    }

    fn takes_parts(&self, inputs: &[Slot], _: &[Slot]) -> bool {
        !inputs.iter().any(Slot::is_in_parts)
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let (tokens, cols) = (token_ids(inputs[0].data), inputs[1].shape.cols());
        vec![reference::embedding_backward(self.vocabulary, cols, &tokens, inputs[1].data)]
    }

    fn accumulates(&self, _: usize) -> bool {
        true
    }
}

/// y[.., t, :] = x[.., t, :] + table[t, :]; inputs x (.., time, width) and a table with at least
/// `time` rows.
#[derive(Clone, Copy, Debug)]
pub struct AddPositions;

impl Op for AddPositions {
    fn name(&self) -> &'static str {
        "add_positions"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let (x, table) = (&inputs[0], &inputs[1]);
        let fits = x.dims.len() > 1 && table.dims.len() == 2 && x.cols() == table.cols();
        assert!(
            fits && x.dims[x.dims.len() - 2] <= table.dims[0],
            "positions: x is {x}, the table is {table}"
        );
        vec![x.clone()]
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let context = graph.shape(node.inputs[1]).dims[0];
        let dy = first(upstream);
        vec![Some(dy), Some(graph.apply(PositionBackward { context }, &[dy]))]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let shape = &inputs[0].shape;
        let time = shape.dims[shape.dims.len() - 2];
        // The positions in use lie in the first part.
        let (_, table) = &inputs[1].parts()[0];
        recorder.dispatch(&BroadcastAdd {
            params: BroadcastAddParams {
                quads: quads(shape),
                period_quads: to_u32(time * shape.row_quads()),
            },
            x: inputs[0].binding(),
            b: table.binding(),
            y: outputs[0].binding(),
        });
    }

    fn takes_parts(&self, inputs: &[Slot], _: &[Slot]) -> bool {
        let shape = &inputs[0].shape;
        let (_, table) = &inputs[1].parts()[0];
        shape.dims[shape.dims.len() - 2] <= table.shape.rows() && !inputs[0].is_in_parts()
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let (x, table) = (inputs[0], inputs[1]);
        let used = x.shape.dims[x.shape.dims.len() - 2] * x.shape.cols();
        vec![elementwise::broadcast_add(x.data, &table.data[..used])]
    }
}

/// The gradient of a table of positions: the sum over the batch, zero beyond the positions used.
#[derive(Clone, Copy, Debug)]
pub struct PositionBackward {
    /// Rows of the table.
    pub context: usize,
}

impl Op for PositionBackward {
    fn name(&self) -> &'static str {
        "position_backward"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![Shape::f32([self.context, inputs[0].cols()])]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let shape = &inputs[0].shape;
        let time = shape.dims[shape.dims.len() - 2];
        let parts = outputs[0].parts();
        for (first, gradient) in &parts {
            if first + gradient.shape.rows() > time && !gradient.accumulate {
                // Rows beyond `time` receive no gradient, and the slot may hold anything.
                let [rows, cols] = [gradient.shape.rows(), shape.cols()].map(to_u32);
                let params = FillParams { rows, cols, value: 0.0 };
                recorder.dispatch(&Fill { params, w: gradient.binding() });
            }
        }
        // The positions in use lie in the first part.
        let (_, gradient) = &parts[0];
        recorder.dispatch(&PositionBackwardKernel {
            params: PositionBackwardParams {
                batch: to_u32(shape.rows() / time),
                time_quads: to_u32(time * shape.row_quads()),
                accumulate: u32::from(gradient.accumulate),
            },
            dy: inputs[0].binding(),
            gradient: gradient.binding(),
        });
    }

    fn takes_parts(&self, inputs: &[Slot], outputs: &[Slot]) -> bool {
        let shape = &inputs[0].shape;
        let (_, gradient) = &outputs[0].parts()[0];
        shape.dims[shape.dims.len() - 2] <= gradient.shape.rows() && !inputs[0].is_in_parts()
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let shape = inputs[0].shape;
        let used = shape.dims[shape.dims.len() - 2] * shape.cols();
        let mut gradient = reference::position_backward(used, inputs[0].data);
        gradient.resize(self.context * shape.cols(), 0.0);
        vec![gradient]
    }

    fn accumulates(&self, _: usize) -> bool {
        true
    }
}

/// Rotary position embedding of the first heads of each row (Su et al. 2021, in Llama's pairing);
/// inputs x (.., time, columns) and the table of cosines and sines.
#[derive(Clone, Debug)]
pub struct Rotary {
    /// Heads that are rotated; the columns after them are copied.
    pub heads: usize,
    /// By how much each pair of columns turns from one position to the next: half as many as a
    /// head has columns.
    pub frequencies: Vec<f64>,
    /// Rotates back: the gradient.
    pub inverse: bool,
}

impl Rotary {
    fn head_dim(&self) -> usize {
        2 * self.frequencies.len()
    }
}

impl Op for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let (x, head_dim) = (&inputs[0], self.head_dim());
        assert!(
            x.dims.len() > 1 && self.heads * head_dim <= x.cols() && head_dim.is_multiple_of(8),
            "rotary: {} heads of {head_dim} columns (a multiple of 8) in {x}",
            self.heads
        );
        vec![x.clone()]
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let back = Self { inverse: !self.inverse, ..self.clone() };
        vec![Some(graph.apply(back, &[first(upstream), node.inputs[1]])), None]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let shape = &inputs[0].shape;
        recorder.dispatch(&RotaryKernel {
            params: RotaryParams {
                rows: to_u32(shape.rows()),
                quads: to_u32(shape.row_quads()),
                time: to_u32(shape.dims[shape.dims.len() - 2]),
                rotated_heads: to_u32(self.heads),
                half_quads: to_u32(self.head_dim() / 8),
                inverse: u32::from(self.inverse),
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
        let shape = inputs[0].shape;
        let rotation = reference::Rotation {
            cols: shape.cols(),
            time: shape.dims[shape.dims.len() - 2],
            rotated_heads: self.heads,
            frequencies: &self.frequencies,
            inverse: self.inverse,
        };
        vec![reference::rotary(rotation, inputs[0].data)]
    }
}

impl Graph {
    /// Rows of a table (vocabulary, width) by tokens (..), to (.., width). The table may be any value
    /// of that shape, and have dimensions of 1 in front.
    #[track_caller]
    pub fn embedding(&mut self, table: Value, tokens: Value) -> Value {
        self.apply(Embedding, &[table, tokens])
    }

    /// x (.., time, width) plus the first `time` rows of a table (context, width).
    #[track_caller]
    pub fn add_positions(&mut self, x: Value, table: Value) -> Value {
        self.apply(AddPositions, &[x, table])
    }

    /// Rotates the first `heads` heads of x (.., time, columns) by their positions: pair j of
    /// position t by t base^(-2 j / head_dim).
    #[track_caller]
    pub fn rotary(&mut self, x: Value, heads: usize, head_dim: usize, base: f64) -> Value {
        self.rotary_by(x, heads, rotary_frequencies(head_dim, base))
    }

    /// Rotates the first `heads` heads of x (.., time, columns) by their positions: pair j of
    /// position t by t times frequency j. A head has two columns for each of the frequencies, of
    /// which there is a multiple of 4. Layers that turn alike share a table.
    #[track_caller]
    pub fn rotary_by(&mut self, x: Value, heads: usize, frequencies: Vec<f64>) -> Value {
        let shape = self.shape(x);
        let time = shape.dims[shape.dims.len().saturating_sub(2)];
        let table = rotary_table(time, &frequencies);
        let shape = Shape::f32([time, 2 * frequencies.len()]);
        let table = self.shared_constant("rotary table", shape, &table);
        self.apply(Rotary { heads, frequencies, inverse: false }, &[x, table])
    }
}
