//! LayerNorm and RMSNorm over rows, with the residual addition fused in.

use super::assert_same_shape;
use super::reduce::{ColumnSum, blocks, partials_shape};
use crate::graph::{Dense, Graph, Node, Op, Shape, Value};
use crate::kernels;
use crate::record::{Recorder, Slot, to_u32};
use crate::reference::normalization as reference;
use crate::step::StepInput;

/// Rows and columns of a shape, as uniform fields.
pub(super) fn rows_cols(shape: &Shape) -> [u32; 2] {
    [to_u32(shape.rows()), to_u32(shape.cols())]
}

#[track_caller]
pub(super) fn assert_width(what: &str, x: &Shape, weight: &Shape) {
    assert_eq!(weight.dims, [x.cols()], "{what}: x is {x}, the weight is {weight}");
}

/// Weights as the norm applies them.
fn offset(weight: &[f64], weight_offset: f32) -> Vec<f64> {
    weight.iter().map(|weight| f64::from(weight_offset) + weight).collect()
}

/// Which norm over rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowNormKind {
    /// Inputs x, [residual,] weight, bias; statistics (shift, rest, rstd, scale) of each row,
    /// (4 * rows): the mean is (shift + rest) / scale.
    Layer,
    /// Inputs x, [residual,] weight; statistics (rstd, scale) of each row, (2 * rows).
    Rms,
}

/// y = norm(x), or of x + residual. Outputs y, [sum,] statistics.
#[derive(Clone, Copy, Debug)]
pub struct RowNorm {
    /// LayerNorm or RMSNorm.
    pub kind: RowNormKind,
    /// Whether the second input is a residual to be added first.
    pub residual: bool,
    /// Added to the variance or mean square.
    pub eps: f32,
    /// Added to the weights, of RMSNorm alone.
    pub weight_offset: f32,
}

impl RowNorm {
    fn weight_index(&self) -> usize {
        1 + usize::from(self.residual)
    }

    fn statistics_index(&self) -> usize {
        1 + usize::from(self.residual)
    }
}

impl Op for RowNorm {
    fn name(&self) -> &'static str {
        match (self.kind, self.residual) {
            (RowNormKind::Layer, false) => "layer_norm",
            (RowNormKind::Layer, true) => "residual_layer_norm",
            (RowNormKind::Rms, false) => "rms_norm",
            (RowNormKind::Rms, true) => "residual_rms_norm",
        }
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let x = &inputs[0];
        if self.residual {
            assert_same_shape(self.name(), x, &inputs[1]);
        }
        for weight in &inputs[self.weight_index()..] {
            assert_width(self.name(), x, weight);
        }
        let per_row = if self.kind == RowNormKind::Layer { 4 } else { 2 };
        let statistics = Shape::f32([per_row * x.rows()]);
        let mut shapes = vec![x.clone(); 1 + usize::from(self.residual)];
        shapes.push(statistics);
        shapes
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let weight = node.inputs[self.weight_index()];
        let sum_gradient = if self.residual { upstream[1] } else { None };
        let Some(dy) = upstream[0] else {
            // Only the sum is used: its gradient passes to both addends.
            let mut gradients = vec![sum_gradient; 1 + usize::from(self.residual)];
            gradients.resize(node.inputs.len(), None);
            return gradients;
        };
        let x = if self.residual { node.output(1) } else { node.inputs[0] };
        let statistics = node.output(self.statistics_index());
        let Self { kind, eps, weight_offset, .. } = *self;
        let backward = RowNormBackward { kind, eps, weight_offset };
        let inputs = [x, weight, dy, statistics].into_iter().chain(sum_gradient);
        let dx = graph.apply(backward, &inputs.collect::<Vec<_>>());
        let partials = RowNormPartials { kind, eps };
        let partials = graph.apply(partials, &[x, dy, statistics]);

