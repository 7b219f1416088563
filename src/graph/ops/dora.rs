//! Magnitudes of a weight's rows beside its directions: DoRA.

use std::ops::Range;

use super::first;
use super::product_kernels::record_ab;
use super::reduce::ColumnPartials;
use crate::graph::{Dense, Graph, Node, Op, Shape, Value};
use crate::kernel::Precision;
use crate::kernels::{
    DividedColumnSum, DividedColumnSumParams, MatmulParams, RowNorms as RowNormsKernel,
    RowNormsParams, ScaleColumns as ScaleColumnsKernel, ScaleColumnsParams,
};
use crate::record::{Extent, Machine, Recorder, Slot, to_u32};
use crate::reference::{elementwise, matmul, normalization, reduce};
use crate::step::StepInput;

/// Bytes of a low-rank product that exist at once.
const PRODUCT_BYTES: u64 = 16 << 20;

/// Rows of a low-rank product for this W that exist at once.
fn most_rows(w: &Shape) -> usize {
    (PRODUCT_BYTES / (16 * w.row_quads() as u64)).max(1) as usize
}

/// Euclidean norms of rows of W + scale B A, or of W alone, in f32. Inputs W (.., in) and, with an
/// update, A (.., in) and B (rows, rank). They count as constants: no gradient passes.
#[derive(Clone, Debug)]
pub struct RowNorms {
    /// The rows of W.
    pub rows: Range<usize>,
    /// Factor on B A.
    pub scale: f32,
    /// The first of the rows of A that B is multiplied with.
    pub a_first: usize,
}

impl RowNorms {
    /// scale B A over some rows of B.
    fn record_product(
        &self,
        recorder: &mut Recorder<'_>,
        [a, b]: [&Slot; 2],
        rows: Range<usize>,
        delta: &Slot,
    ) {
        let [count, cols, rank] = [rows.len(), a.shape.cols(), b.shape.cols()].map(to_u32);
        let params = MatmulParams {
            alpha: self.scale,
            a_offset: to_u32(rows.start * b.shape.row_quads()),
            b_offset: to_u32(self.a_first * a.shape.row_quads()),
            ..MatmulParams::dense(count, cols, rank)
        };
        record_ab(recorder, params, [b, a, delta], None);
    }
}

impl Op for RowNorms {
    fn name(&self) -> &'static str {
        "row_norms"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let (w, rows) = (&inputs[0], &self.rows);
        assert!(w.dims.len() == 2 && rows.end <= w.dims[0], "row_norms: rows {rows:?} of {w}");
        if let [_, a, b] = inputs {
            let fits = a.cols() == w.cols() && b.dims[0] == rows.len();
            let reach = self.a_first + b.cols();
            assert!(fits && reach <= a.dims[0], "row_norms: A is {a}, B is {b}, W is {w}");
        }
        vec![Shape::f32([rows.len()])]
    }

    fn gradient(&self, _: &mut Graph, node: &Node, _: &[Option<Value>]) -> Vec<Option<Value>> {
        vec![None; node.inputs.len()]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let (w, norms) = (&inputs[0], &outputs[0]);
        recorder.set_variant(Precision::F32);
        let most = most_rows(&w.shape);
        for (part_first, part) in w.parts() {
            let end = self.rows.end.min(part_first + part.shape.rows());
            let mut start = self.rows.start.max(part_first);
            while start < end {
                // A product that is not made needs no bounds.
                let stop = if inputs.len() > 1 { end.min(start + most) } else { end };
                let (first, count) = (start - self.rows.start, stop - start);
                let delta = if let [_, a, b] = inputs {
                    let shape = Shape::real([count, w.shape.cols()]);
                    let delta = Slot::new(recorder.scratch(shape.bytes()), shape);
                    self.record_product(recorder, [a, b], first..first + count, &delta);
                    Some(delta)
                } else {
                    None
                };
                recorder.set_blocks(w.shape.block_format());
                recorder.dispatch(&RowNormsKernel {
                    params: RowNormsParams {
                        rows: to_u32(count),
                        cols: to_u32(w.shape.cols()),
                        first: to_u32(first),
                        w_rows: to_u32(part.shape.rows()),
                        w_first_row: to_u32(start - part_first),
                        has_delta: u32::from(delta.is_some()),
                    },
                    w: part.binding(),
                    delta: delta.as_ref().unwrap_or(&part).binding(),
                    norms: norms.binding(),
                });
                start = stop;
            }
        }
    }

    fn scratch_bytes(&self, _: Machine, inputs: &[Extent], _: &[Extent]) -> u64 {
        if inputs.len() == 1 {
            return 0;
        }
        let (w, mut first, mut most) = (&inputs[0], 0, 0);
        for part in w.parts() {
            let end = first + part.rows();
            let mine = self.rows.start.max(first)..self.rows.end.min(end);
            most = most.max(mine.len().min(most_rows(&w.shape)));
            first = end;
        }
        (most * 16 * w.shape.row_quads()) as u64
    }

    fn takes_parts(&self, inputs: &[Slot], _: &[Slot]) -> bool {
        !inputs[1..].iter().any(Slot::is_in_parts)
    }

    /// W.
    fn takes_blocks(&self, input: usize) -> bool {
        input == 0
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let (w, cols) = (&inputs[0], inputs[0].shape.cols());
        let mut rows = w.data[self.rows.start * cols..self.rows.end * cols].to_vec();
        if let [_, a, b] = inputs {
            let inner = b.shape.cols();
            let a = &a.data[self.a_first * cols..][..inner * cols];
            let size = matmul::Product { rows: self.rows.len(), cols, inner };
            let product = matmul::matmul(b.data, a, size);
            let scale = f64::from(self.scale);
            rows = elementwise::add(&rows, &elementwise::scale(scale, &product));
        }
        vec![normalization::row_norms(&rows, cols)]
    }

    fn is_f32(&self, _: usize) -> bool {
        true
    }
}

