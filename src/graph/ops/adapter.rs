//! Low-rank updates that are added to what another operation gives: LoRA.

use std::rc::Rc;

use super::product_kernels::{at_b_scratch, record_ab, record_ab_t, record_at_b};
use super::{Linear, embedding, first};
use crate::graph::{Dense, Graph, Node, Op, Shape, Value};
use crate::kernels::{Activation, MatmulParams, MatmulTransposedAParams, MatmulTransposedBParams};
use crate::record::{Extent, Machine, Recorder, Slot, to_u32};
use crate::reference::elementwise;
use crate::reference::matmul as reference;
use crate::step::StepInput;

/// Where an update reads and where it adds: columns of h and of y. Both are multiples of 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdaptedColumns {
    /// The first column of y that it adds to; as many as B has rows.
    pub first: usize,
    /// The first column of h that it reads; as many as B has columns.
    pub hidden: usize,
}

/// Some updates of one operation: scale · h Bᵀ, each in its columns.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// h (.., columns), usually x Aᵀ.
    pub hidden: Value,
    /// Factor on all of them.
    pub scale: f32,
    /// B (outputs, rank), and where it reads and adds.
    pub updates: Vec<(Value, AdaptedColumns)>,
}

/// y = base(..), and in some columns y += scale h Bᵀ: products that are added where the base wrote,
/// so that an update costs no pass over y but its own. Inputs are those of the base, then h (..,
/// columns) and one B (outputs, rank) for each of the updates. The base has one output.
#[derive(Clone, Debug)]
pub struct Adapted {
    /// What is added to.
    pub base: Rc<dyn Op>,
    /// Factor on the products.
    pub scale: f32,
    /// Where each of them reads and adds.
    pub columns: Vec<AdaptedColumns>,
}

impl Adapted {
    /// How many of so many inputs are those of the base.
    fn base_inputs(&self, inputs: usize) -> usize {
        inputs - 1 - self.columns.len()
    }
}

/// Fails unless an update fits between h and y.
#[track_caller]
fn assert_fits(columns: &AdaptedColumns, y: &Shape, h: &Shape, b: &Shape) {
    let AdaptedColumns { first, hidden } = *columns;
    assert!(
        b.dims.len() == 2 && hidden + b.dims[1] <= h.cols() && first + b.dims[0] <= y.cols(),
        "adapted: B is {b}, from column {hidden} of {h} to column {first} of {y}"
    );
    let (last, read) = (first + b.dims[0], hidden + b.dims[1]);
    let whole_quads = [first, hidden].iter().all(|column| column.is_multiple_of(4))
        && (last == y.cols() || last.is_multiple_of(4))
        && (read == h.cols() || read.is_multiple_of(4));
    assert!(whole_quads, "adapted: {columns:?} of {y} and {h}, not at multiples of 4");
}