        let mut gradients = vec![Some(dx); 1 + usize::from(self.residual)];
        gradients.push(Some(graph.apply(ColumnSum, &[partials])));
        if self.kind == RowNormKind::Layer {
            let bias_partials = graph.byproduct(partials, 1);
            gradients.push(Some(graph.apply(ColumnSum, &[bias_partials])));
        }
        gradients
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let [rows, cols] = rows_cols(&inputs[0].shape);
        let Self { eps, weight_offset, .. } = *self;
        let x = inputs[0].binding();
        let y = outputs[0].binding();
        let weight = inputs[self.weight_index()].binding();
        let statistics = outputs[self.statistics_index()].binding();
        match (self.kind, self.residual) {
            (RowNormKind::Layer, false) => recorder.dispatch(&kernels::LayerNorm {
                params: kernels::LayerNormParams { rows, cols, eps },
                x,
                weight,
                bias: inputs[2].binding(),
                y,
                statistics,
            }),
            (RowNormKind::Layer, true) => recorder.dispatch(&kernels::ResidualLayerNorm {
                params: kernels::ResidualLayerNormParams { rows, cols, eps },
                x,
                residual: inputs[1].binding(),
                weight,
                bias: inputs[3].binding(),
                sum: outputs[1].binding(),
                y,
                statistics,
            }),
            (RowNormKind::Rms, false) => recorder.dispatch(&kernels::RmsNorm {
                params: kernels::RmsNormParams { rows, cols, eps, weight_offset },
                x,
                weight,
                y,
                statistics,
            }),
            (RowNormKind::Rms, true) => recorder.dispatch(&kernels::ResidualRmsNorm {
                params: kernels::ResidualRmsNormParams { rows, cols, eps, weight_offset },
                x,
                residual: inputs[1].binding(),
                weight,
                sum: outputs[1].binding(),
                y,
                statistics,
            }),
        }
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let (x, weight) = (inputs[0].data, inputs[self.weight_index()].data);
        let eps = f64::from(self.eps);
        let sum = self.residual.then(|| crate::reference::elementwise::add(x, inputs[1].data));
        let x = sum.as_deref().unwrap_or(x);
        let (y, statistics) = match self.kind {
            RowNormKind::Layer => {
                let bias = inputs[self.weight_index() + 1].data;
                let out = reference::layer_norm(x, weight, bias, eps);
                let rows = x.chunks(weight.len()).zip(out.mean.iter().zip(&out.rstd));
                let statistics =
                    rows.flat_map(|(x, (mean, &rstd))| [x[0], mean - x[0], rstd, 1.0]).collect();
                (out.y, statistics)
            }
            RowNormKind::Rms => {
                let out = reference::rms_norm(x, &offset(weight, self.weight_offset), eps);
                (out.y, out.rstd.iter().flat_map(|&rstd| [rstd, 1.0]).collect())
            }
        };
        [Some(y), sum.clone(), Some(statistics)].into_iter().flatten().collect()
    }
}

/// dx of [`RowNorm`]; inputs x, weight, dy, statistics and, where the sum is used further, its
/// gradient.
#[derive(Clone, Copy, Debug)]
pub struct RowNormBackward {
    /// LayerNorm or RMSNorm.
    pub kind: RowNormKind,
    /// As in the forward pass.
    pub eps: f32,
    /// As in the forward pass.
    pub weight_offset: f32,
}

impl Op for RowNormBackward {
    fn name(&self) -> &'static str {
        match self.kind {
            RowNormKind::Layer => "layer_norm_backward",
            RowNormKind::Rms => "rms_norm_backward",
        }
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let [rows, cols] = rows_cols(&inputs[0].shape);
        let [x, weight, dy, statistics] = [0, 1, 2, 3].map(|i| inputs[i].binding());
        let add_residual = u32::from(inputs.len() > 4);
        let residual_gradient = inputs.get(4).unwrap_or(&inputs[2]).binding();
        let dx = outputs[0].binding();
        match self.kind {
            RowNormKind::Layer => recorder.dispatch(&kernels::LayerNormBackward {
                params: kernels::LayerNormBackwardParams { rows, cols, add_residual },
                x,
                weight,
                dy,
                statistics,
                residual_gradient,
                x_gradient: dx,
            }),
            RowNormKind::Rms => recorder.dispatch(&kernels::RmsNormBackward {
                params: kernels::RmsNormBackwardParams {
                    rows,
                    cols,
                    add_residual,
                    weight_offset: self.weight_offset,
                },
                x,
                weight,
                dy,
                statistics,
                residual_gradient,
                x_gradient: dx,
            }),
        }
    }

    fn is_f32(&self, input: usize) -> bool {
        input == 3
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let [x, weight, dy] = [0, 1, 2].map(|i| inputs[i].data);
        let residual = inputs.get(4).map(|residual| residual.data);
        let backward = match self.kind {
            RowNormKind::Layer => reference::layer_norm_backward,
            RowNormKind::Rms => reference::rms_norm_backward,
        };
        let weight = offset(weight, self.weight_offset);
        vec![backward(x, &weight, dy, f64::from(self.eps), residual)]
    }
}

/// Partial sums of the parameters' gradients of [`RowNorm`] over blocks of rows; inputs x, dy,
/// statistics. Outputs weight partials and, for LayerNorm, bias partials.
#[derive(Clone, Copy, Debug)]
pub struct RowNormPartials {
    /// LayerNorm or RMSNorm.
    pub kind: RowNormKind,
    /// As in the forward pass.
    pub eps: f32,
}

