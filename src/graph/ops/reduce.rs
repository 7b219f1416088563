//! Sums over rows: gradients of everything that is added to, or multiplies, every row.

use crate::graph::{Dense, Graph, Op, Shape, Value};
use crate::kernels::{
    ColumnPartials as ColumnPartialsKernel, ColumnPartialsParams, ColumnSum as ColumnSumKernel,
    ColumnSumParams, ColumnSums as ColumnSumsKernel, ColumnSumsParams, row_blocks,
};
use crate::record::{Recorder, Slot, to_u32};
use crate::reference::reduce as reference;
use crate::step::StepInput;

/// (rows per block, blocks) for partial sums over the rows of a shape.
pub(super) fn blocks(shape: &Shape) -> (u32, u32) {
    row_blocks(to_u32(shape.rows()))
}

/// The shape of partial sums over blocks of rows.
pub(super) fn partials_shape(shape: &Shape) -> Shape {
    Shape::f32([blocks(shape).1 as usize, shape.cols()])
}

/// partials (blocks, cols) of x (.., cols): sums over blocks of rows.
#[derive(Clone, Copy, Debug)]
pub struct ColumnPartials;

impl Op for ColumnPartials {
    fn name(&self) -> &'static str {
        "column_partials"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![partials_shape(&inputs[0])]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let shape = &inputs[0].shape;
        let (rows_per_block, blocks) = blocks(shape);
        recorder.dispatch(&ColumnPartialsKernel {
            params: ColumnPartialsParams {
                rows: to_u32(shape.rows()),
                col_quads: to_u32(shape.row_quads()),
                rows_per_block,
                blocks,
            },
            x: inputs[0].binding(),
            partials: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let (rows_per_block, _) = blocks(inputs[0].shape);
        let cols = inputs[0].shape.cols();
        vec![reference::column_partials(inputs[0].data, cols, rows_per_block as usize)]
    }
}

/// y (cols): the sum of partials (blocks, cols).
#[derive(Clone, Copy, Debug)]
pub struct ColumnSum;

impl Op for ColumnSum {
    fn name(&self) -> &'static str {
        "column_sum"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![Shape::f32([inputs[0].cols()])]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let shape = &inputs[0].shape;
        recorder.dispatch(&ColumnSumKernel {
            params: ColumnSumParams {
                blocks: to_u32(shape.rows()),
                col_quads: to_u32(shape.row_quads()),
                accumulate: u32::from(outputs[0].accumulate),
            },
            partials: inputs[0].binding(),
            y: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        vec![reference::column_sum(inputs[0].data, inputs[0].shape.cols())]
    }

    fn accumulates(&self, _: usize) -> bool {
        true
    }
}

/// What [`ColumnSum`] gives of each of four partials (blocks, cols), of as many blocks.
#[derive(Clone, Copy, Debug)]
pub struct ColumnSums;

impl Op for ColumnSums {
    fn name(&self) -> &'static str {
        "column_sums"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        inputs.iter().map(|partials| Shape::f32([partials.cols()])).collect()
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let [a, b, c, d] = inputs else { panic!("column_sums: {} inputs, not 4", inputs.len()) };
        let quads = |partials: &Slot| to_u32(partials.shape.row_quads());
        recorder.dispatch(&ColumnSumsKernel {
            params: ColumnSumsParams {
                blocks: to_u32(a.shape.rows()),
                accumulate: u32::from(outputs[0].accumulate),
                a_quads: quads(a),
                b_quads: quads(b),
                c_quads: quads(c),
                d_quads: quads(d),
            },
            a: a.binding(),
            b: b.binding(),
            c: c.binding(),
            d: d.binding(),
            a_sum: outputs[0].binding(),
            b_sum: outputs[1].binding(),
            c_sum: outputs[2].binding(),
            d_sum: outputs[3].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let partials = inputs.iter().map(|partials| (partials.data, partials.shape.cols()));
        reference::column_sums(&partials.collect::<Vec<_>>())
    }

    fn accumulates(&self, _: usize) -> bool {
        true
    }
}

impl Graph {
    /// The sum of x (.., cols) over all rows, in f32: the gradient of a bias.
    pub(super) fn column_sum(&mut self, x: Value) -> Value {
        let partials = self.apply(ColumnPartials, &[x]);
        self.apply(ColumnSum, &[partials])
    }
}