impl Op for Adapted {
    fn name(&self) -> &'static str {
        "adapted"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let count = self.base_inputs(inputs.len());
        let shapes = self.base.shapes(&inputs[..count]);
        let ([y], h) = (&shapes[..], &inputs[count]) else {
            panic!(
                "{} has {} outputs, and an adapted operation one",
                self.base.name(),
                shapes.len()
            );
        };
        let leading = |shape: &Shape| shape.dims[..shape.dims.len() - 1].to_vec();
        assert_eq!(leading(y), leading(h), "adapted: y is {y}, h is {h}");
        for (columns, b) in self.columns.iter().zip(&inputs[count + 1..]) {
            assert_fits(columns, y, h, b);
        }
        shapes
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let count = self.base_inputs(node.inputs.len());
        let of_base = Node { inputs: node.inputs[..count].to_vec(), ..node.clone() };
        let mut gradients = self.base.gradient(graph, &of_base, upstream);
        let (dy, h, scale) = (first(upstream), node.inputs[count], self.scale);
        let bs = &node.inputs[count + 1..];
        let cols = graph.shape(h).cols();
        let hidden = AdaptedHidden { scale, columns: self.columns.clone(), cols };
        let inputs: Vec<_> = [dy].iter().chain(bs).copied().collect();
        gradients.push(Some(graph.apply(hidden, &inputs)));
        for (&columns, &b) in self.columns.iter().zip(bs) {
            let dims = &graph.shape(b).dims;
            let update = AdaptedUpdate { scale, columns, size: [dims[0], dims[1]] };
            gradients.push(Some(graph.apply(update, &[dy, h])));
        }
        gradients
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let count = self.base_inputs(inputs.len());
        self.base.record(recorder, &inputs[..count], outputs);
        let (h, y) = (&inputs[count], &outputs[0]);
        for (columns, b) in self.columns.iter().zip(&inputs[count + 1..]) {
            let [rows, cols, inner] = [y.shape.rows(), b.shape.rows(), b.shape.cols()].map(to_u32);
            let params = MatmulTransposedBParams {
                accumulate: 1,
                alpha: self.scale,
                a_offset: to_u32(columns.hidden / 4),
                a_row_stride: to_u32(h.shape.row_quads()),
                c_offset: to_u32(columns.first / 4),
                c_row_stride: to_u32(y.shape.row_quads()),
                ..MatmulTransposedBParams::dense(rows, cols, inner)
            };
            let unused = Slot::new(recorder.unused(), Shape::real([4]));
            record_ab_t(recorder, params, Activation::None, [h, b, b, y, &unused]);
        }
    }

    fn scratch_bytes(&self, machine: Machine, inputs: &[Extent], outputs: &[Extent]) -> u64 {
        let count = self.base_inputs(inputs.len());
        self.base.scratch_bytes(machine, &inputs[..count], outputs)
    }

    fn takes_parts(&self, inputs: &[Slot], outputs: &[Slot]) -> bool {
        let (base, added) = inputs.split_at(self.base_inputs(inputs.len()));
        !added.iter().any(Slot::is_in_parts) && self.base.takes_parts(base, outputs)
    }

    fn takes_blocks(&self, input: usize) -> bool {
        // What is added comes behind the inputs of the base, which takes none there.
        self.base.takes_blocks(input)
    }

    fn evaluate(&self, step: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let (base, added) = inputs.split_at(self.base_inputs(inputs.len()));
        let mut outputs = self.base.evaluate(step, base);
        let (h, scale) = (&added[0], f64::from(self.scale));
        let rows = h.shape.rows();
        let width = outputs[0].len() / rows;
        for (columns, b) in self.columns.iter().zip(&added[1..]) {
            let (cols, inner) = (b.shape.dims[0], b.shape.dims[1]);
            let read = take_columns(h.data, h.shape.cols(), columns.hidden, inner);
            let size = reference::Product { rows, cols, inner };
            let update = reference::matmul_transposed_b(&read, b.data, size);
            let update = elementwise::scale(scale, &update);
            for (row, update) in outputs[0].chunks_mut(width).zip(update.chunks(cols)) {
                row[columns.first..].iter_mut().zip(update).for_each(|(y, u)| *y += u);
            }
        }
        outputs
    }

    fn is_f32(&self, input: usize) -> bool {
        self.base.is_f32(input)
    }
}

/// Some columns of a matrix with so many.
fn take_columns(data: &[f64], width: usize, first: usize, count: usize) -> Vec<f64> {
    data.chunks(width).flat_map(|row| &row[first..first + count]).copied().collect()
}

/// dh of [`Adapted`]: scale dy B, each in its columns; inputs dy and each B.
#[derive(Clone, Debug)]
pub struct AdaptedHidden {
    /// As in the forward pass.
    pub scale: f32,
    /// As in the forward pass.
    pub columns: Vec<AdaptedColumns>,
    /// Columns of h, each of which belongs to one B.
    pub cols: usize,
}

impl Op for AdaptedHidden {
    fn name(&self) -> &'static str {
        "adapted_hidden"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let read: usize = inputs[1..].iter().map(|b| b.dims[1]).sum();
        assert_eq!(read, self.cols, "adapted: h has {} columns, of which {read} count", self.cols);
        let mut shape = inputs[0].clone();
        *shape.dims.last_mut().expect("not empty") = self.cols;
        vec![shape]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let (dy, dh) = (&inputs[0], &outputs[0]);
        for (columns, b) in self.columns.iter().zip(&inputs[1..]) {
            let [rows, cols, inner] = [dy.shape.rows(), b.shape.cols(), b.shape.rows()].map(to_u32);
            let params = MatmulParams {
                alpha: self.scale,
                a_offset: to_u32(columns.first / 4),
                a_row_stride: to_u32(dy.shape.row_quads()),
                c_offset: to_u32(columns.hidden / 4),
                c_row_stride: to_u32(dh.shape.row_quads()),
                ..MatmulParams::dense(rows, cols, inner)
            };
            record_ab(recorder, params, [dy, b, dh], None);
        }
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let (dy, scale) = (&inputs[0], f64::from(self.scale));
        let rows = dy.shape.rows();
        let mut dh = vec![0.0; rows * self.cols];
        for (columns, b) in self.columns.iter().zip(&inputs[1..]) {
            let (inner, cols) = (b.shape.dims[0], b.shape.dims[1]);
            let read = take_columns(dy.data, dy.shape.cols(), columns.first, inner);
            let product =
                reference::matmul(&read, b.data, reference::Product { rows, cols, inner });
            let product = elementwise::scale(scale, &product);
            for (row, product) in dh.chunks_mut(self.cols).zip(product.chunks(cols)) {
                row[columns.hidden..][..cols].copy_from_slice(product);
            }
        }
        vec![dh]
    }
}