impl Op for RowNormPartials {
    fn name(&self) -> &'static str {
        match self.kind {
            RowNormKind::Layer => "layer_norm_parameter_partials",
            RowNormKind::Rms => "rms_norm_parameter_partials",
        }
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let outputs = if self.kind == RowNormKind::Layer { 2 } else { 1 };
        vec![partials_shape(&inputs[0]); outputs]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let [rows, cols] = rows_cols(&inputs[0].shape);
        let (rows_per_block, blocks) = blocks(&inputs[0].shape);
        let [x, dy, statistics] = [0, 1, 2].map(|i| inputs[i].binding());
        let weight_partials = outputs[0].binding();
        match self.kind {
            RowNormKind::Layer => recorder.dispatch(&kernels::LayerNormParameterPartials {
                params: kernels::LayerNormParameterPartialsParams {
                    rows,
                    cols,
                    rows_per_block,
                    blocks,
                },
                x,
                dy,
                statistics,
                weight_partials,
                bias_partials: outputs[1].binding(),
            }),
            RowNormKind::Rms => recorder.dispatch(&kernels::RmsNormParameterPartials {
                params: kernels::RmsNormParameterPartialsParams {
                    rows,
                    cols,
                    rows_per_block,
                    blocks,
                },
                x,
                dy,
                statistics,
                weight_partials,
            }),
        }
    }

    fn is_f32(&self, input: usize) -> bool {
        input == 2
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let [x, dy] = [0, 1].map(|i| inputs[i].data);
        let (cols, eps) = (inputs[0].shape.cols(), f64::from(self.eps));
        let per_block = blocks(inputs[0].shape).0 as usize;
        match self.kind {
            RowNormKind::Layer => {
                let (weight, bias) =
                    reference::layer_norm_parameter_partials(x, dy, cols, eps, per_block);
                vec![weight, bias]
            }
            RowNormKind::Rms => {
                vec![reference::rms_norm_parameter_partials(x, dy, cols, eps, per_block)]
            }
        }
    }
}

impl Graph {
    /// LayerNorm of x (.., width) over its rows; weight and bias (width).
    #[track_caller]
    pub fn layer_norm(&mut self, x: Value, weight: Value, bias: Value, eps: f32) -> Value {
        let op = RowNorm { kind: RowNormKind::Layer, residual: false, eps, weight_offset: 0.0 };
        self.apply(op, &[x, weight, bias])
    }

    /// (LayerNorm of x + residual, x + residual).
    #[track_caller]
    pub fn residual_layer_norm(
        &mut self,
        x: Value,
        residual: Value,
        weight: Value,
        bias: Value,
        eps: f32,
    ) -> (Value, Value) {
        let op = RowNorm { kind: RowNormKind::Layer, residual: true, eps, weight_offset: 0.0 };
        let y = self.apply(op, &[x, residual, weight, bias]);
        (y, self.byproduct(y, 1))
    }

    /// RMSNorm of x (.., width) over its rows; weight (width).
    #[track_caller]
    pub fn rms_norm(&mut self, x: Value, weight: Value, eps: f32) -> Value {
        self.offset_rms_norm(x, weight, 0.0, eps)
    }

    /// (RMSNorm of x + residual, x + residual).
    #[track_caller]
    pub fn residual_rms_norm(
        &mut self,
        x: Value,
        residual: Value,
        weight: Value,
        eps: f32,
    ) -> (Value, Value) {
        self.residual_offset_rms_norm(x, residual, weight, 0.0, eps)
    }

    /// RMSNorm whose weights are `weight_offset + weight`: with 1, `weight` is what they differ
    /// from 1 by, which 16 bits hold more of.
    #[track_caller]
    pub fn offset_rms_norm(
        &mut self,
        x: Value,
        weight: Value,
        weight_offset: f32,
        eps: f32,
    ) -> Value {
        let op = RowNorm { kind: RowNormKind::Rms, residual: false, eps, weight_offset };
        self.apply(op, &[x, weight])
    }

    /// (That norm of x + residual, x + residual).
    #[track_caller]
    pub fn residual_offset_rms_norm(
        &mut self,
        x: Value,
        residual: Value,
        weight: Value,
        weight_offset: f32,
        eps: f32,
    ) -> (Value, Value) {
        let op = RowNorm { kind: RowNormKind::Rms, residual: true, eps, weight_offset };
        let y = self.apply(op, &[x, residual, weight]);
        (y, self.byproduct(y, 1))
    }
}