/// y = x with some columns times magnitude / norm, plus bias. Inputs x (.., cols), a magnitude and a
/// norm (columns) for each of the ranges, which are read in f32, and bias (cols) if there is one.
#[derive(Clone, Debug)]
pub struct ScaleColumns {
    /// The first column of each range, in order.
    pub firsts: Vec<usize>,
    /// Whether there is a bias.
    pub has_bias: bool,
}

impl ScaleColumns {
    /// Each range with the index of its magnitude, and what lies between them with none.
    fn ranges(&self, shapes: &[&Shape]) -> Vec<(Range<usize>, Option<usize>)> {
        let mut ranges = Vec::new();
        let mut end = 0;
        for (index, &first) in self.firsts.iter().enumerate() {
            let input = 1 + 2 * index;
            ranges.push((end..first, None));
            end = first + shapes[input].dims[0];
            ranges.push((first..end, Some(input)));
        }
        ranges.push((end..shapes[0].cols(), None));
        ranges.retain(|(range, _)| !range.is_empty());
        ranges
    }
}

impl Op for ScaleColumns {
    fn name(&self) -> &'static str {
        "scale_columns"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let x = &inputs[0];
        for pair in inputs[1..=2 * self.firsts.len()].chunks(2) {
            assert_eq!(pair[0].dims, pair[1].dims, "scale_columns: magnitudes and norms");
        }
        let ranges = self.ranges(&inputs.iter().collect::<Vec<_>>());
        let whole = |(range, _): &(Range<usize>, Option<usize>)| {
            range.start.is_multiple_of(4) && range.end <= x.cols()
        };
        assert!(ranges.iter().all(whole), "scale_columns: ranges {ranges:?} of {x}");
        vec![x.clone()]
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let (dy, x, pairs) = (first(upstream), node.inputs[0], 2 * self.firsts.len());
        let back = Self { has_bias: false, ..self.clone() };
        let inputs: Vec<_> = [&dy].into_iter().chain(&node.inputs[1..=pairs]).copied().collect();
        let mut gradients = vec![Some(graph.apply(back, &inputs))];
        // A product of halves could overflow, above all with a loss scale.
        let partials = graph.with_precision(Precision::F32, |graph| {
            let product = graph.multiply(dy, x);
            graph.apply(ColumnPartials, &[product])
        });
        for (&first, pair) in self.firsts.iter().zip(node.inputs[1..=pairs].chunks(2)) {
            let sum = MagnitudeGradient { first };
            gradients.extend([Some(graph.apply(sum, &[partials, pair[1]])), None]);
        }
        if self.has_bias {
            gradients.push(Some(graph.column_sum(dy)));
        }
        gradients
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let (x, y) = (&inputs[0], &outputs[0]);
        let bias = if self.has_bias { inputs.last() } else { None };
        let shapes: Vec<_> = inputs.iter().map(|slot| &slot.shape).collect();
        for (range, magnitude) in self.ranges(&shapes) {
            let [numerator, divisor] =
                magnitude.map_or([x, x], |index| [&inputs[index], &inputs[index + 1]]);
            recorder.dispatch(&ScaleColumnsKernel {
                params: ScaleColumnsParams {
                    rows: to_u32(x.shape.rows()),
                    row_quads: to_u32(x.shape.row_quads()),
                    first_quad: to_u32(range.start / 4),
                    quads: to_u32(range.len().div_ceil(4)),
                    has_factor: u32::from(magnitude.is_some()),
                    has_bias: u32::from(bias.is_some()),
                },
                x: x.binding(),
                numerator: numerator.binding(),
                divisor: divisor.binding(),
                bias: bias.unwrap_or(x).binding(),
                y: y.binding(),
            });
        }
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let cols = inputs[0].shape.cols();
        let mut y = inputs[0].data.to_vec();
        for (index, &first) in self.firsts.iter().enumerate() {
            let [magnitude, norm] = [1, 2].map(|i| inputs[2 * index + i].data);
            y = elementwise::scale_columns(&y, cols, first, magnitude, norm);
        }
        if let Some(bias) = inputs.last().filter(|_| self.has_bias) {
            y = elementwise::broadcast_add(&y, bias.data);
        }
        vec![y]
    }

    fn is_f32(&self, input: usize) -> bool {
        (1..=2 * self.firsts.len()).contains(&input)
    }
}