/// dB of [`Adapted`]: scale dyᵀ h over the columns of both that belong to B; inputs dy, h.
#[derive(Clone, Copy, Debug)]
pub struct AdaptedUpdate {
    /// As in the forward pass.
    pub scale: f32,
    /// As in the forward pass.
    pub columns: AdaptedColumns,
    /// Outputs and rank of B.
    pub size: [usize; 2],
}

impl Op for AdaptedUpdate {
    fn name(&self) -> &'static str {
        "adapted_update"
    }

    fn shapes(&self, _: &[Shape]) -> Vec<Shape> {
        vec![Shape::f32(self.size)]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let (dy, h, db) = (&inputs[0], &inputs[1], &outputs[0]);
        let [rows, cols, inner] = [self.size[0], self.size[1], dy.shape.rows()].map(to_u32);
        let params = MatmulTransposedAParams {
            accumulate: u32::from(db.accumulate),
            alpha: self.scale,
            a_offset: to_u32(self.columns.first / 4),
            a_row_stride: to_u32(dy.shape.row_quads()),
            b_offset: to_u32(self.columns.hidden / 4),
            b_row_stride: to_u32(h.shape.row_quads()),
            ..MatmulTransposedAParams::dense(rows, cols, inner)
        };
        record_at_b(recorder, params, [dy, h, db]);
    }

    fn scratch_bytes(&self, machine: Machine, inputs: &[Extent], outputs: &[Extent]) -> u64 {
        let [rows, cols, inner] = [self.size[0], self.size[1], inputs[0].shape.rows()].map(to_u32);
        let params = MatmulTransposedAParams::dense(rows, cols, inner);
        at_b_scratch(machine, &params, outputs[0].shape.quads())
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let [rows, cols] = self.size;
        let (dy, h, AdaptedColumns { first, hidden }) = (&inputs[0], &inputs[1], self.columns);
        let inner = dy.shape.rows();
        let a = take_columns(dy.data, dy.shape.cols(), first, rows);
        let b = take_columns(h.data, h.shape.cols(), hidden, cols);
        let size = reference::Product { rows, cols, inner };
        let product = reference::matmul_transposed_a(&a, &b, size);
        vec![elementwise::scale(f64::from(self.scale), &product)]
    }

    fn accumulates(&self, _: usize) -> bool {
        true
    }
}

impl Graph {
    /// x Wᵀ + bias with low-rank updates: x (.., in), weight (out, in), bias (out).
    #[track_caller]
    pub fn adapted_linear(
        &mut self,
        x: Value,
        weight: Value,
        bias: Option<Value>,
        updates: &[LowRank],
    ) -> Value {
        let inputs: Vec<_> = [x, weight].into_iter().chain(bias).collect();
        self.adapted(Rc::new(Linear { activation: Activation::None }), inputs, updates)
    }

    /// Rows of a table (vocabulary, width) by tokens (..), with a low-rank update of what was looked
    /// up; its h are rows of another table (vocabulary, rank).
    #[track_caller]
    pub fn adapted_embedding(&mut self, table: Value, tokens: Value, update: LowRank) -> Value {
        self.adapted(Rc::new(embedding::Embedding), vec![table, tokens], &[update])
    }

    #[track_caller]
    fn adapted(&mut self, base: Rc<dyn Op>, inputs: Vec<Value>, updates: &[LowRank]) -> Value {
        // Updates with an h of their own are added to what has those before.
        let add = |(base, mut inputs): (Rc<dyn Op>, Vec<Value>), update: &LowRank| {
            inputs.push(update.hidden);
            inputs.extend(update.updates.iter().map(|&(b, _)| b));
            let columns = update.updates.iter().map(|&(_, columns)| columns).collect();
            let adapted: Rc<dyn Op> = Rc::new(Adapted { base, scale: update.scale, columns });
            (adapted, inputs)
        };
        let (op, inputs) = updates.iter().fold((base, inputs), add);
        self.apply_shared(op, &inputs)
    }
}