/// The gradient of the magnitudes of one range in [`ScaleColumns`]: sums over rows of dy x, divided by
/// the norms; inputs partial sums (blocks, cols), norms (columns).
#[derive(Clone, Copy, Debug)]
pub struct MagnitudeGradient {
    /// The first column of the range.
    pub first: usize,
}

impl Op for MagnitudeGradient {
    fn name(&self) -> &'static str {
        "divided_column_sum"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![inputs[1].clone()]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let (partials, norms) = (&inputs[0], &inputs[1]);
        recorder.dispatch(&DividedColumnSum {
            params: DividedColumnSumParams {
                blocks: to_u32(partials.shape.rows()),
                row_quads: to_u32(partials.shape.row_quads()),
                first_quad: to_u32(self.first / 4),
                quads: to_u32(norms.shape.row_quads()),
                accumulate: u32::from(outputs[0].accumulate),
            },
            partials: partials.binding(),
            divisor: norms.binding(),
            y: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let (partials, norms) = (&inputs[0], inputs[1].data);
        let cols = partials.shape.cols();
        vec![reduce::divided_column_sum(partials.data, cols, self.first, norms)]
    }

    fn accumulates(&self, _: usize) -> bool {
        true
    }
}

impl Graph {
    /// Euclidean norms of some rows of a weight (.., in), in f32; no gradient passes. With an update
    /// (A (.., in), its first row, B (rows, rank), scale) those of W + scale B A.
    #[track_caller]
    pub fn row_norms(
        &mut self,
        weight: Value,
        rows: Range<usize>,
        update: Option<(Value, usize, Value, f32)>,
    ) -> Value {
        let (inputs, a_first, scale) = match update {
            None => (vec![weight], 0, 0.0),
            Some((a, a_first, b, scale)) => (vec![weight, a, b], a_first, scale),
        };
        self.apply(RowNorms { rows, scale, a_first }, &inputs)
    }

    /// x (.., cols) with some columns times magnitude / norm, exactly 1 where both are the same, and
    /// with a bias (cols): (first column, magnitudes, norms) for each range, in order.
    #[track_caller]
    pub fn scale_columns(
        &mut self,
        x: Value,
        factors: &[(usize, Value, Value)],
        bias: Option<Value>,
    ) -> Value {
        let firsts = factors.iter().map(|&(first, ..)| first).collect();
        let pairs = factors.iter().flat_map(|&(_, magnitude, norm)| [magnitude, norm]);
        let inputs: Vec<_> = [x].into_iter().chain(pairs).chain(bias).collect();
        self.apply(ScaleColumns { firsts, has_bias: bias.is_some() }, &inputs)
    }
}
